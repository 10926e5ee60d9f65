"""The parts of a check on a GPU, and what becomes of one: a process of its own, for a limited time."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TAIL_LINES = 40
"""Of what a part that failed has printed."""


@dataclass(frozen=True)
class Part:
    """One thing that is tried."""

    name: str
    about: str
    """What it shows."""
    command: tuple[str, ...]
    """Words after the Python interpreter. What it prints goes into the page."""
    limit_s: float
    """It is ended after so many seconds."""
    markdown: bool = False
    """It prints Markdown."""
    without: str = ""
    """Why it is left out; empty: it is not."""


@dataclass(frozen=True)
class Outcome:
    """What became of a part."""

    part: Part
    status: Literal["passed", "failed", "out of time", "left out"]
    seconds: float
    text: str
    """What it printed, or why it was left out; of one that failed also its errors."""


def parts(
    *, prior: Path | None = None, csd: Path | None = None, scratch: Path = Path("outputs/gpu")
) -> tuple[Part, ...]:
    """All parts, in the order of their worth; together they take at most 20 minutes.

    Args:
        prior: folder of an instruction editor in diffusers layout, for the part that edits with it.
        csd: checkout of the published code of CSD.
        scratch: folder for what is made meanwhile.
    """
    tests = ("-m", "pytest", "-q", "-rs", "-m", "gpu", "-p", "no:cacheprovider", "--tb=short")
    none = "not given (--{})"
    photo = scratch / "photo.png"
    edit = "csd3d image of a photo of 512 px, as it is, compiled, and of a family in 8 bits and offloaded"
    return (
        Part("doctor", "what is installed and usable", ("-m", "csd3d", "doctor"), 60),
        Part("tests", "tests that need CUDA, without scenes", (*tests, "tests", "--ignore=tests/nerf"), 240),
        Part(
            "networks",
            "speed and memory of networks of Stable Diffusion 1.5's size (random weights) and of the built-in editor",
            ("-m", "scripts.gpu.networks"),
            200,
            markdown=True,
        ),
        Part(
            "clips", "time and memory of csd3d video with 24, 240 and 2,000 frames", ("-m", "scripts.gpu.clips"), 200,
            markdown=True,
        ),
        Part("scenes", "short trainings of nerfacto, instant-ngp, splats and csd-3d", (*tests, "tests/nerf"), 300),
        Part(
            "prior", edit, ("-m", "scripts.gpu.real_prior", str(prior), str(photo)), 120, markdown=True,
            without=none.format("prior") if prior is None else "",
        ),
        Part(
            "peers", "the published code of CSD beside ours",
            ("-m", "scripts.benchmark_peers", "--print", "--device", "cuda", "--out", str(scratch), "--csd", str(csd)),
            80, markdown=True, without=none.format("csd") if csd is None else "",
        ),
    )  # fmt: skip


def attempt(part: Part, *, limit_s: float) -> Outcome:
    """Run a part for at most `limit_s` seconds; whatever it started ends with it."""
    if part.without or limit_s <= 0:
        return Outcome(part, "left out", 0.0, part.without or "no time was left")
    began = time.monotonic()
    with (
        tempfile.TemporaryFile("w+", errors="replace") as said,
        tempfile.TemporaryFile("w+", errors="replace") as wrong,
    ):
        process = subprocess.Popen(
            [sys.executable, *part.command],
            stdout=said,
            stderr=wrong if part.markdown else subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
        seconds = time.monotonic() - began
        said.seek(0)
        wrong.seek(0)
        text, errors = said.read().strip(), tail(wrong.read())
    if code is None:
        return Outcome(part, "out of time", seconds, "\n\n".join(filter(None, [text, fenced(errors)])))
    if code == 0:
        return Outcome(part, "passed", seconds, text)
    return Outcome(part, "failed", seconds, "\n\n".join(filter(None, [text, fenced(errors)])))


def end(process: "subprocess.Popen[bytes]") -> None:
    """End a process with all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(text: str) -> str:
    """The last lines."""
    return "\n".join(text.strip().splitlines()[-TAIL_LINES:])


def fenced(text: str) -> str:
    """As Markdown that shows it as it is; nothing of nothing."""
    shown = text.replace("```", "~~~")
    return f"```text\n{shown}\n```" if text else ""


def page(outcomes: Sequence[Outcome], *, machine: str, seconds: float) -> str:
    """The page of all parts so far."""
    rows = [f"| [{o.part.name}](#{o.part.name}) | {o.part.about} | {o.status} | {o.seconds:.0f} |" for o in outcomes]
    head = ["# What a GPU shows", "", machine, "", f"{seconds:.0f} s in all.", ""]
    table = ["| part | shows | | s |", "| --- | --- | --- | ---: |", *rows, ""]
    bodies: list[str] = []
    for o in outcomes:
        plain = o.status == "left out" or o.part.markdown
        command = f"`python {shlex.join(o.part.command)}`"
        bodies += [f"## {o.part.name}", "", f"{o.status}: {command}", "", o.text if plain else fenced(tail(o.text)), ""]
    return "\n".join([*head, *table, *bodies])
