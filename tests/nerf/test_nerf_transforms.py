"""What a scene's data must be: every mistake is one line with the name of the file. Without nerfstudio."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from csd3d.nerf.transforms import EXIF_ORIENTATION, check_pictures, check_transforms, transforms_path

POSE = [[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
GOOD: dict[str, Any] = {
    "w": 64,
    "h": 48,
    "fl_x": 50.0,
    "fl_y": 50.0,
    "cx": 32.0,
    "cy": 24.0,
    "frames": [{"file_path": "images/a b.png", "transform_matrix": POSE}],
}


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


def frame(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "frames": [{**GOOD["frames"][0], **changes}]}


def written(folder: Path, about: object) -> Path:
    path = folder / "transforms.json"
    path.write_text(about if isinstance(about, str) else json.dumps(about))
    return path


@pytest.mark.parametrize(
    "about", [GOOD, {**without("w"), **{"frames": [{**GOOD["frames"][0], "w": 64}]}}, frame(k1=0.1, w=64.0)]
)
def test_what_is_complete_is_taken(about: dict[str, Any], tmp_path: Path) -> None:
    check_transforms(written(tmp_path, about))


@pytest.mark.parametrize(
    ("about", "message"),
    [
        (without("h"), r"expected a number above 0 for h in .*transforms.json, .* got none for images/a b.png"),
        (without("fl_x"), "expected a number above 0 for fl_x"),
        (without("cx"), "expected a number for cx"),
        ({**GOOD, "fl_x": 0}, "expected a number above 0 for fl_x .* got 0 for"),
        ({**GOOD, "w": "64"}, "expected a number above 0 for w .* got '64'"),
        (without("frames"), "expected a list of frames in .*transforms.json, which has none"),
        ({**GOOD, "frames": []}, "expected a list of frames"),
        ({**GOOD, "frames": [{"transform_matrix": POSE}]}, "expected a file_path in every frame of .* none in frame 0"),
        (frame(transform_matrix=None), "expected transform_matrix of 4x4 finite numbers, got another for images/a b"),
        (frame(transform_matrix=[[float("nan")] * 4] * 4), "expected transform_matrix of 4x4 finite numbers"),
        (frame(transform_matrix=[[1e39] * 4] * 4), "expected transform_matrix of 4x4 finite numbers"),
        ({**GOOD, "cx": float("nan")}, "expected a number for cx .* got nan"),
        ({**GOOD, "fl_y": 10**400}, "expected a number above 0 for fl_y"),
        ({**GOOD, "k1": float("nan")}, r"a finite number for k1, got nan of all frames in .*transforms\.json$"),
        (frame(fl_x=51.0), "expected one fl_x in .*, got 50.0 for all frames and 51.0 for images/a b.png"),
        (frame(camera_model="OPENCV_FISHEYE"), "expected one camera_model in .*, got 'OPENCV' for all frames and"),
        ({**frame(k1=0.1), "k2": 0.0}, "expected one k1 in .*, got 0.0 for all frames and 0.1 for images/a b.png"),
        ({**GOOD, "p2": "0.1"}, "a finite number for p2, got '0.1' of all frames"),
        ({**GOOD, "k4": None}, "a finite number for k4, got None of all frames"),
        (frame(k3=float("inf")), r"a finite number for k3, got inf for images/a b\.png in .*transforms\.json$"),
        (frame(distortion_params=[0, float("nan")]), "expected finite numbers as distortion_params, got .* for images"),
        ({**GOOD, "distortion_params": 0.1}, "expected finite numbers as distortion_params, got 0.1 of all frames"),
        ({**GOOD, "applied_scale": float("nan")}, "a finite number for applied_scale, got nan"),
        ({**GOOD, "applied_transform": [[1, 0, 0, 0]] * 4}, "expected applied_transform of 3x4 finite numbers"),
        ("{", r"data: .*transforms.json is not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "expected a list of frames"),
    ],
)
def test_what_nerfstudio_would_stumble_over_is_named(about: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        check_transforms(written(tmp_path, about))


def test_data_may_be_a_folder_or_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    assert transforms_path(tmp_path) == transforms_path(path) == path
    with pytest.raises(FileNotFoundError, match="which does not exist"):
        transforms_path(tmp_path / "nowhere")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a transforms\.json in .*, which has none"):
        transforms_path(tmp_path)


def test_pictures_must_be_as_large_as_their_cameras(tmp_path: Path) -> None:
    upright, lying = tmp_path / "a.png", tmp_path / "b.jpg"
    Image.new("RGB", (48, 64)).save(upright)
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    Image.new("RGB", (64, 48)).save(lying, exif=exif)
    assert not check_pictures([(upright, (48, 64)), (upright, (49, 64))])  # a pixel of rounding
    with pytest.raises(ValueError, match=r"cameras, 48x64 px, got 64x48 px in .*b\.jpg; .* \(EXIF orientation 6\)"):
        check_pictures([(upright, (48, 64)), (lying, (48, 64))])
    with pytest.raises(ValueError, match=r"47x64 px, got 48x64 px in .*a\.png$"):
        check_pictures([(upright, (47, 64))])


def test_kinds_of_pictures_that_would_be_taken_for_others_are_refused(tmp_path: Path) -> None:
    for mode in ("RGBA", "RGB", "L"):
        Image.new(mode, (8, 8)).save(tmp_path / f"{mode}.png")
        assert check_pictures([(tmp_path / f"{mode}.png", (8, 8))]) == (mode == "RGBA")
    for mode in ("P", "LA", "I;16"):
        Image.new(mode, (8, 8)).save(tmp_path / "other.png")
        with pytest.raises(ValueError, match="expected pictures in 8-bit grey, RGB or RGBA, got mode"):
            check_pictures([(tmp_path / "other.png", (8, 8))])
    (tmp_path / "none.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"none\.png cannot be read as a picture"):
        check_pictures([(tmp_path / "none.png", (8, 8))])
