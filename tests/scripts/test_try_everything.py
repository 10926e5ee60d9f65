"""The newcomer's walk runs the commands as they are typed, and its page shows what became of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.panorama.panorama_toys import save, scenery

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "scripts" / "try_everything.py"


def walk(data: Path, out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    quick = ("--out", str(out), "--steps", "1", "--frames", "3", "--size", "64")
    return subprocess.run(
        [sys.executable, str(SCRIPT), str(data), *quick, *words], capture_output=True, text=True, check=False
    )


def test_a_page_of_sheets(tmp_path: Path) -> None:
    (tmp_path / "data" / "photos").mkdir(parents=True)
    save(tmp_path / "data" / "photos" / "a.png", scenery(64, 96))
    done = walk(tmp_path / "data", tmp_path / "out", "--only", "priors", "image-mask")
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out" / "index.html").read_text()
    assert "2 commands tried, 0 failed" in page
    assert "csd3d image" in page
    assert 'src="sheets/image-mask.png"' in page
    with Image.open(tmp_path / "out" / "sheets" / "image-mask.png") as sheet:
        assert sheet.width > 200


def test_what_fails_is_counted_and_shown(tmp_path: Path) -> None:
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "data" / "clips" / "a.mp4").write_text("no clip")
    done = walk(tmp_path / "data", tmp_path / "out", "--only", "video-keys")
    assert done.returncode == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "1 commands tried, 1 failed" in page
    assert "expected a readable video" in page
    assert walk(tmp_path / "none", tmp_path / "out").returncode == 2
