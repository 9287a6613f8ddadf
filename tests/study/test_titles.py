"""Titles of relations: what people read instead of names, which stay the keys of everything else."""

import io
import re
from dataclasses import replace

import polars as pl
import pytest
from rich.console import Console
from typer.testing import CliRunner

from relrank.cli.app import app
from relrank.cli.live import print_result
from relrank.errors import InputError
from relrank.report.page import render
from relrank.report.verdict_summary import answer
from relrank.study.arms import INTERACTIONS, all_of, all_without, alone, alone_rewired, rewired, with_relations
from relrank.study.callbacks import NullCallback
from relrank.study.config import read_study
from relrank.study.leaks import finish
from relrank.study.model_effects import _chain_sentences
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.study.result_tables import _not_read
from relrank.study.run import run_study
from relrank.tables.audit import Finding

TITLE = "What [b]drives[/b] choices"
"""Brackets, since a terminal may take them for markup."""


def titled(path, **titles):
    """The small study, quicker, with titles for some of its relations."""
    text = path.read_text().replace("seeds = [0, 1]", "seeds = [0]").replace("trials = 8", "trials = 3")
    text = text.replace('column = "driver"', 'column = "driver"\ntarget = "value"')  # a type is no relation
    for name, title in titles.items():
        text = text.replace(f"[relations.{name}]\n", f"[relations.{name}]\ntitle = {title!r}\n")
    other = path.with_name("titled.toml")
    other.write_text(text)
    return other


class Counting(NullCallback):
    fresh = 0

    def done(self, cell, result, fresh):
        self.fresh += fresh


def run(path, out):
    config, callback = read_study(path), Counting()
    return run_study(config, prepare(config, path.parent), out, callback), callback.fresh


def printed(result):
    out = io.StringIO()
    print_result(Console(file=out, width=400), result, answer(result))
    return out.getvalue()


def test_people_read_the_title_and_keys_stay_names(study_file, tmp_path):
    out = tmp_path / "out"
    result, fresh = run(titled(study_file, driver=TITLE), out)
    assert fresh
    said = dict(result.verdicts.select("relation", "sentence").iter_rows())
    assert said.keys() == {"driver", "noise"}
    assert said["driver"].startswith(TITLE)
    assert said["noise"].startswith("noise"), "a title is not made up"
    assert TITLE in answer(result)
    assert [(r["name"], r["title"]) for r in result.card["relations"]] == [("driver", TITLE), ("noise", None)]
    for name in ("effects", "verdicts", "groups", "list_effects", "metric_effects"):
        told = dict(getattr(StudyResult.load(out), name).select("relation", "title").iter_rows())
        assert told.items() >= {"driver": TITLE, "noise": None}.items(), name
    assert "all without driver" in result.leaderboard["arm"].to_list()
    shown = printed(result)
    assert f"all without {TITLE}" in shown
    small = printed(replace(result, card=result.card | {"decimals": 6}))
    driver = result.verdicts.row(by_predicate=pl.col("relation") == "driver", named=True)
    for figure in (f"{result.leaderboard['mean'][0]:.6f}", f"{driver['held']:+.6f}"):
        assert figure in small
        assert figure not in shown
    # a name that nobody should read: neither here nor on the page, but for keys of settings, the data card, and
    # tables to copy
    assert not re.search(r"\bdriver\b", shown)
    page = re.sub(r"<code>.*?</code>|data-table='[^']*'", "", render(result))
    assert not re.search(r"\bdriver\b", page)
    assert TITLE in page
    assert re.search(r"\bnoise\b", page)


def test_another_title_fits_nothing_again(study_file, tmp_path):
    out = tmp_path / "out"
    before, fresh = run(titled(study_file), out)
    cells = {path.name for path in (out / "cells").iterdir()}
    after, again = run(titled(study_file, driver="Taste", noise="Chance"), out)
    assert (fresh > 0, again) == (True, 0)
    assert {path.name for path in (out / "cells").iterdir()} == cells
    assert after.verdicts["held"].to_list() == before.verdicts["held"].to_list()
    first_words = [[re.split(r"\W", text)[0] for text in one.verdicts["sentence"]] for one in (before, after)]
    assert first_words == [["driver", "noise"], ["Taste", "Chance"]]


