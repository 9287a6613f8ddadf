"""A study in MLflow, read back with MLflow's client and compared with the stored study."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.report import write_report
from relrank.report.verdict_summary import answer
from relrank.study.callbacks import NullCallback
from relrank.study.cell_store import load_cell
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.study.winner import save_winner
from relrank.tracking.mlflow_store import flatten_params, load_mlflow, mlflow_name, redact_credentials
from relrank.tracking.tracker import Tracking

for needed in ("mlflow", "sqlalchemy", "alembic"):
    if find_spec(needed) is None:  # importing it here would be before its settings
        pytest.skip(f"{needed} is not installed", allow_module_level=True)
load_mlflow()
from mlflow.entities import Run, ViewType  # noqa: E402
from mlflow.tracking import MlflowClient  # noqa: E402

SMALL = """
name = "small"
title = "A small study"
[data]
dataset = "planted"
planted = { users = 200, items = 90, per_user = 6, groups = 10, seed = 3 }
[protocol]
split = "random-leave-one-out"
[relations.driver]
title = "Taste"
kind = "attribute"
node = "item"
column = "driver"
[study]
trials = 2
seeds = [0, 1]
[[models]]
name = "popularity"
[[models]]
name = "relational-ease"
arms = ["interactions", "all"]
[[models]]
name = "light, small"
model = "relational-lightgcn"
arms = ["interactions"]
config = { dim = 8, negatives = 8 }
train = { epochs = 3, batch = 256, every = 2 }
"""
N_CELLS = 2 * (1 + 2 + 1)

Logged = tuple[str, StudyResult, list[str]]


def track(home: Path, uri: str, watcher: NullCallback | None = None, told: list[str] | None = None) -> Logged:
    """The study in ``home``, run or resumed, and logged; with the warnings."""
    told = [] if told is None else told
    file, out = home / "small.toml", home / "out"
    config = read_study(file)
    material = prepare(config, home)
    tracking = Tracking(uri, config, material, file, out, told.append)
    with tracking.wrap(watcher or NullCallback()) as beside:
        result = run_study(config, material, out, beside)
    page = write_report(result, out / "report.html")
    return tracking.finish(result, page, save_winner(config, material, out)), result, told


def runs(uri: str) -> tuple[Run, dict[str, Run]]:
    """The only run of the only study in a store, and its child runs by cell."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    found = client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL)
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    below = [run for run in found if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} <= {parent.info.run_id}
    by_cell = {run.data.tags["relrank.cell"]: run for run in below}
    assert len(by_cell) == len(below)
    return parent, by_cell


def points(uri: str, run: Run) -> dict[str, list[tuple[int, float]]]:
    """Every point of every metric."""
    client, names = MlflowClient(uri), run.data.metrics
    return {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)] for name in names}


def artifact(uri: str, run: Run, path: str) -> Path:
    return Path(MlflowClient(uri).download_artifacts(run.info.run_id, path))


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


class Stop(NullCallback):
    """A callback that interrupts the study after so many cells."""

    def __init__(self, after: int) -> None:
        self.left = after

    def done(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, Logged]:
    """A small study in a folder with special characters in its name, logged to a new store."""
    home = tmp_path_factory.mktemp("home") / "[a] b%20"
    home.mkdir()
    (home / "small.toml").write_text(SMALL)
    uri = f"sqlite:///{home.parent / 'store' / 'mlflow.db'}"
    with chdir(home):
        return home, uri, track(home, uri)


@pytest.fixture
def again(logged: tuple[Path, str, Logged], tmp_path: Path) -> Callable[[], Path]:
    """A copy of the finished study's folder, so that no cell is fitted again."""

    def copy() -> Path:
        shutil.copytree(logged[0], tmp_path / "home")
        return tmp_path / "home"

    return copy


