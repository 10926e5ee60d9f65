"""Control pictures of a guard: edges of the sources, their depth, or pictures that are given; and loading the guard.

edge    Canny's edges (1986) of each source as the editor sees it, or of the pictures that are given
depth   what a depth model says of each source, or pictures that are given, as they are
pose    pictures that are given
"""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from csd3d.engine.types import Index, Latents, numbers
from csd3d.media.clip.probe import read_as
from csd3d.media.clip.source import open_clip
from csd3d.media.geometry import resize
from csd3d.media.pictures.levels import from_levels, read_levels
from csd3d.priors.families.pictures import Pictures, digest, to_bytes
from csd3d.priors.loading import Loading
from csd3d.priors.networks.guard import Guard, require_fit
from csd3d.priors.prior import Codec
from csd3d.priors.store.files import check_whole, first_line, read_part
from csd3d.priors.store.silence import quiet

CANNY = (100, 200)
"""Gradients below the first are no edge, above the second always; those between where they go on one. Of 8-bit
pictures, as the published ControlNets for edges were given them."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff")
KEPT = 4096
"""Control pictures that are kept."""
_WRONG = (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError)


class Remembering(Codec, Protocol):
    """A codec that may keep the pictures that it encodes."""

    pictures: Pictures | None


def edges(picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """White edges on black."""
    return np.repeat(cv2.Canny(picture, *CANNY)[..., None], 3, axis=2)


def whole_range(near: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
    """Each picture's numbers brought to 0 (the least of it) to 1 (the largest)."""
    low, high = near.flatten(1).aminmax(dim=1)
    low, high = low[:, None, None], high[:, None, None]
    return (near - low) / (high - low).clamp(min=1e-9)


class Controls:
    """The control pictures of one guard."""

    def __init__(self, how: Loading, codec: Remembering, *, device: torch.device) -> None:
        """Raises ValueError or FileNotFoundError for pictures or a depth model that cannot be read."""
        assert how.control is not None
        self._kind, self._codec = how.control[0], codec
        self._given = None if how.control_picture is None else Given(how.control_picture)
        self._depth = None if how.control_depth is None else DepthModel(how.control_depth, device, offline=how.offline)
        self._known: OrderedDict[tuple[object, tuple[int, int]], UInt8[Tensor, "H W 3"]] = OrderedDict()
        self._pictures: tuple[int, ...] | None = None
        if self._given is None:
            codec.pictures = codec.pictures or Pictures()

    @property
    def wants_depth(self) -> bool:
        """See `Sees`."""
        return self._kind == "depth" and self._given is None and self._depth is None

    def assign(self, pictures: Sequence[int], /) -> None:
        """See `Sees`."""
        if self._given is not None:
            self._given.require(max(pictures) + 1)
            self._known.clear()
        self._pictures = tuple(pictures)

    def tell(self, s: Latents, near: Float[Tensor, "n 1 H W"]) -> None:
        """See `Sees`."""
        for z, picture in zip(s, to_bytes(near.expand(-1, 3, -1, -1)).cpu(), strict=True):
            self._keep((digest(z), (near.shape[-2], near.shape[-1])), picture)

    def __call__(self, index: Index, s: Latents | None, size_px: tuple[int, int]) -> Float[Tensor, "n 3 H W"]:
        """See `csd3d.priors.networks.guard.Sees`. Raises ValueError where there is no picture for a particle."""
        maps = [self._map(i, None if s is None else s[k], size_px) for k, i in enumerate(numbers(index))]
        return torch.stack(maps).permute(0, 3, 1, 2).float() / 255

    def _map(self, i: int, s: Tensor | None, size_px: tuple[int, int]) -> UInt8[Tensor, "H W 3"]:
        if self._given is None and s is None:
            raise ValueError(f"control-picture: expected one, as there is no source whose {self._kind} shows, got none")
        key: object = i if self._given is not None or s is None else digest(s)
        if (key, size_px) not in self._known:
            self._keep((key, size_px), self._made(i, s, size_px))
        return self._known[key, size_px]

    def _keep(self, key: tuple[object, tuple[int, int]], picture: UInt8[Tensor, "H W 3"]) -> None:
        self._known[key] = picture
        while len(self._known) > KEPT:
            self._known.popitem(last=False)

    def _made(self, i: int, s: Tensor | None, size_px: tuple[int, int]) -> UInt8[Tensor, "H W 3"]:
        if self.wants_depth:
            raise ValueError("control: depth expected --control-picture or --control-depth, which no source shows")
        if self._given is not None:
            which = i if self._pictures is None else self._pictures[i]
            picture = to_bytes(resize(self._given(which)[None], *size_px))[0]
        else:
            assert s is not None
            assert self._codec.pictures is not None
            known = self._codec.pictures.find(s)
            picture = to_bytes(self._codec.decode(s[None]))[0].cpu() if known is None else known
        if self._kind == "edge":
            return torch.from_numpy(edges(picture.numpy()))
        return picture if self._depth is None else self._depth(picture)


