"""One tiny random prior on disk, and the same one loaded, for all tests of this room. No network."""

from pathlib import Path

import pytest

from csd3d.priors.instruct import InstructPrior
from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory. Not to be changed: copy it first."""
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny")


@pytest.fixture(scope="session")
def prior(tiny: Path) -> InstructPrior:
    """Loaded, float32, on the CPU."""
    return InstructPrior.load(tiny, device="cpu")
