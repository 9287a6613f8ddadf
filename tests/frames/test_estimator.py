"""One model as an estimator: what it solves, lists, similar items, parameters, errors."""

import numpy as np
import polars as pl
import pytest
from shop_frames import COLUMNS, DRIVER, shop
from sklearn.base import clone

import relrank as rr
from relrank.errors import InputError
from relrank.tables.protocols import ProtocolConfig, make_split, split_without_test

PURCHASES, PRODUCTS = shop()
NODES = {"product": PRODUCTS}


def fitted(model: str = "ease", **more: object) -> rr.Estimator:
    return rr.Estimator(model, **more).fit(PURCHASES, **COLUMNS, nodes=NODES)


def dense(frame: pl.DataFrame = PURCHASES) -> tuple[np.ndarray, list[str], list[int]]:
    """Interactions as a matrix of users by items, with their keys."""
    users, items = frame["customer"].unique().sort().to_list(), PRODUCTS["sku"].unique().sort().to_list()
    items = [i for i in items if i in set(frame["sku"])]
    x = np.zeros((len(users), len(items)))
    for user, item in frame.select("customer", "sku").iter_rows():
        x[users.index(user), items.index(item)] = 1
    return x, users, items


def test_ease_is_solved_from_all_rows():
    """Steck 2019: B = I − P / diag(P), P = (XᵀX + λI)⁻¹; the list ranks X B without the user's items."""
    model = fitted("ease", l2=30.0)
    x, users, items = dense()
    p = np.linalg.inv(x.T @ x + 30.0 * np.eye(len(items)))
    b = np.eye(len(items)) - p / np.diag(p)
    scores = np.where(x > 0, -np.inf, x @ b)
    asked = ["C-7", "C-0"]
    best = model.recommend(asked, k=3)
    assert best["user"].unique(maintain_order=True).to_list() == asked
    for user in asked:
        row = scores[users.index(user)]
        expected = [items[i] for i in np.argsort(-row)[:3]]
        mine = best.filter(pl.col("user") == user)
        assert mine["item"].to_list() == expected
        np.testing.assert_allclose(mine["score"].to_numpy(), np.sort(row)[::-1][:3], rtol=1e-4)
    # an item is as similar to another as its score after that one alone
    near = model.similar([items[4]], k=2)
    row = np.where(np.arange(len(items)) == 4, -np.inf, b[4])
    assert near["similar"].to_list() == [items[i] for i in np.argsort(-row)[:2]]
    np.testing.assert_allclose(near["similarity"].to_numpy(), np.sort(row)[::-1][:2], rtol=1e-4)
    assert near["title"].to_list() == [f"item {i}" for i in near["similar"]]


def test_lists_are_those_of_the_fitted_run_and_of_the_saved_one(tmp_path):
    model = fitted("sparse-ease")
    loaded = rr.load_run(model.save(tmp_path / "run"))
    one = loaded.recommend("C-3", 5)
    assert model.recommend("C-3", 5).drop("user").equals(one)
    assert model.recommend(["C-3"], 5).drop("user").equals(one)
    assert model.run_.recommend("C-3", 5).equals(one)
    histories = model.recommend({"new": [1, 2], "other": [3]}, 2)
    assert histories["user"].to_list() == ["new", "new", "other", "other"]
    assert histories.filter(pl.col("user") == "new").drop("user").equals(loaded.recommend_for([1, 2], 2))
    assert model.recommend([[1, 2], [3]], 2).drop("user").equals(histories.drop("user"))


@pytest.mark.parametrize("model", ["ease", "popularity"])
def test_nobody_asked_for_gets_the_same_columns_without_rows(model):
    one = fitted(model)
    for nobody in ([], {}, pl.Series([], dtype=pl.String)):
        assert one.recommend(nobody).equals(one.recommend("C-3").clear())
    assert one.similar([]).equals(one.similar([1]).clear())
    frames = rr.Estimator(model).fit(PURCHASES.to_dict(as_series=False), **COLUMNS)
    assert frames.similar([]).schema == frames.similar([1]).schema


def test_names_of_histories_may_be_of_several_types():
    lists = fitted().recommend({"new": [1, 2], 7: [3]}, 1)
    assert lists["user"].to_list() == ["new", "7"]


def test_relations_change_what_is_fitted():
    alone = fitted("sparse-ease")
    related = rr.Estimator("sparse-ease", weight=30.0).fit(PURCHASES, **COLUMNS, nodes=NODES, relations=DRIVER)
    assert related.run_.note["arm"] == "all"
    assert related.run_.graph.relations.keys() == {"driver"}
    assert not related.recommend("C-3")["score"].equals(alone.recommend("C-3")["score"])


