"""Evaluation of a split that can be computed by hand, and its stored table."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from relrank.errors import InputError
from relrank.evaluation import metrics
from relrank.evaluation.evaluate import (
    Evaluation,
    accepts_longer_history,
    evaluate,
    group_labels,
    mean_metric,
    with_validation_history,
)
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models import MODELS
from relrank.models.closed_form.item_knn import ItemKNN, ItemKNNConfig
from relrank.models.core.base import override_config
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables


def rows(pairs: list[tuple[int, int]]) -> Interactions:
    array = np.array(pairs, np.int32).reshape(-1, 2)
    return Interactions(array[:, 0].copy(), array[:, 1].copy())


SPLIT = Split(
    users=IdMap("user", pl.Series(["ann", "bob", "cyd", "dee"])),
    items=IdMap("item", pl.Series([10, 20, 30, 40, 50])),
    train=rows([(0, 0), (1, 0), (1, 1), (2, 0), (3, 4)]),
    valid=rows([(0, 1), (1, 2), (2, 1)]),
    test=rows([(0, 2), (2, 4), (2, 3)]),  # bob and dee have no test row; cyd's first test item is 50
    protocol="by hand",
    fingerprint="f00d",
)


class Table:
    def __init__(self, scores: list[list[float]]) -> None:
        self.scores = torch.tensor(scores)

    def score(self, users: torch.Tensor) -> torch.Tensor:
        return self.scores[users]


MODEL = Table([[9, 8, 7, 1, 2], [9, 8, 7, 6, 5], [9, 8, 4, 4, 3], [1, 2, 3, 4, 5]])


def test_table_by_hand():
    table = evaluate(MODEL, SPLIT, ks=(1, 2)).table
    assert table["user"].to_list() == ["ann", "cyd"]
    # ann: items 10 and 20 masked, 30 on place 1. cyd: candidates 30, 40, 50 with scores 4, 4, 3, so that 40 is first
    # or second, as likely the one as the other, and 50 is third
    assert table["rank"].to_list() == [1, 1.5]
    assert table["n_truth"].to_list() == [1, 2]
    assert table["hit@1"].to_list() == [1, 0.5]
    assert table["recall@2"].to_list() == [1, 0.5]
    assert table["precision@2"].to_list() == [0.5, 0.5]
    assert table["mrr"].to_list() == pytest.approx([1, (1 + 1 / 2) / 2])
    assert table["ndcg@2"].to_list() == pytest.approx([1, 1 / 2])
    assert table["map@2"].to_list() == pytest.approx([1, (1 + 1 / 2) / 2 / 2])
    assert table["history length"].to_list() == [1, 1]
    assert table["item popularity"].to_list() == [0, 0.5]  # 30: none; 50 and 40: one and none
    assert set(table["fingerprint"]) == {"f00d"}
    assert set(table["part"]) == {"test"}


def test_summary_is_over_the_users_of_the_table():
    found = evaluate(MODEL, SPLIT, ks=(2, 1))
    assert found.summary["ndcg@1"] == pytest.approx(found.table["ndcg@1"].mean())
    assert found.summary["mrr"] == pytest.approx((1 + 3 / 4) / 2)
    assert found.summary["n_users"] == 2
    assert found.summary["users without truth"] == 2
    assert found.summary["constant users"] == 0
    # ann is shown 30, 50; cyd 30, 40: three items of five, counts 2, 1, 1, 0, 0
    assert found.summary["coverage@2"] == 0.6
    assert found.summary["gini@2"] == pytest.approx((-4 * 0 - 2 * 0 + 0 * 1 + 2 * 1 + 4 * 2) / (5 * 4))
    assert found.summary["novelty@2"] == pytest.approx(2)  # each has one training row, or counts as if, of 4 users
    assert "coverage@1" not in found.summary
    # mean training rows: ann's list 0.5 after a history of 3, cyd's 0 after 3
    assert found.table["novelty@2"].to_list() == pytest.approx([2, 2])
    assert found.table["popularity lift@2"].to_list() == pytest.approx([0.5 / 3 - 1, -1])
    assert found.summary["popularity lift@2"] == pytest.approx((0.5 / 3 - 2) / 2)


def test_pitfall_validation_item_left_in_the_test_ranking():
    # at test ann's training item 10 and validation item 20 are masked; at validation only item 10
    assert evaluate(MODEL, SPLIT).table["rank"][0] == 1
    valid = evaluate(MODEL, SPLIT, part="valid").table
    assert valid["user"].to_list() == ["ann", "bob", "cyd"]
    assert valid["rank"].to_list() == [1, 1, 1]
    assert evaluate(Table([[9, 7, 8, 1, 2]] * 4), SPLIT, part="valid").table["rank"][0] == 2


def test_pitfall_coverage_over_other_users_than_accuracy():
    # dee has no truth: whatever she is shown does not count
    changed = Table([*MODEL.scores[:3].tolist(), [5, 4, 3, 2, 1]])
    assert evaluate(changed, SPLIT, ks=(2,)).summary == evaluate(MODEL, SPLIT, ks=(2,)).summary


def test_metrics_without_lists_equal_those_of_evaluate():
    for part in ("valid", "test"):
        summary = evaluate(MODEL, SPLIT, ks=(1, 2), part=part).summary
        for name in ("ndcg@2", "map@1", "mrr"):
            assert mean_metric(MODEL, SPLIT, name, part) == pytest.approx(summary[name])
    with pytest.raises(InputError, match="unknown metric"):
        mean_metric(MODEL, SPLIT, "accuracy")


@pytest.mark.parametrize("scores", [[1, 1, 1, 1, 1], [9, 9, 4, 4, 3], [0, 2, 0, 0, 0], [5, 4, 3, 3, 3]])
def test_every_accuracy_column_is_the_mean_over_tie_breaks(scores):
    # of cyd's, who has two relevant items; constant scores for ann, too, would be an error
    table = torch.tensor([[5, 4, 3, 3, 2], [0, 0, 0, 0, 0], scores, [0, 0, 0, 0, 0]])
    names = ["rank", "mrr", *(f"{name}@{k}" for name in metrics.AT_K for k in (1, 2, 3))]
    found = evaluate(Table(table.tolist()), SPLIT, ks=(1, 2, 3)).table.select(names)
    broken = []
    for order in itertools.permutations(range(5)):
        moved = table + torch.tensor(order) / 100
        broken.append(evaluate(Table(moved.tolist()), SPLIT, ks=(1, 2, 3)).table.select(names).to_numpy())
    np.testing.assert_allclose(found.to_numpy(), np.mean(broken, axis=0), rtol=1e-12)


def test_similarity_and_calibration_need_features():
    without = evaluate(MODEL, SPLIT, ks=(2,))
    for stem in ("intra-list similarity", "miscalibration"):
        assert f"{stem}@2" not in without.summary
        assert f"{stem}@2" not in without.table.columns
    features = Csr.from_pairs(np.array([2, 3, 4]), np.array([0, 0, 1]), (5, 2))
    found = evaluate(MODEL, SPLIT, ks=(2,), features=features).summary["intra-list similarity@2"]
    assert found == pytest.approx((0 + 1) / 2)  # ann: 30 and 50 differ; cyd: 30 and 40 are alike
    nothing = Csr.from_pairs(np.zeros(0, int), np.zeros(0, int), (5, 2))
    assert math.isnan(evaluate(MODEL, SPLIT, features=nothing).summary["intra-list similarity@10"])
    # both had item 10, of genre 0: ann is shown genre 0 and genre 1, cyd genre 0 twice
    features = Csr.from_pairs(np.array([0, 2, 3, 4]), np.array([0, 0, 0, 1]), (5, 2))
    found = evaluate(MODEL, SPLIT, ks=(2,), features=features)
    assert found.table["miscalibration@2"].to_list() == pytest.approx([-math.log(0.99 * 0.5 + 0.01), 0], abs=1e-12)
    assert found.summary["miscalibration@2"] == pytest.approx(-math.log(0.505) / 2)


def test_a_user_without_a_value_is_null_and_left_out_of_the_mean():
    # ann's history has no genre, cyd's has one: only cyd is calibrated or not
    split = replace(SPLIT, train=rows([(0, 1), (1, 0), (1, 1), (2, 0), (3, 4)]), valid=rows([(0, 0), (2, 1)]))
    features = Csr.from_pairs(np.array([0, 2, 3]), np.array([0, 0, 1]), (5, 2))
    found = evaluate(MODEL, split, ks=(2,), features=features)
    assert found.table["miscalibration@2"].to_list() == [None, pytest.approx(-math.log(0.505))]
    assert found.summary["miscalibration@2"] == pytest.approx(-math.log(0.505))
    assert found.table["intra-list similarity@2"].to_list() == [None, 0.0]  # of ann's 30 and 50, one has a genre


def test_attribute_columns_are_joined_on_keys():
    users = pl.DataFrame({"key": ["cyd", "bob"], "age": ["old", "young"]})
    items = pl.DataFrame({"key": [50, 30, 40], "genre": ["crime", None, "poetry"]})
    table = evaluate(MODEL, SPLIT, user_groups=users, item_groups=items).table
    assert table["age"].to_list() == [None, "old"]
    assert table["genre"].to_list() == [None, "crime"]  # cyd's first test row is item 50


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (pl.DataFrame({"age": [1]}), "no key column"),
        (pl.DataFrame({"key": [1], "age": [1]}), "no key column"),
        (pl.DataFrame({"key": ["ann", "ann"], "age": [1, 2]}), "key occurs twice"),
        (pl.DataFrame({"key": ["ann"], "rank": [1]}), "column name is taken"),
    ],
)
def test_group_columns_that_do_not_fit(groups, message):
    with pytest.raises(InputError, match=message):
        evaluate(MODEL, SPLIT, user_groups=groups)


def test_an_empty_part_is_refused():
    empty = Split(SPLIT.users, SPLIT.items, SPLIT.train, rows([]), SPLIT.test, "by hand", "f00d")
    for call in (evaluate, mean_metric):
        with pytest.raises(InputError, match="nothing to evaluate on"):
            call(MODEL, empty, part="valid")


def test_round_trip(tmp_path):
    found = evaluate(MODEL, SPLIT, item_groups=pl.DataFrame({"key": [50], "genre": ["crime"]}))
    found.save(tmp_path / "table.parquet")
    again = Evaluation.load(tmp_path / "table.parquet")
    assert again.table.equals(found.table)
    assert again.table.schema == found.table.schema
    assert again.summary == found.summary
    assert [p.name for p in tmp_path.iterdir()] == ["table.parquet"]


def test_load_refuses_another_definition_of_the_metrics(tmp_path):
    found = evaluate(MODEL, SPLIT)
    summary = json.dumps(found.summary)
    for name, metadata in (("first", {}), ("next", {"relrank.evaluation.metrics": str(metrics.METRICS_VERSION + 1)})):
        found.table.write_parquet(tmp_path / name, metadata={"relrank.summary": summary, **metadata})
        with pytest.raises(InputError, match="another definition of the metrics"):
            Evaluation.load(tmp_path / name)


def test_load_refuses_other_files(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    (tmp_path / "text.parquet").write_text("no")
    for name in ("other.parquet", "text.parquet", "none.parquet"):
        with pytest.raises(InputError, match="not an evaluation"):
            Evaluation.load(tmp_path / name)


def test_pitfall_histories_are_grouped_by_their_full_length():
    table = pl.DataFrame({"history length": [10, 11, 50, 51, 400, 1]})
    labels, order = group_labels(table, "history length")
    assert labels.to_list() == ["≤ 10", "11–50", "11–50", "> 50", "> 50", "≤ 10"]
    assert order == ["≤ 10", "11–50", "> 50"]
    assert group_labels(table.head(3), "history length")[1] == ["≤ 10", "11–50"]


def test_item_popularity_in_thirds():
    table = pl.DataFrame({"item popularity": [5.0, 1, 1, 9, 2.5, 30, 1, 4, 8]})
    labels, order = group_labels(table, "item popularity")
    by_label = {name: sorted(table["item popularity"].filter(labels == name)) for name in order}
    assert list(by_label.values()) == [[1, 1, 1], [2.5, 4, 5], [8, 9, 30]]
    assert order == ["least popular third", "middle third", "most popular third"]
    flat = pl.DataFrame({"item popularity": [3.0] * 5})
    assert group_labels(flat, "item popularity")[1] == ["least popular third"]


def test_attributes_by_value():
    values = [f"g{i}" for i in range(10) for _ in range(12 - i)] + [None, None]
    labels, order = group_labels(pl.DataFrame({"genre": values}), "genre")
    assert order == [*(f"g{i}" for i in range(8)), "all others", "missing"]
    assert (labels == "all others").sum() == 4 + 3
    assert (labels == "missing").sum() == 2
    assert labels.name == "genre"
    few, order = group_labels(pl.DataFrame({"decade": [1990, 1980, 1980]}), "decade")
    assert few.to_list() == ["1990", "1980", "1980"]
    assert order == ["1980", "1990"]
    nothing, order = group_labels(pl.DataFrame({"count": [None, None]}), "count")
    assert nothing.to_list() == order * 2 == ["missing"] * 2
    with pytest.raises(InputError, match="no such group"):
        group_labels(few.to_frame(), "genre")


def test_popularity_on_gowalla_has_its_known_figures(data_dir):
    parts = []
    for name in ("train", "test"):
        lines = [np.array(line.split(), np.int32) for line in (data_dir / f"gowalla/{name}.txt").open()]
        user = np.repeat([line[0] for line in lines], [line.size - 1 for line in lines])
        parts.append(Interactions(user.astype(np.int32), np.concatenate([line[1:] for line in lines])))
    train, test = parts
    users, items = (IdMap(name, pl.Series(range(size))) for name, size in (("user", 29_858), ("item", 40_981)))
    popularity = torch.from_numpy(np.bincount(train.item, minlength=len(items))).float()

    class Popularity:
        def score(self, users: torch.Tensor) -> torch.Tensor:
            return popularity.expand(len(users), -1)

    summary = evaluate(Popularity(), Split(users, items, train, rows([]), test, "gowalla", "given"), ks=(20,)).summary
    assert summary["n_users"] == 29_858
    assert summary["recall@20"] == pytest.approx(0.0416, abs=5e-5)
    assert summary["ndcg@20"] == pytest.approx(0.0317, abs=5e-5)


class Heard:
    """Scores an item by its position in the history, latest first, and records its histories."""

    from_history, ordered = True, True

    def __init__(self, split: Split, weight: float = 1.0) -> None:
        self.history = Csr.from_pairs(split.train.user, split.train.item, split.shape)
        self.history.data[0] = weight
        self.told: list[list[int]] = []

    def score(self, users: torch.Tensor) -> torch.Tensor:
        self.told.append(["as trained"] * len(users))
        return torch.arange(5.0).repeat(len(users), 1)

    def fold_in(self, histories: list[torch.Tensor]) -> torch.Tensor:
        assert all(h.dtype == torch.int64 for h in histories)
        self.told += [h.tolist() for h in histories]
        return torch.arange(5.0).repeat(len(histories), 1)


# bob's rows are apart and do not ascend; dee has no validation row, and cyd no test row
AFTER = replace(
    SPLIT,
    train=rows([(1, 4), (0, 3), (1, 0), (0, 2), (2, 0), (3, 4)]),
    valid=rows([(2, 1), (0, 0), (1, 2), (1, 1)]),
    test=rows([(0, 1), (1, 3), (3, 0)]),
    ordered=True,
    successive=True,
)
AS_TRAINED = [["as trained"]] * 3


def test_histories_end_with_the_validation_rows_at_test():
    model = Heard(AFTER)
    for call in (evaluate, lambda *a: mean_metric(*a, part="test")):
        call(model, AFTER)
        assert model.told == [[3, 2, 0], [4, 0, 2, 1], [4]]  # of ann, bob and dee; never a test row
        model.told.clear()
    assert with_validation_history(model, AFTER, "test").name == "Heard"


def test_every_block_gets_the_histories_of_its_own_users():
    model = Heard(AFTER)
    evaluate(model, AFTER, block=1)
    assert model.told == [[3, 2, 0], [4, 0, 2, 1], [4]]
    with_validation_history(model, AFTER, "test").score(torch.tensor([3, 1, 3], dtype=torch.int32))
    assert model.told[3:] == [[4], [4, 0, 2, 1], [4]]
    for row in (-1, 4):
        with pytest.raises(InputError, match="user row outside"):
            with_validation_history(model, AFTER, "test").score(torch.tensor([row]))


@pytest.mark.parametrize(
    ("part", "changes", "attributes"),
    [
        ("valid", {}, {}),
        ("test", {"successive": False}, {}),  # a validation row drawn at random may come before training rows
        ("test", {}, {"from_history": False}),
    ],
)
def test_other_models_and_splits_score_as_trained(part, changes, attributes):
    split, model = replace(AFTER, **changes), Heard(AFTER)
    vars(model).update(attributes)
    assert with_validation_history(model, split, part) is model
    for call in (evaluate, mean_metric):
        call(model, split, part=part)
    assert model.told == [["as trained"] * 3] * 2
    assert with_validation_history(MODEL, AFTER, "test") is MODEL  # a scorer that says nothing of itself


def test_pitfall_weights_lost_where_histories_are_folded_in():
    """Folded-in items have weight 1, so sums over weighted rows would differ between validation and test."""
    plain, weighted = Heard(AFTER), Heard(AFTER, weight=0.5)
    plain.ordered = weighted.ordered = False
    assert (accepts_longer_history(plain), accepts_longer_history(weighted)) == (True, False)
    weighted.ordered = True  # weights thin its training; its scores know none
    assert accepts_longer_history(weighted)
    assert accepts_longer_history(MODEL) is False


def test_a_closed_form_at_test_reads_training_and_validation_rows():
    """Cosines of the training columns, times dense rows of training and validation."""
    model = ItemKNN(
        build_graph(Tables("t", "user", "item", pl.DataFrame()), AFTER, {}), ItemKNNConfig(5, 1.0)
    ).solve()
    x = np.zeros((4, 5))
    x[AFTER.train.user, AFTER.train.item] = 1
    length = np.sqrt(x.sum(0))
    w = (x.T @ x) / (np.outer(length, length) + 1)
    np.fill_diagonal(w, 0)
    later = x.copy()
    later[AFTER.valid.user, AFTER.valid.item] = 1
    for part, rows_ in (("valid", x), ("test", later)):
        found = with_validation_history(model, AFTER, part).score(torch.arange(4)).numpy()
        np.testing.assert_allclose(found, rows_ @ w, rtol=1e-5, atol=1e-6)
    assert not np.allclose(x @ w, later @ w)


@pytest.mark.parametrize("model", ["sparse-ease", "relational-ease", "ials"])
def test_pitfall_a_relation_of_users_must_not_cost_them_their_validation_rows(model):
    """A weight near 0 must have almost no effect, at test as on validation."""
    graph = build_graph(Tables("t", "user", "item", pl.DataFrame()), AFTER, {})
    nodes = {**graph.nodes, "city": IdMap("city", pl.Series(range(2)))}
    lives = Relation.of("lives_in", "user", "city", np.arange(4), np.array([0, 1, 1, 0]))
    graph = replace(graph, nodes=nodes, relations={"lives_in": lives})
    kind = MODELS[model]
    without, beside = (
        kind(graph, override_config(kind.Config(), {"weights": {"lives_in": weight}}, model)).solve()
        for weight in (0.0, 1e-6)
    )
    users = torch.arange(4)
    for part in ("valid", "test"):
        one, other = (with_validation_history(m, AFTER, part).score(users).numpy() for m in (without, beside))
        np.testing.assert_allclose(other, one, atol=2e-3)
    assert not np.allclose(
        beside.score(users), with_validation_history(beside, AFTER, "test").score(users), atol=2e-3
    )
    assert beside.history.nnz == len(AFTER.train), "the model itself stays as it is"
