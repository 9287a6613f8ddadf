"""Cells that do not fit into memory are left out, with a sentence; the study goes on and takes them up later."""

import re
from io import StringIO
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from command_line import relrank
from rich.console import Console
from studies import open_study

from relrank.cli.live import LiveStudy, print_result
from relrank.errors import InputError
from relrank.models import MODELS, GridParameter
from relrank.models.closed_form.ease import EASE
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.core.base import override_config
from relrank.models.core.estimates import Estimate
from relrank.models.graph.mf import MF
from relrank.parallel.memory import GB, VARIABLE
from relrank.report import write_report
from relrank.runs.fitted_run import load_run
from relrank.study import memory_limits
from relrank.study.callbacks import NullCallback
from relrank.study.config import read_study
from relrank.study.fit_run import fit_run
from relrank.study.grid import cell_with_prerequisites, grid
from relrank.study.memory_limits import estimate_of, memory_per_cell
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.winner import save_winner

MB = 1 << 20


class Noting(NullCallback):
    """Notes what was left out, and which cells ran."""

    def __init__(self):
        self.said: list[str] = []
        self.gone: list[tuple[str, str, int]] = []
        self.fresh: list[tuple[str, str, int]] = []
        self.planned = 0

    def plan(self, cells, finished):
        self.planned += len(cells)

    def done(self, cell, result, fresh):
        if fresh:
            self.fresh.append((cell.model.name, cell.arm.name, cell.split_context.seed))

    def skipped(self, cells, why):
        self.said.append(why)
        self.gone += [(c.model.name, c.arm.name, c.split_context.seed) for c in cells]


@pytest.fixture(autouse=True)
def _small_estimates(monkeypatch):
    """A limit of 1 GB that relational EASE alone does not keep."""
    monkeypatch.delenv(VARIABLE, raising=False)
    needs = classmethod(lambda cls, graph, config: Estimate(3 * GB))
    monkeypatch.setattr(RelationalEASE, "estimate", needs)


def run(path: Path, out: Path, gb: float | None = 1.0):
    text = path.read_text()
    if gb is not None:
        text = text.replace("trials = 8", f"trials = 2\nmemory_gb = {gb}")
    (path.parent / "limited.toml").write_text(text)
    config = read_study(path.parent / "limited.toml")
    material, callback = prepare(config, path.parent), Noting()
    return run_study(config, material, out, callback), callback, config, material


def test_a_model_that_does_not_fit_is_left_out_and_the_study_goes_on(study_file, tmp_path):
    out = tmp_path / "out"
    result, seen, config, material = run(study_file, out)
    assert {model for model, _, _ in seen.fresh} == {"popularity", "ease"}
    assert len(seen.fresh) == seen.planned == 4
    assert len(seen.gone) == 2 * 6
    (said,) = seen.said
    assert said.startswith("relational-ease on 6 arms (interactions; all without driver; ")
    assert re.search(
        r"is left out: at 160 items it needs about 3\.0 GB and 1\.0 GB are available; (\S+) fits and can be used",
        said,
    )
    assert result.leaderboard["model"].unique().sort().to_list() == ["ease", "popularity"]
    assert result.effects.is_empty()
    assert result.verdicts.is_empty()
    assert result.card["skipped"] == [said]
    assert {"where": "memory", "message": said, "count": 12} in result.card["notices"]
    assert save_winner(config, material, out).note["model"] == "ease"

    console = Console(file=(shown := StringIO()), width=400)
    print_result(console, result, "the answer")
    assert said in shown.getvalue()
    page = write_report(result, out / "report.html").read_text()
    assert "Left out for lack of memory:" in page
    assert "did not fit into memory" in page

    # with room, the same command runs what was left out, and nothing else
    again, seen, config, material = run(study_file, out, 4.0)
    assert {model for model, _, _ in seen.fresh} == {"relational-ease"}
    assert len(seen.fresh) == 14  # six arms on two seeds, and the driver alone with its links shuffled
    assert not seen.said
    assert again.card["skipped"] == []
    assert dict(again.verdicts.select("relation", "verdict").iter_rows())["driver"] == "helps"
    assert "Left out" not in write_report(again, out / "report.html").read_text()

    # what is stored needs no memory
    result, seen, *_ = run(study_file, out, 1.0)
    assert not seen.fresh
    assert not seen.said
    assert not result.verdicts.is_empty()


def test_nothing_left_is_one_error(study_file, tmp_path):
    with pytest.raises(InputError, match="no model of the study fits into memory") as said:
        run(study_file, tmp_path / "out", 0.01)
    for model in ("popularity", "ease", "relational-ease"):
        assert f"{model} on " in said.value.found
    assert "0.01 GB" in said.value.expected


