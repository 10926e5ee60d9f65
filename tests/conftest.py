"""What every test starts from."""

import gc
import os
import random
import shlex
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch

import tests.checks  # changes what jaxtyping does, before the next lines import what is checked
from tests.clips import REAL, encode, moving_picture
from tests.toys import ToyPrior, resolve_toy
from tests.warm import GARBAGE, forget_garbage, reached, servers, skip_fsync, skip_sources

WARM = "CSD3D_WARM"
"""Variable that names the folder of the warm servers' sockets."""

if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one thread each, and for what their tests start
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
skip_fsync()
skip_sources()
gc.disable()  # what is imported stays


def pytest_configure(config: pytest.Config) -> None:
    """Start the servers of `tests.warm`, once for all workers; they import nothing before they are asked."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        stack = ExitStack()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="csd3d-")))
        stack.enter_context(servers(folder))
        os.environ[WARM] = str(folder)
        config.add_cleanup(stack.close)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A file all of whose tests are slow is not even imported where those are left out: nerfstudio takes 15 s."""
    if "not slow" in str(config.getoption("markexpr")) and collection_path.match("test_*.py"):
        return True if "\npytestmark = pytest.mark.slow\n" in collection_path.read_text(encoding="utf-8") else None
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a worker that began one at the end would leave the other with nothing to do."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish() -> None:
    """Garbage is looked for in what tests make, not each time in all that was imported."""
    forget_garbage()
    gc.set_threshold(GARBAGE)
    gc.enable()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """What a test draws without a generator of its own, and which calls are checked, is the same in every run."""
    tests.checks.begin()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def server() -> dict[str, str]:
    """The environment in which commands run in forks of one warm process; see `tests.warm`."""
    return reached(Path(os.environ[WARM]), "commands")


@pytest.fixture(scope="session")
def scene_server() -> dict[str, str]:
    """As `server`, of a process that has imported nerfstudio too."""
    return reached(Path(os.environ[WARM]), "scenes")


@pytest.fixture(scope="session")
def warm_python(server: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that does what `python -m csd3d` and `python -c` do, in forks of the warm process."""
    program = tmp_path_factory.mktemp("warm") / "python"
    client = shlex.join([sys.executable, "-S", server["CLIENT_PY"]])
    program.write_text(f'#!/bin/sh\nWARM_SOCKET={shlex.quote(server["WARM_SOCKET"])} exec {client} "$@"\n')
    program.chmod(0o755)
    return program


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


class OnlyToys:
    """What every prior's name stands for in a test: a toy, or `prior` where one is put in its place."""

    def __init__(self):
        self.prior = None
        self.loaded = []
        """Names of the priors that were loaded."""

    def load(self, found, *, device=None, precision="auto", how=None):
        self.loaded.append(found.name)
        return self.prior or ToyPrior(name=found.name)


@pytest.fixture
def only_toys(monkeypatch):
    """The toy prior is loaded, whichever is named, and no weights are looked for."""
    toys = OnlyToys()
    for room in ("csd3d.priors.lookup", "csd3d.runs.job", "csd3d.cli.editors"):
        monkeypatch.setattr(f"{room}.resolve", resolve_toy)
    monkeypatch.setattr("csd3d.priors.auto.load_prior", toys.load)
    return toys
