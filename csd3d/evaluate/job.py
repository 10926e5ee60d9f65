"""An evaluation from cases to the table."""

from collections.abc import Iterable, Sequence

from csd3d.evaluate.cases import Case
from csd3d.evaluate.config import EvaluateConfig
from csd3d.evaluate.measure import Measured, measure
from csd3d.evaluate.table import Table, tabulate
from csd3d.evaluate.towers.load import load_towers
from csd3d.runs.progress import RunProgress


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

    def watch(chunks: Sequence[range]) -> Iterable[range]:
        return chunks if several else progress.track("measuring", chunks, total=len(chunks))

    for case in progress.track("measuring", cases, total=len(cases)) if several else cases:
        some, more = measure(case, towers.meters, config, watch=watch)
        found += some
        noted += [note for note in more if note not in noted]
    return tabulate(found, towers.over_all(found), noted)
