"""A tiny prior and a tiny scene for all tests of the plugin; nobody changes them."""

from pathlib import Path

import pytest

from tests.priors.tiny import write_tiny_prior


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An instruction editor."""
    return write_tiny_prior(tmp_path_factory.mktemp("priors") / "tiny")


@pytest.fixture(scope="session")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training views and two held-out ones."""
    from tests.nerf.tiny import write_small_scene  # which needs nerfstudio

    return write_small_scene(tmp_path_factory.mktemp("scenes") / "small")
