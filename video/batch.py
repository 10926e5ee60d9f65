"""Many edits, one after another or spread over workers (`video.pool`): a failed one is reported and the others go on;
finished ones are not repeated."""

import hashlib
import re
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from csd3d.media.clip.formats import CLIPS, CONTAINERS
from csd3d.media.clip.probe import is_pattern, probe
from csd3d.priors.loading import Loading
from csd3d.priors.prior import Prior
from csd3d.runs.found_masks import AUTO, mask_file
from csd3d.runs.interrupt import RunInterrupted
from csd3d.runs.job import Request, free_names, load_for, resume_request, run_job
from csd3d.runs.manifest import Manifest, differences, fingerprint
from csd3d.runs.progress import RunProgress
from csd3d.runs.reference import like_files
from csd3d.runs.settings import to_plain, with_absent
from csd3d.user_errors import explain, out_of_memory
from video.config import VideoConfig
from video.edit import VideoEditor


@dataclass(frozen=True)
class Outcome:
    """What became of an edit."""

    status: Literal["edited", "done before", "failed"]
    seconds: float
    text: str
    """Where the result is, or what went wrong."""
    elsewhere: bool = False
    """It failed, and another worker may do better: memory ran out, or it was no mistake in what was asked for."""


class LastPrior:
    """Priors, each loaded when it is first asked for; only the last one is held."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._prior: Prior | None = None

    def get(self, request: Request[VideoConfig]) -> Prior:
        """The prior of an edit."""
        config = request.config
        key = (config.prior, config.device, config.precision, Loading.of(config))
        if self._prior is None or self._key != key:
            self._prior = None
            self._prior = load_for(request)
            self._key = key
        return self._prior


_LONGEST_STEM = 150
"""Bytes of a clip's name that go into that of its edit."""
Say = Callable[[str], None]
"""Shows a line to the person."""
Spread = Callable[[Sequence[Request[VideoConfig]], Say], Iterator[tuple[int, Outcome]]]
"""Does many edits; yields the number of each in order of their ends, with what became of it."""


def edit_all(requests: Sequence[Request[VideoConfig]], spread: Spread | None = None) -> int:
    """All edits, then a table of them; returns the exit code: 1 if one failed, that of the signal if one stopped it.

    Every request has an output and a folder for its run. `spread`: who does them; None: this process, in order.
    """
    console, outcomes = Console(stderr=True), dict[int, Outcome]()
    code = 0

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    try:
        for number, outcome in (spread or one_by_one)(requests, say):
            outcomes[number] = outcome
            if outcome.status == "failed":
                say(f"failed: {requests[number].source}: {outcome.text}")
    except (RunInterrupted, KeyboardInterrupt) as stop:
        print("stopped; the same command goes on", file=sys.stderr)
        code = getattr(stop, "exit_code", 130)
    _print_table([(requests[number], outcomes[number]) for number in sorted(outcomes)])
    failed = sum(outcome.status == "failed" for outcome in outcomes.values())
    print(f"{len(outcomes) - failed} of {len(requests)} edits are there, {failed} failed")
    return code or int(failed > 0)


def one_by_one(requests: Sequence[Request[VideoConfig]], say: Say) -> Iterator[tuple[int, Outcome]]:
    """All edits in order, by this process. Raises RunInterrupted as `edit_one` does."""
    priors = LastPrior()
    for number, request in enumerate(requests):
        say(line_of(requests, number))
        yield number, edit_one(request, priors)


def line_of(requests: Sequence[Request[VideoConfig]], number: int) -> str:
    """What is said of an edit that begins."""
    return f"{number + 1}/{len(requests)}  {requests[number].source}: {requests[number].prompt}"


def edit_one(request: Request[VideoConfig], priors: LastPrior, *, progress: RunProgress | None = None) -> Outcome:
    """One edit; mistakes and failures are an outcome, a request to stop is not. `progress` as for `run_job`.

    Raises:
        RunInterrupted: SIGINT or SIGTERM; the state of the edit is saved.
    """
    since = time.monotonic()
    try:
        run_dir, old = find_run(request)
        if old is not None and _is_done(request, old):
            return Outcome("done before", 0.0, str(request.output))
        resumed = None if old is None else resume_request(VideoEditor, run_dir).resumed
        now = replace(request, run_dir=run_dir, resumed=resumed)
        result = run_job(VideoEditor, now, prior=priors.get(request), progress=progress)
        return Outcome("edited", time.monotonic() - since, str(result.path))
    except Exception as error:
        explained = explain(error)
        if explained is None:  # a fault of ours: its traceback is worth more than its text
            traceback.print_exc()
        text = explained[0] if explained else f"{type(error).__name__}: {error}"
        elsewhere = explained is None or out_of_memory(error)
        return Outcome("failed", time.monotonic() - since, text.splitlines()[0], elsewhere)


