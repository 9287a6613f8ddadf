"""What every test may ask for, and how tests share the cores."""

import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import settings

from relrank.parallel.environment import cores

# Read when torch and numba are loaded: on a busy machine spinning threads slow each other down (see relrank.cli.app).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
# Processes that run tests side by side share the cores.
if (workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    share = max(1, cores() // workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(share))
    import numba

    numba.set_num_threads(min(share, numba.config.NUMBA_NUM_THREADS))  # tests of threads may take more

# Files that import the package of an extra; single tests ask with ``pytest.importorskip``.
NEEDS = {
    "models/test_hgt.py": "torch_geometric",
    "study/test_export.py": "faiss",
    "study/test_export_lists.py": "faiss",
    "study/test_search.py": "optuna",
}
collect_ignore = [file for file, module in NEEDS.items() if find_spec(module) is None]

settings.register_profile("any machine", deadline=None)  # how long an example takes says nothing of what is right
settings.load_profile("any machine")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks contracts of trained models; begins with the files of slow tests, so that processes end together."""
    for item in items:
        bases = item.cls.__mro__ if isinstance(item, pytest.Function) and item.cls else ()
        if any(base.__name__ == "TrainedContract" for base in bases):
            item.add_marker("training")
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def environment_is_put_back() -> Iterator[None]:
    """Commands set variables of numerical libraries for the process that they are, which here runs further tests."""
    before = dict(os.environ)
    yield
    if os.environ != before:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Where the real data sets lie, from the environment variable RELRANK_DATA."""
    value = os.environ.get("RELRANK_DATA")
    if not value:
        pytest.skip("RELRANK_DATA is not set: it names a folder with the real data sets (see CONTRIBUTING.md)")
    return Path(value)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """Chromium; assertions wait a minute, of which only a failure takes all, since the machine may be busy."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=60_000)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as engine:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = engine.chromium.launch(executable_path=chromium, args=flags)
        yield browser
        browser.close()
