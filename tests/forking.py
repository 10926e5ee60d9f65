"""Runs in processes that may die: starts `killable.py`, which forks them."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
Forked = Callable[..., tuple[int, int]]
"""`forked(source, run_dir, kind, **fate)` -> (exit code, deeds) of a run; see `killable.forked_run`."""


@contextmanager
def forking(*words: str) -> Iterator[Forked]:
    """A process from which runs are forked."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.killable", *words]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ask, answers = process.stdin, process.stdout

        def run(source: Path, run_dir: Path, kind: str, **fate: object) -> tuple[int, int]:
            print(
                json.dumps({"source": str(source), "run_dir": str(run_dir), "kind": kind, **fate}), file=ask, flush=True
            )
            code, deeds = json.loads(answers.readline())
            return code, deeds

        yield run
        process.stdin.close()
