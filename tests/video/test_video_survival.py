"""What strikes a clip's run from outside: the state is whole, and the next start goes on to the very same result.

Struck at its own deeds, by a kill, a stop or a full disk: `tests/runs/test_runs_survival.py`.
"""

import errno
import random
import signal

import pytest
from test_video_edit import same_state

from csd3d.runs.manifest import Manifest


@pytest.fixture
def small_clip(make_clip):
    return make_clip(frames=5, height=16, width=24)[0]


def finished(run_dir, whole):
    """Whether a finished run is bit for bit that which was never stopped, with nothing left lying about."""
    assert Manifest.read(run_dir / "manifest.json").status == "finished"
    assert same_state(run_dir, whole)
    assert (run_dir / "edited.mkv").read_bytes() == (whole / "edited.mkv").read_bytes()
    assert not [p for p in run_dir.rglob("*") if ".part-" in p.name or p.name.startswith("now-")]
    return True


def test_ended_at_any_instant(small_clip, tmp_path, forked):
    """By a signal that nothing catches, wherever the process is."""
    forked(small_clip, tmp_path / "whole", "lossless")
    rng, ends = random.Random(3), 0
    for _ in range(12):
        after = round(10 ** rng.uniform(4, 5.5))
        code, _ = forked(small_clip, tmp_path / "run", "lossless", how="alarm", at=after)
        assert code in (0, -signal.SIGALRM)
        ends += code != 0
    assert ends > 0
    code, _ = forked(small_clip, tmp_path / "run", "lossless")
    assert code == 0
    assert finished(tmp_path / "run", tmp_path / "whole")


def test_files_that_cannot_grow(make_clip, tmp_path, forked):
    """The system itself refuses to write on, in the encoder too."""
    path, _ = make_clip(frames=5, height=96, width=160)
    forked(path, tmp_path / "whole", "lossless")
    clip_bytes = (tmp_path / "whole" / "edited.mkv").stat().st_size
    state_bytes = max(p.stat().st_size for p in (tmp_path / "whole").glob("*.npy"))
    assert state_bytes < clip_bytes - 1000
    for limit in (state_bytes // 2, clip_bytes - 1000):
        code, _ = forked(path, tmp_path / "run", "lossless", how="limit", at=limit)
        assert code == errno.EFBIG
        assert Manifest.read(tmp_path / "run" / "manifest.json").status in ("failed", "running")
        assert not (tmp_path / "run" / "edited.mkv").exists()
    code, _ = forked(path, tmp_path / "run", "lossless")
    assert code == 0
    assert finished(tmp_path / "run", tmp_path / "whole")
