"""``relrank atlas``: two tiny planted studies and a control, what the page says of them, resuming and failing."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest
from typer.testing import CliRunner

from relrank.cli.app import app
from relrank.errors import InputError
from relrank.evaluation.comparison import compare
from relrank.evaluation.evaluate import mean_metric, user_metric
from relrank.evaluation.meta_analysis import pool_effects
from relrank.models.closed_form.sparse_ease import WEIGHTS, SparseEASE, SparseEASEConfig
from relrank.report.atlas import picture
from relrank.report.atlas.page import gain_text, leak_twins, md
from relrank.study.atlas.claims import judge
from relrank.study.atlas.config import Claim, read_atlas
from relrank.study.atlas.gains import (
    CLOSED,
    LIGHTGCN,
    Gain,
    Worth,
    effect_row,
    estimate,
    pooled,
    reading,
    worth_of,
)
from relrank.study.atlas.if_used import UsedRelation, used_relation
from relrank.study.atlas.run import seconds_left, stored_outcome
from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.result import StudyResult
from relrank.testing import planted_study

MODELS = """[[models]]
name = "popularity"
[[models]]
name = "sparse-ease"
[[models]]
name = "relational-lightgcn"
arms = ["interactions", "alone"]
config = { dim = 8 }
train = { epochs = 2, every = 1 }
"""
CLAIM = """[[claims]]
text = "Drivers | matter."
source = "Nobody, 2020"
url = "https://example.org/paper"
study = "one"
relation = "driver"
model = "sparse-ease"
expect = "helps"
"""
ATLAS = f"""title = "Tiny atlas"
[[studies]]
file = "one.toml"
title = "Shop <one>"
relations = {{ driver = "tastes", noise = "noise" }}
[[studies]]
file = "two.toml"
relations = {{ driver = "tastes" }}
[[studies]]
file = "control.toml"
control = true
{CLAIM}
[[claims]]
text = "All of them are worth nothing."
source = "Somebody"
url = "https://example.org"
study = "two"
model = "sparse-ease"
expect = "negligible"
note = "Their test rows leak."
[[claims]]
text = "Noise hurts LightGCN beyond popularity."
source = "Somebody"
url = "https://example.org"
study = "one"
model = "relational-lightgcn"
against = "popularity"
expect = "hurts"
"""


LEFT_OUT = """
[[claims]]
text = "Noise is worth something."
source = "Nobody, 2020"
study = "one"
relation = "noise"
model = "sparse-ease"
expect = "helps"
[[claims]]
text = "Noise matters more than drivers."
source = "Nobody, 2020"
study = "one"
relation = "noise"
more_than = ["driver"]
model = "sparse-ease"
expect = "helps"
"""
"""Claims about a relation to which the search gives no weight."""


def small(name, seed, relations=("driver", "noise")):
    return planted_study(
        name, 300, 120, groups=8, seed=seed, relations=relations, study="seeds = [0]\ntrials = 12", models=MODELS
    )


def run(home: Path, *words: str, code: int = 0) -> str:
    """The output of the command with an atlas in a folder; the page is docs/atlas.md there."""
    named = [str(home / "atlas.toml"), "--out", str(home / "runs"), "--page", str(home / "docs" / "atlas.md")]
    result = CliRunner().invoke(app, ["atlas", *named, *words])
    if isinstance(result.exception, InputError):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def write(home: Path, text: str = ATLAS) -> None:
    for seed, name in enumerate(("one", "two")):
        (home / f"{name}.toml").write_text(small(name, seed))
    control = planted_study("control", 200, 80, groups=8, relations=("driver",), study="trials = 4\nseeds = [0]")
    (home / "control.toml").write_text(control)
    (home / "atlas.toml").write_text(text)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished atlas, which no test changes, and what the command printed."""
    home = tmp_path_factory.mktemp("atlas")
    write(home)
    printed = run(home)
    return SimpleNamespace(home=home, printed=printed, page=(home / "docs" / "atlas.md").read_text("utf-8"))


@pytest.fixture
def copied(done, tmp_path):
    """The finished atlas in a folder of its own."""
    import shutil

    shutil.copytree(done.home, tmp_path / "home")
    return tmp_path / "home"