def test_the_study_is_one_run_with_its_file_splits_and_winner(logged):
    home, uri, (where, result, told) = logged
    run, _ = runs(uri)
    assert not told
    assert run.info.run_id in where
    assert run.info.status == "FINISHED"
    params = run.data.params
    for name, value in {
        "data.dataset": "planted", "data.planted.users": "200", "protocol.split": "random-leave-one-out",
        "relations.driver.kind": "attribute", "models.relational-ease.arms": '["interactions", "all"]',
        "models.light_ small.train.epochs": "3", "study.seeds": "[0, 1]", "study.metric": "ndcg@10",
        "study.margin": "0.01", "smoke": "false", "n_users": "200",
        "line-up": '["popularity", "relational-ease", "light, small"]',
    }.items():  # fmt: skip
        assert params[name] == value
    assert "relations.driver.title" not in params  # it may change, and a parameter may not
    assert [params[f"fingerprint.seed {seed}"] for seed in (0, 1)] == result.card["fingerprints"]
    assert {k: params[f"machine.{k}"] for k in ("cpu", "relrank", "torch")}.items() <= result.card["machine"].items()
    note = json.loads((home / "out" / "winner" / "run.json").read_text())
    assert run.data.tags["winner.model"] == note["name"]
    best = result.leaderboard.filter(model=note["name"], arm=note["arm"]).row(0, named=True)
    metrics = run.data.metrics
    assert metrics["validation/ndcg_at_10"] == best["valid"]
    for end, column in (("", "mean"), ("_low", "low"), ("_high", "high")):
        assert metrics[f"test/ndcg_at_10{end}"] == best[column]
    for name in ("hit@10", "recall@50", "mrr", "coverage@10", "popularity lift@10"):
        assert metrics[f"test/{name.replace('@', '_at_')}"] == best[name]
    assert answer(result) in run.data.tags["mlflow.note.content"]


def test_the_study_s_run_has_the_file_the_page_the_tables_and_the_verdicts(logged):
    home, uri, (_, result, _) = logged
    run, _ = runs(uri)
    assert artifact(uri, run, "small.toml").read_text() == SMALL
    for name in ("report.html", "card.json"):
        assert artifact(uri, run, name).read_bytes() == (home / "out" / name).read_bytes()
    for table in fields(result):
        if table.name != "card":
            kept = pl.read_parquet(artifact(uri, run, f"tables/{table.name}.parquet"))
            assert kept.equals(getattr(result, table.name), null_equal=True), table.name
    said = artifact(uri, run, "verdicts.txt").read_text()
    assert said.startswith(answer(result))


def test_every_cell_is_a_run_with_exactly_what_it_stored(logged):
    home, uri, _ = logged
    run, below = runs(uri)
    cells = {folder.name: load_cell(folder) for folder in (home / "out" / "cells").iterdir()}
    assert below.keys() == cells.keys()
    assert len(cells) == N_CELLS
    for key, cell in cells.items():
        child = below[key]
        assert child.info.status == "FINISHED"
        assert child.info.run_name == f"{cell.model} · {cell.arm} · seed {cell.seed}"
        params, metrics = child.data.params, child.data.metrics
        assert (params["model"], params["arm"], params["seed"]) == (cell.model, cell.arm, str(cell.seed))
        assert flatten_params({"config": cell.chosen}).items() <= params.items()
        assert params["fingerprint"] == run.data.params[f"fingerprint.seed {cell.seed}"]
        summary = {f"test/{k.replace('@', '_at_')}": v for k, v in cell.evaluation.summary.items()}
        assert {k: v for k, v in metrics.items() if k.startswith("test/")} == summary
        assert metrics["validation/ndcg_at_10"] == cell.valid_metric
        assert metrics["cost/fit_seconds"] == cell.cost["fit"]
        assert metrics["cost/peak_mb"] == cell.cost["peak_mb"]
        assert pl.read_parquet(artifact(uri, child, "users.parquet")).equals(cell.evaluation.table, null_equal=True)
        took = sum(cell.cost[part] for part in ("tune", "fit", "evaluate"))
        assert child.info.end_time - child.info.start_time == int(1000 * took)


def test_a_learning_curve_has_a_point_per_epoch(logged):
    home, uri, _ = logged
    curves = 0
    for key, run in runs(uri)[1].items():
        cell, found = load_cell(home / "out" / "cells" / key), points(uri, run)
        if cell.history is None:
            assert not [name for name in found if name.startswith("curve/")]
            continue
        curves += 1
        for name, column in (("loss", "loss"), ("ndcg_at_10", "metric")):
            known = cell.history.drop_nulls(column).select("epoch", column).rows()
            assert sorted(found[f"curve/{name}"]) == known
        assert len(found["curve/loss"]) == 3
        assert run.data.params["train.lr"] == "0.02"
    assert curves == 2