@pytest.mark.parametrize(
    ("titles", "message"),
    [
        ({"driver": "Taste", "noise": " Taste "}, "relations driver and noise have the same title 'Taste'"),
        ({"driver": "noise"}, "relations driver and noise have the same title 'noise'"),
        ({"driver": ""}, "title must be one line of text, not empty"),
        ({"driver": "   "}, "title must be one line of text, not empty"),
    ],
)
def test_a_title_says_which_relation_it_is(study_file, titles, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        read_study(titled(study_file, **titles))
    assert "1 more" not in str(error.value)


def test_a_title_is_one_line(study_file):
    path = titled(study_file, driver="A")
    path.write_text(path.read_text().replace("title = 'A'", 'title = "A\\nB"'))
    with pytest.raises(InputError, match="title must be one line of text"):
        read_study(path)


KINDS = {
    "link": 'table = "t"', "attribute": 'node = "item"\ncolumn = "c"',
    "bins": 'node = "item"\ncolumn = "c"\nquantiles = 2',
    "text": 'node = "item"\ncolumns = ["c"]', "texts": 'of = "overview"', "cooccurrence": "window = 2",
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_relation_may_have_one(study_file, kind):
    text = study_file.read_text().partition("[relations.driver]")[0]
    study_file.write_text(text + f'[relations.r]\nkind = "{kind}"\ntitle = "Tags"\n{KINDS[kind]}\n')
    assert read_study(study_file).titles == {"r": "Tags"}


@pytest.mark.parametrize(
    ("arm", "title"),
    [
        (INTERACTIONS, "interactions"),
        (all_of(["a", "b"]), "all"),
        (all_without(["a", "b"], "a"), "all without Tags"),
        (all_without(["a", "b"], "b"), "all without b"),
        (alone("a"), "interactions + Tags"),
        (with_relations(["b", "a"]), "interactions + Tags + b"),
        (rewired(["a", "b"], "a"), "all, Tags rewired"),
        (alone_rewired("a"), "interactions + Tags, Tags rewired"),
    ],
)
def test_arms_are_read_with_titles(arm, title):
    assert arm.titled({"a": "Tags"}) == title
    assert arm.titled({}) == arm.name


def test_sentences_of_chains_and_of_what_is_not_read():
    titles, hops = {"by": "Author", "from": "Country"}, {"by": (), "from": ("by",)}
    assert (
        _chain_sentences("by", ["by", "from"], hops, titles)
        == " Without it Country cannot be read and is left out, too."
    )
    assert _chain_sentences("from", ["by", "from"], hops, titles).startswith(
        " It is read through Author, beside which"
    )
    assert _not_read("m", "from", titles)["sentence"] == "Country is not read by m."
    assert _not_read("m", "from", titles)["relation"] == "from"


def test_accepted_leaks_and_gains_to_look_at_are_told_with_titles():
    board = pl.DataFrame({"model": ["m"], "arm": ["interactions"], "mean": [0.1]})
    effects = pl.DataFrame({"model": ["m"], "relation": ["tags"], "kind": ["alone"], "mean": [0.8]})
    leak = Finding("leak", "check", "message", 1, ("tags",))
    card = {"relations": [{"name": "tags", "title": "What they read"}], "notices": []}
    verdicts = pl.DataFrame({"sentence": ["What they read helps."]})
    card, verdicts = finish(card, board, effects, verdicts, [leak], ["tags"])
    assert verdicts["sentence"].to_list() == ["What they read helps. (leak accepted: What they read)"]
    assert [text.partition(":")[0] for text in card["suspicious_gains"]] == ["look at What they read"]
    assert card["accepted_leaks"][0]["names"] == ["tags"]


def test_an_audit_speaks_of_titles_and_accepts_names(tmp_path):
    rows = [(u, (u + k) % 12, k) for u in range(40) for k in range(6)]
    for name in ("bought", "clicked"):
        pl.DataFrame(rows, schema=["u", "i", "t"], orient="row").write_csv(tmp_path / f"{name}.csv")
    path = tmp_path / "leak.toml"
    path.write_text(
        'name = "leak"\n[data]\nuser = "user"\nitem = "item"\n[data.interactions]\nfile = "bought.csv"\n'
        'user = "u"\nitem = "i"\ntime = "t"\n[data.links.table]\nfile = "clicked.csv"\nsource = "user"\n'
        'source_column = "u"\ntarget = "item"\ntarget_column = "i"\n[protocol]\nsplit = "last-leave-one-out"\n'
        '[relations.clicks]\nkind = "link"\ntable = "table"\ntitle = "What they looked at"\n'
        '[relations.near]\nkind = "cooccurrence"\ntitle = "Seen together"\n'
    )
    ran = CliRunner().invoke(app, ["audit", str(path)], env={"COLUMNS": "300"})
    assert ran.exit_code == 1, ran.output
    assert "test rows in What they looked at" in ran.output
    assert "edges of relation What they looked at" in ran.output
    assert "own steps in Seen together" in ran.output
    assert "What they looked at: user → item" in ran.output  # the graph
    assert "clicks" not in ran.output
    assert "near" not in ran.output
    ran = CliRunner().invoke(app, ["study", str(path)])
    assert 'accept_leaks = ["clicks"]' in " ".join(str(ran.exception).split())