def worth_in_percent(home, study, model, kind="alone", relation="driver"):
    """Gain and interval in percent, worked out from the stored tables."""
    result = StudyResult.load(home / "runs" / study)
    board = result.leaderboard.filter((pl.col("model") == model) & (pl.col("arm") == "interactions"))
    row = result.effects.filter(
        (pl.col("model") == model) & (pl.col("kind") == kind) & (pl.col("relation") == relation)
    )
    return [100 * row[part][0] / board["mean"][0] for part in ("mean", "low", "high")]


def shown(values):
    mean, low, high = (f"{v:+.1f}".replace("-", "−").replace("+0.0", "0").replace("−0.0", "0") for v in values)
    return f"{mean} % ({low} to {high} %)"


def row_of(page, *starts):
    """The row of a table that begins with these cells."""
    lines = [line for line in page.splitlines() if line.startswith("| " + " | ".join(starts) + " |")]
    assert lines, starts
    return lines[0]


def test_the_page_has_the_studies_own_figures(done):
    row = row_of(done.page, r"tastes (driver)", r"Shop \<one\>")
    for model in ("sparse-ease", "relational-lightgcn"):
        assert shown(worth_in_percent(done.home, "one", model)) in row
    verdicts = StudyResult.load(done.home / "runs" / "one").verdicts
    of_ease = verdicts.filter((pl.col("model") == "sparse-ease") & (pl.col("relation") == "driver"))
    assert f", {of_ease['verdict'][0]} |" in row
    both = row_of(done.page, "tastes", "two", "sparse-ease")
    for kind in ("held", "drop", "alone"):
        assert shown(worth_in_percent(done.home, "two", "sparse-ease", kind)) in both
    assert "± 1 %" in both


def test_effects_of_one_kind_are_pooled(done):
    gains = [worth_in_percent(done.home, study, "sparse-ease") for study in ("one", "two")]
    errors = [(high - low) / 2 / 1.959964 for _, low, high in gains]
    expected = pool_effects([gain[0] for gain in gains], errors, 5.0)
    row = row_of(done.page, "tastes", "closed form", "2")
    assert shown((expected.mean, expected.low, expected.high)) in row
    assert f"{expected.spread:.1f} ({expected.spread_low:.1f} to {expected.spread_high:.1f})" in row
    assert "noise, closed form (Shop \\<one\\>)" in done.page  # one data set is no estimate


def test_controls_stand_by_themselves(done):
    row = row_of(done.page, "control", "driver", "helps")
    assert "sparse-ease" in row
    assert re.search(r"[✓✗] \|$", row)
    assert "control" not in row_of(done.page, "tastes", "closed form", "2")


def test_claims_are_judged(done):
    first = next(line for line in done.page.splitlines() if line.startswith(r"| Drivers \| matter."))
    assert "[Nobody, 2020](https://example.org/paper)" in first
    assert "**holds**" in first
    second = next(line for line in done.page.splitlines() if line.startswith("| All of them are worth nothing"))
    assert "**does not hold**" in second
    assert "Their test rows leak." in second
    third = next(line for line in done.page.splitlines() if line.startswith("| Noise hurts LightGCN"))
    assert "**not tested**" in third  # LightGCN did not run on all relations
    answer = done.page[: done.page.index("## What relations are worth")]
    begin = "- **1 of 3 published claims does not hold** ([how claims are decided](#published-claims)):\n"
    said = "    - “All of them are worth nothing.” ([Somebody](https://example.org)): here **+"
    assert begin + said in answer
    assert "sparse-ease on two; it is shown to be beyond ± 1 %.\n" in answer
    assert "against popularity on" in answer
    assert "- **1 of 3 published claims holds**:\n" in answer
    assert "- **1 of 3 published claims could not be tested**:\n" in answer
    assert "does not hold: All of them are worth nothing. (Somebody)" in done.printed


def test_the_page_says_what_was_studied(done):
    card = json.loads((done.home / "runs" / "one" / "card.json").read_text("utf-8"))
    row = next(line for line in done.page.splitlines() if line.startswith(r"| [Shop \<one\>](../one.toml)"))
    for text in ("300", "120", "NDCG@10", card["fingerprints"][0][:12], "seeds 0", "sparse-ease ."):
        assert text in row
    assert f"relrank {card['machine']['relrank']}, torch {card['machine']['torch']}" in done.page
    cost = row_of(done.page, "tastes", "two", "120")
    assert re.search(r"\| [+−]?\d\.\d\d s \| [+−]?\d\.\d\d s \| – \|$", cost), cost


