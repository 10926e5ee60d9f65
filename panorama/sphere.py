"""A full sphere in equirectangular form: its perspective views are the layers of the canvas, and the particles.

Latents are never warped from one projection to another, which destroys them. Every view keeps latents of its own,
encoded from its own pixels; views agree through pixels:

    y_i = D(z_i)        m_i = mean of what all views show where view i looks (see `views.agree`)
    z_i <- z_i + E(m_i) - E(y_i)

The difference of two encodings cancels what the codec loses, and is zero where the views agree already. The result is
merged on the sphere with the same weights. An unedited canvas gives back the source: decoded views enter only as
differences to the decoded sources (see `csd3d.media.detail`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import avg_pool2d

from csd3d.media.pictures.read import Picture
from panorama.regions import Plan
from panorama.resample import apply_taps, cubic_taps
from panorama.surface import BLOCK_PX, Block, Decode, Encode, decode_layers, grid, with_detail
from panorama.views import View, agree, cover_sphere, sample_view, sphere_directions, sphere_positions, view_of
from panorama.windows import Windows

WIDEST = math.radians(100)
"""Field of view beyond which a perspective view shows mostly its stretched borders."""
CHUNK_VIEWS = 8
_CACHE_BYTES = 512_000_000  # of decoded views
_READ_PX = 2_000_000
_SAMPLES = 4


@dataclass(frozen=True)
class Sphere:
    """Perspective views all around."""

    views: tuple[View, ...]
    factor: int
    """View pixels along a latent."""
    size_px: int
    """Height of the equirectangular picture whose detail the views have."""

    @property
    def closed(self) -> bool:
        """Always."""
        return True

    @property
    def parts(self) -> int:
        """Groups of views."""
        return -(-len(self.views) // CHUNK_VIEWS)

    @torch.no_grad()
    def encode(self, picture: Picture, encode: Encode) -> Iterator[tuple[int, Float[Tensor, "k c h w"]]]:
        """The canvas, a few views at a time."""
        small = self.seen(picture)
        canvas = None
        for a in range(0, len(self.views), CHUNK_VIEWS):
            some = self.views[a : a + CHUNK_VIEWS]
            rgb = torch.stack([view_of(small, view) for view in some]).clamp(0, 1)
            latents = encode(rgb).detach().to("cpu", torch.float32)
            if canvas is None:
                canvas = torch.zeros(len(self.views), *latents.shape[1:])
            canvas[a : a + len(some)] = latents
            yield a // CHUNK_VIEWS + 1, canvas

    def windows(self, plan: Plan) -> Windows:
        """Every view in which something may change, once for each sentence that holds somewhere in it."""
        side = self.views[0].side_px // self.factor
        shares = torch.stack([self._pooled(plan, view)[0] for view in self.views], 1)
        moves = torch.stack([self._pooled(plan, view)[1] for view in self.views]).amax((1, 2)) > 0
        prompt, layer = torch.where((shares.amax((2, 3)) > 0) & moves)
        cells = torch.arange(side).expand(len(layer), side)
        return Windows(layer, cells, cells, shares[prompt, layer].float(), prompt)

    def mask(self, plan: Plan) -> Float[Tensor, "k 1 h w"] | None:
        """Where latents may move."""
        if plan.base is not None and plan.mask is None:
            return None
        return torch.stack([self._pooled(plan, view)[1][None] for view in self.views]).float()

    def fused(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "k h w"]:
        """What all views say where each of them looks."""
        return agree(values[:, None], tuple(self._per_lat(view) for view in self.views))[:, 0]

    def unrolled(self, values: Float[Tensor, "k h w"]) -> Float[Tensor, "H W"]:
        """The weighted mean of all views, bilinear between latents."""
        rows, columns = (torch.arange(n, dtype=torch.float64) + 0.5 for n in (self.size_px, 2 * self.size_px))
        y, x = torch.meshgrid(rows / self.size_px, columns / (2 * self.size_px), indexing="ij")
        directions, total, sums = sphere_directions(x, y), torch.zeros(y.shape), torch.zeros(y.shape)
        for value, view in zip(values, map(self._per_lat, self.views), strict=True):
            uv, front = view.project(directions)
            weight = view.weight(uv, front).float()
            here = weight > 0
            sums[here] += weight[here] * sample_view(value[None], view, uv[here], mode="bilinear")[0]
            total[here] += weight[here]
        return sums / total

    @torch.no_grad()
    def settle(self, z: Float[Tensor, "k c h w"], encode: Encode, decode: Decode) -> Float[Tensor, "k c h w"]:
        """Latents of views that show what the others show."""
        y = torch.cat([decode(part).cpu() for part in z.split(CHUNK_VIEWS)])
        m = agree(y, self.views).clamp(0, 1)
        parts = zip(m.split(CHUNK_VIEWS), y.split(CHUNK_VIEWS), strict=True)
        return z + torch.cat([(encode(a) - encode(b)).cpu() for a, b in parts])

    @torch.no_grad()
    def blocks(
        self,
        picture: Picture,
        z: Float[Tensor, "k c h w"],
        s: Float[Tensor, "k c h w"],
        decode: Decode,
        *,
        detail: float,
        strength: float = 1.0,
    ) -> Iterator[Block]:
        """The picture at its own size; near the poles a row takes part in few views, elsewhere in three or four."""
        layers: dict[int, Tensor] = {}
        for rows in grid(picture.height_px, BLOCK_PX):
            for columns in grid(picture.width_px, BLOCK_PX):
                y = (rows.double() + 0.5) / picture.height_px
                x = (columns.double() + 0.5) / picture.width_px
                at_y, at_x = torch.meshgrid(y, x, indexing="ij")
                directions = sphere_directions(at_x, at_y)
                total = torch.zeros(at_y.shape)
                lifted = torch.zeros(15, *at_y.shape)
                for i, view in enumerate(self.views):
                    uv, front = view.project(directions)
                    weight = view.weight(uv, front).float()
                    here = weight > 0
                    if not bool(here.any()):
                        continue
                    if i not in layers:
                        self._make_room(layers)
                        own = z[i : i + 1], s[i : i + 1]
                        layers[i] = decode_layers(*own, decode, detail=detail, strength=strength)
                    lifted[:, here] += weight[here] * sample_view(layers[i], view, uv[here])
                    total[here] += weight[here]
                source = picture.rgb(rows, columns)
                yield Block(rows, columns, source, with_detail(lifted / total, source, detail=detail))

    def seen(self, picture: Picture) -> Float[Tensor, "3 h w"]:
        """The whole picture at `size_px` x 2 `size_px`, in [0, 1]."""
        targets = torch.arange(self.size_px), torch.arange(2 * self.size_px)
        scale_y, scale_x = picture.height_px / self.size_px, picture.width_px / (2 * self.size_px)
        out = torch.empty(3, self.size_px, 2 * self.size_px)
        taps_x = cubic_taps(targets[1], scale_x)
        from_x = torch.arange(taps_x.first, taps_x.first + taps_x.weights.shape[1])
        step = max(1, int(_READ_PX / len(from_x) / max(scale_y, 1)))
        for rows in targets[0].split(step):
            taps_y = cubic_taps(rows, scale_y, low=0, high=picture.height_px)
            from_y = torch.arange(taps_y.first, taps_y.first + taps_y.weights.shape[1])
            out[:, rows] = apply_taps(picture.rgb(from_y, from_x), taps_y.weights, taps_x.weights)
        return out.clamp(0, 1)

    def _make_room(self, layers: dict[int, Tensor]) -> None:
        """Drop the view that was decoded first when the layers take too much memory."""
        if layers and sum(x.numel() for x in layers.values()) * 4 > _CACHE_BYTES:
            layers.pop(next(iter(layers)))

    def _per_lat(self, view: View) -> View:
        """The view with its latents as pixels."""
        return replace(view, side_px=view.side_px // self.factor)

    def _pooled(self, plan: Plan, view: View) -> tuple[Tensor, Tensor]:
        """Sentences [k h w] and strength [h w], averaged over the latents of a view."""
        x, y = sphere_positions(self._per_lat(view).directions(_SAMPLES))
        x = x % 1.0
        shares, strength = plan.shares(x, y), plan.strength(x, y)
        return avg_pool2d(shares, _SAMPLES), avg_pool2d(strength[None], _SAMPLES)[0]


def make_sphere(height_px: int, width_px: int, *, size_px: int, factor: int, window_px: int) -> Sphere:
    """Views of `window_px` that show a sphere with the detail it has at `size_px` of height.

    Raises:
        ValueError: the picture is not twice as wide as high, or the views would be wider than `WIDEST`.
    """
    if abs(width_px - 2 * height_px) > max(2, 0.01 * width_px):
        raise ValueError(f"wrap: expected a sphere to be twice as wide as high, got {width_px}x{height_px}")
    fov = 2 * math.atan(0.5 * window_px * math.pi / size_px)
    if fov > WIDEST:
        least = math.ceil(0.5 * window_px * math.pi / math.tan(WIDEST / 2))
        raise ValueError(f"size: expected at least {least} px for a sphere seen through views of {window_px} px")
    return Sphere(cover_sphere(fov, window_px), factor, size_px)
