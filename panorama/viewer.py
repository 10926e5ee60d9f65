"""The parts of a report that show a picture: before and after under a divider, and a view to turn for what wraps.

Both work offline from a file. The view to turn carries its pictures inside the page, since browsers keep pictures of
other files away from WebGL.
"""

import base64
from importlib.resources import files
from io import BytesIO

from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from csd3d.media.pictures.levels import to_levels
from csd3d.runs.report import Panel
from panorama.wrap import Wrap

TURNED_PX = 2048
"""Width of the pictures in the view to turn."""


def make_panels(source: Float[Tensor, "3 h w"], edited: Float[Tensor, "3 h w"], *, wrap: Wrap) -> tuple[Panel, ...]:
    """The panels for a source and its edit, in [0, 1]; the pictures themselves are media/source.jpg and edited.jpg."""
    height, width = source.shape[-2:]
    compare = Panel(
        '<section class="card"><h2>Before and after</h2>'
        f'<div class="compare" tabindex="0" style="aspect-ratio:{width}/{height}" aria-label="Before and after">'
        '<div class="sheet-move"><img src="media/source.jpg" alt="Source" draggable="false"></div>'
        '<div class="sheet-cut"><div class="sheet-move">'
        '<img src="media/edited.jpg" alt="Edited" draggable="false"></div></div>'
        '<div class="divider" role="slider" aria-label="Divider" aria-valuemin="0" aria-valuemax="100"></div></div>'
        '<p class="faint">Drag the divider; wheel or +/- to zoom, drag to move, double click to see all.</p></section>',
        _read("viewer.css"),
        _read("compare.js"),
    )
    if wrap == "none":
        return (compare,)
    turned = Panel(
        '<section class="card"><h2>Look around</h2>'
        f'<canvas class="around" tabindex="0" data-kind="{wrap}" data-aspect="{width / height:.6f}" '
        f'data-before="{_inline(source)}" data-after="{_inline(edited)}" aria-label="View to turn"></canvas>'
        '<div class="bar"><span class="modes" role="group" aria-label="Which">'
        '<button data-share="1">Source</button><button data-share="0.5">Half and half</button>'
        '<button data-share="0" class="on">Edited</button></span></div>'
        '<p class="faint">Drag to look around, wheel to zoom; arrow keys work too.</p></section>',
        "",
        _read("around.js"),
    )
    return (compare, turned)


def _read(name: str) -> str:
    return files("panorama").joinpath(name).read_text(encoding="utf-8")


def _inline(rgb: Float[Tensor, "3 h w"]) -> str:
    """A picture as a data URI, at most `TURNED_PX` wide."""
    height, width = rgb.shape[-2:]
    scale = min(1.0, TURNED_PX / width)
    size = (max(round(height * scale), 1), max(round(width * scale), 1))
    small = interpolate(rgb[None], size, mode="bilinear", antialias=True)[0] if scale < 1 else rgb
    stream = BytesIO()
    Image.fromarray(to_levels(small)).save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
