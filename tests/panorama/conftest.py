"""The real pictures, where they are at hand."""

from pathlib import Path

import pytest

REAL = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data():
    """Folder of real pictures; the test is skipped where it is absent."""
    if not REAL.is_dir():
        pytest.skip(f"no real pictures: {REAL} is absent")
    return REAL
