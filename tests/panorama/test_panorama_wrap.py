"""What a picture is taken for, by its fields, by its edges, or because somebody said so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from panorama_toys import scenery
from PIL import Image

from csd3d.engine import CsdConfig
from csd3d.media.pictures.read import Picture, Tags, open_picture
from csd3d.world.camera import sphere_camera, strip_camera
from csd3d.world.export import gpano_packet
from panorama import PanoramaConfig, edit_image, edit_panorama
from panorama.wrap import recognise, seam_step
from tests.toys import ToyPrior


def picture(array, packet=""):
    return Picture(Path("p.jpg"), array, tags=Tags(xmp=packet.encode()))


@pytest.mark.parametrize(
    ("camera", "expected"),
    [(sphere_camera(64), "sphere"), (strip_camera(64, turn=360.0), "cylinder"), (strip_camera(64, turn=180.0), "none")],
)
def test_photo_sphere_fields_decide_and_it_is_said(camera, expected):
    rough = np.random.default_rng(0).integers(0, 255, (camera.height_px, camera.width_px, 3), dtype=np.uint8)
    found = recognise(picture(rough, gpano_packet(camera)), "auto")
    assert found.wrap == expected
    assert "photo sphere fields" in found.reason


@pytest.mark.parametrize("edit", [edit_panorama, edit_image])
def test_fields_of_a_turn_that_a_crop_kept_are_left_out(tmp_path, edit):
    packet = gpano_packet(sphere_camera(64))
    crop = scenery(40, 80)  # of the same shape; what it shows does not close
    found = recognise(picture(crop, packet), "auto")
    assert (found.wrap, found.stale) == ("none", True)
    assert "a full turn, but left and right borders of its 80x40 px do not match" in found.reason
    source = tmp_path / "crop.jpg"
    Image.fromarray(crop).save(source, xmp=packet.encode())
    config = PanoramaConfig(size=40, window=8, csd=CsdConfig(steps=0))
    result = edit(source, "make it red", tmp_path / "out.jpg", config, run_dir=tmp_path / "run", prior=ToyPrior())
    assert any("the fields are left out" in note for note in result.notes)
    assert open_picture(result.path).tags.gpano("ProjectionType") is None


def test_a_full_turn_without_poles_is_a_cylinder():
    packet = gpano_packet(sphere_camera(64)).replace(
        'CroppedAreaImageHeightPixels="64"', 'CroppedAreaImageHeightPixels="40"'
    )
    assert recognise(picture(scenery(40, 128), packet), "auto").wrap == "cylinder"


def test_edges_decide_where_there_are_no_fields():
    assert recognise(picture(scenery(64, 128, wraps=True)), "auto").wrap == "sphere"
    assert "--wrap none" in recognise(picture(scenery(64, 128, wraps=True)), "auto").reason
    flat = recognise(picture(scenery(64, 160, wraps=True)), "auto")
    assert flat.wrap == "none"
    assert "--wrap cylinder" in flat.reason
    slope = np.repeat(np.linspace(0, 255, 128).astype(np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    assert recognise(picture(slope), "auto").wrap == "none"
    assert recognise(picture(np.zeros((1, 2, 3), np.uint8)), "auto").wrap == "none"


@pytest.mark.parametrize("choice", ["none", "cylinder", "sphere"])
def test_who_says_so_is_right(choice):
    packet = gpano_packet(sphere_camera(64))
    found = recognise(picture(scenery(64, 128), packet), choice)
    assert (found.wrap, found.reason) == (choice, "")


def test_seam_step_equals_loops():
    array = scenery(20, 50)
    p, x = picture(array), array.astype(float)
    seam = np.abs(x[:, 0] - x[:, -1]).mean()
    inner = np.mean([np.abs(x[:, c] - x[:, c + 1]).mean() for c in range(49)])
    assert seam_step(p) == pytest.approx(seam / inner, rel=0.05)
    assert seam_step(picture(np.full((4, 8, 3), 7, np.uint8))) == 0


def test_real_panoramas(real_data):
    folder = real_data / "panoramas"
    expected = {
        "pannellum_examplepano_4096x2048.jpg": "sphere",
        "small_pannellum_equirect_1024x512.jpg": "sphere",
        "small_apartment_1536x256.jpg": "none",
        "openpano_CMU0-cyl.jpg": "none",
    }
    assert {name: recognise(open_picture(folder / name), "auto").wrap for name in expected} == expected
    assert torch.get_num_threads() >= 1


@pytest.mark.parametrize("stack", [np.vstack, np.hstack], ids=["one above the other", "side by side"])
def test_two_eyes_in_one_picture_are_no_sphere(stack):
    left = scenery(64, 128, wraps=True)
    right = np.roll(left, 2, axis=1)  # seen from beside
    both = stack([left, right])
    packet = (
        gpano_packet(sphere_camera(64)).replace('"128"', f'"{both.shape[1]}"').replace('"64"', f'"{both.shape[0]}"')
    )
    found = recognise(picture(both, packet), "auto")
    assert found.wrap == "none"
    assert "a stereo pair" in found.reason
    other = stack([left, scenery(64, 128, seed=3, wraps=True)])
    assert "stereo" not in recognise(picture(other, packet), "auto").reason
