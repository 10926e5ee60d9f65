"""What changes while a scene grows: the largest timestep, and the size of renders. `progress` goes from 0 to 1."""

from collections.abc import Sequence


def progress_at(step: int, steps: int) -> float:
    """Share of `steps` that is over at `step`; 1 from then on."""
    return min(1.0, step / max(steps, 1))


def largest_timestep(progress: float, *, first: int, last: int) -> int:
    """Timesteps are drawn below this one: from `first`, where the prior decides on shapes, in a straight line to
    `last`, where it decides on detail."""
    return round(first + (last - first) * progress)


def size_at(progress: float, sizes_px: Sequence[int]) -> int:
    """The size of renders, each of `sizes_px` for an equal share of the time."""
    return sizes_px[min(int(progress * len(sizes_px)), len(sizes_px) - 1)]
