"""Samples as files in standard formats: mp4, nerfstudio's transforms.json, jpg with GPano tags, png.

Where an edit is named its exact truth is written too, beside the source. Everything appears whole or not at all.
"""

import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from csd3d.media.atomic import atomic_path
from csd3d.media.clip import sink
from csd3d.media.clip.formats import Encoding
from csd3d.media.pictures.levels import to_levels
from csd3d.world.camera import Camera
from csd3d.world.edits import Edit, describe
from csd3d.world.sample import Clip, PosedScene, Views

Tick = Callable[[int], object]
"""Called with the number of pictures written since the last call."""

_BATCH_PX = 1 << 22
"""Pixels of a clip held at a time: 50 MB of colour in float32."""
_JPEG_XMP = b"http://ns.adobe.com/xap/1.0/\x00"
"""Signature that marks a JPEG segment as an XMP packet."""


def truth_path(out: Path) -> Path:
    """Where the truth of a file goes: clip.mp4 -> clip.truth.mp4."""
    return out.with_name(f"{out.stem}.truth{out.suffix}")


def write_clip(clip: Clip, out: Path, *, edit: Edit | None = None, crf: int = 12, tick: Tick = int) -> list[Path]:
    """Write a clip as H.264 (BT.709, limited range) at its exact rate, and its truth; returns what was written.

    `crf` is x264's quality, 0 (best) to 51. An odd size is stored at 4:4:4, as 4:2:0 needs even sides.
    """
    _expect_suffix(out, ".mp4")
    if not 0 <= crf <= 51:
        raise ValueError(f"crf: expected 0 to 51, got {crf}")
    targets = _targets(clip, out, edit)
    for path, which, caption in targets:
        _encode(clip, path, which, caption, crf, tick)
    return [path for path, _, _ in targets]


def write_scene(scene: PosedScene, out: Path, *, edit: Edit | None = None, tick: Tick = int) -> list[Path]:
    """Write a posed scene as a new folder that nerfstudio reads: transforms.json and images/.

    With an edit, `out/truth` is a folder of the same kind with the edited images. Camera poses are OpenGL's, in metres.

    Raises:
        ValueError: `out` is there already and is no empty folder.
    """
    with _new_folder(out) as part:
        _write_posed(scene, part, None, tick)
        if edit is not None:
            _write_posed(scene, part / "truth", edit, tick)
    return [out] if edit is None else [out, out / "truth"]


def write_panorama(
    views: Views, out: Path, *, edit: Edit | None = None, quality: int = 95, tick: Tick = int
) -> list[Path]:
    """Write a panorama as JPEG with GPano tags (XMP), and its truth."""
    _expect_suffix(out, ".jpg", ".jpeg")
    extra = _xmp_segment(gpano_packet(views.cameras[0]))
    return _write_pictures(views, out, edit, tick, quality=quality, subsampling=0, extra=extra)


def write_photo(views: Views, out: Path, *, edit: Edit | None = None, tick: Tick = int) -> list[Path]:
    """Write a photo as PNG with its caption, and its truth."""
    _expect_suffix(out, ".png")
    return _write_pictures(views, out, edit, tick)


def transforms(scene: PosedScene) -> dict[str, Any]:
    """The content of transforms.json: intrinsics in pixels, camera-to-world matrices, the split by file names.

    nerfstudio evaluates on `val` while it trains and on `test` afterwards: both are the held-out views.
    """
    camera = scene.train.cameras[0]
    names = [[f"images/{split}_{i:04d}.png" for i in range(len(v))] for split, v in _splits(scene)]
    cameras = [c for _, v in _splits(scene) for c in v.cameras]
    return {
        "camera_model": "OPENCV",
        "w": camera.width_px,
        "h": camera.height_px,
        "fl_x": camera.focal_px,
        "fl_y": camera.focal_px,
        "cx": camera.width_px / 2,
        "cy": camera.height_px / 2,
        **dict.fromkeys(("k1", "k2", "p1", "p2"), 0.0),
        "train_filenames": names[0],
        "val_filenames": names[1],
        "test_filenames": names[1],
        "frames": [
            {"file_path": name, "transform_matrix": c.c2w.tolist()}
            for name, c in zip(names[0] + names[1], cameras, strict=True)
        ],
    }


