"""An evaluation from cases to the table."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.frames import Frames
from csd3d.evaluate.measure import Measured, Meters, measure
from csd3d.evaluate.table import Table, tabulate
from csd3d.evaluate.towers.load import load_towers
from csd3d.runs.estimate import LEAST, measure_frames
from csd3d.runs.progress import RunProgress

SOME = 4
"""Frames of the first case on which the time is measured."""


def evaluate(
    cases: Sequence[Case],
    config: EvaluateConfig | None = None,
    *,
    notes: Sequence[str] = (),
    progress: RunProgress | None = None,
) -> Table:
    """Measure all results of all cases.

    Args:
        cases: what is compared with what.
        config: how; None: the defaults, pixels and edges, and the learned features where they are installed.
        notes: what the table is to say besides.
        progress: shows how far things are; None: on stderr.

    Raises:
        FileNotFoundError: a file, a network or a benchmark's result does not exist.
        ValueError: there is no case, or something cannot be read or does not fit.
    """
    if not cases:
        raise ValueError("evaluate: expected something to measure, got none")
    config, progress = config or EvaluateConfig(), progress or RunProgress()
    towers, more = load_towers(config)
    noted = [*notes, *more]
    found: list[Measured] = []
    several = len(cases) > 1
    _announce_time(cases, towers.meters, config, progress)

    def watch(chunks: Sequence[range]) -> Iterable[range]:
        return chunks if several else progress.track("measuring", chunks, total=len(chunks))

    with progress:
        for case in progress.track("measuring", cases, total=len(cases)) if several else cases:
            some, more = measure(case, towers.meters, config, watch=watch)
            found += some
            noted += [note for note in more if note not in noted]
    return tabulate(found, towers.over_all(found), noted)


def _announce_time(cases: Sequence[Case], meters: Meters, config: EvaluateConfig, progress: RunProgress) -> None:
    """Say how long it will take, if that is long: as if all cases were like the first."""
    first = cases[0]
    with Frames(first.source, max_frames=config.max_frames, stream=first.stream) as frames:
        count = len(frames) * len(cases)
    if count * (1 + len(first.results)) < LEAST:
        return
    some = replace(config, max_frames=SOME)
    estimate = measure_frames(count, lambda: measure(first, meters, some), of=min(SOME, len(frames)))
    estimate.announce(progress.say, "--max-frames takes only the first ones")
