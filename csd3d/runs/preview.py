"""What all first looks have in common."""

from dataclasses import replace

from csd3d.engine.config import CsdConfig

STEPS_SHARE = 4
"""Of the steps of the real thing, one in so many is done, at a learning rate that is higher at the end."""


def quick(csd: CsdConfig) -> CsdConfig:
    """Settings of the engine for a first look: a share of the steps, in which the learning rate falls as often."""
    return replace(
        csd, steps=-(-csd.steps // STEPS_SHARE), lr_decay_every=max(csd.lr_decay_every // STEPS_SHARE, 1)
    )  # fmt: skip
