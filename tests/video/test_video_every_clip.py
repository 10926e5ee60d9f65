"""Every real file at hand through the whole editor: what goes in comes out, changed as asked and in nothing else."""

import av
import pytest
from video_toys import psnr, toy_edit

from csd3d.engine.config import CsdConfig
from csd3d.media.clip.source import open_clip
from tests.clips import REAL
from video import VideoConfig

FRAMES = 5
"""Of longer clips only the first, as many as B-frames reorder: what can differ between clips is in them."""
CLIPS = sorted(p.relative_to(REAL) for folder in ("clips", "clips_odd") for p in (REAL / folder).glob("*.*"))
NO_CLIPS = ("made_audio_only.mp4", "made_empty.mp4", "made_text_renamed.mp4", "made_truncated_no_moov.mp4")


def packets_of(path, kind, until=None):
    """Times and bytes of the packets of every stream of a kind, counted from the first picture."""
    with av.open(str(path)) as container:
        video = max(container.streams.video, key=lambda s: s.width * s.height)
        begin = (video.start_time or 0) * video.time_base
        found = []
        for stream in container.streams:
            if stream.type == kind:
                container.seek(0)
                packets = [p for p in container.demux(stream) if p.size and p.pts is not None]
                times = [(float(p.pts * p.time_base - begin), bytes(p)) for p in packets]
                found.append([t for t in times if until is None or t[0] < until])
        return found


@pytest.mark.parametrize("name", CLIPS, ids=str)
def test_what_goes_in_comes_out(name, tmp_path):
    path = REAL / name
    config = VideoConfig(csd=CsdConfig(steps=0), crf=4, max_frames=FRAMES, detail=1.0)
    if name.name in NO_CLIPS:
        with pytest.raises(ValueError, match="expected a") as caught:
            toy_edit(path, tmp_path / "run", config=config)
        assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
        return
    result = toy_edit(path, tmp_path / "run", config=config, output=tmp_path / "out.mp4")
    with open_clip(path, max_frames=FRAMES) as a, open_clip(result.path) as b:
        before, after = a.info, b.info
        assert after.frames == before.frames == min(FRAMES, before.frames)
        assert (after.width_px, after.height_px) == (before.width_px, before.height_px)
        assert (after.sample_aspect, after.orientation) == (before.sample_aspect, 1)  # turned upright, once
        for i in range(before.frames):
            assert after.time_s(i) - after.time_s(0) == pytest.approx(before.time_s(i) - before.time_s(0), abs=5e-4)
        pattern = before.depth > 8 or name.name == "av1_video.mkv"  # whose colours 4:2:0 cannot hold
        floor = 24 if pattern else 33
        assert psnr(a.read(0, before.frames, exact=True), b.read(0, before.frames, exact=True)) > floor
        assert not after.damaged
        end = before.time_s(before.frames - 1) - before.time_s(0)
    for kind in ("audio", "subtitle"):
        wanted = packets_of(path, kind, until=end)
        for theirs, mine in zip(wanted, packets_of(result.path, kind), strict=True):
            assert [data for _, data in mine[: len(theirs)]] == [data for _, data in theirs]
            for (time, _), (other, _) in zip(theirs, mine, strict=False):
                assert time == pytest.approx(other, abs=2e-3)


def test_there_are_clips(real_data):
    assert len(CLIPS) > 25
