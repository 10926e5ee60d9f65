"""The pipeline that makes a scene from a sentence: every training step is one step of CSD on renders of it.

    cameras around the scene -> renders -> z = encode(render) -> g = csd_step(z) -> the field, and terms on its density

nerfstudio has the loop and the optimiser; the gradient arrives as in `csd3d.nerf.distil`. The prior lives outside of
the module and never reaches a checkpoint.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor

from csd3d.engine.config import CsdConfig
from csd3d.nerf.checkpoints import fitting_weights
from csd3d.nerf.distil import distil_loss
from csd3d.nerf.text3d import terms
from csd3d.nerf.text3d.anneal import largest_timestep, progress_at, size_at
from csd3d.nerf.text3d.data import OrbitDataManager, cameras_at, rays_of
from csd3d.nerf.text3d.model import ThingModel
from csd3d.nerf.text3d.orbit import Places, captions, side_of
from csd3d.nerf.text3d.settings import Text3dSettings
from csd3d.nerf.text3d.turntable import write_turntable
from csd3d.nerf.text3d.viewer import PromptControls
from csd3d.nerf.viewer import ChangePrompt, SetScale
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Prior, Prompts
from csd3d.priors.prompts.vocabulary import UnknownPrompt
from csd3d.priors.store.resolve import Resolved


@dataclass
class Text3dPipelineConfig(Text3dSettings):
    """How a scene is made. `pipeline.prompt` is the sentence."""

    _target: type = field(default_factory=lambda: Text3dPipeline)


class Text3dPipeline(VanillaPipeline):
    """nerfstudio's pipeline, in whose every step renders are moved towards the sentence."""

    config: Text3dSettings
    # narrower than nerfstudio's own annotation
    datamanager: OrbitDataManager  # pyright: ignore[reportIncompatibleVariableOverride]
    # narrower than nerfstudio's own annotation, a property there
    model: ThingModel  # pyright: ignore[reportIncompatibleVariableOverride, reportIncompatibleMethodOverride]

    def __init__(
        self,
        config: Text3dSettings,
        device: str,
        test_mode: str = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: Any = None,
    ) -> None:
        resolved = config.check() if test_mode == "val" else None  # training
        if world_size > 1:
            raise ValueError(f"machine.num-devices: expected 1 for a scene from a sentence, got {world_size}")
        # nerfstudio lists the modes as literals
        super().__init__(config, device, test_mode, 1, local_rank, grad_scaler)  # pyright: ignore[reportArgumentType]
        if resolved is not None:
            self._prepare(resolved)

    def _prepare(self, resolved: Resolved) -> None:
        """What training takes; raises `ValueError` or `FileNotFoundError` for what the prior cannot serve."""
        self._resolved = resolved
        self._prompts: dict[str, Prompts] = {}
        prompt = self.config.asked_prompt
        assert prompt is not None  # as it was checked
        self.prompt: str = prompt.strip()
        self.s_text: float | None = self.config.given.get("s_text")
        self.given = {"prompt": self.prompt, "s_text": self.s_text}
        self.rng = torch.Generator().manual_seed(self.config.seed)
        self._require(self.prompt)
        guidance = self.config.engine(builtin=self.prior.builtin).s_text
        self.controls = PromptControls(self.prompt, guidance, refusal_of=self.refusal_of)
        for i, element in enumerate(self.controls.elements):  # the viewer looks for attributes, and sorts their names
            setattr(self, f"control_{i:02}", element)

    @cached_property
    def prior(self) -> Prior:
        """The prior, loaded when first used."""
        from csd3d.priors.auto import load_prior  # slow to import, and eval never needs it

        device = self.config.prior_device or str(self.device)
        prior = load_prior(self._resolved, device=device, how=Loading.of(self.config))
        self.config.require_kind(prior.kind)
        return prior

    # --- training -----------------------------------------------------------------------------------------------------

    def get_train_loss_dict(self, step: int) -> Any:
        """The losses of a step."""
        self._carry_out()
        self.show_status(step)
        progress = progress_at(step, self.config.anneal_steps)
        side_px = size_at(progress, self.config.render_px)
        places = self.datamanager.orbit.draw(self.config.views_per_step, self.rng)
        rays = rays_of(cameras_at(places, side_px), self.device)
        outputs = self._model(rays)
        losses = {"csd_loss": self._csd_loss(outputs["rgb"], places, side_px, step, progress)}
        return outputs, losses | self._terms(outputs, rays.directions), {"opacity": outputs["accumulation"].mean()}

    def engine_at(self, progress: float) -> CsdConfig:
        """Settings of the engine at some share of the annealing."""
        csd = self.config.engine(builtin=self.prior.builtin)
        csd = csd if self.s_text is None else replace(csd, s_text=self.s_text)
        last = min(self.config.t_max_last, csd.t_max)
        return replace(csd, t_max=largest_timestep(progress, first=csd.t_max, last=last))

    def _csd_loss(self, rgb: Tensor, places: Places, side_px: int, step: int, progress: float) -> Tensor:
        count = self.config.views_per_step
        renders = rgb.view(count, side_px, side_px, 3).permute(0, 3, 1, 2).float()
        sides = [side_of(float(a), float(e)) for a, e in zip(places.azimuth, places.elevation, strict=True)]
        with torch.autocast(self.device.type, enabled=False):
            loss = distil_loss(
                renders,
                None,
                count,
                self.prior,
                self.prompts_of(self.prompt),
                self.engine_at(progress),
                rng=self.rng,
                step=step,
                size_px=self.config.size or self.prior.native_px,
                sentence=sides,
            )
        return loss.to(self.device)

    def prompts_of(self, prompt: str) -> Prompts:
        """A caption for every side, or one for all where viewpoints are not wanted, or the prior knows no words for
        them."""
        if prompt not in self._prompts:
            plain = Prompts(prompt, negative=self.config.negative_prompt)
            sided = replace(plain, target=captions(prompt))
            self._prompts[prompt] = sided if self.config.viewpoints and self._knows(sided) else plain
        return self._prompts[prompt]

    def _knows(self, prompts: Prompts) -> bool:
        try:
            self.prior.score_under(self.engine_at(0.0), prompts)
        except UnknownPrompt:
            return False
        return True

    def _terms(self, outputs: Mapping[str, Tensor], directions: Tensor) -> dict[str, Tensor]:
        """The terms that are asked for."""
        config, a = self.config, outputs["accumulation"]
        losses = {}
        if config.opacity:
            losses["opacity_loss"] = config.opacity * terms.opacity(a)
        if config.entropy:
            losses["entropy_loss"] = config.entropy * terms.entropy(a)
        if config.orientation:
            normals = self.model.field.normals(outputs["positions"])
            away = terms.orientation(outputs["weights"], normals, directions[:, None].expand_as(normals))
            losses["orientation_loss"] = config.orientation * away
        return losses

    # --- the viewer ---------------------------------------------------------------------------------------------------

    between_moves: Callable[[], None] = staticmethod(lambda: None)
    """Steps are short: the viewer renders between them."""

    @property
    def shown_cameras(self) -> Cameras:
        """As one of which the viewer looks first."""
        return self.datamanager.ring.cameras

    def refusal_of(self, prompt: str, _: str | None = None) -> str:
        """Why a scene cannot be made from a sentence, in one line; empty if it can."""
        if not prompt:
            return "prompt: expected a sentence, got none"
        try:
            self._require(prompt)
        except ValueError as error:
            return str(error)
        return ""

    def show_status(self, step: int) -> None:
        """Show in the viewer what goes on."""
        self.controls.status.show(f"**Making: {self.prompt}**")

    def show_end(self, text: str) -> None:
        """Show in the viewer, in Markdown, that training has ended."""
        self.controls.end(text)

    def _require(self, prompt: str) -> None:
        """Raises `ValueError` for what the prior cannot serve, by its words or by its training."""
        self.prior.score_under(self.engine_at(0.0), self.prompts_of(prompt))

    def _carry_out(self) -> None:
        for command in self.controls.take():
            match command:
                case ChangePrompt(prompt):
                    reason = self.refusal_of(prompt)
                    self.controls.refuse(reason)
                    self.prompt = self.prompt if reason else prompt
                case SetScale("s_text", value):
                    self.s_text = value
                case _:
                    pass

    # --- on disk ------------------------------------------------------------------------------------------------------

    folder: Path | None = None

    def publish_in(self, folder: Path) -> None:
        """From now on `publish` writes to `folder`."""
        self.folder = folder

    def publish(self) -> None:
        """Write the turntable; before `publish_in` nothing."""
        if self.folder is not None:
            manager = self.datamanager
            write_turntable(self.folder, self.model, manager.orbit, manager.eval_px, self.prompt)

    def begin(self, step: int, state: Mapping[str, Any] | None) -> None:
        """Training goes on at `step` from a checkpoint, under its sentence unless the command line now gives another.

        Raises:
            ValueError: it is of something else.
            KeyError: something is missing.
        """
        if state is None or "from_sentence" not in state:
            raise ValueError("checkpoint: expected one of a scene from a sentence, got another")
        was, given = state["from_sentence"], state["given"]
        now = {name: was[name] if value == given[name] else value for name, value in self.given.items()}
        self.prompt, self.s_text = now["prompt"], now["s_text"]
        self._require(self.prompt)
        self.controls.show(self.prompt, self.engine_at(0.0).s_text)
        self.rng.set_state(state["rng"])

    def is_as_in(self, state: Mapping[str, Any]) -> bool:
        """Whether the sentence and its guidance are those of a checkpoint."""
        return self._now() == state["from_sentence"]

    def _now(self) -> dict[str, str | float | None]:
        return {"prompt": self.prompt, "s_text": self.s_text}

    def edit_state(self) -> dict[str, Any]:
        """All that `begin` needs, in plain containers and tensors."""
        return {"from_sentence": self._now(), "given": self.given, "rng": self.rng.get_state()}

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's weights. Raises `ValueError` for one that does not fit."""
        self.load_state_dict(fitting_weights(loaded_state, self.state_dict()))