def test_a_relational_model_keeps_the_arms_that_fit(study_file, tmp_path, monkeypatch):
    """The arms with both relations are too large: no drop, no placebo, no verdict, but what a relation adds alone."""
    sized = classmethod(lambda cls, graph, config: Estimate(len(graph.relations) * 600 * MB))
    monkeypatch.setattr(RelationalEASE, "estimate", sized)
    result, seen, config, material = run(study_file, tmp_path / "out")
    assert {arm for _, arm, _ in seen.gone} == {"all", "all, driver rewired", "all, noise rewired"}
    arms = result.leaderboard.filter(pl.col("model") == "relational-ease")["arm"].to_list()
    shuffled = "interactions + driver, driver rewired"  # the plan builds the driver and asks for its links
    assert sorted(arms) == ["all without driver", "all without noise", "interactions", shuffled]
    assert set(result.effects["kind"]) == {"alone", "strongest"}
    assert result.verdicts.is_empty()
    assert save_winner(config, material, tmp_path / "out").note["arm"] == "all without noise"


def test_a_rival_that_does_not_fit_is_compared_with_nobody(study_file, tmp_path):
    study_file.write_text(study_file.read_text().replace("[study]\n", '[study]\nversus = "relational-ease"\n'))
    result, *_ = run(study_file, tmp_path / "out")
    assert "versus" not in result.effects["kind"]


