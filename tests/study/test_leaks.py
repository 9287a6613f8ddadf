"""A leak ends a study before a cell runs; an accepted leak is named in all results."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from command_line import relrank

from relrank.cli.live import print_result
from relrank.errors import InputError, LeakError
from relrank.report import write_report
from relrank.report.verdict_summary import answer
from relrank.runs.fitted_run import load_run
from relrank.study.arms import INTERACTIONS, Arm
from relrank.study.callbacks import NullCallback
from relrank.study.config import StudyConfig, read_study
from relrank.study.leaks import leak_suffix, leaks_of, needlessly_accepted, refuse_leaks
from relrank.study.optuna_search import search_study
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.study.winner import save_winner
from relrank.tables.audit import Finding

STUDY = """
name = "leaky"
[data]
user = "user"
item = "item"
[data.interactions]
file = "bought.csv"
user = "u"
item = "i"
[data.nodes.item]
file = "items.csv"
key = "i"
[data.links.clicked]
file = "bought.csv"
source = "user"
source_column = "u"
target = "item"
target_column = "i"
[protocol]
name = "mine"
split = "random-leave-one-out"
[relations.clicks]
kind = "link"
table = "clicked"
[relations.genre]
kind = "attribute"
node = "item"
column = "genre"
[study]
seeds = [0]
trials = 2
"""
MODELS = '[[models]]\nname = "popularity"\n[[models]]\nname = "relational-ease"\n'
ACCEPT = 'accept_leaks = ["clicks"]\n'


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Purchases, and clicks that hold all of them, the held-out ones too."""
    rows = [(u, (u * 7 + k * k) % 24) for u in range(60) for k in range(7)]
    pl.DataFrame(rows, schema=["u", "i"], orient="row").unique(maintain_order=True).write_csv(tmp_path / "bought.csv")
    pl.DataFrame({"i": range(24), "genre": [f"g{i % 5}" for i in range(24)]}).write_csv(tmp_path / "items.csv")
    (tmp_path / "leaky.toml").write_text(STUDY + MODELS)
    (tmp_path / "accepted.toml").write_text(STUDY + ACCEPT + MODELS)
    return tmp_path


class Counting(NullCallback):
    """Counts the cells that are planned."""

    planned = 0

    def plan(self, cells, there):  # type: ignore[no-untyped-def]
        self.planned += len(cells)


def test_pitfall_a_leak_found_by_the_audit_and_a_verdict_printed_all_the_same(shop, monkeypatch, capsys):
    code, _, err = relrank(monkeypatch, capsys, shop, "study", "leaky.toml")
    assert code == 1
    assert "test rows in clicks" in err
    assert "60 of 60 test rows are edges of relation clicks" in err  # how many
    assert "time, by" in err  # how to mend it
    assert 'accept_leaks = ["clicks"]' in err  # how to accept it
    assert not (shop / "runs").exists()


def test_no_cell_is_planned_beside_a_leak(shop, tmp_path):
    config = read_study(shop / "leaky.toml")
    material, callback = prepare(config, shop), Counting()
    with pytest.raises(LeakError, match="test rows in clicks"):
        run_study(config, material, tmp_path / "out", callback)
    assert callback.planned == 0
    assert not (tmp_path / "out").exists()
    with pytest.raises(LeakError, match="clicks"):
        search_study(config, material, tmp_path / "out")