def test_nothing_is_held_out_so_no_timed_link_is_cut():
    days = pl.datetime(2030, 1, 1) + pl.duration(days=pl.int_range(pl.len()))
    shelves = PRODUCTS.select("sku", shelf=pl.format("shelf {}", pl.col("sku") % 3)).with_columns(at=days)
    views = PURCHASES.select("customer", "sku").unique().with_columns(at=days)
    model = rr.Estimator("sparse-ease").fit(
        PURCHASES,
        **COLUMNS,
        nodes=NODES,
        links={
            "stands_on": rr.Links(shelves, "sku", "shelf", time="at"),
            "viewed": rr.Links(views, "customer", "sku", time="at"),
        },
        relations={name: {"kind": "link", "table": name} for name in ("stands_on", "viewed")},
    )
    relations = model.run_.graph.relations
    assert (len(relations["stands_on"]), len(relations["viewed"])) == (len(shelves), len(views))


def test_parameters_are_those_of_scikit_learn():
    model = rr.Estimator("mf", train={"epochs": 2}, dim=8)
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    assert model.get_params()["dim"] == 8
    assert copy.set_params(dim=16, seed=3) is copy
    assert (copy.get_params()["dim"], copy.seed, model.get_params()["dim"]) == (16, 3, 8)
    assert repr(copy) == "Estimator('mf', dim=16, train={'epochs': 2}, seed=3)"
    assert "dim" not in copy.set_params(model="ease").get_params()
    assert not hasattr(clone(fitted()), "run_")


def test_a_trained_model_trains_all_its_epochs_on_its_seed():
    settings = {"train": {"epochs": 3, "batch": 64}, "dim": 8}
    one, same, other = (fitted("mf", seed=seed, **settings) for seed in (0, 0, 1))
    assert one.recommend("C-3").equals(same.recommend("C-3"))
    assert not one.recommend("C-3")["score"].equals(other.recommend("C-3")["score"])
    less = fitted("mf", **{**settings, "train": {"epochs": 1, "batch": 64}})
    assert not one.recommend("C-3")["score"].equals(less.recommend("C-3")["score"])
    near = one.similar([1], 2)["similarity"].to_list()
    assert near == sorted(near, reverse=True)
    assert max(near) <= 1.0 + 1e-6


@pytest.mark.parametrize(
    ("call", "what", "found"),
    [
        (lambda: rr.Estimator("eease"), "unknown model", "did you mean 'ease'"),
        (lambda: rr.Estimator("ease", l3=1.0), "unknown hyper-parameter", "'l3'"),
        (lambda: fitted(l2="big"), "hyper-parameter has the wrong type", "big"),
        (lambda: rr.Estimator("ease").recommend("C-3"), "model is not fitted", "no fit"),
        (lambda: fitted().recommend("C-999"), "unknown key", "C-999"),
        (lambda: fitted().similar([999]), "unknown key", "999"),
        (lambda: fitted().recommend("C-3", k=0), "not a length of a list", "0"),
        (lambda: rr.Estimator("ease").fit(PURCHASES, user="customer", item="sku_"), "column not found", "sku"),
        (lambda: fitted("mf", train={"epoch": 3}), "unknown hyper-parameter", "did you mean 'epochs'"),
    ],
)
def test_mistakes_are_one_clear_error(call, what, found):
    with pytest.raises(InputError) as refused:
        call()
    assert refused.value.what == what
    assert found in refused.value.found


def test_rows_are_named_by_frame_where_they_are_wrong():
    rows = pl.concat([PURCHASES, PURCHASES.head(1)])
    with pytest.raises(InputError) as refused:
        rr.Estimator("ease").fit(rows, **COLUMNS)
    assert refused.value.where.startswith("interactions.parquet, row")
    model = rr.Estimator("ease").fit(rows, **COLUMNS, duplicates="last")
    assert len(model.run_.split.train) == len(PURCHASES)


def test_a_split_without_test_has_all_rows_and_counts_repeats(tmp_path):
    tables = rr.Study(PURCHASES, **COLUMNS, relations={}, out=tmp_path / "one").data.tables
    split = split_without_test(tables)
    assert (len(split.train), len(split.valid), len(split.test)) == (len(PURCHASES), 0, 0)
    held = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    assert split.fingerprint != held.fingerprint
    times = split.train.time[split.train.user == 0]
    assert (np.diff(times) >= 0).all()
    rows = pl.concat([PURCHASES, PURCHASES.head(2)])
    kept = rr.Study(rows, **COLUMNS, relations={}, duplicates="keep", out=tmp_path / "two").data.tables
    repeated = split_without_test(kept)
    assert len(repeated.train) == len(PURCHASES)
    assert repeated.train.count.sum() == len(rows)
    assert len(repeated.repeats) == len(rows)
