"""The page shows both pictures, can be turned where the picture wraps, and loads nothing from elsewhere."""

import base64
import re
import shutil
import subprocess
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from panorama_toys import scenery
from PIL import Image

import panorama
from csd3d.runs.report import Report, render
from panorama.viewer import TURNED_PX, make_panels


def picture(height, width):
    return torch.from_numpy(scenery(height, width)).permute(2, 0, 1).float() / 255


def test_a_flat_picture_is_compared_and_one_that_wraps_can_be_turned_too():
    flat = make_panels(picture(20, 60), picture(20, 60), wrap="none")
    turned = make_panels(picture(20, 40), picture(20, 40), wrap="sphere")
    assert (len(flat), len(turned)) == (1, 2)
    page = render(Report("title", panels=turned))
    assert page.count("media/source.jpg") == 1
    assert page.count("media/edited.jpg") == 1
    assert 'data-kind="sphere"' in page
    assert 'data-aspect="2.000000"' in page
    links = re.findall(r"https?://[^\"'\s]+", page)
    assert links == []
    assert "media/" not in render(Report("title"))


def test_pictures_to_turn_are_inside_the_page_and_bounded():
    rgb = picture(64, 2 * TURNED_PX)
    (_, turned) = make_panels(rgb, 1 - rgb, wrap="cylinder")
    inline = re.findall(r'data-(?:before|after)="data:image/jpeg;base64,([^"]+)"', turned.html)
    before, after = (np.asarray(Image.open(BytesIO(base64.b64decode(text)))) for text in inline)
    assert before.shape == (32, TURNED_PX, 3)
    assert abs(float(before.mean() + after.mean()) - 255) < 4


@pytest.mark.parametrize("name", ["compare.js", "around.js"])
def test_scripts_parse(name):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node to parse with")
    path = Path(panorama.__file__).parent / name
    done = subprocess.run([node, "--check", str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