@pytest.mark.parametrize("name", ["atlas.svg", "atlas-narrow.svg"])
def test_the_pictures_have_the_figures_of_the_table(done, name):
    root = ET.parse(done.home / "docs" / name).getroot()
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    for model in ("sparse-ease", "relational-lightgcn"):
        assert shown(worth_in_percent(done.home, "one", model)).partition(" %")[0] in texts
    assert {"tastes", "two", "over data sets", "driver"} <= set(texts)
    style = next(root.iter("{http://www.w3.org/2000/svg}style")).text
    assert "prefers-color-scheme:dark" in style
    assert name in done.page


def test_finished_cells_are_not_run_again(copied):
    cells = {path: path.stat().st_mtime_ns for path in (copied / "runs").glob("*/cells/*/cell.json")}
    before = (copied / "docs" / "atlas.md").read_text("utf-8")
    printed = run(copied)
    assert printed.count("finished earlier and are reused") >= 3
    assert {path: path.stat().st_mtime_ns for path in (copied / "runs").glob("*/cells/*/cell.json")} == cells
    assert _without_days((copied / "docs" / "atlas.md").read_text("utf-8")) == _without_days(before)


def _without_days(page):
    return re.sub(r"\d{4}-\d\d-\d\d", "", page)


def test_an_interrupted_atlas_goes_on(copied):
    for left in ("card.json", "manifest.json"):
        (copied / "runs" / "two" / left).unlink()
    cells = {path.name for path in (copied / "runs" / "two" / "cells").iterdir()}
    printed = run(copied, "--only", "two")
    assert "study 1 of 1: two" in printed
    assert "finished earlier and are reused" in printed
    assert {path.name for path in (copied / "runs" / "two" / "cells").iterdir()} == cells
    assert "3 of 3 studies are on the page" in printed


@pytest.mark.parametrize(
    ("names", "answered"), [([], True), (["noise"], True), (["driver"], False), (["interactions"], False)]
)
def test_a_leak_answers_no_claim(copied, names, answered):
    """A leak in the split concerns every relation, one of another relation none."""
    atlas = read_atlas(copied / "atlas.toml")
    outcome = stored_outcome(atlas.study("one", ""), copied / "runs")
    leaks = [{"names": names, "check": "", "message": "", "count": 1}] if names else []
    result = replace(outcome.result, card=outcome.result.card | {"accepted_leaks": leaks})
    judged = judge(atlas.config.claims[0], replace(outcome, result=result))
    assert (judged.answer != "not tested") == answered
    leaking = {worth.relation: worth.leaks for worth in worth_of(replace(outcome, result=result))}
    assert leaking["driver"] == (not answered)


def with_noise(kind, metric):
    """The metric of every test user with the weight of noise above 0 that validates best, and with 0, solved here."""
    study = read_study(kind / "one.toml")
    context = prepare(study, kind).split_contexts[0]
    row = effect_row(StudyResult.load(kind / "runs" / "one"), "sparse-ease", "alone", "noise")
    cells = json.loads((kind / "runs" / "one" / "card.json").read_text("utf-8"))["cells"]
    key = next(c["key"] for c in cells if (c["model"], c["arm"]) == ("sparse-ease", row["arm_a"]))
    chosen = json.loads((kind / "runs" / "one" / "cells" / key / "cell.json").read_text("utf-8"))["chosen"]
    assert chosen["weights"] == {"noise": 0.0}
    graph = context.graph.only("noise")
    zero, *models = [
        SparseEASE(graph, SparseEASEConfig(**chosen | {"weights": {"noise": weight}})).solve() for weight in WEIGHTS
    ]
    best = max(models, key=lambda model: mean_metric(model, context.split, metric))
    return [user_metric(model, context.split, metric, "test") for model in (best, zero)]


