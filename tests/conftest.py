"""What every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real data sets lie, from the environment variable RELRANK_DATA."""
    value = os.environ.get("RELRANK_DATA")
    if not value:
        pytest.skip("RELRANK_DATA is not set: it names a folder with the real data sets (see README, Tests)")
    return Path(value)
