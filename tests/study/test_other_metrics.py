"""Effects on other metrics than the study's, by hand, and the line on contradictions to a verdict."""

import io
from dataclasses import replace
from types import SimpleNamespace

import polars as pl
import pytest
from rich.console import Console

from relrank.cli.live import _print_contradictions, print_result
from relrank.evaluation.comparison import compare
from relrank.report.page import render
from relrank.report.verdict_summary import answer
from relrank.study.arms import INTERACTIONS, all_of, all_without, alone, rewired
from relrank.study.config import read_study
from relrank.study.metric_effects import contradicting_effects, in_words, metric_effects
from relrank.study.model_effects import ModelEffects
from relrank.study.prepare import prepare
from relrank.study.result_tables import effects_and_verdicts
from relrank.study.results_by_arm import ResultsByArm
from relrank.study.run import run_study

RELATIONS = ["a", "b", "c"]
METRICS = {"ndcg@5": 0, "ndcg@20": 1, "recall@20": 2, "mrr": 3}


def cell(arm, ndcg, ndcg_20, recall, mrr, seed=0):
    """Three users, whose values are given by metric."""
    columns = dict(zip(METRICS, (ndcg, ndcg_20, recall, mrr), strict=True))
    table = pl.DataFrame({"user": [1, 2, 3], **columns, "novelty@5": [1.0, 2.0, 3.0], "rank": [1, 2, 3]})
    evaluation = SimpleNamespace(table=table, summary={"ndcg@5": sum(ndcg) / 3})
    return arm, SimpleNamespace(model="m", seed=seed, evaluation=evaluation, held=None, history=None, trials=())


def test_differences_of_every_other_metric_by_hand():
    found = ResultsByArm(
        [
            cell(all_of(RELATIONS), [0.5, 0.5, 0.5], [0.6, 0.7, 0.8], [1.0, 1.0, 0.0], [0.5, 0.5, 0.25]),
            cell(all_without(RELATIONS, "a"), [0.4, 0.4, 0.4], [0.5, 0.5, 0.8], [1.0, 1.0, 1.0], [0.5, 0.25, 0.25]),
            cell(alone("a"), [0.3, 0.3, 0.3], [0.4, 0.5, 0.3], [0.0, 1.0, 0.0], [0.5, 0.5, 0.5]),
            cell(INTERACTIONS, [0.1, 0.1, 0.1], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [0.0, 0.25, 0.5]),
            cell(rewired(RELATIONS, "a"), [0.4, 0.4, 0.4], [0.1, 0.2, 0.3], [0.0, 0.0, 0.0], [0.0, 0.25, 0.5]),
        ],
        "ndcg@5",
    )
    effects, _ = effects_and_verdicts([ModelEffects(found, "m", RELATIONS, 0.01)], RELATIONS, None)
    table = metric_effects(found, effects)
    rows = {(r["relation"], r["kind"], r["measure"]): r for r in table.to_dicts()}
    means = {key: row["mean"] for key, row in rows.items()}
    assert means == pytest.approx(
        {
            (None, "gain", "ndcg@20"): (0.5 + 0.5 + 0.5) / 3,
            (None, "gain", "recall@20"): 2 / 3,
            (None, "gain", "mrr"): (0.5 + 0.25 - 0.25) / 3,
            ("a", "drop", "ndcg@20"): (0.1 + 0.2 + 0.0) / 3,
            ("a", "drop", "recall@20"): -1 / 3,
            ("a", "drop", "mrr"): 0.25 / 3,
            ("a", "alone", "ndcg@20"): (0.3 + 0.3 + 0.0) / 3,
            ("a", "alone", "recall@20"): 1 / 3,
            ("a", "alone", "mrr"): (0.5 + 0.25 + 0.0) / 3,
        }
    )
    whole, less = (found.tables("m", name) for name in ("all", "all without a"))
    same = compare(whole, less, "ndcg@20")
    row = rows["a", "drop", "ndcg@20"]
    assert (row["low"], row["high"], row["n_users"], row["n_seeds"]) == (same.low, same.high, 3, 1)


def verdict(relation, word):
    return {"model": "m", "relation": relation, "verdict": word}