def test_a_relation_that_the_search_leaves_out_is_measured(copied):
    """Against models solved here: its best weight above 0, and the same once more from what was stored."""
    (copied / "atlas.toml").write_text(ATLAS + LEFT_OUT)
    run(copied, "--pages-only")
    page = (copied / "docs" / "atlas.md").read_text("utf-8")
    assert "has not been measured yet: run the atlas" in page
    assert "sparse-ease with noise in use" in run(copied, "--only", "one")
    outcome = stored_outcome(read_atlas(copied / "atlas.toml").study("one", ""), copied / "runs")
    board = outcome.result.leaderboard
    base = board.filter((pl.col("model") == "sparse-ease") & (pl.col("arm") == "interactions"))["mean"][0]
    used = used_relation(outcome, effect_row(outcome.result, "sparse-ease", "alone", "noise"))
    assert used.left_out == (1, 1)
    (without,) = used.without
    values, at_zero = with_noise(copied, "ndcg@10")
    assert without["ndcg@10"].to_list() == at_zero.tolist()
    assert used.effect().mean == pytest.approx((values - at_zero).mean(), abs=1e-7)
    assert used.effect().mean != 0
    added = compare(without.with_columns(pl.Series("ndcg@10", values)), without, "ndcg@10")
    page = (copied / "docs" / "atlas.md").read_text("utf-8")
    line = next(line for line in page.splitlines() if line.startswith("| Noise is worth something."))
    assert shown([100 * value / base for value in (added.mean, added.low, added.high)]) in line
    assert "(tuning leaves out the relation; figures are with the weight above 0 that validates best)" in line
    line = next(line for line in page.splitlines() if line.startswith("| Noise matters more than drivers."))
    assert "helps more" in line
    assert "noise more than driver" in line
    assert "**does not hold**: the difference to driver is " in line
    assert "(tuning leaves out noise; figures are with" in line
    assert shown([100 * value / base for value in (added.mean, added.low, added.high)]) in line
    driver = worth_in_percent(copied, "one", "sparse-ease")[0]
    assert f"is {100 * added.mean / base - driver:.1f} %".replace("-", "−") in line
    assert "sparse-ease with noise in use" not in run(copied, "--only", "one")


def test_a_measurement_that_fails_does_not_cost_the_study(copied, monkeypatch):
    def fail(*given):
        raise MemoryError("no room")

    monkeypatch.setattr("relrank.study.atlas.if_used._on_split", fail)
    (copied / "atlas.toml").write_text(ATLAS + LEFT_OUT)
    assert "could not be measured: MemoryError: no room" in run(copied, "--only", "one")
    page = (copied / "docs" / "atlas.md").read_text("utf-8")
    assert "has not been measured yet" in next(x for x in page.splitlines() if x.startswith("| Noise is worth"))
    assert "**holds**" in next(x for x in page.splitlines() if x.startswith("| Drivers"))


def test_a_relation_without_weight_has_no_gain_by_the_luck_of_other_settings(copied):
    """Its arm may have another penalty than the interactions alone; that is not what the relation adds."""
    outcome = stored_outcome(read_atlas(copied / "atlas.toml").study("one", ""), copied / "runs")
    is_alone = pl.col("kind") == "alone"
    effects = outcome.result.effects.with_columns(
        pl.when(is_alone).then(0.02).otherwise(pl.col(part)).alias(part) for part in ("mean", "low", "high")
    )
    worths = worth_of(replace(outcome, result=replace(outcome.result, effects=effects)))
    gain = {worth.relation: worth.alone for worth in worths if worth.model == "sparse-ease"}
    assert gain["noise"] == Gain(0.0, 0.0, 0.0)
    assert gain["driver"].mean > 0


@pytest.mark.parametrize(("left_out", "answer"), [((5, 5), "holds"), ((1, 5), "does not hold")])
def test_a_loss_is_negligible_only_if_the_search_never_uses_the_relation(copied, monkeypatch, left_out, answer):
    outcome = stored_outcome(read_atlas(copied / "atlas.toml").study("one", ""), copied / "runs")
    (without,) = used_relation(outcome, effect_row(outcome.result, "sparse-ease", "alone", "noise")).without
    worse = [without.with_columns(pl.col("ndcg@10") * 0.8)]
    used = UsedRelation("noise", {}, left_out, "ndcg@10", worse, [without])
    monkeypatch.setattr("relrank.study.atlas.claims.used_relation", lambda *given: used)
    claim = Claim(text="", source="", study="one", relation="noise", model="sparse-ease", expect="negligible")
    assert judge(claim, outcome).answer == answer


