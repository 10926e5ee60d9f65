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


def in_fork(server: dict[str, str], *words: str, cwd: Path) -> subprocess.Popen[str]:
    """A process of csd3d, or of Python after "-c", as a fork of a warm one; its two streams come as one."""
    environment = {**os.environ, **server, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-S", server["CLIENT_PY"], *words], env=environment, cwd=cwd, text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@contextmanager
def forking(server: dict[str, str]) -> Iterator[Forked]:
    """A fork of a warm process, from which runs are forked."""
    environment = {**os.environ, **server, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-S", server["CLIENT_PY"], "-c", "from tests.killable import answer; answer()"]
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
