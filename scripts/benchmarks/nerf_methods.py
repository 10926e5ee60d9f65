"""The ways of editing a radiance field that are compared: all start from one field and train it equally long."""

import copy
import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from csd3d.attention.attended import ANCHORS
from csd3d.engine.config import METHODS
from csd3d.engine.types import Noised
from csd3d.media.geometry import to_working
from csd3d.nerf import configs
from csd3d.nerf.drivers import Update
from csd3d.nerf.edit import decoded, restored, view_size
from csd3d.nerf.host import CsdTrainer
from csd3d.priors.defaults import default_config
from csd3d.priors.prior import Guidance, Prior, Prompts
from scripts.benchmarks.memory import peak_memory
from scripts.benchmarks.rows import csd_rows, sampling_rows

BEFORE = {
    "edit_steps": 100, "lr": 0.5, "lr_decay": 0.9, "lr_decay_every": 20, "timesteps": "random", "t_max": 500,
    "s_text": 1.5, "s_image": 1.5,
}  # fmt: skip
"""The defaults of editors before few rows were found to be enough."""
OF_SCHEDULE = (0.02, 0.98)
"""Instruct-NeRF2NeRF draws the noise level from which it samples between these shares of the schedule."""


@dataclass(frozen=True)
class Plan:
    """What all methods have in common."""

    prior: str
    device: str
    size_px: int
    """Side of the views, at which the prior works too."""
    scene_steps: int
    """Steps in which the scene is trained before the edit."""
    edit_steps: int
    """Moves of a view in one edit."""
    views_per_edit: int
    edits: int
    """Batches of views that are edited."""
    edit_every: int
    """Training steps for each of them."""
    sampling_steps: int
    sampling_guidance: float
    """Both scales, where views are sampled."""
    s_text: float
    s_image: float
    seed: int
    t2i: str = "builtin:t2i"
    """The text-to-image model of the methods that take captions."""
    distil_views: int = 2
    """Renders of a step of distillation."""
    distil_px: int = 64
    """Their side."""

    @property
    def field_steps(self) -> int:
        """Training steps of the edited scene."""
        return self.edits * self.edit_every

    @property
    def unet_rows(self) -> int:
        """What all edits of a method together cost."""
        return self.edits * self.views_per_edit * self.edit_steps * csd_rows(self.s_text, self.s_image)

    @property
    def rows_per_sample(self) -> int:
        """What sampling one view costs."""
        return self.sampling_steps * sampling_rows(self.sampling_guidance, self.sampling_guidance)

    @property
    def samples(self) -> int:
        """Views that can be sampled for the same."""
        return max(1, self.unet_rows // (self.rows_per_sample))


@dataclass(frozen=True)
class Method:
    """One row of the benchmark: a driver and its settings."""

    driver: type[Update] | None
    """None: what the settings say."""
    settings: Mapping[str, Any]
    """Of the pipeline; the sentence is its prompt, unless they say another."""
    unet_rows: float
    """What all its edits cost, on any machine."""


@dataclass(frozen=True)
class Edited:
    """What a method made of a scene, and at what price."""

    held_out: Float[Tensor, "m 3 H W"]
    """Renders at the held-out cameras."""
    train: Float[Tensor, "n 3 H W"]
    """What training saw in the end; of distillation, which edits no picture, what the field shows there."""
    seconds: float
    """Of edits and training together: of processor time on a CPU, which neighbours do not change, else by the clock."""
    peak_mb: float
    """Peak of resident memory; NaN where the system does not tell."""


class OneByOne(Update):
    """Instruct-NeRF2NeRF's dataset update: every few steps one view is sampled anew, from its noised render."""

    plan: Plan

    def views_left(self) -> bool:
        """Never: views change one by one, all along."""
        return False

    @torch.no_grad()
    def edit(self, step: int) -> list[int]:
        """Sample the next view and let training see it."""
        prior, prompt = self.current.prior, self.current.prompt
        assert prompt
        views = self.schedule.next_views(1, self.rng)
        sources = self.sources(views)
        size = view_size(sources, prior, self.plan.size_px)
        renders, _ = self.scene.render(views, self.plan.size_px)
        s, z = (prior.codec.encode(to_working(rgb, size).to(prior.device)) for rgb in (sources, renders))
        z = sample_from(z, s, prior, prompt, self.plan, rng=self.rng)
        self.replace(views, restored(decoded(z, s, prior), sources, size, detail=self.current.settings.detail))
        return views


class TrueViews(Update):
    """Training sees the true edited views: what any edit could reach at best."""

    truth: Float[Tensor, "n 3 H W"]
    through_codec: bool
    """As they come back from latents: what an edit of latents could reach at best."""

    @torch.no_grad()
    def edit(self, step: int) -> list[int]:
        """All of them at once."""
        views = list(range(len(self.truth)))
        sources, truth = self.sources(views), self.truth
        if self.through_codec:
            prior = self.current.prior
            size = view_size(sources, prior, truth.shape[-1])
            s, z = (prior.codec.encode(to_working(rgb, size).to(prior.device)) for rgb in (sources, truth))
            truth = restored(decoded(z, s, prior), sources, size, detail=self.current.settings.detail)
        self.replace(views, truth)
        return views


def sample_from(
    z: Float[Tensor, "n c h w"],
    s: Float[Tensor, "n c h w"],
    prior: Prior,
    prompt: str,
    plan: Plan,
    *,
    rng: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Latents `z` noised to a level that is drawn, and denoised from there in `plan.sampling_steps` steps of DDIM."""
    score = prior.score(Prompts(prompt), Guidance(plan.sampling_guidance, plan.sampling_guidance))
    schedule, index = score.schedule, torch.arange(len(z), device=z.device)
    least, most = (round(share * schedule.num_timesteps) for share in OF_SCHEDULE)
    start = int(torch.randint(least, most, (), generator=rng))
    times = torch.linspace(start, 0, plan.sampling_steps + 1).round().int().tolist()
    z = schedule.add_noise(z, torch.randn(z.shape, generator=rng).to(z), start)
    for t, later in pairwise(times):
        ab, ab_later = schedule.alpha_bar(t), schedule.alpha_bar(later)
        e = score.target(Noised.from_noisy(z, t, s, index))
        z = ab_later**0.5 * (z - (1 - ab) ** 0.5 * e) / ab**0.5 + (1 - ab_later) ** 0.5 * e
    return z


def standard(plan: Plan, truth: Float[Tensor, "n 3 H W"]) -> Mapping[str, Method]:
    """The rows of the table."""
    scales = {"s_text": plan.s_text, "s_image": plan.s_image}
    batches = {"views_per_edit": plan.views_per_edit, "edit_steps": plan.edit_steps, "edit_every": plan.edit_every}
    csd = {
        coupling: Method(Update, {**scales, **batches, "coupling": coupling}, plan.unet_rows)
        for coupling in ("independent", "svgd", "paper", "depth")
    }
    seen = min(ANCHORS, plan.views_per_edit) / plan.views_per_edit  # the anchors of a step are predicted first
    shared = {
        name: Method(Update, {**method.settings, "share": "anchors"}, plan.unet_rows * (1 + seen))
        for name, method in csd.items()
    }

    rows_before = plan.edits * plan.views_per_edit * 100 * csd_rows(1.5, 1.5)
    before = Method(Update, {**batches, **BEFORE, "coupling": "depth"}, rows_before)

    def true_views(*, through_codec: bool) -> Method:
        planned = type("PlannedTrueViews", (TrueViews,), {"truth": truth, "through_codec": through_codec})
        return Method(planned, {"edit_every": 2 * plan.field_steps}, 0)

    every = max(1, plan.field_steps // plan.samples)
    sampled = -(-plan.field_steps // every)
    return {
        "one view at a time": Method(
            type("PlannedOneByOne", (OneByOne,), {"plan": plan}),
            {"edit_every": every},
            sampled * plan.rows_per_sample,
        ),
        "csd-edit, independent": csd["independent"],
        "csd-edit, SVGD": csd["svgd"],
        "csd-edit, SVGD, paper": csd["paper"],
        "csd-edit, SVGD by depth": csd["depth"],
        "csd-edit, SVGD by depth, the defaults before": before,
        "csd-edit, SVGD, shared anchors": shared["svgd"],
        "csd-edit, SVGD by depth, shared anchors": shared["depth"],
        "true edited views, through the codec": true_views(through_codec=True),
        "true edited views": true_views(through_codec=False),
    }


def distilled(plan: Plan) -> Mapping[str, Method]:
    """Rows of csd-edit whose gradient arrives at the field in every step."""
    rows = plan.field_steps * plan.distil_views * csd_rows(plan.s_text, plan.s_image)
    settings = {"s_text": plan.s_text, "s_image": plan.s_image, **_distil(plan)}
    return {
        "csd-edit, distil": Method(None, settings, rows),
        "csd-edit, distil by depth": Method(None, {**settings, "coupling": "depth"}, rows),
    }


def captioned(plan: Plan, before: str, after: str) -> Mapping[str, Method]:
    """Rows of a text-to-image model, which gets captions of the scene `before` and `after` the edit: every published
    objective by both drivers, `csd` by depth and not.

    A batch of views makes `plan.edit_steps` moves that are together as long as those of the method's own settings.
    """
    rows: dict[str, Method] = {}
    for method in ("sds", "csd", "dds", "cds"):
        usual = default_config(method, builtin=plan.t2i.startswith("builtin"))
        of_source = METHODS[method].residual == "source"
        each = 4 if of_source else 2  # guided predictions of the target, and of the source
        settings: dict[str, Any] = {"method": method, "prior": plan.t2i, "prompt": after}
        settings |= {"source_prompt": before} if of_source else {}
        update = settings | {
            "views_per_edit": plan.views_per_edit, "edit_steps": plan.edit_steps, "edit_every": plan.edit_every,
            "lr": usual.lr * usual.steps / plan.edit_steps,
        }  # fmt: skip
        cost = plan.edits * plan.views_per_edit * plan.edit_steps * each
        rows[method] = Method(None, {**update, "coupling": "svgd"} if method == "csd" else update, cost)
        if method == "csd":
            rows["csd by depth"] = Method(None, {**update, "coupling": "depth"}, cost)
        distil, cost = settings | _distil(plan), plan.field_steps * plan.distil_views * each
        rows[f"{method}, distil"] = Method(None, distil, cost)
        if method == "csd":
            rows["csd, distil by depth"] = Method(None, {**distil, "coupling": "depth"}, cost)
    return rows


def _distil(plan: Plan) -> dict[str, Any]:
    return {"driver": "distil", "distil_views": plan.distil_views, "distil_px": plan.distil_px}


def trainer(data: Path, out: Path, plan: Plan, steps: int, own: type[Update] | None = None, /, **settings: Any) -> Any:
    """A csd-edit-cpu trainer that is set up and ready to `train()` for `steps` steps; `own`: a driver of ours."""
    config: Any = copy.deepcopy(configs.csd_edit_cpu.config)
    config.output_dir, config.timestamp, config.vis = out, "run", "tensorboard"
    config.max_num_iterations, config.steps_per_save = steps, 10 * steps
    config.machine.device_type = plan.device
    pipeline = config.pipeline
    pipeline.datamanager.data = data
    pipeline.prior, pipeline.size = plan.prior, plan.size_px
    pipeline.scene_steps, pipeline.seed = plan.scene_steps, plan.seed
    for name, value in settings.items():
        setattr(pipeline if hasattr(pipeline, name) else config, name, value)
    torch.manual_seed(plan.seed)
    made: CsdTrainer = config.setup(local_rank=0, world_size=1)
    made.setup()
    edited: Any = made.pipeline
    if own is not None:
        edited.driver = own(edited.scene, edited.current, edited.schedule, edited.history, edited.rng)
    return made


def train_scene(data: Path, out: Path, plan: Plan) -> Path:
    """Train the unedited scene; returns the folder of its checkpoint."""
    made = trainer(data, out, plan, plan.scene_steps)
    made.train()
    return made.checkpoint_dir


def run(method: Method, sentence: str, data: Path, base: Path, out: Path, plan: Plan) -> Edited:
    """Edit the scene of checkpoint folder `base`."""
    settings = {"prompt": sentence, **method.settings}
    made = trainer(data, out, plan, plan.field_steps, method.driver, load_dir=base, **settings)
    memory = peak_memory()
    clock = time.process_time if plan.device == "cpu" else time.perf_counter
    since = clock()
    made.train()
    seconds = clock() - since
    peak = memory()
    replaced = made.pipeline.config.driver == "update"
    train = training_views(made) if replaced else shown_at(made, made.pipeline.scene.cameras)
    edited = Edited(held_out(made), train, seconds, peak)
    del made
    gc.collect()
    return edited


def unedited(data: Path, base: Path, out: Path, plan: Plan) -> Edited:
    """The trained scene as it is."""
    made = trainer(data, out, plan, 1, load_dir=base)
    return Edited(held_out(made), training_views(made), float("nan"), float("nan"))


def held_out(made: Any) -> Float[Tensor, "m 3 H W"]:
    """What a trained field shows at the held-out cameras."""
    return shown_at(made, made.pipeline.datamanager.eval_dataset.cameras)


@torch.no_grad()
def shown_at(made: Any, cameras: Cameras) -> Float[Tensor, "m 3 H W"]:
    """What a trained field shows of some cameras."""
    made.pipeline.eval()
    device = made.pipeline.device
    shown = [made.pipeline.model.get_outputs_for_camera(cameras[i : i + 1].to(device)) for i in range(len(cameras))]
    return torch.stack([outputs["rgb"].permute(2, 0, 1).clamp(0, 1).cpu() for outputs in shown])


def training_views(made: Any) -> Float[Tensor, "n 3 H W"]:
    """What training sees."""
    data = made.pipeline.datamanager
    return torch.stack([made.pipeline.history.current(view) for view in range(len(data.photographs))])