@pytest.mark.parametrize(("split", "tested"), [("last-leave-one-out", False), ("random-leave-one-out", True)])
def test_starts_on_the_same_test_rows_answer_nothing_about_relations_in_use(copied, monkeypatch, split, tested):
    """Their variance needs more arms than the two that are compared."""
    outcome = stored_outcome(read_atlas(copied / "atlas.toml").study("one", ""), copied / "runs")
    (without,) = used_relation(outcome, effect_row(outcome.result, "relational-lightgcn", "alone", "noise")).without
    used = UsedRelation("noise", {}, (1, 2), "ndcg@10", [without, without], [without, without])
    monkeypatch.setattr("relrank.study.atlas.claims.used_relation", lambda *given: used)
    config = outcome.study.config
    study = config.study.model_copy(update={"seeds": (0, 1)})
    protocol = config.protocol.model_copy(update={"split": split})
    config = config.model_copy(update={"study": study, "protocol": protocol})
    outcome = replace(outcome, study=replace(outcome.study, config=config))
    claim = Claim(text="", source="", study="one", relation="noise", model="relational-lightgcn", expect="helps")
    assert (judge(claim, outcome).answer != "not tested") == tested


def test_without_its_cells_a_study_answers_no_claim_of_one_relation(copied):
    import shutil

    shutil.rmtree(copied / "runs" / "one" / "cells")
    run(copied, "--pages-only")
    page = (copied / "docs" / "atlas.md").read_text("utf-8")
    assert "the study's cells cannot be read" in next(x for x in page.splitlines() if x.startswith("| Drivers"))
    assert "**does not hold**" in next(x for x in page.splitlines() if x.startswith("| All of them"))


@pytest.mark.parametrize(("arm", "answered"), [("all", True), ("interactions", False)])
def test_a_claim_against_another_model_needs_an_arm_with_relations(copied, arm, answered):
    """A model that beats another one on the interactions alone says nothing of relations."""
    atlas = read_atlas(copied / "atlas.toml")
    outcome = stored_outcome(atlas.study("one", ""), copied / "runs")
    effects = outcome.result.effects
    row = effects.filter((pl.col("model") == "sparse-ease") & (pl.col("kind") == "gain")).with_columns(
        kind=pl.lit("versus"), other=pl.lit("popularity"), arm_a=pl.lit(arm), arm_b=pl.lit("interactions")
    )
    result = replace(outcome.result, effects=pl.concat([effects, row], how="vertical_relaxed"))
    claim = atlas.config.claims[2].model_copy(update={"model": "sparse-ease"})
    judged = judge(claim, replace(outcome, result=result))
    assert (judged.answer != "not tested") == answered


def test_what_a_leak_pretends_stands_beside_the_gain_without_it(copied):
    """Only for the same data: a study of other data with the same kind of relation says nothing of this leak."""
    atlas = read_atlas(copied / "atlas.toml")
    clean, other = (stored_outcome(atlas.study(name, ""), copied / "runs") for name in ("one", "two"))
    leak = {"names": ["driver"], "check": "", "message": "", "count": 1}
    result = replace(clean.result, card=clean.result.card | {"accepted_leaks": [leak]})
    renamed = replace(clean.study, config=clean.study.config.model_copy(update={"name": "naive"}))
    leaking = replace(clean, result=result, study=renamed)
    sentences = leak_twins([clean, leaking], [*worth_of(clean), *worth_of(leaking)])
    assert len(sentences) == 2, "closed form and LightGCN"
    gain = shown(worth_in_percent(copied, "one", "sparse-ease"))
    assert f"With a leak the gain of tastes seems to be **{gain}** (sparse-ease, " in sentences[0]
    assert f"without it, it is **{gain}**" in sentences[0]
    fewer = [m.model_copy(update={"trials": 2}) for m in renamed.config.models]
    untuned = replace(renamed, config=renamed.config.model_copy(update={"models": tuple(fewer)}))
    assert not leak_twins([clean, replace(leaking, study=untuned)], [*worth_of(clean), *worth_of(leaking)])
    assert not leak_twins([other, leaking], [*worth_of(other), *worth_of(leaking)])


