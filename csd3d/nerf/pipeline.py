"""The pipeline: nerfstudio trains the field, and every so often a batch of its training views is edited together.

Dataset update (CSD, section on 3-D; Instruct-NeRF2NeRF with all views of a batch in one SVGD instead of one at a time):
render views that cover the scene, move their latents by CSD-Edit, conditioned on their photographs, and let training
see the result in the place of the photographs. Prior and text encoder are loaded when the first edit is due, live
outside the module, and never reach a checkpoint.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from nerfstudio.viewer.viewer_elements import ViewerButton, ViewerCheckbox, ViewerSlider, ViewerText
from PIL import Image
from torch import Tensor

from csd3d.engine.config import PAPER, CsdConfig
from csd3d.nerf.cover import Cover
from csd3d.nerf.edit import edit_views
from csd3d.nerf.host import CsdDataManager, fitting_weights
from csd3d.nerf.keep import Layers
from csd3d.priors.editor import Editor, native_px, recommended
from csd3d.priors.resolve import resolve

MASK_SUFFIXES = (".png", ".jpg", ".jpeg")


@dataclass
class CsdEditPipelineConfig(VanillaPipelineConfig):
    """How a scene is edited. `pipeline.prompt` is the sentence."""

    _target: type = field(default_factory=lambda: CsdEditPipeline)
    prompt: str | None = None
    """What to change, for instance "make it snowy". None: only train the scene (the viewer can still set it)."""
    prior: str = "builtin"
    """`builtin` (small, knows a closed set of sentences), a folder in diffusers layout, or a hub id."""
    prior_device: str | None = None
    """Device of the prior; None: the field's."""
    size: int | None = None
    """Shorter side in px at which the prior works; None: what it was trained at."""
    scene_steps: int = 30_000
    """Steps before the first edit when training starts from nothing. From a checkpoint the first edit is at once."""
    edit_every: int = 2_000
    """Training steps between two batches of edited views."""
    views_per_edit: int = 16
    """Views edited together."""
    edit_steps: int = 100
    """Moves of every view of a batch."""
    coupling: Literal["svgd", "paper", "independent"] = "svgd"
    """How the views of a batch move: together (`svgd`), together with the published kernel, normalisation and learning
    rate (`paper`, needs 3 views), or each for itself (`independent`)."""
    lr: float | None = None
    """Learning rate of the latents; None: what suits the prior."""
    s_text: float | None = None
    """How strongly the sentence is followed; None: what suits the prior."""
    s_image: float | None = None
    """How strongly the photographs are kept; None: what suits the prior."""
    strength: float = 1.0
    """Share of the edit that is kept, 0 to 1."""
    detail: float = 1.0
    """Share of the photographs' fine detail that is put back, 0 to 1."""
    mask_dir: Path | None = None
    """Folder of masks named as the training images: views change where they are white, elsewhere they stay bit-equal.
    A view without a mask may change everywhere."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Only what lies in this box changes: least x, y, z and largest x, y, z, in the scene's coordinates."""
    seed: int = 0
    """Of the edits: which views, which noise."""


