"""What every test starts from."""

import random

import numpy as np
import pytest
import torch

from tests.clips import REAL, encode, moving_picture


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a generator of its own is the same in every run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real clips and pictures; the test is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real data: {REAL} is absent")
    return REAL


@pytest.fixture
def make_clip(tmp_path):
    """`make_clip(name, frames, height, width, **options of encode)` -> (path, rgb)."""

    def make(name="clip.mp4", frames=7, height=48, width=64, *, seed=0, cut=None, **options):
        rgb = moving_picture(frames, height, width, seed)
        if cut is not None:
            rgb[cut:] = 1 - rgb[cut:]
            rgb = torch.cat([0.3 * rgb[:cut], 0.3 * rgb[cut:] + 0.7])
        return encode(tmp_path / name, rgb, **options), rgb

    return make
