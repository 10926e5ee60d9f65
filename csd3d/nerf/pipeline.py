"""The pipeline: nerfstudio trains the field, and every so often a batch of its training views is edited together.

Dataset update (CSD, section on 3-D; Instruct-NeRF2NeRF with all views of a batch in one SVGD instead of one at a time):
render views that cover the scene, move their latents by CSD-Edit or another method, compared with their photographs,
and let training see the result in the place of the photographs. The first batches of a prompt follow each other at
once until it has edited every view: a field that trains on a mix of edited and other views fills with haze.
Distillation (`csd3d.nerf.distil`) replaces nothing: a few renders of every step carry the gradient to the field. The
prior lives outside the module and never reaches a checkpoint.
"""

from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.engine.loop import require_timesteps
from csd3d.media.geometry import resize
from csd3d.media.sheet import evenly
from csd3d.nerf.backends import EditedModel, for_ranks
from csd3d.nerf.controls import Controls
from csd3d.nerf.cover import Cover
from csd3d.nerf.distil import distil_loss
from csd3d.nerf.edit import edit_views, view_size
from csd3d.nerf.edit_history import SHEET_VIEWS, Layers, require_same_views, write_sheet
from csd3d.nerf.host import CsdDataManager, CsdFullImageDataManager, fitting_weights, view_names
from csd3d.nerf.masks import Region, read_region
from csd3d.nerf.ranks import agree, every, ranks, share
from csd3d.nerf.settings import CsdEditPipelineConfig
from csd3d.nerf.views import correspond, look, points_of, scaled, show, square
from csd3d.priors.prior import Prior, Prompts
from csd3d.priors.store.resolve import Resolved

SCALES = ("s_text", "s_image", "strength")
"""Settings that the viewer can change."""