class DepthModel:
    """A monocular depth model that transformers knows, such as Depth Anything or DPT."""

    def __init__(self, name: str, device: torch.device, *, offline: bool) -> None:
        """`name`: a folder or a hub id. Raises ValueError for one that cannot be read."""
        import transformers  # slow to import

        only = offline or Path(name).is_dir()
        try:
            with quiet():
                self._read: Any = transformers.AutoImageProcessor.from_pretrained(name, local_files_only=only)
                net: Any = transformers.AutoModelForDepthEstimation.from_pretrained(
                    name, local_files_only=only, use_safetensors=True
                )
        except _WRONG as error:
            raise ValueError(f"control-depth: {name} cannot be read: {first_line(error)}") from error
        self._net = net.to(device).requires_grad_(False).eval()

    @torch.no_grad()
    def __call__(self, picture: UInt8[Tensor, "H W 3"]) -> UInt8[Tensor, "H W 3"]:
        """Near is white, far is black, over the whole range of the picture."""
        read = self._read(images=picture.numpy(), return_tensors="pt").to(self._net.device)
        near = self._net(**read).predicted_depth.float()[:, None]
        near = whole_range(resize(near, *picture.shape[:2])[0].cpu())[0]
        return (255 * near).round().byte()[..., None].expand(-1, -1, 3).contiguous()


class Given:
    """A picture for all particles, or one for each of them: those of a folder in order, or the frames of a clip."""

    def __init__(self, path: Path) -> None:
        """Raises what reading it raises."""
        one = path.suffix.lower() in PICTURES and path.is_file()
        self._picture = from_levels(read_levels(path)) if one else None
        with read_as("control-picture"):
            self._clip = None if one else open_clip(path)

    def __call__(self, i: int) -> Float[Tensor, "3 H W"]:
        """The picture of particle `i`, in [0, 1]. Raises ValueError where there are too few."""
        if self._clip is None:
            assert self._picture is not None
            return self._picture
        self.require(i + 1)
        return self._clip.read(i, i + 1)[0]

    def require(self, count: int) -> None:
        """Raises ValueError where there are fewer pictures than these, unless one is for all."""
        if self._clip is not None and self._clip.info.frames < count:
            raise ValueError(f"control-picture: expected {count} frames or more, got {self._clip.info.frames}")


def load_guard(how: Loading, unet: Any, codec: Remembering, *, title: str, device: torch.device) -> Guard | None:
    """The guard that is asked for; None: none is.

    Raises:
        ValueError: The prior has no UNet of Stable Diffusion's or SDXL's kind, or what is asked for cannot be read or
            is for another model.
    """
    if how.control is None:
        return None
    name = how.control[1]
    if type(unet).__name__ != "UNet2DConditionModel":
        raise ValueError(f"control: expected a prior of Stable Diffusion's or SDXL's kind, got {title}")
    with quiet():
        net = _read_net(name, offline=how.offline).to(device, unet.dtype)
    try:
        require_fit(net, unet, channels=codec.channels, factor=codec.factor)
    except ValueError as error:
        raise ValueError(f"control: {name} is not for {title}: {error}") from error
    sees = Controls(how, codec, device=device)
    return Guard(net, unet, sees=sees, scale=how.control_scale, factor=codec.factor)


def _read_net(name: str, *, offline: bool) -> nn.Module:
    from diffusers.models.controlnets.controlnet import ControlNetModel

    folder = Path(name)
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        check_whole(file)
    try:
        with quiet():
            net = read_part(ControlNetModel, name, local_files_only=offline or folder.is_dir())
    except _WRONG as error:
        raise ValueError(f"control: {name} cannot be read: {first_line(error)}") from error
    assert isinstance(net, nn.Module)
    return net.requires_grad_(False).eval()