def test_artifacts_are_next_to_the_database(logged):
    home, uri, _ = logged
    run, _ = runs(uri)
    assert (home.parent / "store" / "mlruns" / "small" / run.info.run_id / "artifacts" / "report.html").is_file()
    assert sorted(path.name for path in home.iterdir()) == ["out", "small.toml"]


def test_logging_twice_makes_no_duplicates(logged):
    home, uri, (where, _, _) = logged
    before, cells = runs(uri)
    all_points = {key: points(uri, run) for key, run in (*cells.items(), ("study", before))}
    with mock.patch(
        "relrank.tracking.tracker.load_cell", side_effect=AssertionError("a finished cell is left alone")
    ):
        assert track(home, uri)[0] == where
    after, again = runs(uri)
    assert after.info.run_id == before.info.run_id
    assert after.info.status == "FINISHED"
    assert after.data.params == before.data.params
    assert {key: run.info.run_id for key, run in again.items()} == {k: run.info.run_id for k, run in cells.items()}
    assert {key: points(uri, run) for key, run in (*again.items(), ("study", after))} == all_points


@pytest.mark.slow
def test_an_interrupted_study_resumes_its_run(again, tmp_path):
    home, uri = again(), f"sqlite:///{tmp_path / 'new.db'}"
    with pytest.raises(KeyboardInterrupt):
        track(home, uri, Stop(after=3))
    first, cells = runs(uri)
    assert first.info.status == "KILLED"
    assert len(cells) == 3
    # one of them half logged, as a kill would leave it
    half = next(iter(cells.values())).info.run_id
    MlflowClient(uri).update_run(half, status="RUNNING")
    track(home, uri)
    then, all_cells = runs(uri)
    assert then.info.run_id == first.info.run_id
    assert then.info.status == "FINISHED"
    assert len(all_cells) == N_CELLS
    assert {run.info.run_id for run in cells.values()} <= {run.info.run_id for run in all_cells.values()}
    assert {run.info.status for run in all_cells.values()} == {"FINISHED"}
    assert all(len(p) == 1 for p in points(uri, MlflowClient(uri).get_run(half)).values())


@pytest.mark.slow
def test_a_study_with_another_setting_is_another_run(again, tmp_path):
    home, uri = again(), f"sqlite:///{tmp_path / 'new.db'}"
    track(home, uri)
    (home / "small.toml").write_text(SMALL.replace("[study]\n", "[study]\nmargin = 0.02\n"))
    track(home, uri)  # from the same cells
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert sorted(r.data.params["study.margin"] for r in found if "relrank.study" in r.data.tags) == ["0.01", "0.02"]
    assert sum("relrank.cell" in r.data.tags for r in found) == 2 * N_CELLS


