"""How much the exact edits of the sample world change, by kind: the table `USUAL` of `csd3d/metrics/change.py`.

python scripts/measure_change.py --seeds 200
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
import tyro

from csd3d.metrics.change import Change, change_of
from csd3d.world.sample import sample_photo


@dataclass(frozen=True)
class Command:
    """Print the weakest and the strongest right edits of each kind."""

    seeds: int = 200
    """How many scenes."""
    size: int = 128
    """Side of a picture in px."""
    first: int = 20_000
    """The first seed."""


def measure(command: Command) -> dict[str, list[Change]]:
    """The change of every edit that shows, by kind."""
    found: dict[str, list[Change]] = defaultdict(list)
    for seed in range(command.first, command.first + command.seeds):
        photo = sample_photo(seed, height_px=command.size, width_px=command.size)
        source = photo.source()
        for edit in photo.edits():
            found[edit.kind].append(change_of(source, photo.truth(edit)))
    return found


def main() -> None:
    """Print the table."""
    for kind, changes in measure(tyro.cli(Command)).items():
        peaks, shares = (torch.tensor([getattr(c, name) for c in changes]) for name in ("peak", "share"))
        low, high = float(peaks.quantile(0.01)), float(shares.quantile(0.95))
        middle = float(shares.median())
        print(f'    "{kind}": Usual({low:.2f}, {high:.2f}),  # {len(changes)} edits, median share {middle:.2f}')


if __name__ == "__main__":
    main()
