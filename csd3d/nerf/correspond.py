"""Where the points that one view shows are in the others, by the depth of the field. Knows no nerfstudio.

    X_i(p) = o_i + D_i(p) ray_i(p)        pos_ij(p) = where camera j shows X_i(p)
    v_ij(p) = 1 if |X_i(p) - o_j| is what view j has there, D_j(pos_ij(p)), to `SAME_SURFACE`; else 0

o, D   camera centre, and distance along the ray to what the field shows
p      centre of a latent pixel; the padding around a view corresponds to nothing

Cameras are pinholes; a little lens distortion shifts positions by as much.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from csd3d.engine.transport import PairwiseCorrespondences
from csd3d.priors.geometry import WorkingSize

SAME_SURFACE = 0.05
"""Two distances to a point that differ by less than this share are of the same surface."""


def correspondences(
    c2w: Float[Tensor, "n 3 4"],
    focal: Float[Tensor, "n 2"],
    centre: Float[Tensor, "n 2"],
    distance: Float[Tensor, "n 1 H W"],
    size: WorkingSize,
    factor: int,
) -> PairwiseCorrespondences:
    """All pairs of n views, on the grid of their latents.

    Args:
        c2w: camera-to-world matrices; cameras look along their own -z, y is up.
        focal: focal lengths (x, y) in pixels of `distance`.
        centre: principal points (x, y) in pixels of `distance`; the first pixel's centre is at (0.5, 0.5).
        distance: along the rays, of the views without padding, at any resolution.
        size: at which the prior works.
        factor: pixels along one side of a latent.
    """
    height_px, width_px = distance.shape[-2:]
    px = distance.new_tensor([width_px, height_px])
    content, corner = px.new_tensor([size.width_px, size.height_px]), px.new_tensor([size.left_px, size.top_px])
    height_lat, width_lat = (side // factor for side in size.padded)
    grid = _centres(height_lat, width_lat).to(distance)
    seen_at = (grid * factor - corner) / content * px  # latent pixels to pixels of `distance`
    there = _inside(seen_at, px)
    position, visible = [], []
    for i in range(len(c2w)):
        local = torch.stack(
            [
                (seen_at[..., 0] - centre[i, 0]) / focal[i, 0],
                (centre[i, 1] - seen_at[..., 1]) / focal[i, 1],
                -torch.ones_like(seen_at[..., 0]),
            ],
            dim=-1,
        )
        rays = torch.nn.functional.normalize(local, dim=-1) @ c2w[i, :, :3].T
        points = c2w[i, :, 3] + rays * _look_up(distance[i, 0], seen_at)[..., None]
        offset = points - c2w[:, None, None, :, 3]
        in_camera = torch.einsum("nhwk,nkc->nhwc", offset, c2w[:, :, :3])
        front = -in_camera[..., 2:]
        ahead = front[..., 0] > 1e-6
        flat = in_camera[..., :2] / torch.where(ahead[..., None], front, torch.ones_like(front))
        seen = centre[:, None, None] + focal[:, None, None] * flat * flat.new_tensor([1.0, -1.0])
        far = torch.stack([_look_up(d, at) for d, at in zip(distance[:, 0], seen, strict=True)])
        same = (offset.norm(dim=-1) - far).abs() < SAME_SURFACE * far
        position.append((seen / px * content + corner) / factor)
        visible.append((there & ahead & _inside(seen, px) & same).to(distance))
    return PairwiseCorrespondences(torch.stack(position), torch.stack(visible))


def _centres(height: int, width: int) -> Float[Tensor, "h w 2"]:
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    return torch.stack([x, y], dim=-1)


def _inside(position: Float[Tensor, "*n h w 2"], px: Float[Tensor, "2"]) -> Bool[Tensor, "*n h w"]:
    return ((position >= 0) & (position <= px)).all(dim=-1)


def _look_up(values: Float[Tensor, "H W"], position: Float[Tensor, "h w 2"]) -> Float[Tensor, "h w"]:
    """The value of the pixel at each position, of the nearest one outside: distances must not mix across edges."""
    height, width = values.shape
    x = position[..., 0].clamp(0, width - 1).long()
    y = position[..., 1].clamp(0, height - 1).long()
    return values[y, x]