@pytest.mark.slow
def test_a_server_that_is_down_loses_nothing(again, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    home = again()
    cells = content(home / "out" / "cells")
    shutil.rmtree(home / "out" / "winner")
    for file in home.glob("out/*.*"):
        file.unlink()
    told: list[str] = []
    with pytest.raises(InputError, match="the same command logs again") as error:
        track(home, "http://somebody:secret@127.0.0.1:9", told=told)
    (warned,) = told  # once, although every cell could have been logged
    assert warned.startswith("MLflow: ")
    assert "secret" not in f"{warned} {error.value}"
    assert content(home / "out" / "cells") == cells
    StudyResult.load(home / "out")
    assert (home / "out" / "report.html").is_file()
    assert (home / "out" / "winner" / "run.json").is_file()
    uri = f"sqlite:///{tmp_path / 'new.db'}"
    track(home, uri)
    assert len(runs(uri)[1]) == N_CELLS


@pytest.mark.slow
def test_a_failing_store_is_reported_once_and_retried_at_the_end(again, tmp_path):
    from mlflow.exceptions import MlflowException

    home, uri = again(), f"sqlite:///{tmp_path / 'new.db'}"
    whole, asked = MlflowClient.log_artifact, []

    def fails_first(self: MlflowClient, *words: object) -> None:
        asked.append(words)
        if len(asked) == 2:
            raise MlflowException("disk full\nat line 3")
        whole(self, *words)

    with mock.patch.object(MlflowClient, "log_artifact", fails_first):
        _, _, told = track(home, uri)
    assert told == ["MLflow: disk full. The study continues and is logged when it is done."]
    run, below = runs(uri)
    assert run.info.status == "FINISHED"
    assert len(below) == N_CELLS
    assert all(artifact(uri, child, "users.parquet").is_file() for child in below.values())


@pytest.mark.parametrize(
    ("uri", "message"),
    [("nonsense://there", "not a tracking store"), ("sqlite:///{home}/small.toml", "not an SQLite database")],
)
def test_an_invalid_uri_is_refused_before_anything_runs(tmp_path, uri, message):
    (tmp_path / "small.toml").write_text(SMALL)
    with pytest.raises(InputError, match=message):
        track(tmp_path, uri.format(home=tmp_path))
    assert content(tmp_path) == {"small.toml": SMALL.encode()}


def test_without_mlflow_the_extra_is_named():
    for lacking in ("mlflow", "sqlalchemy", "alembic"):
        with mock.patch.dict(sys.modules, {lacking: None, f"{lacking}.tracking": None}):
            with pytest.raises(InputError, match="mlflow is not installed") as error:
                load_mlflow()
            assert error.value.expected == 'pip install "relrank[mlflow]"'


def test_telemetry_is_off_unless_switched_on():
    with mock.patch.dict(os.environ, clear=True):
        load_mlflow()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "false"
        load_mlflow()
        assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "false"


def test_names_that_mlflow_accepts():
    assert mlflow_name("popularity lift@10") == "popularity lift_at_10"
    assert mlflow_name("a, b/c") == "a_ b_c"
    assert len(mlflow_name("x" * 300)) == 250
    said = {"models": [{"name": "a,", "k": 1}, {"name": "a_", "k": 2.5}], "parts": [{"k": "y"}], "list": [1, "b"]}
    assert flatten_params(said) == {"models.a_.k": "1", "models.a_.k_": "2.5", "parts.0.k": "y", "list": '[1, "b"]'}
    assert flatten_params({"none": None, "no": {}}) == {"none": "null"}


@pytest.mark.parametrize(
    ("text", "said"),
    [("no postgresql://me:word@host/db\nnor this", "no postgresql://host/db"),
     ("postgresql://me:wo/rd@host/db", "postgresql://host/db"), ("mysql://me:w@rd@host/db", "mysql://host/db"),
     ("no postgresql://host/db?user=me&password=word&Token=more!", "no postgresql://host/db?user=me&password=…&Token=…"),
     ("http://host:5000/me", "http://host:5000/me")],
)  # fmt: skip
def test_passwords_are_redacted(text, said):
    assert redact_credentials(text) == said


def test_passwords_are_redacted_from_database_errors(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    with pytest.raises(InputError, match="not an SQLite database") as error:
        track(tmp_path, f"sqlite:///{tmp_path}/small.toml?password=word")
    assert "password=…" in error.value.found
    assert "=word" not in str(error.value)


@pytest.mark.slow
def test_a_library_that_fails_in_the_middle_never_ends_a_study(again, tmp_path):
    """For example one that is only loaded for uploads."""
    home, uri = again(), f"sqlite:///{tmp_path / 'new.db'}"
    lacking = ModuleNotFoundError("No module named 'boto3'", name="boto3")
    told: list[str] = []
    with (
        mock.patch.object(MlflowClient, "log_artifact", side_effect=lacking),
        pytest.raises(InputError, match="stored, but MLflow did not take it") as error,
    ):
        track(home, uri, told=told)
    assert told == ["MLflow: No module named 'boto3'. The study continues and is logged when it is done."]
    assert error.value.found == "No module named 'boto3'"
    StudyResult.load(home / "out")


@pytest.mark.parametrize("method", ["get_experiment_by_name", "list_artifacts"])
def test_a_missing_driver_is_refused_before_anything_runs(tmp_path, method):
    """A driver of the database or of the artifact store."""
    (tmp_path / "small.toml").write_text(SMALL)
    lacking = ModuleNotFoundError("No module named 'boto3'", name="boto3")
    with (
        mock.patch.object(MlflowClient, method, side_effect=lacking),
        pytest.raises(InputError, match="is missing") as error,
    ):
        track(tmp_path, f"sqlite:///{tmp_path / 'new.db'}")
    assert error.value.expected == "pip install boto3"
    assert not (tmp_path / "out").exists()