def effect(relation, kind, measure, mean, half):
    return {"model": "m", "relation": relation, "kind": kind, "measure": measure, "mean": mean,
            "low": mean - half, "high": mean + half}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "kind", "mean", "is_contrary"),
    [
        ("helps", "drop", -0.004, True),
        ("helps", "drop", 0.004, False),
        ("helps", "drop", -0.002, False),  # the interval includes 0
        ("helps", "alone", -0.004, False),  # not what the verdict claims
        ("hurts", "drop", 0.004, True),
        ("hurts", "drop", -0.004, False),
        ("interchangeable", "alone", -0.004, True),
        ("interchangeable", "drop", -0.004, False),
        ("undecided", "drop", -0.004, False),
        ("negligible", "drop", -0.004, False),
        ("not read", "drop", -0.004, False),
    ],
)
def test_only_a_claim_can_be_contradicted_and_only_by_an_interval_on_the_other_side(word, kind, mean, is_contrary):
    effects = pl.DataFrame([effect("tags", kind, "recall@50", mean, 0.003), effect("text", kind, "mrr", -1.0, 0.1)])
    rows = contradicting_effects(pl.DataFrame([verdict("tags", word)]), effects)
    assert [row["measure"] for row in rows] == ["recall@50"] * is_contrary


def test_the_most_certain_metric_speaks():
    rows = [("recall@50", -0.02, 0.019), ("mrr", -0.004, 0.001), ("map@10", 0.5, 0.1)]
    effects = pl.DataFrame([effect("tags", "drop", *row) for row in rows])
    (row,) = contradicting_effects(pl.DataFrame([verdict("tags", "helps")]), effects)
    assert row["measure"] == "mrr"
    assert in_words(row, "ndcg@10", {"tags": "Tags"}) == (
        "Tags helps ndcg@10 with m, but costs mrr: -0.0040 (-0.0050 to -0.0030)"
    )
    hurts = row | {"verdict": "hurts", "mean": 0.004, "low": 0.003, "high": 0.005}
    assert in_words(hurts, "ndcg@10") == "tags hurts ndcg@10 with m, but adds to mrr: +0.0040 (+0.0030 to +0.0050)"


def test_many_contradictions_stay_one_line():
    names, out = ["a", "b", "c", "d"], io.StringIO()
    result = SimpleNamespace(
        card={"metric": "ndcg@10"}, decimals=4, verdicts=pl.DataFrame([verdict(name, "helps") for name in names]),
        metric_effects=pl.DataFrame([effect(name, "drop", "mrr", -0.1, 0.01) for name in names]),
    )  # fmt: skip
    _print_contradictions(Console(file=out, width=400), result, {"a": "A [x]"})
    (line,) = out.getvalue().splitlines()
    assert line.startswith("other metrics, not corrected: A [x] helps ndcg@10 with m, but costs mrr: -0.1000")
    assert line.endswith("; 2 more in the report")
    assert line.count("costs") == 2


def test_a_study_stores_them_and_a_person_reads_one_line(study_file, tmp_path):
    """The driver helps each metric in the planted data; if one is reversed, one line reports it."""
    study_file.write_text(study_file.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    config = read_study(study_file)
    result = run_study(config, prepare(config, study_file.parent), tmp_path / "out")
    told = result.verdicts.filter(pl.col("verdict") == "helps")
    assert told["relation"].to_list() == ["driver"]
    of_driver = result.metric_effects.filter(pl.col("relation") == "driver", pl.col("kind") == "drop")
    assert {"ndcg@20", "ndcg@50", "recall@50", "hit@10", "precision@10", "map@10", "mrr"} <= set(of_driver["measure"])
    assert "ndcg@10" not in set(of_driver["measure"])
    assert not [name for name in of_driver["measure"] if name.startswith(("novelty", "popularity"))]

    def printed(one):
        out = io.StringIO()
        print_result(Console(file=out, width=300), one, answer(one))
        return out.getvalue()

    assert "other metrics, not corrected" not in printed(result)
    assert "Other metrics, not corrected" not in render(result)
    is_one = (pl.col("measure") == "recall@50") & (pl.col("kind") == "drop")
    turned = [pl.when(is_one).then(-pl.col(a)).otherwise(pl.col(b)).alias(b) for a, b in
              (("mean", "mean"), ("low", "high"), ("high", "low"))]  # fmt: skip
    other = replace(result, metric_effects=result.metric_effects.with_columns(turned))
    (line,) = [line for line in printed(other).splitlines() if line.startswith("other metrics, not corrected")]
    assert "driver helps ndcg@10 with relational-ease, but costs recall@50: -" in line
    assert "driver helps NDCG@10 with relational-ease, but costs Recall@50: −" in " ".join(render(other).split())
