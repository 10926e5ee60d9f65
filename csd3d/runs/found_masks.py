"""Masks that a prior finds (`--mask auto`): what all editors do alike. How they are found is `csd3d.attention.masks`.

differences.npy     of every particle, written once: a resumed run finds the same mask
mask.png or mask/   what was found, as `--mask` takes it
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from csd3d.attention.masks import WHOLE, Found, difference
from csd3d.engine.residuals import Score
from csd3d.engine.types import Index, Latents
from csd3d.priors.prior import Guidance, Prior, Prompts
from csd3d.runs.rows import Rows, writing_rows
from csd3d.runs.session import Session

AUTO = "auto"
"""The mask of the settings that is found; a file of that name is ./auto."""
LatentsOf = Callable[[Index], Latents]
"""Latents of the particles of some numbers."""
NOT_MEASURED = (
    "the levels by which --mask auto tells an edit from its background were measured on the built-in priors: look at "
    "the mask before you trust it"
)


def mask_file(mask: str | None) -> Path | None:
    """The file that a setting names; None: there is no mask, or it is found."""
    return None if mask in (None, AUTO) else Path(mask)


def score_for_masks(prior: Prior, prompts: Prompts) -> Score:
    """The prior under sentences, without guidance or negative prompt, neither of which says where an edit is.

    Raises:
        ValueError: a text-to-image prior without a caption of the source.
    """
    if prior.kind == "text-to-image" and prompts.source is None:
        raise ValueError("source-prompt: expected what the source shows, with which --mask auto compares, got none")
    return prior.score(replace(prompts, negative=""), Guidance(1.0))


def each_difference(
    score: Score, parts: Iterable[Int[Tensor, " _m"]], latents: LatentsOf, *, seed: int
) -> Iterator[Float[Tensor, "_n _h _w"]]:
    """The differences of particles, on the CPU, one of `parts` after the other.

    Args:
        score: of `score_for_masks`.
        parts: numbers of particles, from 0 in order.
        latents: of the sources of some of them, where the prior computes.
        seed: of the noise.
    """
    rng = torch.Generator().manual_seed(seed)
    for index in parts:
        s = latents(index)
        yield difference(score, s, index.to(s.device), rng=rng).cpu()


def differences(
    session: Session, score: Score, parts: Sequence[Int[Tensor, " _m"]], latents: LatentsOf, *, seed: int
) -> Float[Tensor, "_n h w"]:
    """Those of all particles, or what the run found before; its folder keeps them. Arguments as for `each_difference`.

    Raises:
        RunInterrupted: the run was asked to stop.
    """
    path, count = session.folder.differences, sum(map(len, parts))
    if not path.exists():
        tracked = session.progress.track("mask", parts, total=count, unit=max(map(len, parts)))
        with session.manifest.timed("mask"), writing_rows(path, count) as append:
            for maps in each_difference(score, tracked, latents, seed=seed):
                append(maps)
                session.stop_if_asked("the mask is not found yet, which the next start does again")
    rows = Rows(path)
    try:
        return rows[:]
    finally:
        rows.close()


def makes_mask(found: Sequence[tuple[str, Found]]) -> bool:
    """Whether some sentence edits a part of the picture; otherwise there is no mask."""
    return any(edit.extent == "part" for _, edit in found)


def tell(session: Session, prior: Prior, found: Sequence[tuple[str, Found]]) -> bool:
    """Note what was found under each sentence; whether it makes a mask: some sentence edits a part of the picture."""
    if not prior.builtin:
        session.note(NOT_MEASURED)
    for sentence, edit in found:
        if edit.extent == "whole":
            session.note(
                f"mask: none, as {sentence!r} edits the whole picture (its quietest tenth differs by {edit.level:.3f}, "
                f"a background by {WHOLE} at most)"
            )
        elif edit.extent == "nowhere":
            session.note(f"mask: none, as no place is found that {sentence!r} edits")
    return makes_mask(found)


def tell_share(session: Session, share: float, place: Path) -> None:
    """Note how much of the picture the mask at `place` lets change, and measure it."""
    session.note(f"mask: {share:.0%} of the picture may change; --mask {place} gives the same mask back")
    session.manifest.numbers["part of the picture that the mask lets change"] = round(share, 4)
