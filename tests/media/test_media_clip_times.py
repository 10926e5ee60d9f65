"""Timestamps are right, or mended where they are wrong, and can be written again."""

from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest
import torch
from PIL import Image

from csd3d.media.clip.probe import probe
from csd3d.media.clip.sink import write_clip
from csd3d.media.clip.times import LONGEST_TICKS, Timing, exact_times, read_times, rising, sayable, timing_of
from tests.media.test_media_clip_sink import rewrite

MS = Fraction(1, 1000)


def timed(raw, *, base=MS, rates=(Fraction(30),), start=Fraction(0)):
    notes = []
    return timing_of(raw, base, rates, start, notes), notes


def test_one_time_twice_moves_one_frame_only():
    timing, (note,) = timed([0, 33, 67, 67, 1500, 1533])
    assert "1 of 6 timestamps" in note
    shown = [t * timing.base for t in timing.pts]
    assert [shown[k] for k in (0, 1, 2, 4, 5)] == [k * MS for k in (0, 33, 67, 1500, 1533)]
    assert 67 * MS < shown[3] < 1500 * MS


@pytest.mark.parametrize(
    "raw",
    [[0, 40, None, 120], [0, 40, 30, 120], [None, 40, 80, 120], [0, 40, 80, None], [500, 40, 80, 120, 160], [7, 7]],
)
def test_times_rise_and_the_right_ones_stay(raw):
    timing, notes = timed(raw)
    assert notes
    assert all(a < b for a, b in pairwise(timing.pts))
    if len(raw) > 2:
        shown = {t * timing.base for t in timing.pts}
        assert {raw[k] * MS for k in rising(raw)} <= shown


def test_more_frames_than_ticks_between_two_right_times():
    timing, _ = timed([0, 1, 1, 1, 2, 3, 4, 5])
    assert all(a < b for a, b in pairwise(timing.pts))
    assert [timing.pts[k] * timing.base for k in (1, 4)] == [MS, 2 * MS]


def test_without_times_frames_are_even():
    timing, (note,) = timed([None, None, None])
    assert (timing.pts, timing.fps, timing.constant) == ((0, 1, 2), 30, True)
    assert "spaced by the frame rate" in note


def test_a_longest_rising_run_by_trying_all():
    raw = [5, 1, 2, 9, 3, 3, 4, None, 8]
    found = [raw[k] for k in rising(raw)]
    assert found == [1, 2, 3, 4, 8]
    assert rising([]) == []
    assert rising([None, None]) == []


@pytest.mark.parametrize(
    ("lines", "rate", "even"),
    [
        ("0\n3600000\n7200000\n", Fraction(1, 3600), True),
        ("0\n3600000.5\n7300000\n", Fraction(1, 3650), False),
        ("# timestamp format v2\n0\n33.366667\n66.733333\n", Fraction(30000, 1001), True),
        ("0\n2000\n4000\n", Fraction(1, 2), True),
    ],
)
def test_times_of_a_time_lapse(tmp_path, lines, rate, even):
    (tmp_path / "times.txt").write_text(lines)
    timing = read_times(tmp_path / "times.txt", 3)
    assert (timing.fps, timing.constant) == (rate, even)
    assert timing.pts[-1] * timing.base == pytest.approx(float(lines.split()[-1]) / 1000, abs=1e-6)


@pytest.mark.parametrize("line", ["1e9999999", "nan", "inf", "-1e400", "1/0", "soon"])
def test_times_that_are_no_times(tmp_path, line):
    (tmp_path / "times.txt").write_text(f"0\n{line}\n")
    with pytest.raises(ValueError, match="clip: expected milliseconds"):
        read_times(tmp_path / "times.txt", 2)


def test_times_that_an_editor_of_text_saved(tmp_path):
    (tmp_path / "times.txt").write_bytes("\ufeff# timestamp format v2\r\n0\r\n40\r\n".encode())
    assert read_times(tmp_path / "times.txt", 2).pts == (0, 40_000)


