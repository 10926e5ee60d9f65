"""While a run goes on, its report shows how far it is; one that is over before anybody could look has none."""

import itertools

import pytest

from csd3d.engine.config import CsdConfig
from csd3d.runs.progress import RunProgress
from panorama import PanoramaConfig, edit_image
from tests.panorama.panorama_toys import save, scenery
from tests.toys import ToyPrior
from video import VideoConfig, edit_video

CSD = CsdConfig(steps=6, lr=0.2, t_min=400, t_max=600)


def clock(seconds):
    ticks = itertools.count(0.0, seconds)
    return lambda: next(ticks)


@pytest.fixture(params=["video", "image"])
def edit(request, make_clip, tmp_path):
    """Starts a run of one of the editors whose looks at the clock are so many seconds apart."""
    video = request.param == "video"
    source = make_clip(frames=3)[0] if video else save(tmp_path / "a.png", scenery(40, 60))

    def start(seconds, watch):
        known = {
            "run_dir": tmp_path / "run",
            "prior": ToyPrior(watch),
            "progress": RunProgress(quiet=True, clock=clock(seconds)),
        }
        if video:
            return edit_video(source, "make it red", config=VideoConfig(csd=CSD, checkpoint_every=1), **known)
        return edit_image(source, "make it red", config=PanoramaConfig(csd=CSD, checkpoint_every=1), **known)

    return start


def test_a_long_run_can_be_looked_at_and_its_report_takes_the_place(edit, tmp_path):
    pages = []

    def watch(index):
        report = tmp_path / "run" / "report.html"
        pages.append(report.read_text() if report.exists() else "")

    result = edit(20.0, watch)
    assert not pages[0]
    for text in ("3 of 6 steps", 'http-equiv="refresh"', "<svg", "sheet.png", "make it red"):
        assert text in pages[3]
    assert "refresh" not in result.report.read_text()


def test_a_run_that_ends_early_says_so_in_its_page(edit, tmp_path):
    calls = []

    def watch(index):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        edit(20.0, watch)
    page = (tmp_path / "run" / "report.html").read_text()
    assert "interrupted after 3 of 6 steps" in page
    assert "refresh" not in page


def test_a_short_run_has_no_page_but_its_report(edit, tmp_path):
    def watch(index):
        assert not (tmp_path / "run" / "report.html").exists()

    assert edit(0.001, watch).report.exists()
