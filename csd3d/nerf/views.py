"""What the field shows of a camera, and where its pixels are in the scene."""

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.models.base_model import Model
from torch import Tensor

from csd3d.media.geometry import WorkingSize
from csd3d.nerf.backends import EditedSplats
from csd3d.nerf.correspond import DepthCorrespondences


def scaled(camera: Cameras, size_px: int) -> Cameras:
    """A copy of one camera, its shorter side scaled down to about `size_px`."""
    camera = camera[0:1]
    shorter = min(int(camera.height), int(camera.width))
    camera.rescale_output_resolution(min(1.0, size_px / shorter))
    return camera


@torch.no_grad()
def show(model: Model, camera: Cameras) -> Float[Tensor, "4 h w"]:
    """Colours in [0, 1] and the distance along each ray, on the CPU."""
    outputs = model.get_outputs_for_camera(camera)
    rgb, distance = outputs["rgb"][..., :3].clamp(0, 1).cpu(), outputs["depth"].cpu()
    if isinstance(model, EditedSplats):  # whose depth is along the axis of the camera
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        distance = distance * rays.metadata["directions_norm"].cpu()
    return torch.cat([rgb, distance], dim=-1).permute(2, 0, 1).float()


def square(height: int, width: int, side: int | None, at: tuple[float, float]) -> tuple[slice, slice]:
    """Rows and columns of a square of `side` px, or as large as fits, in a view of `height` x `width` px.

    `at` says where: (0, 0) is the upper left corner of the view, (1, 1) the lower right one. No side: the whole view.
    """
    if side is None:
        return slice(0, height), slice(0, width)
    side = min(side, height, width)
    top, left = (min(int(a * (free + 1)), free) for a, free in zip(at, (height - side, width - side), strict=True))
    return slice(top, top + side), slice(left, left + side)


def look(
    model: Model, camera: Cameras, view: int, window: tuple[slice, slice]
) -> tuple[Float[Tensor, "3 h w"], Float[Tensor, "h w 3"]]:
    """Colours that a window of one camera shows, with the graph to the field, and where its pixels are in the scene.

    `view` is the camera's number among the training views, by which a field may know it. Points are on the CPU.
    """
    rays = camera.generate_rays(camera_indices=0, keep_shape=True)[window]
    assert rays.camera_indices is not None
    rays.camera_indices = torch.full_like(rays.camera_indices, view)
    outputs = model(rays.flatten())
    points = rays.origins + rays.directions * outputs["depth"].detach().view(*rays.shape, 1)
    return outputs["rgb"].view(*rays.shape, 3).permute(2, 0, 1), points.cpu().float()


@torch.no_grad()
def points_of(cameras: Cameras, view: int, distance: Float[Tensor, "1 h w"]) -> Float[Tensor, "H W 3"]:
    """Where all pixels of a view are in the scene, from distances at any resolution; on the CPU."""
    rays = cameras.generate_rays(camera_indices=view, keep_shape=True)
    height, width = rays.shape
    nearest = torch.nn.functional.interpolate(distance[None], (height, width), mode="nearest")[0, 0]
    return rays.origins.cpu() + rays.directions.cpu() * nearest[..., None]


@torch.no_grad()
def correspond(
    cameras: Cameras,
    views: list[int],
    distance: Float[Tensor, "n 1 h w"],
    size: WorkingSize,
    unit_px: int,
    *,
    whole_px: tuple[int, int] | None = None,
    corner_px: Float[Tensor, "n 2"] | None = None,
) -> DepthCorrespondences:
    """Correspondences of some views, from the distances that they show; or of windows of them.

    Args:
        cameras: of all views.
        views: which.
        distance: along the rays, in units of the scene, at any resolution.
        size: at which the prior works.
        unit_px: see `DepthCorrespondences`.
        whole_px: width and height of the views out of which windows were cut; None: these are whole.
        corner_px: x and y in them of each window's upper left corner; None: 0, 0.
    """
    some = cameras[torch.tensor(views)].to("cpu")
    whole = distance.new_tensor(whole_px or (distance.shape[-1], distance.shape[-2]))
    scale = whole / torch.cat([some.width, some.height], -1)
    focal, centre = torch.cat([some.fx, some.fy], -1) * scale, torch.cat([some.cx, some.cy], -1) * scale
    if corner_px is not None:
        centre = centre - corner_px
    lens = some.distortion_params
    if lens is not None and not lens.any():
        lens = None
    return DepthCorrespondences(some.camera_to_worlds.float(), focal, centre, distance, size, unit_px, lens)
