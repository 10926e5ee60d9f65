"""What the tests of the pages share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.warm import warm


@pytest.fixture(scope="session")
def server() -> Iterator[dict[str, str]]:
    """Where commands of the pages and of the notebook run."""
    with tempfile.TemporaryDirectory(prefix="csd3d-") as folder, warm(Path(folder)) as environment:
        yield environment
