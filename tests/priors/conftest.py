"""Tiny random priors on disk, and the same ones loaded, for all tests of this room. No network."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from csd3d.priors.families import load
from csd3d.priors.families.prior import FamilyPrior
from csd3d.priors.families.table import Family
from csd3d.priors.instruct import InstructPrior
from csd3d.priors.loading import PLAIN, Loading
from tests.priors.families.tiny import write_family
from tests.priors.tiny import write_tiny_prior

FamilyPath = Callable[[str], Path]
"""The directory of a tiny family by its short name. Not to be changed: copy it first."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its directory. Not to be changed: copy it first."""
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny")


@pytest.fixture(scope="session")
def prior(tiny: Path) -> InstructPrior:
    """Loaded, float32, on the CPU."""
    return InstructPrior.load(tiny, device="cpu")


@pytest.fixture(scope="session")
def families(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all tiny families."""
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="session")
def family_path(families: Path) -> FamilyPath:
    """Each is written when a test first asks for it."""
    return cache(lambda name: write_family(name, families / name))


@pytest.fixture(scope="session")
def family(family_path: FamilyPath) -> Callable[[str], FamilyPrior]:
    """It, loaded on the CPU in float32."""
    return cache(lambda name: load.load_family(family_path(name), device="cpu"))


@pytest.fixture(scope="session", autouse=True)
def _read_once(families: Path) -> Any:
    """A family as it was written is read and checked once, however often it is loaded; all else of a prior is made
    anew. Those of a copy are read, and so is what is changed then, or put on a GPU."""
    if torch.cuda.is_available():
        yield
        return
    read, check = load.read_pipeline, load.check
    pipes, learnt = dict[Any, Any](), dict[int, Any]()

    def read_once(path: Path, family: Family, *, dtype: torch.dtype, how: Loading = PLAIN, **more: Any) -> Any:
        guarded = replace(how, control=None, control_scale=1.0, control_picture=None, control_depth=None)
        if path.parent != families or guarded != PLAIN:
            return read(path, family, dtype=dtype, how=how, **more)
        key = path, str(family), dtype
        if key not in pipes:
            pipes[key] = read(path, family, dtype=dtype, how=how, **more)
        return pipes[key]

    def check_once(pipe: Any, *args: Any, **more: Any) -> Any:
        if all(pipe is not known for known in pipes.values()):
            return check(pipe, *args, **more)
        if id(pipe) not in learnt:
            learnt[id(pipe)] = check(pipe, *args, **more)
        return learnt[id(pipe)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "read_pipeline", read_once)
        patch.setattr(load, "check", check_once)
        yield
