"""The newcomer's walk runs the commands as they are typed, and its page shows what became of them."""

from pathlib import Path

import pytest
from PIL import Image

from tests.forking import in_fork
from tests.panorama.panorama_toys import save, scenery

pytestmark = pytest.mark.slow
SCRIPT = Path(__file__).parents[2] / "scripts" / "try_everything.py"


RUN = """
import runpy, sys
sys.executable = sys.argv[1]
del sys.argv[:2]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""The script, which starts commands by the program in the first word."""


class Walk:
    """`walk(data, out, *words)`: (exit code, what was said) of the script, all of whose processes are forks."""

    def __init__(self, server: dict[str, str], python: Path) -> None:
        self._server, self._python = server, python

    def __call__(self, data: Path, out: Path, *words: str) -> tuple[int, str]:
        quick = ("--out", str(out), "--steps", "1", "--frames", "3", "--size", "64")
        words = (str(self._python), str(SCRIPT), str(data), *quick, *words)
        process = in_fork(self._server, "-c", RUN, *words, cwd=out.parent)
        said = process.communicate(timeout=300)[0]
        return process.returncode, said


@pytest.fixture
def walk(server: dict[str, str], warm_python: Path) -> Walk:
    return Walk(server, warm_python)


def test_a_page_of_sheets(tmp_path: Path, walk: Walk) -> None:
    (tmp_path / "data" / "photos").mkdir(parents=True)
    save(tmp_path / "data" / "photos" / "a.png", scenery(64, 96))
    code, said = walk(tmp_path / "data", tmp_path / "out", "--only", "priors", "image-mask")
    assert code == 0, said
    page = (tmp_path / "out" / "index.html").read_text()
    assert "2 commands tried, 0 failed" in page
    assert "csd3d image" in page
    assert 'src="sheets/image-mask.png"' in page
    with Image.open(tmp_path / "out" / "sheets" / "image-mask.png") as sheet:
        assert sheet.width > 200


def test_what_fails_is_counted_and_shown(tmp_path: Path, walk: Walk) -> None:
    (tmp_path / "data" / "clips").mkdir(parents=True)
    (tmp_path / "data" / "clips" / "a.mp4").write_text("no clip")
    assert walk(tmp_path / "data", tmp_path / "out", "--only", "video-keys")[0] == 1
    page = (tmp_path / "out" / "index.html").read_text()
    assert "1 commands tried, 1 failed" in page
    assert "expected a readable video" in page
    assert walk(tmp_path / "none", tmp_path / "out")[0] == 2
