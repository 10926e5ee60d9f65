"""The scene that is edited: a field, its training views, and the region that may change."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from csd3d.media.geometry import resize
from csd3d.nerf.backends import EditedModel
from csd3d.nerf.host import CsdDataManager, CsdFullImageDataManager
from csd3d.nerf.masks import Region
from csd3d.nerf.views import look, points_of, scaled, show, square
from csd3d.runs.estimate import measure_frames
from csd3d.runs.ranks import map_sharded


@dataclass(frozen=True)
class Window:
    """A view, or a square cut out of it."""

    rgb: Float[Tensor, "3 h w"]
    """What the field shows, with the graph to it."""
    source: Float[Tensor, "3 h w"]
    """The same pixels of a given picture."""
    inside: Bool[Tensor, "1 h w"] | None
    """Which of them may change; None: all."""
    distance: Float[Tensor, "1 h w"]
    """Along the rays to what the field shows, on the CPU."""
    whole_px: tuple[int, int]
    """Width and height of the whole view."""
    corner_px: tuple[int, int]
    """x and y of the upper left corner in it."""


@dataclass
class Scene:
    """A field and what it is trained on."""

    model: EditedModel
    data: CsdDataManager | CsdFullImageDataManager
    given: Region | None
    """Where the scene may change by the settings; None: everywhere."""
    found: Bool[Tensor, "n 1 H W"] | None = None
    """Where the views may change by what was found for the current edit; None: everywhere."""

    @property
    def region(self) -> Region | None:
        """Where the scene may change by both; None: everywhere."""
        if self.found is None:
            return self.given
        return (self.given or Region(None, None)).within(self.found)

    @property
    def cameras(self) -> Cameras:
        """Of the training views."""
        return self.data.train_dataset.cameras

    @property
    def perspective(self) -> bool:
        """Whether all cameras project perspectively, lens distortion apart, as correspondences by depth suppose."""
        return bool((self.cameras.camera_type == CameraType.PERSPECTIVE.value).all())

    @property
    def photographs(self) -> Float[Tensor, "n 3 H W"]:
        """Of the training views, in [0, 1]."""
        return self.data.photographs

    @torch.no_grad()
    def render(
        self, views: list[int], size_px: int, on_view: Callable[[int], None] = lambda _: None
    ) -> tuple[Float[Tensor, "n 3 h w"], Float[Tensor, "n 1 h w"]]:
        """Colours of training views, shorter side about `size_px`, and the distance along each ray; `on_view` is called
        with the number of views that this process has rendered."""
        both = map_sharded(len(views), lambda mine: self.render_local([views[i] for i in mine], size_px, on_view))
        return both[:, :3], both[:, 3:]

    @torch.no_grad()
    def render_local(
        self, views: list[int], size_px: int, on_view: Callable[[int], None] = lambda _: None
    ) -> Float[Tensor, "n 4 h w"]:
        """The same, colours and distances in one, by this process alone."""
        device, both = self.model.device, list[Tensor]()
        for view in views:
            self.model.eval()  # each time: in `on_view` the viewer may render, and sets it back to training
            both.append(show(self.model, scaled(self.cameras[view : view + 1].to(device), size_px)))
            on_view(len(both))
        self.model.train()
        return torch.stack(both)

    def render_s(self, size_px: int) -> float:
        """Seconds that rendering a view takes, measured on one; training goes on as if it had not been."""
        sampler = getattr(self.model, "proposal_sampler", None)  # of nerfacto's kind, which counts renders too
        count = sampler and sampler._steps_since_update
        seconds = measure_frames(1, lambda: self.render_local([0], size_px)).each_s
        if sampler:
            sampler._steps_since_update = count
        return seconds

    def inside(self, views: list[int], distances: Float[Tensor, "n 1 h w"]) -> Bool[Tensor, "n 1 H W"] | None:
        """Which pixels of the photographs may change; None: all."""
        if self.region is None:
            return None
        points = None
        if self.region.box is not None:
            points = torch.stack([points_of(self.cameras, v, d) for v, d in zip(views, distances, strict=True)])
        height, width = self.photographs.shape[-2:]
        return self.region.of_views(views, points, height, width)

    def render_window(
        self, view: int, size_px: int, side_px: int | None, at: tuple[float, float], source: Float[Tensor, "3 H W"]
    ) -> Window:
        """A view of shorter side `size_px`, or a square of `side_px` cut out of it `at` (as `square` has it), beside a
        `source` picture of the view."""
        camera = scaled(self.cameras[view : view + 1], size_px)
        height, width = int(camera.height), int(camera.width)
        window = square(height, width, side_px, at)
        rgb, points = look(self.model, camera.to(self.model.device), view, window)
        inside = self.region and self.region.of_views([view], points[None], height, width, window)[0]
        pixels = resize(source[None], height, width).clamp(0, 1)[0][..., window[0], window[1]]
        distance = (points - camera.camera_to_worlds[0, :, 3].to(points)).norm(dim=-1)[None]
        return Window(rgb, pixels, inside, distance, (width, height), (window[1].start, window[0].start))

    def loss_outside(self, outputs: dict[str, Tensor]) -> Float[Tensor, ""]:
        """The loss of colours of this step's rays that end outside of the region, which holds the field to the
        photographs there (not of splats, which have no rays)."""
        data = self.data
        assert isinstance(data, CsdDataManager)
        assert self.region is not None
        points = (data.rays.origins + data.rays.directions * outputs["depth"]).detach().cpu().float()
        inside = self.region.of_rays(data.seen["indices"].cpu(), points)
        return self.model.colour_loss(outputs, data.seen, ~inside.to(self.model.device))