class CsdEditPipeline(VanillaPipeline):
    """nerfstudio's pipeline, whose training views are edited as it goes."""

    config: CsdEditPipelineConfig
    datamanager: CsdDataManager | CsdFullImageDataManager  # pyright: ignore[reportIncompatibleVariableOverride]
    model: EditedModel  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __init__(
        self,
        config: CsdEditPipelineConfig,
        device: str,
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        resolved = config.check() if test_mode == "val" else None  # training
        super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)  # pyright: ignore[reportArgumentType]
        self.world_size = world_size
        if world_size > 1:
            self._model = for_ranks(self._model, local_rank)  # pyright: ignore[reportAttributeAccessIssue]
        self._layers = Layers()
        self._rng = torch.Generator().manual_seed(config.seed)
        self._next_edit = config.scene_steps
        self._paused = False
        self._folder: Path | None = None
        self._resolved = resolved
        if resolved is not None:
            self._prepare(resolved)

    def _prepare(self, resolved: Resolved) -> None:
        """What training takes; raises `ValueError` or `FileNotFoundError` for settings that cannot be used."""
        config, data = self.config, self.datamanager
        self._cover = Cover(self._cameras.camera_to_worlds)
        names, (height, width) = [Path(p).stem for p in data.train_dataset.image_filenames], data.photographs.shape[-2:]
        self._region = read_region(config.mask_dir, config.box, names, height, width)
        self.prompt: str | None = config.prompt or getattr(config.model, "prompt", None)
        self.source_prompt = config.source_prompt
        captions = resolved.kind != "instruct" and config.method not in (None, "csd-edit")
        suited = config.engine(builtin=resolved.builtin)
        self.controls = Controls(
            self.prompt,
            self.source_prompt,
            s_text=suited.s_text,
            s_image=None if captions else suited.s_image,
            strength=config.strength if config.driver == "update" else None,
            needs_source=captions and suited.residual == "source",
            check=self.require,
            show_before=lambda wanted: setattr(self.model, "show_before", wanted),
        )
        if self.prompt or self.source_prompt is not None:
            self.require(self.prompt or "", self.source_prompt)
        self._asked = self._now()
        for i, element in enumerate(self.controls.elements):  # the viewer looks for attributes, and sorts their names
            setattr(self, f"control_{i}", element)

    # --- the edit -----------------------------------------------------------------------------------------------------

    @cached_property  # which the viewer's search for elements passes by, unlike a property
    def prior(self) -> Prior:
        """The prior, loaded when first asked for; no part of the module, so not of checkpoints."""
        from csd3d.priors.auto import load_prior  # slow to import, and eval never needs it

        name = self._resolved or self.config.prior_name
        prior = load_prior(name, device=self.config.prior_device or str(self.device))
        self.config.require_kind(prior.kind)
        return prior

    def require(self, prompt: str, source_prompt: str | None) -> None:
        """Raises `ValueError` for what the prior cannot serve, by its words, by its kind or by its training."""
        csd = self.csd()
        require_timesteps(self.prior.score_under(csd, Prompts(prompt, source_prompt)), csd)

    def csd(self) -> CsdConfig:
        """Settings of the engine for one batch of views."""
        return self.config.engine(builtin=self.prior.builtin)

    def get_train_loss_dict(self, step: int) -> Any:
        """The loss of a training step; an edit that is due comes first."""
        for name, *values in agree(self.controls.wishes()):
            getattr(self, name)(*values)
        due = self.prompt is not None and not self._paused and (step >= self._next_edit or self.unfinished())
        if due:
            self.model.remember()
        if due and self.config.driver == "update":
            with torch.autocast(self.device.type, enabled=False):  # the trainer's mixed precision is for the field
                self.edit(step)
            self._next_edit = max(step, self._next_edit) + self.config.edit_every
        outputs, loss, metrics = super().get_train_loss_dict(step)
        if due and self.config.driver == "distil":
            del loss["rgb_loss"]  # which holds the field to the photographs
            if self._region is not None:
                loss["rgb_loss"] = self.held(outputs, self._region)
            loss["csd_loss"] = self.distil(step)
        return outputs, loss, metrics

    def held(self, outputs: dict[str, Tensor], region: Region) -> Float[Tensor, ""]:
        """What holds the field to the photographs outside of a region: the loss of colours of this step's rays that end
        there."""
        data: Any = self.datamanager
        points = (data.rays.origins + data.rays.directions * outputs["depth"]).detach().cpu().float()
        inside = region.of_rays(data.seen["indices"].cpu(), points)
        return self.model.colour_loss(outputs, data.seen, ~inside.to(self.device))

    def unfinished(self) -> bool:
        """Whether the prompt has edited some views, but not yet all."""
        return self._layers.holds_some(self.prompt, len(self.datamanager.photographs))

    def edit(self, step: int) -> list[int]:
        """Edit the next batch of views together; returns which they were."""
        assert self.prompt
        count = min(self.config.views_per_edit, len(self.datamanager.photographs))
        views = self._cover.next(count, self._rng)
        if ranks()[0] == 0:
            CONSOLE.log(f"step {step}: editing {len(views)} views: {self.prompt}")
        sources = self.sources(views)
        size_px = self.config.size or self.prior.native_px
        renders, distances = self.render(views, size_px)
        paths = None
        if self.config.by_depth:
            size = view_size(sources, self.prior, size_px)
            paths = partial(correspond, self._cameras, views, distances, size)
        inside = self._inside_views(views, distances)
        if inside is not None and not inside.any():
            CONSOLE.log("nothing that these views show lies where they may change (mask, box)")
        edited = edit_views(
            renders,
            sources,
            self.prior,
            self.prompt,
            self.csd(),
            rng=self._rng,
            source_prompt=self.source_prompt,
            size_px=size_px,
            strength=self.config.strength,
            detail=self.config.detail,
            inside=inside,
            paths=paths,
        )
        self.replace(views, edited.rgb)
        return views

    def distil(self, step: int) -> Float[Tensor, ""]:
        """The surrogate loss of the next few views."""
        assert self.prompt
        config = self.config
        size_px = config.size or self.prior.native_px
        world = ranks()[1]
        each = min(config.distil_views, len(self.datamanager.photographs) // world)  # of every process
        views = self._cover.next(each * world, self._rng)
        corners = torch.rand(len(views), 2, generator=self._rng)
        sources, mine = self.sources(views), share(len(views))
        seen = []
        for i in mine:
            camera = scaled(
                self._cameras[views[i] : views[i] + 1], size_px if config.distil_patches else config.distil_px
            )
            height, width = int(camera.height), int(camera.width)
            side = config.distil_px if config.distil_patches else None
            window = square(height, width, side, (float(corners[i, 0]), float(corners[i, 1])))
            rgb, points = look(self.model, camera.to(self.device), views[i], window)
            photograph = resize(sources[i : i + 1], height, width).clamp(0, 1)[..., window[0], window[1]]
            inside = self._region and self._region.of_views([views[i]], points[None], height, width, window)
            seen.append((rgb, photograph[0], inside))
        masks = [inside[0] for _, _, inside in seen if inside is not None]
        with torch.autocast(self.device.type, enabled=False):
            return distil_loss(
                torch.stack([rgb for rgb, _, _ in seen]).float(),
                torch.stack([photograph for _, photograph, _ in seen]),
                len(views),
                self.prior,
                self.prompt,
                self.csd(),
                rng=self._rng,
                step=step,
                size_px=config.distil_px if config.distil_patches else size_px,
                source_prompt=self.source_prompt,
                inside=torch.stack(masks) if masks else None,
            ).to(self.device)

    def sources(self, views: list[int]) -> Float[Tensor, "n 3 H W"]:
        """What the present prompt edits: photographs, or what earlier prompts made of them."""
        assert self.prompt
        self._layers.start(self.prompt, self.source_prompt, self.config.method)
        before = [self._layers.seen(v, below_top=True) for v in views]
        data = self.datamanager
        return torch.stack([data.photographs[v] if b is None else b for v, b in zip(views, before, strict=True)])

    def replace(self, views: list[int], rgb: Float[Tensor, "n 3 H W"]) -> None:
        """From now on training sees these edited views; they are kept under the present prompt."""
        for view, picture in zip(views, rgb, strict=True):
            self.datamanager.show(view, self._layers.put(view, picture))
        self._publish(views)

    @torch.no_grad()
    def render(self, views: list[int], size_px: int) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
        """What the field shows of training views, shorter side about `size_px`, and the distance along each ray."""
        self.eval()
        cameras = self._cameras
        both = every(
            len(views),
            lambda mine: torch.stack(
                [show(self.model, scaled(cameras[views[i] : views[i] + 1].to(self.device), size_px)) for i in mine]
            ),
        )
        self.train()
        return both[:, :3], both[:, 3:]

    @property
    def _cameras(self) -> Cameras:
        return self.datamanager.train_dataset.cameras

    def _inside_views(self, views: list[int], distances: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, "n 1 H W"] | None:
        """Where the photographs of views may change; None: everywhere."""
        if self._region is None:
            return None
        points = None
        if self._region.box is not None:
            points = torch.stack([points_of(self._cameras, v, d) for v, d in zip(views, distances, strict=True)])
        height, width = self.datamanager.photographs.shape[-2:]
        return self._region.of_views(views, points, height, width)

    def publish_in(self, folder: Path) -> None:
        """From now on edited views are pictures in `folder` too, with a contact sheet."""
        self._folder = folder
        self._publish(self._layers.edited())

    def _publish(self, changed: list[int]) -> None:
        if self._folder is not None:
            names = view_names(self.datamanager.train_dataset)
            self._layers.write(self._folder, names, self.datamanager.photographs, changed)

    def publish_field(self) -> None:
        """Where no picture is edited (driver `distil`), the contact sheet shows what the field does."""
        if self._folder is None or self.config.driver == "update" or not self._layers.history:
            return
        shown = evenly(len(self._cameras), SHEET_VIEWS)
        self.eval()
        short_px = min(self.datamanager.photographs.shape[-2:])
        seen = [show(self.model, scaled(self._cameras[v : v + 1].to(self.device), short_px))[:3] for v in shown]
        self.train()
        rows = {
            "photograph": self.datamanager.photographs[shown],
            ", then ".join(self._layers.history): torch.stack(seen),
        }
        write_sheet(self._folder, rows, view_names(self.datamanager.train_dataset), shown)

    # --- going on from a checkpoint -----------------------------------------------------------------------------------

    def begin(self, step: int, edits: dict[str, Any] | None) -> None:
        """Training begins at `step` from a checkpoint: of the plain method (None: edit at once), or with edits.

        Raises:
            ValueError: the edits are of other views, or their sentences are none that the prior can serve.
        """
        if edits is None:
            self._next_edit = step
            return
        require_same_views(edits["views"], self._views())
        self._return_to(edits["now"], edits["asked"])
        self._layers.load(edits["layers"])
        self._rng.set_state(edits["rng"])
        self._cover.left = list(edits["left"])
        self._next_edit = edits["next_edit"] if self.prompt == edits["now"]["prompt"] else step
        self._paused = self.controls.pause.value = edits["paused"]
        self.model.before = edits.get("before")
        for view in self._layers.edited():
            self.datamanager.show(view, self._layers.seen(view))
        if (sampler := getattr(self.model, "proposal_sampler", None)) is not None:
            sampler._steps_since_update = edits["steps_since_update"]

    def edit_state(self) -> dict[str, Any]:
        """All that `begin` needs, in plain containers and tensors."""
        sampler = getattr(self.model, "proposal_sampler", None)
        return {
            "layers": self._layers.state(),
            "rng": self._rng.get_state(),
            "left": list(self._cover.left),
            "next_edit": self._next_edit,
            "views": self._views(),
            "paused": self._paused,
            "now": self._now(),
            "asked": self._asked,
            "before": self.model.before,
            "steps_since_update": 0 if sampler is None else sampler._steps_since_update,
        }

    def _views(self) -> list[str]:
        height, width = self.datamanager.photographs.shape[-2:]
        return [f"{name}, {width}x{height} px" for name in view_names(self.datamanager.train_dataset)]

    def _now(self) -> dict[str, Any]:
        """What the viewer can change, as it is now."""
        scales = {name: getattr(self.config, name) for name in SCALES}
        return {"prompt": self.prompt, "source_prompt": self.source_prompt, **scales}

    def _return_to(self, then: dict[str, Any], asked: dict[str, Any]) -> None:
        """What the viewer had changed, unless the command line asks for something else than it did at that time.

        Raises:
            ValueError: the prior cannot serve the sentences.
        """
        back = {name: value for name, value in then.items() if self._asked[name] in (None, asked[name])}
        self.prompt, self.source_prompt = (back.pop(k, self._asked[k]) for k in ("prompt", "source_prompt"))
        if self.prompt:
            self.require(self.prompt, self.source_prompt)
        scales = {name: value for name, value in back.items() if value is not None}
        for name, value in scales.items():
            self.adjust(name, value)
        self.controls.show(self.prompt, self.source_prompt, scales)

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's weights.

        Raises:
            ValueError: it is of another backend or of other sizes.
        """
        self.model.update_to_step(step)
        self.load_state_dict(fitting_weights(loaded_state, self.state_dict()))

    # --- what the viewer's controls wish for --------------------------------------------------------------------------

    def change_prompt(self, prompt: str, source_prompt: str | None = None) -> None:
        """From now on edit as the sentences say, starting from what training sees; an edit is due at once."""
        if (prompt, source_prompt) != (self.prompt, self.source_prompt):
            self.prompt, self.source_prompt, self._next_edit = prompt, source_prompt, 0

    def adjust(self, name: str, value: float) -> None:
        """Set `s_text`, `s_image` or `strength`."""
        setattr(self.config, name, value)

    def pause(self, paused: bool) -> None:
        """Edit no more, or again."""
        self._paused = paused

    def undo(self) -> None:
        """Take the last prompt's edits back; training goes on towards what was there before."""
        pending = self.prompt != self._layers.prompt  # it has edited nothing yet
        self._go_back(set() if pending else self._layers.undo())

    def reset(self) -> None:
        """Back to the photographs."""
        self._go_back(self._layers.reset())

    def _go_back(self, changed: set[int]) -> None:
        """Show views as the layers have them, and go on with what made the top one, if there is one."""
        for view in changed:
            self.datamanager.show(view, self._layers.seen(view))
        self._publish(sorted(changed))
        self.prompt, self.source_prompt = self._layers.prompt, self._layers.source_prompt
        if self.prompt is None:
            self.source_prompt = self._asked["source_prompt"]
        self.controls.show(self.prompt, self.source_prompt, {})
