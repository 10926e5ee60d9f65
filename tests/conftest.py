"""What every test starts from."""

import random

import numpy as np
import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a generator of its own is the same in every run."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
