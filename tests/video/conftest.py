"""Runs of the video editor in a process that may die."""

import pytest

from tests.forking import forking


@pytest.fixture(scope="session")
def forked(server: dict[str, str]):
    """`forked(clip, run_dir, kind, **fate)`: see `tests.forking`."""
    with forking(server) as run:
        yield run