def gpano_packet(camera: Camera) -> str:
    """The XMP packet that says which part of the sphere or cylinder the picture shows (Google's GPano schema)."""
    full_width = camera.width_px
    if camera.projection == "cylindrical" and not camera.wraps:
        full_width = round(2 * math.pi * camera.focal_px)
    tags = {
        "ProjectionType": camera.projection,
        "UsePanoramaViewer": "True",
        "CroppedAreaImageWidthPixels": camera.width_px,
        "CroppedAreaImageHeightPixels": camera.height_px,
        "FullPanoWidthPixels": full_width,
        "FullPanoHeightPixels": camera.height_px,
        "CroppedAreaLeftPixels": (full_width - camera.width_px) // 2,
        "CroppedAreaTopPixels": 0,
    }
    lines = "\n".join(f'   GPano:{name}="{value}"' for name, value in tags.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">\n <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        f'  <rdf:Description rdf:about="" xmlns:GPano="http://ns.google.com/photos/1.0/panorama/"\n{lines}/>\n'
        ' </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
    )


def _xmp_segment(packet: str) -> bytes:
    body = _JPEG_XMP + packet.encode("utf-8")
    return b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body


def _targets(views: Views, out: Path, edit: Edit | None) -> list[tuple[Path, Edit | None, str]]:
    """The files to write, each with the edit it shows and its caption."""
    if edit is None:
        return [(out, None, describe(views.scene))]
    before, after = edit.captions(views.scene)
    return [(out, None, before), (truth_path(out), edit, after)]


def _encode(clip: Clip, out: Path, edit: Edit | None, caption: str, crf: int, tick: Tick) -> None:
    rate, count = Fraction(clip.fps).limit_denominator(1001), len(clip)
    with sink.write_clip(
        out, width_px=clip.width_px, height_px=clip.height_px, fps=rate, pts=range(count), time_base=1 / rate,
        sample_aspect=None, tags={"title": caption}, encoding=Encoding(crf=crf),
    ) as writer:  # fmt: skip
        for batch in clip.batches(edit, count=max(1, min(8, _BATCH_PX // (clip.height_px * clip.width_px)))):
            writer.write(batch)
            tick(len(batch))


def _write_pictures(views: Views, out: Path, edit: Edit | None, tick: Tick, **options: Any) -> list[Path]:
    """The first view as a picture file, its caption in it where the format is PNG, and its truth."""
    targets = _targets(views, out, edit)
    for path, which, caption in targets:
        if path.suffix.lower() == ".png":
            options["pnginfo"] = PngInfo()
            options["pnginfo"].add_text("Title", caption)
        rgb = views.source(0, 1) if which is None else views.truth(which, 0, 1)
        with atomic_path(path) as part:
            Image.fromarray(to_levels(rgb)[0]).save(part, **options)
        tick(1)
    return [path for path, _, _ in targets]


def _splits(scene: PosedScene) -> tuple[tuple[str, Views], tuple[str, Views]]:
    return ("train", scene.train), ("test", scene.test)


def _write_posed(scene: PosedScene, folder: Path, edit: Edit | None, tick: Tick) -> None:
    (folder / "images").mkdir(parents=True)
    for split, views in _splits(scene):
        first = 0
        for batch in views.batches(edit):
            for i, picture in enumerate(to_levels(batch), start=first):
                Image.fromarray(picture).save(folder / "images" / f"{split}_{i:04d}.png")
            first += len(batch)
            tick(len(batch))
    (folder / "transforms.json").write_text(json.dumps(transforms(scene), indent=1) + "\n", encoding="utf-8")


@contextmanager
def _new_folder(final: Path) -> Iterator[Path]:
    """Yield a folder beside `final` that takes its name if the block succeeds and vanishes otherwise."""
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        raise ValueError(f"output: expected the name of a new folder, got {final}, which is there already")
    final.parent.mkdir(parents=True, exist_ok=True)
    part = final.with_name(f".{final.name}.part-{secrets.token_hex(4)}")
    part.mkdir()
    try:
        yield part
        os.replace(part, final)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _expect_suffix(out: Path, *suffixes: str) -> None:
    if out.suffix.lower() not in suffixes:
        raise ValueError(f"output: expected a name ending in {' or '.join(suffixes)}, got {out}")
