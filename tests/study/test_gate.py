"""A gate: what two per-user tables allow to be said, and the exit code."""

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from relrank.cli import app
from relrank.errors import InputError
from relrank.study.gate import EXIT_CODES, compare_models, margin_of, per_user


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
    assert compare_models(table(mean, spread), BASE, "ndcg@10", margin).answer == answer


def test_wrong_alarms_are_as_rare_as_said():
    """Equally good models: superior or inferior in 5 %, and one that is worse by the margin passes in 5 %."""
    rng = np.random.default_rng(0)
    users = np.arange(300)

    def answers(mean):
        for _ in range(400):
            new = pl.DataFrame({"user": users, "m": mean + rng.normal(0, 0.1, 300)})
            yield compare_models(new, pl.DataFrame({"user": users, "m": np.zeros(300)}), "m", "0.02").answer

    same = list(answers(0.0))
    assert np.mean([a in ("superior", "inferior") for a in same]) < 0.08
    assert np.mean([EXIT_CODES[a] == 0 for a in answers(-0.02)]) < 0.08


@pytest.mark.parametrize("text", ["", "0", "-1%", "one", "nan", "inf%"])
def test_margins_that_are_none(text):
    with pytest.raises(InputError, match="not a margin"):
        margin_of(text)


def test_a_share_of_a_baseline_of_0_is_no_margin():
    nothing = BASE.with_columns(pl.col("ndcg@10") * 0)
    with pytest.raises(InputError, match="share of nothing"):
        compare_models(BASE, nothing, "ndcg@10", "1%")


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
        per_user(tmp_path / "base.parquet", "recall@20")
    with pytest.raises(InputError, match="cannot be read"):
        per_user(tmp_path / "text.parquet", "ndcg@10")
    with pytest.raises(InputError, match="nothing to compare"):
        per_user(tmp_path / "absent", "ndcg@10")
    with pytest.raises(InputError, match="only one of two"):
        compare_models(BASE, BASE.head(10), "ndcg@10", "1%")
