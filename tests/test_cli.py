"""The command line: its output, its files, and its error messages."""

import json
import os
import re
import shlex
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pytest
import typer
from rich.console import Console

from relrank.cli.app import app, main
from relrank.cli.progress import progress_bars
from relrank.runs.fitted_run import load_run
from relrank.study.result import StudyResult
from relrank.testing import planted_study

SMALL = planted_study(
    "small",
    300,
    120,
    seed=3,
    relations=("driver", "noise"),
    study="seeds = [0]\ntrials = 3",
    models="""[[models]]
name = "popularity"
[[models]]
name = "relational-ease"
""",
)


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def relrank(*words: object, at: Path) -> Ran:
    """Run the console script's function in this process, in a folder, on a wide screen that is no terminal."""
    out, err = StringIO(), StringIO()
    with (
        mock.patch.dict(os.environ, COLUMNS="160", FORCE_COLOR=""),
        mock.patch.object(sys, "argv", ["relrank", *map(str, words)]),
        chdir(at), redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as end,
    ):  # fmt: skip
        main()
    return Ran(int(end.value.code or 0), out.getvalue(), err.getvalue())


def good(ran: Ran) -> str:
    """What a command printed that must not have failed."""
    assert ran.code == 0, ran.out + ran.err
    assert not ran.err
    return ran.out


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Time and content of every file below a folder."""
    return {str(f): (f.stat().st_mtime_ns, f.read_bytes()) for f in sorted(folder.rglob("*")) if f.is_file()}


def verdicts(out: str) -> str:
    """The part of a study's output from the verdicts to where the report is."""
    found = re.search(r"^verdicts, .*?(?=^report )", out, re.DOTALL | re.MULTILINE)
    assert found, out
    return found.group()


def users_of(cell: Path) -> pl.DataFrame:
    return pl.read_parquet(cell / "users.parquet")


def printed(metric: str, out: str) -> str:
    """The value beside a metric's name."""
    found = re.search(rf"{metric}\W+?([\d.]+)", out)
    assert found, out
    return found.group(1)


