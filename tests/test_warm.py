"""Commands in forks of a warm process do what they do alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_streams_codes_and_folders_are_those_of_the_command(tmp_path: Path, server: dict[str, str]) -> None:
    start, env = [sys.executable, "-S", server["CLIENT_PY"]], {**os.environ, **server, "SAID": "here"}

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([*start, *words], env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    code = "import os, sys; print(os.getcwd(), os.environ['SAID']); print('no', file=sys.stderr); sys.exit(3)"
    done = run("-c", code)
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path} here\n", "no\n")
    assert run("--version").stdout.startswith("csd3d ")
    assert run("video", "absent.mp4", "--prompt", "make it snowy").returncode == 2
    assert run("-c", "import os; os.kill(os.getpid(), 9)").returncode == 128 + 9
    assert run("-c", "import os; os._exit(4)").returncode == 4