class CsdEditPipeline(VanillaPipeline):
    """nerfstudio's pipeline, whose training views are edited as it goes."""

    config: CsdEditPipelineConfig
    datamanager: CsdDataManager  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self, config: CsdEditPipelineConfig, device: str, test_mode: str = "val", **rest: Any) -> None:
        super().__init__(config, device=device, test_mode=test_mode, **rest)  # pyright: ignore[reportArgumentType]
        self._layers = Layers()
        self._rng = torch.Generator().manual_seed(config.seed)
        self._next_edit = config.scene_steps
        self._prior: list[Editor] = []  # in a list, so that torch does not take a module in it for a part
        self._paused = False
        self._folder: Path | None = None
        if test_mode == "val":  # training
            self._cover = Cover(self.datamanager.train_cameras.camera_to_worlds)
            self._masks = read_masks(config.mask_dir, self.datamanager) if config.mask_dir else None
            self.prompt: str | None = config.prompt or getattr(config.model, "prompt", None)
            if self.prompt:
                self.prior.score(self.prompt, s_text=1.0, s_image=1.0)  # a sentence that it does not know: say so now
            self._add_controls()

    # --- the edit -----------------------------------------------------------------------------------------------------

    @property
    def prior(self) -> Editor:
        """The prior, loaded when first asked for."""
        if not self._prior:
            from csd3d.priors.instruct import InstructPrior  # slow to import, and eval never needs it

            device = self.config.prior_device or str(self.device)
            self._prior.append(InstructPrior.load(self.config.prior, device=device))
        return self._prior[0]

    @property
    def csd(self) -> CsdConfig:
        """Settings of the engine for one batch of views."""
        suited = recommended(self.prior.builtin)
        if self.config.coupling == "paper":
            suited = replace(PAPER["csd-edit-video"], s_text=suited.s_text, s_image=suited.s_image)
        elif self.config.coupling == "independent":
            suited = replace(suited, coupling="independent")
        wanted = {k: getattr(self.config, k) for k in ("lr", "s_text", "s_image")}
        given = {k: float(v) for k, v in wanted.items() if v is not None}
        return replace(suited, steps=self.config.edit_steps, **given)

    def get_train_loss_dict(self, step: int) -> Any:
        """The loss of a training step; an edit that is due comes first."""
        if step >= self._next_edit and self.prompt and not self._paused:
            self.edit(step)
            self._next_edit = step + self.config.edit_every
        return super().get_train_loss_dict(step)

    def edit(self, step: int) -> list[int]:
        """Edit the next batch of views together; returns which they were."""
        assert self.prompt
        count = min(self.config.views_per_edit, len(self.datamanager.photographs))
        views = self._cover.next(count, self._rng)
        CONSOLE.log(f"step {step}: editing {len(views)} views: {self.prompt}")
        sources = self.sources(views)
        size_px = self.config.size or native_px(self.prior)
        renders, depths = self.render(views, size_px)
        edited = edit_views(
            renders,
            sources,
            self.prior,
            self.prompt,
            self.csd,
            rng=self._rng,
            size_px=size_px,
            strength=self.config.strength,
            detail=self.config.detail,
            inside=self._inside(views, depths),
        )
        self.replace(views, edited.rgb)
        return views

    def sources(self, views: list[int]) -> Float[Tensor, "n 3 H W"]:
        """What the present prompt edits: photographs, or what earlier prompts made of them."""
        assert self.prompt
        self._layers.start(self.prompt)
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
        rgb, depth = [], []
        for view in views:
            camera = self.datamanager.train_cameras[view : view + 1].to(self.device)
            shorter = min(int(camera.height), int(camera.width))
            camera.rescale_output_resolution(min(1.0, size_px / shorter))
            outputs = self.model.get_outputs_for_camera(camera)
            rgb.append(outputs["rgb"][..., :3].permute(2, 0, 1).clamp(0, 1).cpu())
            depth.append(outputs["depth"].permute(2, 0, 1).cpu())
        self.train()
        return torch.stack(rgb), torch.stack(depth)

    def _inside(self, views: list[int], depths: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, "n 1 H W"] | None:
        """Where the views may change; None: everywhere."""
        inside = self._masks[views] if self._masks is not None else None
        if self.config.box is None:
            return inside
        height, width = self.datamanager.photographs.shape[-2:]
        depth = torch.nn.functional.interpolate(depths, (height, width), mode="nearest")
        low, high = torch.tensor(self.config.box).view(2, 3)
        found = []
        for view, distance in zip(views, depth, strict=True):
            rays = self.datamanager.train_cameras.generate_rays(camera_indices=view, keep_shape=True)
            points = rays.origins.cpu() + rays.directions.cpu() * distance[0, :, :, None]
            found.append(((points >= low) & (points <= high)).all(dim=-1)[None])
        boxed = torch.stack(found)
        return boxed if inside is None else boxed & inside

    def publish_in(self, folder: Path) -> None:
        """From now on edited views are pictures in `folder` too, with a contact sheet."""
        self._folder = folder
        self._publish(self._layers.edited())

    def _publish(self, changed: list[int]) -> None:
        if self._folder is not None:
            self._layers.write(self._folder, self.datamanager.view_names, self.datamanager.photographs, changed)

    # --- going on from a checkpoint -----------------------------------------------------------------------------------

    def begin(self, step: int, edits: dict[str, Any] | None) -> None:
        """Training begins at `step` from a checkpoint: of the plain method (None: edit at once), or with edits."""
        if edits is None:
            self._next_edit = step
            return
        self._layers.load(edits["layers"])
        self._rng.set_state(edits["rng"])
        self._cover.left = list(edits["left"])
        self._next_edit = edits["next_edit"]
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
            "steps_since_update": 0 if sampler is None else sampler._steps_since_update,
        }

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint's weights.

        Raises:
            ValueError: it is of another backend or of other sizes.
        """
        self.model.update_to_step(step)
        self.load_state_dict(fitting_weights(loaded_state, self.state_dict()))

    # --- the viewer ---------------------------------------------------------------------------------------------------

    def _add_controls(self) -> None:
        config = self.config

        def setter(name: str) -> Callable[[Any], None]:
            return lambda control: setattr(config, name, control.value)

        suited = recommended(resolve(config.prior).builtin)
        s_text, s_image = config.s_text or suited.s_text, config.s_image or suited.s_image
        self.prompt_box = ViewerText("Prompt", self.prompt or "", cb_hook=lambda box: self.change_prompt(box.value))
        self.text_slider = ViewerSlider("Text guidance", s_text, 1.0, 15.0, 0.1, cb_hook=setter("s_text"))
        self.image_slider = ViewerSlider("Image guidance", s_image, 1.0, 5.0, 0.1, cb_hook=setter("s_image"))
        self.strength_slider = ViewerSlider(
            "Edit strength", config.strength, 0.0, 1.0, 0.05, cb_hook=setter("strength")
        )
        self.pause_box = ViewerCheckbox("Pause edits", False, cb_hook=lambda box: setattr(self, "_paused", box.value))
        self.undo_button = ViewerButton("Undo the last prompt", cb_hook=lambda _: self.undo())
        self.reset_button = ViewerButton("Back to the photographs", cb_hook=lambda _: self.reset())

    def change_prompt(self, prompt: str) -> None:
        """From now on edit as `prompt` says, starting from what training sees; the next step edits at once.

        A sentence that the prior does not know is said on the console and changes nothing.
        """
        prompt = prompt.strip()
        if not prompt or prompt == self.prompt:
            return
        try:
            self.prior.score(prompt, s_text=1.0, s_image=1.0)
        except ValueError as error:
            CONSOLE.print(f"[bold yellow]{error}")
            return
        self.prompt, self._next_edit = prompt, 0

    def undo(self) -> None:
        """Take the last prompt's edits back; training goes on towards what was there before."""
        self._show_again(self._layers.undo())
        self.prompt = self._layers.prompt
        self.prompt_box.value = self.prompt or ""

    def reset(self) -> None:
        """Back to the photographs."""
        self._show_again(self._layers.reset())
        self.prompt = None
        self.prompt_box.value = ""

    def _show_again(self, views: set[int]) -> None:
        for view in views:
            self.datamanager.show(view, self._layers.seen(view))
        self._publish(sorted(views))


def read_masks(folder: Path, data: CsdDataManager) -> Bool[Tensor, "n 1 H W"]:
    """Masks of all training views; white from half on.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: it has no mask for any view, or one of another size than the images.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"mask-dir: expected a folder of masks, got {folder}")
    height, width = data.photographs.shape[-2:]
    masks, found = [], 0
    names = [Path(p).stem for p in data.train_dataset.image_filenames]
    for name in names:
        path = next((p for s in MASK_SUFFIXES if (p := folder / f"{name}{s}").is_file()), None)
        if path is None:
            masks.append(torch.ones(1, height, width, dtype=torch.bool))
            continue
        found += 1
        picture = Image.open(path).convert("L")
        if picture.size != (width, height):
            raise ValueError(f"mask-dir: expected {width}x{height} px, got {picture.width}x{picture.height} in {path}")
        levels = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(1, height, width)
        masks.append(levels >= 128)
    if not found:
        raise ValueError(f"mask-dir: expected masks named as the images, such as {names[0]}.png, got none in {folder}")
    return torch.stack(masks)
