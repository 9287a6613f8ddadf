"""New items end to end: only these are ranked, by their relations."""

from __future__ import annotations

import numpy as np
import pytest
from studies import cold_study, open_study

from relrank.evaluation.evaluate import evaluate, mean_metric
from relrank.evaluation.ranking import ranks
from relrank.runs.fitted_run import load_run
from relrank.study.run import run_study
from relrank.study.winner import save_winner


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory):
    home = tmp_path_factory.mktemp("cold")
    config, material = open_study(home / "cold.toml", cold_study())
    result = run_study(config, material, home / "out")
    return config, material, result, home / "out"


def test_relations_find_new_items_where_nothing_else_can(study) -> None:
    _, _, result, _ = study
    rows = {(r["model"], r["arm"]): r for r in result.leaderboard.iter_rows(named=True)}
    found, chance = rows["relational-ease", "all"], rows["random", "interactions"]
    assert found["mean"] > 2 * chance["mean"]
    # who knows nothing of new items says the same of all: counted, and no error
    for name in (("popularity", "interactions"), ("relational-ease", "interactions")):
        assert rows[name]["constant users"] == rows[name]["n_users"]
        # and is as good as chance, not worse
        assert abs(rows[name]["mean"] - chance["mean"]) < 3 * (chance["high"] - chance["low"]) / 4
    assert found["constant users"] == 0


def test_only_new_items_are_ranked_at_validation_and_at_test(study) -> None:
    _, material, _, _ = study
    split = material.split_contexts[0].split
    n_new = len(split.items) - split.closed().size
    assert n_new == 2 * int(0.2 * len(split.items))
    rng = np.random.default_rng(0)

    class Any:
        name = "any"

        def score(self, users):
            import torch

            return torch.from_numpy(rng.random((len(users), len(split.items))).astype(np.float32))

    for part in ("valid", "test"):
        table = evaluate(Any(), split, (5,), part).table
        assert table["rank"].max() <= n_new
        assert table["rank"].max() > 0.7 * n_new
        mean = mean_metric(Any(), split, "mrr", part)
        exact = ranks(Any(), split.seen(part), split.truth(part), excluded_items=split.closed())
        first = np.minimum.reduceat(exact.higher, exact.indptr[:-1]) + 1
        assert mean == pytest.approx((1 / first).mean(), rel=0.25)  # another draw; the full catalogue has half of it


def test_a_kept_run_ranks_the_same_candidates(study) -> None:
    config, material, result, out = study
    save_winner(config, material, out)
    run = load_run(out)
    assert run.split.new_items_only
    best = result.leaderboard.sort("valid", descending=True).row(0, named=True)
    again = evaluate(run.model, run.split)
    assert again.summary["ndcg@10"] == pytest.approx(best["mean"])
