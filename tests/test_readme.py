"""The README keeps its word: commands marked as tested run, links lead somewhere.

A fenced bash or python block that follows a line `<!-- tested -->` is run here, offline, from an empty folder
that all of them share, in the README's order: later blocks may use what earlier ones wrote.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
TESTED = re.findall(r"^<!-- tested -->\n```(bash|python)\n(.*?)^```", README, re.M | re.S)
SECONDS = 240


@pytest.mark.slow
def test_commands(tmp_path: Path) -> None:
    """One test, because later blocks need what earlier ones wrote."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    run = {"bash": ["bash", "-euo", "pipefail", "-c"], "python": [sys.executable, "-c"]}
    for language, block in TESTED:
        done = subprocess.run(
            [*run[language], block],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"


def test_every_mark_stands_before_a_block() -> None:
    assert TESTED
    assert len(TESTED) == README.count("<!-- tested -->")


def test_relative_links_lead_somewhere() -> None:
    links = re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", README)
    links += re.findall(r'(?:src|href)="(?!https?://|#)([^"#]+)"', README)
    assert not [link for link in links if not (ROOT / link).exists()]


def test_scripts_that_are_named_exist() -> None:
    named = set(re.findall(r"\bscripts/[\w/]+\.(?:sh|py)\b", README))
    assert {"scripts/demo.sh", "scripts/test.sh"} <= named
    assert not [name for name in named if not (ROOT / name).exists()]
