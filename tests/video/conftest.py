"""Clips made on the spot, and the real ones where they are at hand."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.video.clips import REAL, encode, moving_picture


@pytest.fixture(scope="session")
def real_data():
    """Folder of real clips; the test is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real clips: {REAL} is absent")
    return REAL


@pytest.fixture
def make_clip(tmp_path):
    """`make_clip(name, frames, height, width, **options of encode)` -> (path, rgb)."""

    def make(name="clip.mp4", frames=7, height=48, width=64, *, seed=0, cut=None, **options):
        rgb = moving_picture(frames, height, width, seed)
        if cut is not None:
            rgb[cut:] = 1 - rgb[cut:]
            rgb = torch.cat([0.3 * rgb[:cut], 0.3 * rgb[cut:] + 0.7])
        return encode(tmp_path / name, rgb, **options), rgb

    return make


@pytest.fixture(scope="session")
def forked():
    """`forked(clip, run_dir, kind, **fate)` -> [exit code, deeds] of a run in a process that may die: `killable.py`."""
    command = [sys.executable, str(Path(__file__).with_name("killable.py"))]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(clip, run_dir, kind, **fate):
            request = {"clip": str(clip), "run_dir": str(run_dir), "kind": kind, **fate}
            print(json.dumps(request), file=process.stdin, flush=True)
            assert process.stdout is not None
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()