@pytest.mark.parametrize(
    "error",
    [np._core._exceptions._ArrayMemoryError((1 << 40,), np.dtype(np.float32)),
     RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")],
)  # fmt: skip
def test_memory_that_ends_while_a_cell_runs_leaves_it_out(study_file, tmp_path, monkeypatch, error):
    solve, out, seeds = EASE.solve, tmp_path / "out", set()

    def fails(self):
        seeds.add(self.graph.fingerprint)
        if len(seeds) > 1:  # the second split
            raise error
        return solve(self)

    monkeypatch.setattr(EASE, "solve", fails)
    result, seen, config, material = run(study_file, out)
    assert seen.gone[-1] == ("ease", "interactions", 1)
    assert "ease on interactions is left out: memory ended while it ran at 160 items" in seen.said[-1]
    assert "tried again when the study is run again" in seen.said[-1]
    # the other seed of the arm does not count
    assert result.leaderboard["model"].to_list() == ["popularity"]
    assert save_winner(config, material, out).note["model"] == "popularity"
    monkeypatch.setattr(EASE, "solve", solve)
    result, seen, *_ = run(study_file, out)
    assert seen.fresh == [("ease", "interactions", 1)]
    assert set(result.leaderboard["model"]) == {"ease", "popularity"}


def test_another_error_is_not_taken_for_want_of_memory(study_file, tmp_path, monkeypatch):
    def fails(self):
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(EASE, "solve", fails)
    with pytest.raises(RuntimeError, match="shapes"):
        run(study_file, tmp_path / "out")


def test_a_trained_model_ends_likewise(study_file, tmp_path, monkeypatch):
    trained = '[[models]]\nname = "mf"\nconfig = { dim = 8 }\ntrain = { epochs = 1, batch = 512, every = 1 }\n'
    study_file.write_text(study_file.read_text() + trained)

    def fails(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr(MF, "loss", fails)
    result, seen, *_ = run(study_file, tmp_path / "out")
    assert {model for model, _, _ in seen.gone} == {"mf", "relational-ease"}
    assert any("a smaller config.dim or train.batch needs less" in said for said in seen.said)
    assert set(result.leaderboard["model"]) == {"ease", "popularity"}


def test_a_tuned_cell_counts_with_the_largest_values_it_may_try(study_file):
    text = study_file.read_text().replace('name = "ease"', 'name = "item-knn"')
    config, material = open_study(study_file, text)
    cell = cell_with_prerequisites(config, material, "item-knn")[-1]
    kind, graph = MODELS["item-knn"], cell.graph
    (knob,) = (k for k in kind.grid_parameters(graph) if k.name == "neighbours")
    assert isinstance(knob, GridParameter)
    largest = override_config(kind.Config(), {"neighbours": max(knob.grid_values)}, "item-knn")
    assert estimate_of(cell) == kind.estimate(graph, largest)
    for held in ({"trials": 1}, {"config": {"neighbours": 100}}):
        other = type(cell)(cell.model.model_copy(update=held), cell.arm, cell.split_context, cell.study)
        assert estimate_of(other) == kind.estimate(graph, kind.Config())


def test_the_environment_comes_before_the_study_file_and_that_before_the_engine(study_file, monkeypatch):
    study = read_study(study_file).study
    assert memory_per_cell(study, 7) == 7
    study = study.model_copy(update={"memory_gb": 2.0})
    assert memory_per_cell(study, 7) == 2 * GB
    monkeypatch.setenv(VARIABLE, "0.5")
    assert memory_per_cell(study, 7) == GB // 2


def test_cells_at_once_share_what_there_is(study_file, monkeypatch):
    study = read_study(study_file).study
    limited = study.model_copy(update={"memory_gb": 2.0})
    monkeypatch.setattr(memory_limits, "available_memory", lambda: 3 * GB)
    assert memory_per_cell(study, jobs=2) == 3 * GB // 2
    assert memory_per_cell(limited, jobs=2) == 3 * GB // 2  # two of them do not fit side by side
    assert memory_per_cell(limited, jobs=1) == 2 * GB
    assert memory_per_cell(study.model_copy(update={"memory_gb": 0.5}), jobs=2) == GB // 2
    monkeypatch.setenv(VARIABLE, "3")
    assert memory_per_cell(limited, jobs=3) == GB


def test_a_limit_changes_no_cell(study_file):
    config = read_study(study_file)
    limited = config.model_copy(update={"study": config.study.model_copy(update={"memory_gb": 9.0})})
    material = prepare(config, study_file.parent)
    assert [c.key() for c in grid(config, material)] == [c.key() for c in grid(limited, material)]


def test_one_model_that_does_not_fit_is_refused_up_front(study_file, tmp_path, monkeypatch):
    config, material = open_study(study_file)
    cell = cell_with_prerequisites(config, material, "relational-ease")[-1]
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(InputError, match="model does not fit into memory") as said:
        fit_run([cell], material.tables, tmp_path / "run", lambda _: None)
    assert said.value.found == "about 3.0 GB at 160 items"
    assert not (tmp_path / "run").exists()
    fit_run(
        cell_with_prerequisites(config, material, "popularity"), material.tables, tmp_path / "run", lambda _: None
    )
    monkeypatch.setenv(VARIABLE, "0.01")
    with pytest.raises(InputError, match="model does not fit into memory"):
        load_run(tmp_path / "run")


def test_a_search_is_refused_up_front(study_file, tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    from relrank.study.optuna_search import search_study

    config, material = open_study(study_file)
    monkeypatch.setenv(VARIABLE, "1")
    with pytest.raises(InputError, match="model does not fit into memory"):
        search_study(config, material, tmp_path / "out", 1)
    assert not (tmp_path / "out").exists()
    assert len(search_study(config, material, tmp_path / "out", 1, ["ease"])) == 1


def test_live_shows_it_and_waits_for_it_no_more(study_file, tmp_path):
    out = StringIO()
    study_file.write_text(study_file.read_text().replace("trials = 8", "trials = 2\nmemory_gb = 1"))
    config = read_study(study_file)
    with LiveStudy(Console(file=out, width=100)) as live:
        run_study(config, prepare(config, study_file.parent), tmp_path / "out", live)
    lines = out.getvalue().splitlines()
    assert lines[0] == "about 16 cells"
    assert lines[1].startswith("relational-ease on 6 arms")
    assert [line[:5] for line in lines[2:]] == ["[1/4]", "[2/4]", "[3/4]", "[4/4]"]


def test_commands_say_it(study_file, tmp_path, monkeypatch, capsys):
    """Estimates in the audit, an error of fit, a study that succeeds."""
    monkeypatch.undo()  # with the estimates that there are
    monkeypatch.setenv(VARIABLE, "0.15")
    # 160 items: a block of scores, two by default for models without a rule of their own
    code, out, err = relrank(monkeypatch, capsys, tmp_path, "audit", "small.toml")
    assert code == 0, err
    assert "estimates, 0.15 GB are available" in out
    assert re.search(r"relational-ease\s+0\.13\s+< 1", out)
    assert "popularity on interactions is left out: at 160 items it needs about 0.25 GB" in " ".join(out.split())
    code, out, err = relrank(monkeypatch, capsys, tmp_path, "study", "small.toml", "--smoke")
    assert code == 0, err
    assert "popularity on interactions is left out" in " ".join(out.split())
    assert "winner" in out
    code, _, err = relrank(monkeypatch, capsys, tmp_path, "fit", "small.toml", "--model", "popularity")
    assert code == 2
    assert err.startswith("error: model does not fit into memory\n")
    assert "Traceback" not in err
