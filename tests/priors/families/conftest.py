"""Every tiny family, written when a test first asks for it, and loaded once."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from csd3d.priors.families.load import load_family
from csd3d.priors.families.prior import FamilyPrior
from tests.priors.families.tiny import write_family


@pytest.fixture(scope="session")
def family_path(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tiny family by its short name. Not to be changed: copy it first."""
    root = tmp_path_factory.mktemp("families")
    return cache(lambda name: write_family(name, root / name))


@pytest.fixture(scope="session")
def family(family_path: Callable[[str], Path]) -> Callable[[str], FamilyPrior]:
    """It, loaded on the CPU in float32."""
    return cache(lambda name: load_family(family_path(name), device="cpu"))