def test_an_accepted_leak_is_named_everywhere(shop, tmp_path):
    from rich.console import Console

    config = read_study(shop / "accepted.toml")
    material, out = prepare(config, shop), tmp_path / "out"
    result = run_study(config, material, out)
    assert not result.verdicts.is_empty()
    for sentence in result.verdicts["sentence"]:  # those of the honest relation too: its arms hold the leak
        assert sentence.endswith("(leak accepted: clicks)")
    stored = StudyResult.load(out)
    assert stored.verdicts["sentence"].equals(result.verdicts["sentence"])
    card = json.loads((out / "results.json").read_text())["card"]
    assert {leak["check"] for leak in card["accepted_leaks"]} >= {"test rows in clicks", "validation rows in clicks"}
    assert all(leak["names"] == ["clicks"] and leak["count"] == 60 for leak in card["accepted_leaks"][:2])
    assert [row["accepted"] for row in card["audit"] if row["check"] == "test rows in clicks"] == [True]
    assert answer(stored).endswith("(leak accepted: clicks)")
    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    print_result(console, stored, answer(stored))
    printed = console.export_text()
    assert "Leak accepted: clicks: " in printed
    assert "test rows in clicks: 60 of 60" in " ".join(printed.split())
    page = write_report(stored, out / "report.html").read_text()
    assert "Leak accepted: clicks:" in page
    assert "accepted: <b>test rows in clicks</b>" in page
    assert "Until that is mended" not in page  # the banner of a leak that nobody accepted
    winner = save_winner(config, material, out)
    read = "clicks" in winner.note["arm"] or winner.note["arm"].startswith("all")
    assert [leak["names"] for leak in load_run(out).note.get("accepted_leaks", [])][:1] == [["clicks"]] * read


def test_only_what_is_named_is_accepted(shop, monkeypatch, capsys):
    (shop / "other.toml").write_text(STUDY + 'accept_leaks = ["genre", "interactions"]\n' + MODELS)
    config = read_study(shop / "other.toml")
    with pytest.raises(LeakError, match="test rows in clicks"):
        run_study(config, prepare(config, shop), shop / "out")
    assert relrank(monkeypatch, capsys, shop, "audit", "other.toml")[0] == 1
    code, out, _ = relrank(monkeypatch, capsys, shop, "audit", "accepted.toml")
    assert code == 0
    assert "leak, accepted" in out
    found = prepare(config, shop).findings
    assert [n.message for n in needlessly_accepted(found, ["genre", "clicks"])] == [
        "accepts leaks of genre, where the audit found none"
    ]


def test_an_unknown_name_is_an_error_that_lists_the_known(shop, monkeypatch, capsys):
    (shop / "typo.toml").write_text(STUDY + 'accept_leaks = ["click"]\n' + MODELS)
    with pytest.raises(InputError, match="unknown name of an accepted leak") as error:
        read_study(shop / "typo.toml")
    assert error.value.expected == "one of interactions, clicks, genre"
    assert error.value.found == "'click'; did you mean 'clicks'?"
    code, _, err = relrank(monkeypatch, capsys, shop, "study", "typo.toml")
    assert code == 2
    assert "accept_leaks" in err
    config = read_study(shop / "leaky.toml")  # a study that was written in Python is asked the same
    changed: StudyConfig = config.model_copy(
        update={"study": config.study.model_copy(update={"accept_leaks": ("tags",)})}
    )
    with pytest.raises(InputError, match="unknown name of an accepted leak"):
        run_study(changed, prepare(config, shop), shop / "out")


def test_fit_refuses_what_its_arm_reads_and_marks_what_is_accepted(shop, monkeypatch, capsys):
    words = ("fit", "leaky.toml", "--model", "relational-ease", "--out", "kept")
    code, _, err = relrank(monkeypatch, capsys, shop, *words)
    assert (code, "test rows in clicks" in err) == (1, True)
    code, _, err = relrank(monkeypatch, capsys, shop, *words, "--arm", "genre")
    assert (code, err) == (0, "")
    assert "accepted_leaks" not in load_run(shop / "kept").note
    code, out, _ = relrank(monkeypatch, capsys, shop, "fit", "accepted.toml", *words[2:])
    assert code == 0
    assert "leak accepted: clicks" in out
    assert leak_suffix(load_run(shop / "kept").note["accepted_leaks"]) == "leak accepted: clicks"
    _, out, _ = relrank(monkeypatch, capsys, shop, "evaluate", "kept")
    assert "leak accepted: clicks" in out


