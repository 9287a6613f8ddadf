"""What every test may ask for."""

import os
from pathlib import Path

import pytest

# Read when torch and numba are loaded: on a busy machine spinning threads slow each other down (see relrank.cli).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real data sets lie, from the environment variable RELRANK_DATA."""
    value = os.environ.get("RELRANK_DATA")
    if not value:
        pytest.skip("RELRANK_DATA is not set: it names a folder with the real data sets (see README, Tests)")
    return Path(value)