def find_run(request: Request[VideoConfig]) -> tuple[Path, Manifest | None]:
    """The run of this very edit, of this very clip and mask, and its manifest; a free folder and None if there is none.

    Raises:
        ValueError: a manifest cannot be read.
    """
    assert request.run_dir is not None
    assert request.source is not None
    wanted, inputs, mask = _settings(request), list[str](), mask_file(request.config.mask)
    for k in count(1):
        run_dir = request.run_dir if k == 1 else request.run_dir.with_name(f"{request.run_dir.name}-{k}")
        if not (run_dir / "manifest.json").exists():
            return run_dir, None
        old = Manifest.read(run_dir / "manifest.json")
        old.config = with_absent(old.config, VideoConfig)
        if not inputs:
            beside = [*filter(None, [mask]), *like_files(request.config)]
            inputs = [_sha256(request.source, request.config.max_frames), *map(_sha256, beside)]
        free = free_names(VideoEditor, request.config)
        same = not differences(old.config, wanted, ignore=free) and [i["sha256"] for i in old.inputs] == inputs
        same = same and (old.config["mask"] == AUTO) == (wanted["mask"] == AUTO)  # which is no input
        if same and wanted["csd"]["steps"] >= old.config["csd"]["steps"]:
            return run_dir, old
    raise AssertionError


def _is_done(request: Request[VideoConfig], old: Manifest) -> bool:
    """Whether the run of this edit is finished, with these very settings, and the output is what it wrote."""
    assert request.output is not None
    if old.status != "finished" or not request.output.exists():
        return False
    if differences(old.config, _settings(request), ignore=("mask",)):  # which may have moved: see `find_run`
        return False
    now = fingerprint(request.output)
    return old.written.get(now["path"]) == now["sha256"]


def _settings(request: Request[VideoConfig]) -> dict[str, Any]:
    """As the manifest has them."""
    return to_plain(request.config.placed()) | {"prompt": request.prompt}


def _sha256(path: Path, max_frames: int | None = None) -> str:
    """Of a clip or mask, as the manifest has it: of a folder or pattern those files that are its frames. Empty for what
    cannot be read, which the editor refuses in its own words."""
    try:
        return fingerprint(path, () if path.is_file() else probe(path, max_frames=max_frames).content)["sha256"]
    except (ValueError, OSError):
        return ""


def _print_table(outcomes: Sequence[tuple[Request[VideoConfig], Outcome]]) -> None:
    table = Table("clip", "prompt", "", "seconds", "result", box=None)
    for request, outcome in outcomes:
        cells = (request.source, request.prompt, outcome.status, f"{outcome.seconds:.1f}", outcome.text)
        table.add_row(*(Text(str(cell)) for cell in cells))
    Console(width=max(200, Console().width) if not sys.stdout.isatty() else None).print(table)


def clips_of(path: Path) -> list[Path]:
    """One clip, or all video files that fit a pattern; patterns of pictures are one clip."""
    files = path.parent.glob(path.name) if is_pattern(path) else ()
    return sorted(p for p in files if p.suffix.lower() in CLIPS) or [path]


def default_name(clip: Path, prompt: str) -> str:
    """A file name for an edit."""
    slug = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")[:40] or hashlib.sha256(prompt.encode()).hexdigest()[:8]
    stem = clip.stem.strip("*?") or "clip"
    raw = stem.encode(errors="replace")
    if len(raw) > _LONGEST_STEM:  # a title from the web, not one of which places are refused
        stem = f"{raw[:_LONGEST_STEM].decode(errors='ignore')}-{hashlib.sha256(raw).hexdigest()[:8]}"
    return f"{stem}-{slug}{clip.suffix if clip.suffix.lower() in CONTAINERS else '.mp4'}"
