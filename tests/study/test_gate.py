"""Comparison of two models by their per-user tables, and the exit code."""

import json
import shutil
from datetime import datetime

import numpy as np
import polars as pl
import pytest
from scipy import stats
from typer.testing import CliRunner

from relrank.cli.app import app
from relrank.errors import InputError
from relrank.study.config import read_study
from relrank.study.model_comparison import EXIT_CODES, compare_models, comparison_summary, parse_margin
from relrank.study.per_user_tables import read_per_user_tables
from relrank.study.prepare import prepare
from relrank.study.run import run_study
from relrank.study.winner import save_winner


def table(mean, spread=0.1, n_users=1_000, seed=0):
    """Users whose values have exactly that mean and spread."""
    values = np.random.default_rng(seed).normal(size=n_users)
    values = (values - values.mean()) / values.std(ddof=1)
    return pl.DataFrame({"user": np.arange(n_users), "ndcg@10": mean + spread * values})


BASE = table(0.2, 0.0)  # differences then have the new one's mean and an error of spread / √1000


@pytest.mark.parametrize(
    ("mean", "spread", "margin", "answer"),
    [
        (0.21, 0.1, "1%", "superior"),  # +.010, error .0032
        (0.2001, 0.01, "1%", "equivalent"),  # error .0003 in a margin of .002
        (0.199, 0.005, "1%", "equivalent"),  # below 0 for sure, but by less than matters
        (0.19, 0.1, "1%", "inferior"),
        (0.2, 0.1, "1%", "undecided"),  # error .0032, margin .002
        (0.204, 0.1, "0.002", "non-inferior"),  # −.0013 at the lower end of 90 %, −.0022 at that of 95 %
        (0.204, 0.1, "0.001", "undecided"),
        (0.2, 0.1, "3%", "equivalent"),  # ± .0053 within .006
        (0.2, 0.1, "2.5%", "undecided"),  # ± .0052
    ],
)
def test_answers_by_hand(mean, spread, margin, answer):
    assert compare_models({None: table(mean, spread)}, {None: BASE}, "ndcg@10", margin).answer == answer


def test_wrong_alarms_are_as_rare_as_said():
    """Equally good models: superior or inferior in 5 %, and one that is worse by the margin passes in 5 %."""
    rng = np.random.default_rng(0)
    users = np.arange(300)
    base = pl.DataFrame({"user": users, "m": np.zeros(300)})

    def answers(mean):
        for _ in range(400):
            new = pl.DataFrame({"user": users, "m": mean + rng.normal(0, 0.1, 300)})
            yield compare_models({None: new}, {None: base}, "m", "0.02").answer

    same = list(answers(0.0))
    assert np.mean([a in ("superior", "inferior") for a in same]) < 0.08
    assert np.mean([EXIT_CODES[a] == 0 for a in answers(-0.02)]) < 0.08


@pytest.mark.parametrize("text", ["", "0", "-1%", "one", "nan", "inf%"])
def test_margins_that_are_none(text):
    with pytest.raises(InputError, match="not a margin"):
        parse_margin(text)


def test_a_share_of_a_baseline_of_0_is_no_margin():
    nothing = BASE.with_columns(pl.col("ndcg@10") * 0)
    with pytest.raises(InputError, match="share of 0"):
        compare_models({None: BASE}, {None: nothing}, "ndcg@10", "1%")


def test_tables_of_other_libraries_from_the_command_line(tmp_path):
    """Rows in another order; exit codes for a pipeline."""
    paths = {}
    for name, frame in {"good": table(0.22, 0.05), "bad": table(0.18, 0.05), "same": table(0.2, 0.1)}.items():
        paths[name] = tmp_path / f"{name}.parquet"
        frame.sample(fraction=1, shuffle=True, seed=1).write_parquet(paths[name])
    BASE.write_parquet(tmp_path / "base.parquet")

    def run(name, *options):
        return CliRunner().invoke(app, ["compare", str(paths[name]), str(tmp_path / "base.parquet"), *options])

    good = run("good")
    assert good.exit_code == 0
    assert "superior: ndcg@10 +0.0200 (" in good.output
    assert "margin 0.0020, 1,000 users" in good.output
    assert run("bad").exit_code == 1
    assert run("same").exit_code == 3
    assert run("same", "--margin", "5%").exit_code == 0