@dataclass(frozen=True)
class Study:
    home: Path  # the working directory: small.toml, runs/small
    out: str  # what the first run printed

    @property
    def folder(self) -> Path:
        return self.home / "runs" / "small"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A finished small study in runs/small, which no test changes."""
    home = tmp_path_factory.mktemp("home")
    (home / "small.toml").write_text(SMALL)
    return Study(home, good(relrank("study", "small.toml", at=home)))


def test_every_command_has_a_help_whose_examples_parse(tmp_path):
    commands = typer.main.get_command(app).commands
    assert set(commands) == {
        "fetch", "audit", "study", "tune", "fit", "evaluate", "compare", "recommend", "explain", "batch", "export",
        "serve", "report", "init", "doctor", "atlas",
    }  # fmt: skip
    assert "fetch" in good(relrank("--help", at=tmp_path))
    for name, command in commands.items():
        shown = good(relrank(name, "--help", at=tmp_path))
        assert f"relrank {name}" in shown.partition("Example")[2], name
        examples = re.findall(r"\*\*relrank (\w+)\s*(.*?)\*\*", command.help, re.DOTALL)
        assert examples
        for whose, words in examples:
            assert whose == name
            command.make_context(name, shlex.split(words))  # an option that does not exist would raise


def test_audit_lists_its_checks(study):
    out = good(relrank("audit", "small.toml", at=study.home))
    card = json.loads((study.folder / "card.json").read_text())
    assert card["audit"]
    for finding in card["audit"]:
        assert re.search(rf"{finding['level']}\W+{re.escape(finding['check'])}", out), finding
    assert card["fingerprints"][0][:12] in out


def test_audit_ends_with_1_on_a_leak(study):
    from relrank.tables.audit import Finding

    leak = Finding("leak", "a [/b] check", "12 rows are [red] in two parts", 12)
    with mock.patch("relrank.study.prepare.audit", return_value=[leak]):
        ran = relrank("audit", "small.toml", at=study.home)
    assert ran.code == 1
    assert not ran.err
    assert leak.check in ran.out
    assert leak.message in ran.out


def test_study_prints_leaderboard_verdicts_and_where_the_report_is(study):
    board = pl.read_parquet(study.folder / "leaderboard.parquet").filter(~pl.col("arm").str.ends_with("rewired"))
    shown = study.out.partition("leaderboard")[2]
    for row in board.iter_rows(named=True):
        assert re.search(rf"{row['model']}\s+{re.escape(row['arm'])}\s+{row['mean']:.4f}", shown), row
    said = pl.read_parquet(study.folder / "verdicts.parquet")
    shown = shown.partition("verdicts, relational-ease")[2]
    assert said["relation"].to_list() == ["driver", "noise"]
    for row in said.iter_rows(named=True):
        assert re.search(rf"{row['relation']}\s+{row['verdict']}", shown), row
        assert row["sentence"] in " ".join(shown.split())
    page = re.search(r"^report\s+(\S+)$", study.out, re.MULTILINE)
    assert page, study.out
    assert (study.home / page.group(1)).read_text().lower().startswith("<!doctype html>")


def test_study_suggests_a_command_that_works(study):
    found = re.search(r"^\s+relrank (recommend .+)$", study.out, re.MULTILINE)
    assert found, study.out
    assert len(re.findall(r"item \d+", good(relrank(*shlex.split(found.group(1)), at=study.home)))) >= 10


def test_study_again_keeps_the_cells(study, tmp_path):
    shutil.copytree(study.home, tmp_path / "home")
    cells = tmp_path / "home" / "runs" / "small" / "cells"
    before = files(cells)
    out = good(relrank("study", "small.toml", at=tmp_path / "home"))
    kept = re.findall(r"(\d+) of (\d+) cells were finished earlier", out)  # a line per batch
    assert [int(some) for some, _ in kept] == [int(of) for _, of in kept]
    assert sum(int(some) for some, _ in kept) == len(list(cells.iterdir()))
    assert files(cells) == before
    assert verdicts(out) == verdicts(study.out)  # word for word


@pytest.mark.slow
def test_study_is_logged_to_mlflow(study, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copytree(study.home, tmp_path / "home")
    out = good(relrank("study", "small.toml", "--track", "mlflow", at=tmp_path / "home"))
    where = re.search(r"^mlflow +run (\w+) of experiment small in sqlite:///mlflow.db$", out, re.MULTILINE)
    assert where, out
    artifacts = tmp_path / "home" / "mlruns" / "small" / where.group(1) / "artifacts"
    assert (artifacts / "report.html").read_bytes() == (study.folder / "report.html").read_bytes()
    elsewhere = f"sqlite:///{tmp_path / 'store.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", elsewhere)
    assert elsewhere in good(relrank("study", "small.toml", "--track", "mlflow", at=tmp_path / "home"))
    # what cannot be logged is told after the study is there
    (tmp_path / "home" / "runs" / "small" / "report.html").unlink()
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    words = ("study", "small.toml", "--track", "mlflow", "--tracking-uri", "http://127.0.0.1:9")
    ran = relrank(*words, at=tmp_path / "home")
    assert ran.code == 2
    assert ran.err.startswith("error: the study is done and stored, but MLflow did not take it")
    assert "The study continues and is logged when it is done" in " ".join(ran.out.split())
    assert "Traceback" not in ran.out + ran.err
    assert (tmp_path / "home" / "runs" / "small" / "report.html").is_file()


def test_pitfall_a_smoke_run_overwrites_real_results(study):
    before = files(study.home)
    out = good(relrank("study", "small.toml", "--smoke", at=study.home))
    smoke = study.home / "runs" / "small-smoke"
    after = files(study.home)
    assert {name: after[name] for name in before} == before
    assert all(Path(name).is_relative_to(smoke) for name in after.keys() - before.keys())
    assert (smoke / "report.html").is_file()
    assert "Smoke run" in out
    # a folder that was asked for is left alone just the same
    good(relrank("study", "small.toml", "--smoke", "--out", study.folder, at=study.home))
    assert {name: content for name, (_, content) in files(study.folder).items()} == {
        name: content for name, (_, content) in before.items() if Path(name).is_relative_to(study.folder)
    }


def test_a_folder_may_have_square_brackets(study, tmp_path):
    shutil.copytree(study.home, tmp_path / "[red] home")
    home = tmp_path / "[red] home"
    for words in ("study small.toml --out runs/[new]", "report runs/[new]"):
        out = good(relrank(*words.split(), at=home))
        assert re.search(r"^report\s+runs/\[new\]/report\.html$", out, re.MULTILINE), out
    assert "in table.parquet" in good(relrank("evaluate", "runs/[new]", "--out", "table.parquet", at=home))
    assert "item " in good(relrank("recommend", "runs/[new]", "--user", 5, at=home))


def test_report_writes_the_page_again(study, tmp_path):
    folder = tmp_path / "small"
    shutil.copytree(study.folder, folder)
    page = (folder / "report.html").read_bytes()
    (folder / "report.html").write_text("an older page")
    out = good(relrank("report", folder, at=tmp_path))
    assert (folder / "report.html").read_bytes() == page
    assert "verdicts, relational-ease" in out
    assert str(folder / "report.html") in out
    good(relrank("report", folder, "--out", "elsewhere.html", at=tmp_path))
    assert (tmp_path / "elsewhere.html").read_bytes() == page


def test_an_inconsistent_stored_study_is_one_error(study, tmp_path):
    """With valid checksums, but inconsistent tables."""
    result = StudyResult.load(study.folder)
    nothing = pl.lit(None, pl.Float64)
    effects = result.effects.with_columns(mean=nothing, low=nothing, high=nothing)
    replace(result, effects=effects, verdicts=result.verdicts.drop("sentence")).save(tmp_path / "odd")
    ran = relrank("report", "odd", at=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("error: parts do not fit together")


def test_recommend_prints_titles_of_all_items_not_chosen_yet(study):
    def best(out: str) -> list[int]:
        return [int(item) for item in re.findall(r"\d+\W+(\d+)\W+item \1\b", out)]

    chosen = set(load_run(study.folder).history(5)["item"])
    assert len(chosen) == 6
    out = good(relrank("recommend", "runs/small", "--user", 5, "-k", 120, at=study.home))
    assert sorted(best(out)) == sorted(set(range(120)) - chosen)
    assert {
        int(i) for i in re.findall(r"item (\d+)", out.partition("6 items, among them")[2].splitlines()[0])
    } < chosen
    first = good(relrank("recommend", "runs/small", "--user", 5, "-k", 4, at=study.home))
    assert best(first) == best(out)[:4]
    out = good(relrank("recommend", "runs/small", "--history", " 3, 4", "-k", 120, at=study.home))
    assert sorted(best(out)) == sorted(set(range(120)) - {3, 4})


def test_recommend_and_explain_use_the_same_filtered_list(study):
    narrowed = ["--user", 5, "--visit", "3, 4", "--with", "driver:driver 1", "--without", "noise:noise 1"]
    first = good(relrank("recommend", "runs/small", *narrowed, "-k", 1, at=study.home))
    gone = re.findall(r"1\W+(\d+)\W+item \1\b", first)[0]
    narrowed += ["--exclude", gone]
    out = good(relrank("recommend", "runs/small", *narrowed, "-k", 9, at=study.home))
    rows = re.findall(r"(\d+)\W+(\d+)\W+item \2[^\d-]+(-?[\d.]+)", out)
    place, item, score = rows[-1]
    run = load_run(study.folder)
    assert {"3", "4", gone}.isdisjoint({row[1] for row in rows})
    item_attributes = run.item_attributes.with_columns(key=run.split.items.keys).filter(
        pl.col("key").is_in([int(row[1]) for row in rows])
    )
    assert item_attributes["relation:driver"].to_list() == [["driver 1"]] * len(rows)
    assert ["noise 1"] not in item_attributes["relation:noise"].to_list()
    said = good(relrank("explain", "runs/small", item, *narrowed, at=study.home))
    assert said.startswith(f"item {item}: rank {place}, score {score}\n")
    refused = relrank("explain", "runs/small", gone, *narrowed, at=study.home)
    assert (refused.code, refused.err.splitlines()[0]) == (2, "error: item does not fit the filters")


def test_evaluate_prints_the_metrics_of_the_study(study, tmp_path):
    note = json.loads((study.folder / "winner" / "run.json").read_text())
    users = users_of(study.folder / "cells" / note["cell"])
    table = tmp_path / "users.parquet"
    out = good(relrank("evaluate", "runs/small", "-k", 10, "-k", 20, "--out", table, at=study.home))
    for metric in ("ndcg@10", "hit@20", "mrr"):
        assert printed(metric, out) == f"{users[metric].mean():.4f}"
    assert "ndcg@50" not in out
    assert pl.read_parquet(table)["ndcg@10"].to_list() == pytest.approx(users["ndcg@10"].to_list())
    assert "miscalibration" not in out
    out = good(relrank("evaluate", "runs/small", "--attribute", "driver", "--out", table, at=study.home))
    lists = pl.read_parquet(table)
    for name in ("miscalibration@10", "intra-list similarity@10"):
        assert printed(name, out) == f"{lists[name].mean():.4f}"


def test_batch_writes_the_lists_of_recommend(study, tmp_path):
    out = good(relrank("batch", "runs/small", "--out", tmp_path / "lists.parquet", "-k", 4, at=study.home))
    assert "1,200 rows of 300 users" in out
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    expected = load_run(study.folder).recommend(5, 4)
    assert lists.filter(pl.col("user") == 5)["item"].to_list() == expected["item"].to_list()


def test_export_lists_its_files(study, tmp_path):
    out = good(relrank("export", "runs/small", "--to", "torch", "--out", tmp_path / "[out]", at=study.home))
    assert "[out]: ids.parquet, manifest.json, model.safetensors, note.json" in out
    note = json.loads((tmp_path / "[out]" / "note.json").read_text())
    assert (note["model"], note["input"], note["shape"]) == ("relational-ease", "history", [120, 120])


def test_fit_saves_a_run_that_evaluate_and_recommend_read(study, tmp_path):
    out = good(relrank("fit", study.home / "small.toml", "--arm", "driver", "--out", "kept", at=tmp_path))
    assert "interactions + driver" in out
    assert "saved in kept" in out
    # the study has tuned and fitted the very same graph as its arm without noise
    note = json.loads((tmp_path / "kept" / "run.json").read_text())
    cell = study.folder / "cells" / note["cell"]
    assert json.loads((cell / "cell.json").read_text())["arm"] == "all without noise"
    out = good(relrank("evaluate", "kept", at=tmp_path))
    assert "relational-ease on interactions + driver" in " ".join(out.split())  # a narrow table folds its title
    assert printed("ndcg@10", out) == f"{users_of(cell)['ndcg@10'].mean():.4f}"
    assert len(re.findall(r"item \d+", good(relrank("recommend", "kept", "--user", 5, at=tmp_path)))) == 3 + 10
    said = good(relrank("compare", "kept", cell / "users.parquet", "--margin", "1%", at=tmp_path))
    assert said.startswith("equivalent: ndcg@10 +0.0000")


def test_another_seed_is_another_split(study, tmp_path):
    good(relrank("fit", study.home / "small.toml", "--model", "ease", "--seed", 4, "--out", "kept", at=tmp_path))
    note = json.loads((tmp_path / "kept" / "run.json").read_text())
    assert (note["model"], note["seed"]) == ("ease", 4)
    assert note["fingerprint"] != json.loads((study.folder / "winner" / "run.json").read_text())["fingerprint"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("recommend runs/small --user [/b]", "[/b]"),
        ("recommend runs/small --user 300", "300"),
        ("recommend runs/small", "neither"),
        ("recommend runs/small --user 1 --history 2", "both"),
        ("recommend runs/small --history 2,nothing", "nothing"),
        ("recommend runs/small --history 2 --visit 3", "visit without a user"),
        ("recommend runs/small --user 1 --visit ,", "visit is empty"),
        ("recommend runs/small --user 1 --with colour:red", "no such filter"),
        ("recommend runs/small --user 1 --any driver", "filter is not readable"),
        ("explain runs/small 2", "neither"),
        ("explain runs/small nothing --user 1", "nothing"),
        ("serve runs/small --header-timeout 0", "--header-timeout"),
        ("serve runs/small --body-timeout nan", "--body-timeout"),
        ("serve runs/small --idle-timeout -1", "--idle-timeout"),
        ("serve runs/small --send-timeout inf", "--send-timeout"),
        ("serve runs/small --grace nan", "--grace"),
        ("recommend runs/small --history ,", "history"),
        ("recommend runs --user 1", "no fitted model here"),
        ("evaluate nowhere", "no fitted model here"),
        ("export runs/small --to pickle --out exported", "pickle"),
        pytest.param(
            "export runs/small --to faiss --out exported",
            "cannot be exported to faiss",
            marks=pytest.mark.skipif(find_spec("faiss") is None, reason="needs the extra ann"),
        ),
        ("batch runs/small --out runs", "a folder has this name"),
        ("evaluate runs/small --attribute colour", "colour"),
        ("report runs", "no finished study here"),
        ("study missing.toml", "missing.toml"),
        ("audit runs", "a folder"),
        ("study misspelt.toml", "study.trails"),
        ("study small.toml --track wandb", "wandb"),
        ("study small.toml --tracking-uri sqlite:///mlflow.db", "--tracking-uri alone"),
        ("fit small.toml --model eases", "eases"),
        ("fit small.toml --arm driver,colour", "colour"),
        ("fetch ml-101k data", "ml-101k"),
    ],
)
def test_an_input_error_gets_one_message_and_exit_code_2(study, tmp_path, words, message):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "small").symlink_to(study.folder)
    (tmp_path / "small.toml").write_text(SMALL)
    (tmp_path / "misspelt.toml").write_text(SMALL.replace("trials", "trails"))
    before = files(tmp_path)
    ran = relrank(*words.split(), at=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("error: ")
    assert ran.err.count("error:") == 1
    for line in ("where:", "expected:", "found:"):
        assert ran.err.count(line) == 1
    assert message in ran.err
    assert "Traceback" not in ran.out + ran.err
    assert files(tmp_path) == before


def test_an_interrupted_study_says_how_to_resume(study, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    with mock.patch("relrank.study.engines.engine.run_cell", side_effect=KeyboardInterrupt):
        ran = relrank("study", "small.toml", at=tmp_path)
    assert ran.code == 130
    assert "the same command resumes it" in ran.err
    assert "Traceback" not in ran.out + ran.err


def test_tune_writes_a_study_that_runs(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra tune")
    (tmp_path / "small.toml").write_text(SMALL)
    out = good(relrank("tune", "small.toml", "--trials", 3, "--out", "runs/[b] {c}?#%20", at=tmp_path))
    for arm in ("interactions", "all"):
        assert len(re.findall(rf"relational-ease · {arm} trial [0-2]: ndcg@10 \.?\d", out)) == 3
        row = re.search(rf"relational-ease +{arm} +3 / 0 / 0 +(0\.\d+) +(0\.\d+)", out)
        assert row, out
        assert float(row.group(1)) <= float(row.group(2))  # the defaults are one of the trials
    assert "popularity" not in out  # there is nothing to search
    command = re.search(r"^\s+relrank (study .+)$", out, re.MULTILINE)
    assert command, out
    assert "relational-ease" in good(relrank(*shlex.split(command.group(1)), at=tmp_path))
    assert (tmp_path / "runs" / "small-tuned" / "report.html").is_file()
    there = sorted(f.name for f in (tmp_path / "runs" / "[b] {c}?#%20").iterdir())
    assert there == [".lock", "study.json", "tuned.toml", "tuning.db"]
    again = good(relrank("tune", "small.toml", "--trials", 4, "--out", "runs/[b] {c}?#%20", at=tmp_path))
    assert "6 of 8 trials were finished earlier" in again
    assert len(re.findall(r"· (all|interactions) trial", again)) == 2


def test_tune_without_optuna_names_the_extra(tmp_path):
    (tmp_path / "small.toml").write_text(SMALL)
    with mock.patch.dict(sys.modules, optuna=None):
        ran = relrank("tune", "small.toml", at=tmp_path)
    assert ran.code == 2
    assert ran.err.startswith("error: optuna is not installed")
    assert 'pip install "relrank[tune]"' in ran.err
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_search_says_how_to_resume(tmp_path):
    pytest.importorskip("optuna", reason="needs the extra tune")
    (tmp_path / "small.toml").write_text(SMALL)
    with mock.patch("relrank.study.optuna_search.mean_metric", side_effect=KeyboardInterrupt):
        ran = relrank("tune", "small.toml", at=tmp_path)
    assert ran.code == 130
    assert "the same command resumes it" in ran.err
    assert "Traceback" not in ran.out + ran.err


def shop(folder: Path) -> None:
    """The files of docs/own-tables.md: people with two favourite brands each, titles in square brackets."""
    rng = np.random.default_rng(0)
    n, brands = 36, ["Ash", "Birch", "Cedar", "Doum", "Elm", "Fir"]
    brand = [brands[i % 6] for i in range(n)]
    pl.DataFrame(
        {
            "sku": [f"SKU-{i}" for i in range(n)],
            "name": [f"[red] shoe [/b] {i}" for i in range(n)],
            "brand": brand,
            "price": [None if i % 9 == 0 else 5.0 + i for i in range(n)],
            "description": [f"made by {b} for {('rain', 'snow', 'sun')[i % 3]}" for i, b in enumerate(brand)],
        }
    ).write_parquet(folder / "products.parquet")
    words = [f"{word}{k}" for word in ("light", "warm", "red", "stiff", "soft", "loud") for k in range(15)]
    said = [" ".join(rng.choice(words, 12)) for _ in range(3 * n)]
    reviews = {"sku": [f"SKU-{i % n}" for i in range(3 * n)], "kind": ["review"] * (3 * n), "text": said}
    pl.DataFrame(reviews).write_parquet(folder / "reviews.parquet")
    (folder / "segments.csv").write_text("sku,segment\n" + "".join(f"SKU-{i},{i % 4}\n" for i in range(n)))
    rows = ["customer_id,sku,bought_at"]
    for c in range(60):
        customer = f"C-{c}" if c else "[vip] C-0"
        liked = np.isin(np.arange(n) % 6, rng.choice(6, 2, replace=False))
        for day, item in enumerate(rng.choice(n, 8, replace=False, p=np.where(liked, 6, 1) / (6 * 12 + 24))):
            rows.append(f"{customer},SKU-{item},2024-01-{day + 1:02}")
    rows.append(rows[-1].replace("2024-01", "2024-02"))  # bought again: the last one counts
    (folder / "purchases.csv").write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_own_tables_as_in_the_docs_with_square_brackets_in_titles(tmp_path):
    shop(tmp_path)
    docs = (Path(__file__).parents[1] / "docs" / "own-tables.md").read_text(encoding="utf-8")
    text = re.search(r"^```toml\n(.*?)^```", docs, re.DOTALL | re.MULTILINE).group(1)
    data, section, _ = text.partition("[study]\n")
    assert section
    text = data + section + "trials = 2\n"
    (tmp_path / "study.toml").write_text(text)

    audit = good(relrank("audit", "study.toml", at=tmp_path))
    assert re.search(r"purchases\.csv.*1", audit)  # the dropped row is counted, not dropped in silence
    out = good(relrank("study", "study.toml", "--out", "shop", at=tmp_path))
    for relation in ("brand", "priced", "described_alike", "has_review", "bought_by_segment", "bought_together"):
        assert re.search(rf"^\s*{relation}\s+(helps|hurts|negligible|undecided)", out, re.MULTILINE), out
    page = re.search(r"^report\s+(\S+)$", out, re.MULTILINE)
    assert page, out
    assert (tmp_path / page.group(1)).is_file()

    row = r"SKU-(\d+)\W+\[red\] shoe \[/b\] \1\b"
    out = good(relrank("recommend", "shop", "--user", "[vip] C-0", "-k", 5, at=tmp_path))
    assert len(set(re.findall(row, out))) == 5
    chosen = out.partition("user [vip] C-0 chose 8 items")[2].splitlines()[0]
    assert len(re.findall(r"\[red\] shoe \[/b\] \d", chosen)) == 3
    out = good(relrank("recommend", "shop", "--history", "SKU-7,SKU-9", "-k", 5, at=tmp_path))
    found = set(re.findall(row, out))
    assert len(found) == 5
    assert not found & {"7", "9"}


@pytest.mark.parametrize(("terminal", "calls"), [(True, 2), (True, 0), (False, 2)])
def test_long_work_has_a_bar_on_a_terminal_and_leaves_files_alone(terminal, calls):
    out = StringIO()
    with progress_bars(Console(file=out, force_terminal=terminal, width=80)) as progress:
        for done in range(calls):
            progress("texts read by [my] model", done + 1, calls)
    shown = terminal and calls > 0
    assert ("texts read by [my] model" in out.getvalue(), "2/2" in out.getvalue()) == (shown, shown)
    assert shown or not out.getvalue()
