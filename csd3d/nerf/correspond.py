"""Where the points that one view shows are in the others, by the depth of the field.

    X_i(p) = o_i + D_i(p) ray_i(p)        pos_ij(p) = where camera j shows X_i(p)
    v_ij(p) = 1 if |X_i(p) - o_j| is what view j has there, D_j(pos_ij(p)), to `SAME_SURFACE`; else 0

o, D   camera centre, and distance along the ray to what the field shows
p      centre of a place, a latent or a pixel; the padding around a view corresponds to nothing

Cameras are perspective, with lens distortion as OpenCV and nerfstudio have it, r^2 = x^2 + y^2 of a direction (x, y):

    x' = x d + 2 p1 x y + p2 (r^2 + 2 x^2)    y' = y d + 2 p2 x y + p1 (r^2 + 2 y^2)
    d  = 1 + k1 r^2 + k2 r^4 + k3 r^6 + k4 r^8

nerfstudio undoes it, as for the rays of training. Far outside of the picture the polynomial folds back; what lies
there is not visible.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.camera_utils import radial_and_tangential_undistort
from torch import Tensor

from csd3d.media.geometry import WorkingSize, pixel_centres

SAME_SURFACE = 0.05
"""Two distances to a point that differ by less than this share are of the same surface."""
_FOLD_PROBES = 8


@dataclass(frozen=True)
class DepthCorrespondences:
    """Correspondences of n views by what they show how far away; satisfies the engine's `Correspondences`."""

    c2w: Float[Tensor, "n 3 4"]
    """Camera-to-world matrices; cameras look along their own -z, y is up."""
    focal: Float[Tensor, "n 2"]
    """Focal lengths (x, y) in pixels of `distance`."""
    centre: Float[Tensor, "n 2"]
    """Principal points (x, y) in pixels of `distance`; the first pixel's centre is at (0.5, 0.5)."""
    distance: Float[Tensor, "n 1 H W"]
    """Along the rays, of the views without padding, at any resolution."""
    size: WorkingSize
    """At which the prior works."""
    unit_px: int
    """Pixels of that size along one side of a place: the codec's factor for latents, 1 for decoded views."""
    distortion: Float[Tensor, "n 6"] | None = None
    """k1, k2, k3, k4, p1, p2 of each lens; None: pinholes."""

    def __call__(self, i: int, index: Int[Tensor, " m"]) -> tuple[Float[Tensor, "m h w 2"], Float[Tensor, "m h w"]]:
        """See the protocol."""
        j, i = index.cpu(), int(index[i])
        height_px, width_px = self.distance.shape[-2:]
        px = self.distance.new_tensor([width_px, height_px])
        content = px.new_tensor([self.size.width_px, self.size.height_px])
        corner = px.new_tensor([self.size.left_px, self.size.top_px])
        grid = pixel_centres(*(side // self.unit_px for side in self.size.padded)).to(px)
        seen_at = (grid * self.unit_px - corner) / content * px  # places to pixels of `distance`
        flat = (seen_at - self.centre[i]) / self.focal[i]
        if self.distortion is not None:
            flat = radial_and_tangential_undistort(flat, self.distortion[i])
        local = torch.stack([flat[..., 0], -flat[..., 1], -torch.ones_like(flat[..., 0])], dim=-1)
        rays = torch.nn.functional.normalize(local, dim=-1) @ self.c2w[i, :, :3].T
        points = self.c2w[i, :, 3] + rays * _look_up(self.distance[i, 0], seen_at)[..., None]
        offset = points - self.c2w[j, None, None, :, 3]
        in_camera = torch.einsum("nhwk,nkc->nhwc", offset, self.c2w[j, :, :3])
        front = -in_camera[..., 2:]
        ahead = front[..., 0] > 1e-6
        flat = in_camera[..., :2] / torch.where(ahead[..., None], front, torch.ones_like(front))
        flat = flat * flat.new_tensor([1.0, -1.0])
        if self.distortion is not None:
            lenses = self.distortion[j, None, None]
            ahead &= ~_folded(flat, lenses)
            flat = distorted(flat, lenses)
        seen = self.centre[j, None, None] + self.focal[j, None, None] * flat
        far = torch.stack([_look_up(d, at) for d, at in zip(self.distance[j, 0], seen, strict=True)])
        same = (offset.norm(dim=-1) - far).abs() < SAME_SURFACE * far
        visible = _inside(seen_at, px) & ahead & _inside(seen, px) & same
        return (seen / px * content + corner) / self.unit_px, visible.to(px)


def distorted(flat: Float[Tensor, "*n 2"], lens: Float[Tensor, "*#n 6"]) -> Float[Tensor, "*n 2"]:
    """Where a lens shows directions (x, y), y down."""
    x, y = flat.unbind(-1)
    k1, k2, k3, k4, p1, p2 = lens.unbind(-1)
    r = x * x + y * y
    d = 1 + r * (k1 + r * (k2 + r * (k3 + r * k4)))
    return torch.stack(
        [d * x + 2 * p1 * x * y + p2 * (r + 2 * x * x), d * y + 2 * p2 * x * y + p1 * (r + 2 * y * y)], -1
    )


def _folded(flat: Float[Tensor, "*n 2"], lens: Float[Tensor, "*#n 6"]) -> Bool[Tensor, "*n"]:
    """Whether the way from the axis to a direction comes to where the lens' picture turns back (radial part alone)."""
    k1, k2, k3, k4, _, _ = lens.unbind(-1)
    r = (flat * flat).sum(-1)
    slopes = [
        1 + q * (3 * k1 + q * (5 * k2 + q * (7 * k3 + q * 9 * k4)))
        for q in (r * (i / _FOLD_PROBES) ** 2 for i in range(1, _FOLD_PROBES + 1))
    ]
    return (torch.stack(slopes) <= 0).any(0)


def _inside(position: Float[Tensor, "*n h w 2"], px: Float[Tensor, "2"]) -> Bool[Tensor, "*n h w"]:
    return ((position >= 0) & (position <= px)).all(dim=-1)


def _look_up(values: Float[Tensor, "H W"], position: Float[Tensor, "h w 2"]) -> Float[Tensor, "h w"]:
    """The value of the pixel at each position, of the nearest one outside: distances must not mix across edges."""
    height, width = values.shape
    x = position[..., 0].clamp(0, width - 1).long()
    y = position[..., 1].clamp(0, height - 1).long()
    return values[y, x]