def test_what_is_no_table_is_said(tmp_path):
    BASE.write_parquet(tmp_path / "base.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InputError, match="column is missing"):
        read_per_user_tables(tmp_path / "base.parquet", "recall@20")
    with pytest.raises(InputError, match="cannot be read"):
        read_per_user_tables(tmp_path / "text.parquet", "ndcg@10")
    with pytest.raises(InputError, match="nothing to compare"):
        read_per_user_tables(tmp_path / "absent", "ndcg@10")
    with pytest.raises(InputError, match="only one of two"):
        compare_models({None: BASE}, {None: BASE.head(10)}, "ndcg@10", "1%")
    with pytest.raises(InputError, match="only studies have models"):
        read_per_user_tables(tmp_path / "base.parquet", "ndcg@10", arm="all")


@pytest.mark.parametrize(
    "odd", [pl.Series([b"1"]), pl.Series(["1"]), pl.Series([datetime(2024, 1, 1)]), pl.Series([[1]])]
)
def test_a_metric_that_is_no_number_is_said(tmp_path, odd):
    pl.DataFrame({"user": ["a"], "ndcg@10": odd}).write_parquet(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="metric is not numeric"):
        read_per_user_tables(tmp_path / "x.parquet", "ndcg@10")


def test_a_metric_of_truth_values_is_one_of_0_and_1(tmp_path):
    pl.DataFrame({"user": ["a", "b"], "hit": [True, False]}).write_parquet(tmp_path / "x.parquet")
    (table,) = read_per_user_tables(tmp_path / "x.parquet", "hit").values()
    assert table["hit"].to_list() == [1.0, 0.0]


def test_whole_numbers_of_any_width_are_metrics(tmp_path):
    for name, dtype in (("a", pl.Int128), ("b", pl.UInt8)):
        frame = pl.DataFrame({"user": range(40), "hits": pl.Series([n % 3 for n in range(40)], dtype=dtype)})
        frame.write_parquet(tmp_path / f"{name}.parquet")
    sides = [read_per_user_tables(tmp_path / f"{name}.parquet", "hits") for name in "ab"]
    assert compare_models(sides[0], sides[1], "hits", "1%").baseline == pytest.approx(39 / 40)


def over(values, users="ab", column="split", names=None):
    """One table of several splits; ``values`` [users, splits]."""
    names = names or range(len(values[0]))
    rows = [(u, s, v) for u, row in zip(users, values, strict=True) for s, v in zip(names, row, strict=True)]
    return pl.DataFrame(rows, schema=["user", column, "ndcg@10"], orient="row")


def compared(tmp_path, new, baseline, margin="1%"):
    """Through files: a frame is one table, a dictionary a folder of them."""
    paths = []
    for side, tables in {"new": new, "baseline": baseline}.items():
        path = tmp_path / side
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(tables, dict):
            path.mkdir()
            for name, one in tables.items():
                one.write_parquet(path / f"{name}.parquet")
        else:
            path = tmp_path / f"{side}.parquet"
            tables.write_parquet(path)
        paths.append(read_per_user_tables(path, "ndcg@10"))
    return compare_models(*paths, "ndcg@10", margin)


def test_users_and_splits_by_hand(tmp_path):
    """Differences 4, 2 / 2, 0: user means 3, 1, split means 3, 1, no rest; variance 1 of users and 1 of splits."""
    found = compared(tmp_path, over([[5.0, 3.0], [2.0, 0.0]]), over([[1.0, 1.0], [0.0, 0.0]]), "0.5")
    assert (found.effect.mean, found.baseline, found.effect.n_users, found.effect.n_seeds) == (2.0, 0.5, 2, 2)
    assert found.answer == "undecided"
    # the signs of two users say no more than p = .5: with one degree of freedom the quartile of t is 1, the error 2
    assert found.effect.standard_error == pytest.approx(2.0)
    assert found.effect.high == pytest.approx(2 + 12.706 * 2, rel=1e-3)


def anova(d):
    """Mean, error and interval of a two-way table without interaction, cell by cell, from the textbook."""
    n, s = d.shape
    grand = sum(d[i, j] for i in range(n) for j in range(s)) / (n * s)
    users = [sum(d[i]) / s for i in range(n)]
    splits = [sum(d[:, j]) / n for j in range(s)]
    ms_users = s * sum((u - grand) ** 2 for u in users) / (n - 1)
    ms_splits = n * sum((v - grand) ** 2 for v in splits) / (s - 1)
    rest = sum((d[i, j] - users[i] - splits[j] + grand) ** 2 for i in range(n) for j in range(s))
    ms_rest = rest / ((n - 1) * (s - 1))
    parts = [(ms_users, n - 1), (ms_splits, s - 1), (ms_rest, (n - 1) * (s - 1))]
    variance = (ms_users + ms_splits - ms_rest) / (n * s)
    freedom = (ms_users + ms_splits - ms_rest) ** 2 / sum(ms**2 / df for ms, df in parts)
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    return grand, grand - half, grand + half


def test_several_splits_are_what_the_analysis_of_variance_says(tmp_path):
    """As one table with a column, as a folder, in any order of splits and rows; one split alone is too certain."""
    rng = np.random.default_rng(3)
    d = 0.01 + 0.02 * rng.normal(size=(400, 1)) + 0.01 * rng.normal(size=(1, 5)) + 0.05 * rng.normal(size=(400, 5))
    base = rng.random((400, 5))
    new, baseline = over(base + d, range(400)), over(base, range(400))
    found = compared(tmp_path, new.sample(fraction=1, shuffle=True, seed=0), baseline)
    assert (found.effect.mean, found.effect.low, found.effect.high) == pytest.approx(anova(d), abs=1e-4)
    assert (found.effect.n_users, found.effect.n_seeds) == (400, 5)
    assert found.effect.low < 0 < found.effect.high
    tables = [new.filter(pl.col("split") == s).drop("split") for s in range(5)]
    folder = {f"s{4 - s}": one for s, one in enumerate(tables)}
    named = baseline.with_columns(split=pl.format("s{}", 4 - pl.col("split")))
    assert compared(tmp_path, folder, named).effect.low == pytest.approx(found.effect.low)
    prints = baseline.with_columns(fingerprint=pl.format("f{}", "split")).drop("split")
    assert compared(tmp_path, new.with_columns(split=pl.format("f{}", "split")), prints).effect == found.effect
    single = [compared(tmp_path, tables[s], baseline.filter(pl.col("split") == s)) for s in range(5)]
    assert {one.effect.n_seeds for one in single} == {1}
    assert {"superior", "non-inferior"} <= {one.answer for one in single}


PAIR = [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    ("new", "baseline", "message"),
    [
        (over(PAIR, names=[0, 1]), over(PAIR, names=[1, 2]), "only in the new: 0; only in the baseline: 2"),
        (over(PAIR), over([[1.0], [3.0]]), "(?s)do not pair up.*only in the new: 1"),
        (over(PAIR), table(0.2, n_users=2), "(?s)do not pair up.*only in the baseline: without a name"),
        (over(PAIR, "ab"), over(PAIR, "ac"), r"(?s)only one of two paired tables.*split 0, user 'b'"),
        (over([*PAIR, PAIR[0]], "aba"), over(PAIR, "ab"), "(?s)user occurs twice.*split 0"),
        (dict.fromkeys("ab", over(PAIR)), over(PAIR), "(?s)split occurs twice.*b.parquet.*split 0 again"),
        (over(PAIR, column="fingerprint", names=["a" * 64, "b" * 64]),
         over(PAIR, column="fingerprint", names=["a" * 64, "c" * 64]), "new: b{12}; only in the baseline: c{12}$"),
        (over(PAIR).with_columns(fingerprint=pl.lit("x")), over(PAIR).with_columns(fingerprint=pl.lit("y")),
         "(?s)two protocols.*split 0.*x and y"),
        (over(PAIR, names=[0, None]), over(PAIR), "split is missing"),
    ],
)  # fmt: skip
def test_splits_and_users_that_do_not_pair(tmp_path, new, baseline, message):
    with pytest.raises(InputError, match=message):
        compared(tmp_path, new, baseline)


def test_the_studies_of_two_folders_and_two_models_of_one(study_file, tmp_path):
    """Every split of the study counts, and the figures are those of the study's own effects."""
    study_file.write_text(study_file.read_text().replace("trials = 8", "trials = 2"))
    config = read_study(study_file)
    material, out = prepare(config, tmp_path), tmp_path / "out"
    result = run_study(config, material, out)
    with pytest.raises(InputError, match="no winner yet"):
        read_per_user_tables(out, "ndcg@10")
    save_winner(config, material, out)

    def run(*words):
        return CliRunner().invoke(app, ["compare", str(out), *map(str, words)])

    same = run(out)
    assert same.exit_code == 0
    assert "300 users, 2 splits" in same.output
    better = run(
        out, "--model", "relational-ease", "--baseline-model", "relational-ease", "--baseline-arm", "interactions"
    )
    gain = result.effects.row(by_predicate=pl.col("kind") == "gain", named=True)
    assert f"superior: ndcg@10 {gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})" in better.output
    # a model without relations has no arm but one
    assert run(out, "--baseline-model", "ease").output.startswith("superior")
    assert isinstance(run(out / "winner").exception, InputError)  # the winner on its first split alone
    assert run(out / "winner", "--arm", "all").exception is not None
    for words, message in (
        (("--model", "bpr"), "expected: one of ease, popularity, relational-ease"),
        (("--model", "ease", "--arm", "all"), "expected: one of its arms interactions"),
    ):
        assert message in str(run(out, *words).exception)
    card = json.loads((out / "card.json").read_text())
    assert {row["seed"] for row in card["cells"]} == {0, 1}
    (out / "card.json").write_text(json.dumps({k: v for k, v in card.items() if k != "cells"}))
    assert "file was changed" in str(run(out).exception)
    (out / "manifest.json").unlink()  # as before there were any
    assert "run the study again, its finished cells are kept" in str(run(out).exception)


def test_starts_on_one_split_are_not_called_splits(tmp_path):
    """Seeds of a study whose split is the same for all of them, such as the last item of everybody."""
    new = {f"one, seed {s}": table(0.21, seed=s).with_columns(fingerprint=pl.lit("one")) for s in (0, 1)}
    assert comparison_summary(compare_models(new, new, "ndcg@10", "1%"), "ndcg@10").endswith(
        "1,000 users, 2 starts on one split"
    )
