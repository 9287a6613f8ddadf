from pathlib import Path

import pytest
from engine_runs import STUDY, cells
from threadpoolctl import threadpool_limits

from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.testing import planted_study

SMALL = planted_study(
    "small",
    300,
    160,
    seed=5,
    relations=("driver", "noise"),
    study="trials = 8\nseeds = [0, 1]",
    models="""[[models]]
name = "popularity"
[[models]]
name = "ease"
[[models]]
name = "relational-ease"
""",
)


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A small planted study of closed forms: two relations, two split seeds."""
    path = tmp_path / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, StudyResult]:
    """File and result of that study, stored in the folder ``out`` next to the file; tests must not change them."""
    path = tmp_path_factory.mktemp("finished") / "small.toml"
    path.write_text(SMALL)
    config = read_study(path)
    return path, run_study(config, prepare(config, path.parent), path.parent / "out")


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study that engines run: its configuration, its material, a folder."""
    folder = tmp_path_factory.mktemp("engines")
    (folder / "small.toml").write_text(STUDY)
    config = read_study(folder / "small.toml")
    return config, prepare(config, folder), folder


@pytest.fixture(scope="module")
def local(study):
    """That study as the local engine has it, with one thread, as many as a cell gets elsewhere."""
    config, material, folder = study
    with threadpool_limits(1):
        result = run_study(config, material, folder / "local")
    return result, cells(folder / "local")