def test_what_a_leak_concerns() -> None:
    split = Finding("leak", "rows in two parts", "2 rows", 2, ("interactions",))
    two = Finding("leak", "item computed after the cut", "9 rows", 9, ("genre", "year"))
    unnamed, warning = Finding("leak", "other", "1 row", 1), Finding("warning", "times", "none", 3)
    found = [split, two, unnamed, warning]
    assert leaks_of(found) == [split, two, unnamed]
    assert leaks_of(found, INTERACTIONS) == [split, unnamed]
    assert leaks_of(found, Arm("interactions + year", ("year",))) == [split, two, unnamed]
    assert leaks_of([two], INTERACTIONS, ["year"]) == [two]
    refuse_leaks([split, two], ["interactions", "genre", "year"])
    with pytest.raises(LeakError, match="item computed"):  # accepted by all of its names only
        refuse_leaks([split, two], ["interactions", "genre"])
    with pytest.raises(LeakError, match="1 row"):
        refuse_leaks([unnamed], ["interactions", "genre", "year"])


def test_a_gain_to_look_at_is_said_before_the_verdicts(shop, tmp_path):
    """If the checks of the data find nothing, the size of the gain is suspicious."""
    config = read_study(shop / "accepted.toml")
    result = run_study(config, prepare(config, shop), tmp_path / "out")
    (said,) = result.card["suspicious_gains"]
    assert said.startswith("look at clicks: with relational-ease it adds +0.")
    assert {"where": "gains", "message": said, "count": 1} in result.card["notices"]
    assert said.split(":")[0] in write_report(result, tmp_path / "report.html").read_text()


PLANTED = STUDY[: STUDY.index("[relations.clicks]")]
READERS = """[relations.readers]
kind = "attribute"
node = "item"
column = "genre"
separator = "|"
target = "reader"
"""
COUNT = """[relations.count]
kind = "bins"
node = "item"
column = "genre"
quantiles = 5
"""
TITLED = f'{COUNT}title = "How often"\n'


@pytest.mark.parametrize(
    ("relation", "value", "name", "check"),
    [
        (READERS, pl.col("u").cast(pl.String).str.join("|"), "readers", "held-out rows in side rows: readers"),
        (READERS, pl.format("r{}", pl.col("u") * 7).str.join("|"), "readers", "held-out rows in side rows: readers"),
        (COUNT, pl.len(), "count", "figures that grow with held-out rows: genre of count"),
        (TITLED, pl.len(), "count", "figures that grow with held-out rows: genre of How often"),
        (COUNT, pl.len().log(), "count", "figures that grow with held-out rows: genre of count"),
    ],
)
def test_a_column_worked_out_from_all_rows_ends_the_study(shop, relation, value, name, check, monkeypatch, capsys):
    """A column of items that lists its users, under any names, or counts them."""
    chance = np.arange(1, 121) / np.arange(1, 121).sum()
    chosen = [np.random.default_rng(u).choice(120, 8, replace=False, p=chance) for u in range(300)]
    rows = pl.DataFrame({"u": np.repeat(np.arange(300), 8), "i": np.concatenate(chosen)})
    rows.write_csv(shop / "bought.csv")
    items = pl.DataFrame({"i": np.arange(120)}).join(rows.group_by("i").agg(genre=value), on="i", how="left")
    items.write_csv(shop / "items.csv")
    (shop / "planted.toml").write_text(PLANTED + relation + "[study]\nseeds = [0]\n" + MODELS)
    found = [f for f in prepare(read_study(shop / "planted.toml"), shop).findings if f.level == "leak"]
    assert {f.names for f in found} == {(name,)}
    assert check in {f.check for f in found}
    code, _, err = relrank(monkeypatch, capsys, shop, "study", "planted.toml")
    assert code == 1
    assert f'accept_leaks = ["{name}"]' in err