@pytest.mark.parametrize("base", [Fraction(1, 90_000), Fraction(1, 10**6), Fraction(1, 10**9)])
def test_rates_of_long_clips_are_those_that_containers_can_say(base):
    """The exact mean of half an hour at uneven times has parts of more than 31 bits."""
    spread = np.random.default_rng(0).integers(-900, 900, 30_000)
    raw = [round((k / 30 + 1e-5 * s) / base) for k, s in enumerate(spread.tolist())]
    timing = timing_of(raw, base, [Fraction(30)], Fraction(0), [], last=round(1 / (30 * base)))
    assert not timing.constant
    assert max(timing.fps.numerator, timing.fps.denominator) <= LONGEST_TICKS
    assert float(timing.fps) == pytest.approx(30, rel=1e-3)
    assert exact_times(timing) == (timing.pts, timing.base)


@pytest.mark.parametrize("rate", [Fraction(1, 10**7), Fraction(3, 10**9 + 7), Fraction(10**9 + 7, 3), Fraction(25)])
def test_a_rate_that_can_be_said_is_near(rate):
    assert float(sayable(rate)) == pytest.approx(float(rate), rel=1e-5)
    assert max(sayable(rate).numerator, sayable(rate).denominator) <= LONGEST_TICKS


@pytest.mark.parametrize(
    "timing",
    [
        Timing((33, 66, 100), Fraction(1, 1000), Fraction(2997003, 100000), True),  # a start between its ticks
        Timing((0, 33 * 10**9, 70 * 10**9), Fraction(1, 10**12), Fraction(30), False),
    ],
)
def test_ticks_are_no_shorter_than_containers_can_say(timing, tmp_path):
    pts, base = exact_times(timing)
    assert base.denominator <= LONGEST_TICKS
    assert [float(t * base) for t in pts] == pytest.approx([float(t * timing.base) for t in timing.pts], abs=1e-3)
    with write_clip(
        tmp_path / "a.mp4", width_px=16, height_px=16, fps=timing.fps, pts=pts, time_base=base
    ) as writer:  # fmt: skip
        writer.write(torch.zeros(3, 3, 16, 16))


@pytest.mark.parametrize("gap_s", [1, 60, 2400, 86400, 10**9])
def test_long_gaps_fit_into_the_clock(gap_s):
    pts = (0, 40_000, gap_s * 1_000_000)
    written, base = exact_times(Timing(pts, Fraction(1, 1_000_000), Fraction(25), False))
    assert max(b - a for a, b in pairwise(written)) <= LONGEST_TICKS
    assert all(a < b for a, b in pairwise(written))
    assert [float(t * base) for t in written] == pytest.approx(
        [t / 1e6 for t in pts], abs=1.0 if gap_s > 10**8 else 0.1
    )


@pytest.mark.parametrize("name", ["a.gif", "a.png"])
@pytest.mark.parametrize("shown_ms", [(100, 500, 2000), (100, 300, 250), (100, 100, 2000), (100, 100, 100)])
def test_the_last_frame_of_an_animation_stays_as_long_as_it_did(tmp_path, name, shown_ms):
    frames = [Image.fromarray(np.full((24, 32, 3), 60 * k, np.uint8)) for k in range(3)]
    frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=list(shown_ms))
    rewrite(tmp_path / name, tmp_path / "out.gif")
    with Image.open(tmp_path / "out.gif") as again:
        found = []
        for k in range(3):
            again.seek(k)
            found.append(again.info["duration"])
    assert tuple(found) == shown_ms
    rewrite(tmp_path / name, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        (stream,) = container.streams.video
        assert stream.duration * stream.time_base == Fraction(sum(shown_ms), 1000)


def test_times_saved_on_windows_are_read(tmp_path):
    (tmp_path / "times.txt").write_bytes(b"\xef\xbb\xbf0\r\n40\r\n80\r\n")
    assert read_times(tmp_path / "times.txt", 3).fps == 25


def test_times_that_begin_below_zero_lose_no_frame(tmp_path):
    (tmp_path / "frames").mkdir()
    for k in range(3):
        Image.fromarray(np.full((24, 32, 3), 60 * k, np.uint8)).save(tmp_path / "frames" / f"{k}.png")
    (tmp_path / "frames" / "timestamps.txt").write_text("-5\n20\n1000\n")
    rewrite(tmp_path / "frames", tmp_path / "out.mp4")
    info = probe(tmp_path / "out.mp4")
    assert [round(info.time_s(k), 4) for k in range(info.frames)] == [0, 0.025, 1.005]
