"""What a scene's data must be, looked at before nerfstudio reads it: `transforms.json`, its cameras and its pictures.

nerfstudio answers to most mistakes with an assertion or a KeyError that names no file. Knows no nerfstudio.
"""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from csd3d.media.json_file import load_json

EXIF_ORIENTATION = 0x0112
MODES = ("L", "RGB", "RGBA")
"""What nerfstudio reads as it is meant: it takes palette entries for levels of grey, and cuts 16 bits to 8."""
SIZES, FOCAL_LENGTHS, CENTRE = ("w", "h"), ("fl_x", "fl_y"), ("cx", "cy")
LENS = ("k1", "k2", "k3", "k4", "p1", "p2")
OPTIONAL = (*LENS, "applied_scale", "fisheye_crop_radius")
PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")
"""Camera models that differ in nothing but parameters, the one that is meant where none is named first."""
LARGEST = 3.4e38
"""Of what nerfstudio computes with."""


def transforms_path(data: Path) -> Path:
    """The file that describes the scene in `data`, a folder or that file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = data if data.suffix == ".json" else data / "transforms.json"
    if not data.exists():
        raise FileNotFoundError(f"data: expected a folder or a transforms.json, got {data}, which does not exist")
    if not path.is_file():
        raise FileNotFoundError(
            f"data: expected a transforms.json in {data}, which has none; ns-process-data makes one of pictures"
        )
    return path


def check_transforms(path: Path) -> None:
    """Raises `ValueError` if a `transforms.json` says too little about its cameras, or something that cannot be."""
    found = load_json(path, "data")
    about: Mapping[str, Any] = found if isinstance(found, dict) else {}
    frames = about.get("frames")
    if not isinstance(frames, list) or not frames:
        raise ValueError(f"data: expected a list of frames in {path}, which has none")
    _check_optional(about, "of all frames", path)
    _check_matrix("applied_transform", about.get("applied_transform", [[0.0] * 4] * 3), (3,), "of all frames", path)
    for number, frame in enumerate(frames):
        if not isinstance(frame, dict) or not isinstance(frame.get("file_path"), str):
            raise ValueError(f"data: expected a file_path in every frame of {path}, got none in frame {number}")
        _check_matrix("transform_matrix", frame.get("transform_matrix"), (3, 4), f"for {frame['file_path']}", path)
        _check_optional(frame, f"for {frame['file_path']}", path)
        if not all(where.get("camera_model", PERSPECTIVE[0]) in PERSPECTIVE for where in (about, frame)):
            _check_one_way("camera_model", about.get("camera_model", PERSPECTIVE[0]), frame, path)
        if any(name in about for name in LENS):
            for name in LENS:
                _check_one_way(name, about.get(name, 0.0), frame, path)
        for names, bound in ((SIZES, 0.0), (FOCAL_LENGTHS, 0.0), (CENTRE, -math.inf)):
            for name in names:
                _check_number(name, about, frame, path, above=bound)


def _check_matrix(name: str, rows: object, heights: tuple[int, ...], whose: str, path: Path) -> None:
    matrix = rows if isinstance(rows, list) and len(rows) in heights else [None]
    if not all(isinstance(row, list) and len(row) == 4 and all(map(_is_number, row)) for row in matrix):
        raise ValueError(f"data: expected {name} of {heights[-1]}x4 finite numbers, got another {whose} in {path}")


def _check_optional(fields: Mapping[str, Any], whose: str, path: Path) -> None:
    for name in OPTIONAL:
        if not _is_number(value := fields.get(name, 0.0)):
            raise ValueError(f"data: expected a finite number for {name}, got {value!r} {whose} in {path}")
    numbers = fields.get("distortion_params", [])
    if not isinstance(numbers, list) or not all(map(_is_number, numbers)):
        raise ValueError(f"data: expected finite numbers as distortion_params, got {numbers!r} {whose} in {path}")


def _check_one_way(name: str, of_all: object, frame: Mapping[str, Any], path: Path) -> None:
    """Of two values nerfstudio takes that of all frames, without a word."""
    if of_all is not None and name in frame and frame[name] != of_all:
        got = f"{of_all!r} for all frames and {frame[name]!r} for {frame['file_path']}"
        raise ValueError(f"data: expected one {name} in {path}, got {got}")


def _check_number(name: str, about: Mapping[str, Any], frame: Mapping[str, Any], path: Path, *, above: float) -> None:
    """nerfstudio takes a field of all frames where there is one, and the fields of one frame otherwise."""
    value = about.get(name, frame.get(name))
    if not _is_number(value) or value <= above:
        bound = " above 0" if above == 0 else ""
        got = "none" if value is None else repr(value)
        raise ValueError(
            f"data: expected a number{bound} for {name} in {path}, for all frames or in each, got {got} for "
            f"{frame['file_path']}"
        )
    _check_one_way(name, about.get(name), frame, path)


def _is_number(value: object) -> bool:
    """Whether a value is a number that is finite as a float of 32 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST


def check_pictures(pictures: Iterable[tuple[Path, tuple[int, int]]]) -> bool:
    """Look at pictures, given with the (width, height) in px that their cameras have; whether any has an alpha channel.

    Raises:
        ValueError: one cannot be read, or is of another size than its camera, but for a pixel that rounding costs where
            pictures were scaled down, or of a kind that nerfstudio takes for something else.
    """
    alpha = False
    for path, (width, height) in pictures:
        try:
            with Image.open(path) as picture:
                found, mode, orientation = picture.size, picture.mode, picture.getexif().get(EXIF_ORIENTATION, 1)
        except OSError as error:
            raise ValueError(f"data: {path} cannot be read as a picture ({error})") from error
        if mode not in MODES:
            raise ValueError(f"data: expected pictures in 8-bit grey, RGB or RGBA, got mode {mode} in {path}")
        alpha = alpha or mode == "RGBA"
        if not (0 <= width - found[0] <= 1 and 0 <= height - found[1] <= 1):
            lying = (
                f"; it is stored turned (EXIF orientation {orientation}): store it upright" if orientation > 1 else ""
            )
            raise ValueError(
                f"data: expected pictures of the size of their cameras, {width}x{height} px, got "
                f"{found[0]}x{found[1]} px in {path}{lying}"
            )
    return alpha