def test_one_kind_of_relation_counts_once_per_data_set(copied):
    """A second study of the same data under one kind is refused; one that leaks is not pooled, so it may stay."""
    (copied / "again.toml").write_text(small("again", 1))
    text = ATLAS + '\n[[studies]]\nfile = "again.toml"\nrelations = { driver = "tastes" }\n'
    (copied / "atlas.toml").write_text(text)
    with pytest.raises(InputError, match="the same data give one kind of relation twice"):
        run(copied, "--pages-only")
    leaking = small("again", 1).replace("trials = 12", 'trials = 12\naccept_leaks = ["driver"]')
    (copied / "again.toml").write_text(leaking)
    assert "again is not: it has not finished" in run(copied, "--pages-only")


def test_a_changed_study_file_is_an_unfinished_study(copied):
    (copied / "two.toml").write_text(small("two", 1).replace("trials = 12", "trials = 11"))
    printed = run(copied, "--pages-only")
    assert "two is not: its study file has changed since it ran" in printed
    assert "**two is not on this page:** its study file has changed since it ran." in (
        copied / "docs" / "atlas.md"
    ).read_text("utf-8")


def test_one_failing_study_does_not_end_the_others(copied):
    broken = small("broken", 3).replace('column = "noise"', 'column = "absent"')
    (copied / "broken.toml").write_text(broken)
    text = ATLAS.replace("[[studies]]", '[[studies]]\nfile = "broken.toml"\n[[studies]]', 1)
    (copied / "atlas.toml").write_text(text)
    (copied / "runs" / "two" / "card.json").unlink()
    printed = run(copied, code=1)
    assert re.search(r"study 1 of 4: broken\nbroken failed, .*absent", printed)
    assert re.search(r"study 3 of 4: two, .* left", printed)
    page = (copied / "docs" / "atlas.md").read_text("utf-8")
    assert "**broken is not on this page:**" in page
    assert row_of(page, "tastes", "closed form", "2")


def test_only_runs_what_it_names(tmp_path):
    write(tmp_path)
    assert "study 1 of 1: control" in run(tmp_path, "--only", "control")
    assert not (tmp_path / "runs" / "one").exists()
    page = (tmp_path / "docs" / "atlas.md").read_text("utf-8")
    assert "two is not on this page:** it has not finished." in page
    assert "No relation of real data has been measured" in page
    with pytest.raises(InputError, match=r"unknown study(.|\n)*did you mean 'control'"):
        run(tmp_path, "--only", "controls")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('driver = "tastes", ', 'drivers = "tastes", ', "unknown relation.*'drivers'; did you mean 'driver'"),
        ('study = "one"', 'study = "onne"', "unknown study.*claims.0.study.*did you mean 'one'"),
        ('relation = "driver"', 'relation = "fame"', "unknown relation.*claims.0.relation"),
        ('model = "sparse-ease"', 'model = "ease"', "unknown model.*claims.0.model"),
        ('against = "popularity"', 'against = "random"', "unknown model.*claims.2.against"),
        ('file = "two.toml"', 'file = "one.toml"', "study is listed twice.*'one'"),
        ('file = "two.toml"', 'file = "three.toml"', "no such file.*three.toml"),
        ('noise = "noise"', 'noise = "tastes"', "driver and noise are both 'tastes'"),
        ('expect = "helps"', 'expect = "helps"\ngain = -3', "above 0 for helps"),
        ('expect = "helps"', 'expect = "helps"\ngain = 3\ndifference = 0.1', "not both"),
        ('expect = "negligible"', 'expect = "negligible"\ngain = 3', "no gain and no difference"),
        ('expect = "helps"', 'expect = "help"', "did you mean 'helps'"),
        ('url = "https://example.org/paper"', 'url = "javascript:alert(1)"', "claims.0.url"),
        ("control = true", "contrl = true", "unknown key.*did you mean 'control'"),
        ('against = "popularity"', 'against = "popularity"\nrelation = "noise"', 'relation = "all"'),
    ],
)  # fmt: skip
def test_mistakes_are_named(tmp_path, old, new, message):
    write(tmp_path, ATLAS.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"(?s){message}"):
        read_atlas(tmp_path / "atlas.toml")


def worth(mean, half, **others):
    given = {"study": "s", "kind": "k", "relation": "r", "title": "r", "family": CLOSED, "model": "m", "kept": None}
    given |= {"tuned": None, "margin": 1.0, "verdict": None, "true_verdict": None, "leaks": False, "links": 1}
    return Worth(**given | {"seconds": None, "alone": Gain(mean, mean - half, mean + half)} | others)


