"""What a scene looks like from all around: a video and a contact sheet."""

from fractions import Fraction
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.models.base_model import Model
from torch import Tensor

from csd3d.media.clip.sink import write_clip
from csd3d.media.sheet import contact_sheet, save_picture
from csd3d.nerf.text3d.data import cameras_at
from csd3d.nerf.text3d.orbit import Orbit

FRAMES, FRAMES_PER_S = 48, 12
SHEET_VIEWS = 8


@torch.no_grad()
def look_around(model: Model, orbit: Orbit, count: int, side_px: int) -> Float[Tensor, "n 3 h w"]:
    """Views of a scene from `count` places once around, the first from the front; in [0, 1], on the CPU."""
    training = model.training
    model.eval()
    cameras = cameras_at(orbit.ring(count), side_px).to(model.device)
    views = [model.get_outputs_for_camera(cameras[i : i + 1])["rgb"] for i in range(count)]
    model.train(training)
    return torch.stack(views).permute(0, 3, 1, 2).clamp(0, 1).float().cpu()


def write_turntable(folder: Path, model: Model, orbit: Orbit, side_px: int, title: str) -> None:
    """Write turntable.mp4, once around in four seconds, and turntable.png, some of its frames."""
    rgb = look_around(model, orbit, FRAMES, side_px)
    rate = Fraction(FRAMES_PER_S)
    with write_clip(
        folder / "turntable.mp4", width_px=side_px, height_px=side_px, fps=rate, pts=range(FRAMES), time_base=1 / rate,
        tags={"title": title},
    ) as writer:  # fmt: skip
        writer.write(rgb)
    some = range(0, FRAMES, FRAMES // SHEET_VIEWS)
    columns = [f"{360 * i // FRAMES} deg" for i in some]
    save_picture(contact_sheet({title: rgb[list(some)]}, columns=columns), folder / "turntable.png")
