"""Runs of the video editor in a process that may die."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


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