def test_a_relation_that_the_search_leaves_out_is_called_so():
    assert gain_text(Gain(0.0, 0.0, 0.0)) == "0 % (no weight)"
    assert gain_text(Gain(0.0, -0.01, 0.01)) == "0 % (0 to 0 %)"


@pytest.mark.parametrize("missing", [["drop"], ["held", "drop"]])
def test_a_model_that_was_never_asked_what_a_relation_adds_beside_others_has_no_verdict(done, missing):
    outcome = stored_outcome(read_atlas(done.home / "atlas.toml").study("one", ""), done.home / "runs")
    effects = outcome.result.effects.filter(~pl.col("kind").is_in(missing))
    asked = replace(outcome, result=replace(outcome.result, effects=effects))
    (given,) = outcome.result.verdicts.filter((pl.col("model") == "sparse-ease") & (pl.col("relation") == "driver"))[
        "verdict"
    ]
    (found,) = (w.verdict for w in worth_of(asked) if (w.model, w.relation) == ("sparse-ease", "driver"))
    assert found == (None if "held" in missing else given)
    assert given


def test_one_relation_is_not_shown_again_as_all_together(done):
    outcome = stored_outcome(read_atlas(done.home / "atlas.toml").study("one", ""), done.home / "runs")
    config = outcome.study.config
    relations = {"driver": config.relations["driver"]}
    alone = replace(outcome, study=replace(outcome.study, config=config.model_copy(update={"relations": relations})))
    assert "all" in {worth.relation for worth in worth_of(outcome)}
    assert "all" not in {worth.relation for worth in worth_of(alone)}


def test_what_is_pooled():
    """Neither leaks nor other models; a gain of exactly 0 has the margin as its interval."""
    worths = [worth(2, 1), worth(0, 0), worth(9, 1, leaks=True), worth(9, 1, family=LIGHTGCN), worth(9, 1, kind="j")]
    parts = pooled(worths, "k", CLOSED)
    assert parts == worths[:2]
    assert [one.error for one in parts] == pytest.approx([1 / 1.959964, 1 / 1.959964])
    assert estimate(parts, 5.0).mean == pytest.approx(1.0)
    assert estimate(parts[:1], 5.0) is None


def test_what_an_interval_says():
    assert reading(0.5, 2.0, (0.6, 1.9), 1.0) == "helps"
    assert reading(-2.0, -0.5, (-1.9, -0.6), 1.0) == "hurts"
    assert reading(-0.9, 0.8, (-0.7, 0.6), 1.0) == "negligible"
    assert reading(-1.5, 0.8, (-1.2, 0.6), 1.0) == "undecided"


def test_time_left_follows_the_hours_of_the_file(done):
    one, two, three = (
        replace(study, entry=study.entry.model_copy(update={"hours": hours}))
        for study, hours in zip(read_atlas(done.home / "atlas.toml").studies, (1.0, 3.0, None), strict=True)
    )
    assert seconds_left([], 10.0, [one, two]) is None
    assert seconds_left([one], 600.0, [two]) == 1800
    assert seconds_left([one], 600.0, [two, three]) == 600 * (3 + 2)  # one without hours: the mean of 1 and 3
    assert seconds_left([three], 600.0, [three, three]) == 1200


def test_many_data_sets_are_drawn_in_parts():
    marks = {CLOSED: picture.Mark(Gain(1.0, 0.0, 2.0), "helps"), LIGHTGCN: None}
    columns = tuple(f"set {n}" for n in range(9))
    group = picture.Group("Gain", columns, (("tags", (marks,) * 9), ("rare", (None,) * 8 + (marks,))), 1.0)
    wide = ET.fromstring(picture.wide_picture([group], "t"))
    texts = [element.text for element in wide.iter("{http://www.w3.org/2000/svg}text")]
    assert {"Gain", "Gain, continued", *columns} <= set(texts)
    assert texts.count("tags") == 2
    assert texts.count("rare") == 1
    narrow = ET.fromstring(picture.narrow_picture([group], "t"))
    assert narrow.get("width") == "390"


def test_text_of_a_user_has_no_meaning_in_markdown():
    assert md("a|b <i> [x](y) *z* `c` & d\ne") == r"a\|b \<i\> \[x\](y) \*z\* \`c\` &amp; d e"
