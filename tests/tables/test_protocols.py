"""From tables to a split: counts as published, every dropped row counted, a fingerprint that notices everything."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.config import check
from relrank.tables.ids import IdMap
from relrank.tables.protocols import PROTOCOLS, ProtocolConfig, fingerprint, make_split
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables

Load = Callable[[str], Tables]


def protocol(**settings: object) -> ProtocolConfig:
    return check(settings, ProtocolConfig, "study.toml")


def tables_of(rows: list[tuple[object, ...]], columns: str = "user item time", **more: object) -> Tables:
    frame = pl.DataFrame(rows, schema=columns.split(), orient="row")
    return Tables("x", "user", "item", frame, **more)  # type: ignore[arg-type]


def keys(split: Split, rows: Interactions) -> list[tuple[object, object]]:
    return list(zip(split.users.at(rows.user), split.items.at(rows.item), strict=True))


def counts(split: Split) -> dict[str, int]:
    return {n.message: n.count for n in split.notices}


COUNTS = {
    "ml-100k-loo": (938, 1008, 52_537, 938, 938),
    "goodbooks-loo": (2668, 7770, 192_177, 2668, 2668),
    "goodbooks-v1-loo": (28_968, 9993, 538_235, 28_968, 28_968),
    "gowalla": (29_858, 40_981, 719_081, 91_047, 217_242),
    "ml-1m-loo": (6040, 3416, 999_611 - 2 * 6040, 6040, 6040),
    "ml-1m-liked-loo": (6035, 3382, 575_066 - 5 - 2 * 6035, 6035, 6035),
    "ml-100k-u1": (943, 1682, 75_833, 4167, 11_235),
    "beauty-loo": (22_363, 12_101, 198_502 - 2 * 22_363, 22_363, 22_363),
    "hetrec-lastfm": (1892, 17_632, 92_834 - 9269 - 9270, 9269, 9270),
    "facebook-books": (1398, 2933, 15_234 - 1141, 1141, 3744),
    "facebook-books-5core": (1380, 843, 14_947 - 1688 - 3541, 1688, 3541),
    "yahoo-movies": (3991, 2587, 48_365, 3470, 13_134),
    "yahoo-movies-5core": (2986, 1639, 59_712 - 6163 - 13_085, 6163, 13_085),
}

ORDER = {"ml-1m-loo": (True, True), "ml-1m-liked-loo": (True, True), "beauty-loo": (True, True),
         "ml-100k-u1": (True, False), "ml-100k-loo": (True, False)}  # fmt: skip
"""Whether rows are in time order, and whether validation and test rows come last; neither for the others."""


@pytest.mark.parametrize("name", PROTOCOLS)
def test_named_protocols_give_the_published_counts(name: str, load: Load) -> None:
    split = make_split(load(name), protocol(name=name), seed=0)
    assert (*split.shape, len(split.train), len(split.valid), len(split.test)) == COUNTS[name]
    assert split.protocol == f"{name}, seed 0"
    assert (split.ordered, split.successive) == ORDER.get(name, (False, False))
    users, items = split.shape
    parts = [split.train, split.valid, split.test]
    pairs = np.concatenate([p.user.astype(np.int64) * items + p.item for p in parts])
    assert np.unique(pairs).size == pairs.size
    assert np.bincount(split.train.user, minlength=users).min() > 0
    if name == "ml-100k-u1":
        assert (split.truth("test").degrees() > 0).sum() == 456
        assert split.test.rating is not None and split.valid.rating is not None  # noqa: PT018
        assert split.test.rating.min() == split.valid.rating.min() == 4
        assert len(split.train) + len(split.valid) == 80_000  # nothing of the base rows is left unmasked
    if name == "gowalla":
        assert len(split.refit().train) == 810_128


def test_last_items_of_ml_1m_are_the_last_lines(load: Load, data_dir: Path) -> None:
    split = make_split(load("ml-1m-loo"), protocol(name="ml-1m-loo"), seed=0)
    folder = data_dir / "ml-1m"
    users, items = (
        dict(line.split() for line in (folder / f"sas_to_original_{kind}s.txt").read_text().splitlines())
        for kind in ("user", "item")
    )
    history: dict[str, list[str]] = {}
    for line in (folder / "ml-1m_sasrec.txt").read_text().splitlines():
        user, item = line.split()
        history.setdefault(user, []).append(item)
    last = {(int(users[u]), int(items[i[-1]])) for u, i in history.items()}
    before = {(int(users[u]), int(items[i[-2]])) for u, i in history.items()}
    assert set(keys(split, split.test)) == last
    assert set(keys(split, split.valid)) == before
    user, order = next(iter(history.items()))
    row = split.users.find(pl.Series([int(users[user])]))[0]
    train = split.items.at(split.train.item[split.train.user == row]).to_list()
    assert train == [int(items[i]) for i in order[:-2]]


def test_fingerprint_is_the_same_for_both_layouts_of_ml_100k(ml_100k: Tables, atomic_ml_100k: Path) -> None:
    a, b, other = (
        make_split(t, protocol(name="ml-100k-loo"), seed)
        for t, seed in ((ml_100k, 3), (datasets.ml_100k(atomic_ml_100k), 3), (ml_100k, 4))
    )
    assert a.fingerprint == b.fingerprint != other.fingerprint


ROWS = [(u, i, 10 * u + i) for u in range(4) for i in range(6)]
AROUND = [(u, i, (u + i) % 6) for u in range(4) for i in range(6)]
LOO = {"name": "mine", "split": "random-leave-one-out"}


def test_fingerprint_ignores_row_order_and_notices_everything_else() -> None:
    tables = tables_of(ROWS)
    base = make_split(tables, protocol(**LOO), 0)
    shuffled = replace(tables, interactions=tables.interactions.sample(fraction=1.0, shuffle=True, seed=1))
    assert make_split(shuffled, protocol(**LOO), 0).fingerprint == base.fingerprint
    as_text = replace(tables, interactions=tables.interactions.with_columns(pl.col("item").cast(pl.String)))
    later = replace(tables, interactions=tables.interactions.with_columns(pl.col("time") + 1))
    renamed = replace(tables, interactions=tables.interactions.with_columns(pl.col("item") + 100))
    fewer = replace(tables, interactions=tables.interactions[1:])
    others = [make_split(t, protocol(**LOO), 0).fingerprint for t in (as_text, later, renamed, fewer)]
    others.append(make_split(tables, protocol(**LOO), 1).fingerprint)
    others.append(make_split(tables, protocol(**LOO | {"split": "last-leave-one-out"}), 0).fingerprint)
    assert len({base.fingerprint, *others}) == 7


def test_fingerprint_without_times_ignores_row_order() -> None:
    prints = set()
    for seed in range(3):
        frame = tables_of([row[:2] for row in ROWS], "user item").interactions
        shuffled = frame.sample(fraction=1.0, shuffle=True, seed=seed)
        prints.add(make_split(Tables("x", "user", "item", shuffled), protocol(**LOO), 0).fingerprint)
    assert len(prints) == 1


def test_fingerprint_covers_the_catalogue_and_every_part() -> None:
    def ids(kind: str, *values: object) -> IdMap:
        return IdMap(kind, pl.Series(values))

    def part(*items: int) -> Interactions:
        return Interactions(np.zeros(len(items), np.int32), np.array(items, np.int32))

    users, items, parts = ids("user", 1, 2), ids("item", 3, 4, 5, 6), (part(0), part(1), part(2))
    variants = [
        (users, items, parts),
        (users, items, (part(3), part(1), part(2))),
        (users, items, (part(0), part(3), part(2))),
        (users, items, (part(0), part(1), part(3))),
        (users, items, (part(0, 1), part(), part(2))),
        (ids("user", 1), ids("item", 2, 3, 4, 5, 6), (part(1), part(2), part(3))),  # the same keys in a row
        (ids("user", 1, 9), items, parts),
        (users, ids("item", 3, 4, 5, 7), parts),
        (users, ids("item", "3", "4", "5", "6"), parts),
        (users, ids("item", "34", "", "5", "6"), parts),
    ]
    assert len({fingerprint(u, i, p, ordered=False) for u, i, p in variants}) == len(variants)


def test_fingerprint_notices_one_row_that_moves_part() -> None:
    prints = set()
    for moved in ("train", "valid", "test"):
        parts = {"train": ROWS[:3], "valid": ROWS[3:4], "test": ROWS[4:5]}
        parts[moved] = [*parts[moved], ROWS[5]]
        frames = {part: tables_of(rows).interactions for part, rows in parts.items()}
        prints.add(
            make_split(replace(tables_of(ROWS), given=frames), protocol(name="m", split="given"), 0).fingerprint
        )
    assert len(prints) == 3


def test_fingerprint_of_ordered_data_notices_the_order() -> None:
    rows = [(0, i) for i in (4, 2, 3, 1, 0)]
    last = protocol(name="mine", split="last-leave-one-out")
    prints = {
        make_split(tables_of(r, "user item", ordered=True), last, 0).fingerprint
        for r in (rows, [rows[1], rows[0], *rows[2:]])
    }
    assert len(prints) == 2


@pytest.mark.parametrize("keys", [pl.Series([30, 7, 900]), pl.Series(["b", "äé", ""])])
@pytest.mark.parametrize("ordered", [False, True])
def test_fingerprint_is_the_hash_of_whole_columns_whatever_the_block(monkeypatch, keys: pl.Series, ordered) -> None:
    users, items = IdMap("user", keys), IdMap("item", pl.Series([5, 6, 7, 8]))
    rng = np.random.default_rng(0)
    pairs = rng.permutation(12)[:9]
    rows = Interactions(
        (pairs // 4).astype(np.int32), (pairs % 4).astype(np.int32), time=rng.integers(0, 9, 9).astype(np.int64)
    )
    order = np.argsort(rows.user, kind="stable") if ordered else np.lexsort((rows.item, rows.user))
    digest = hashlib.sha256(b"relrank split 1")
    for column in (users.keys, items.keys, users.at(rows.user[order]), items.at(rows.item[order])):
        digest.update(f"{len(column)} {column.dtype};".encode())
        if column.dtype == pl.Int64:
            digest.update(column.to_numpy().tobytes())
        else:
            digest.update(np.array([len(text.encode()) for text in column], np.int64).tobytes())
            digest.update("".join(column).encode())
    assert rows.time is not None
    digest.update(b"-" + rows.time[order].tobytes())
    for block in (2, 100):
        monkeypatch.setattr("relrank.tables.protocols._BLOCK", block)
        assert fingerprint(users, items, (rows,), ordered=ordered) == digest.hexdigest()


def test_filters_are_counted_and_applied_in_turn() -> None:
    rows = [(u, i, 5.0) for u in range(3) for i in range(3)] + [(0, 3, 5.0), (9, 0, 5.0), (1, 4, 2.0), (2, 4, 2.0)]
    split = make_split(
        tables_of(rows, "user item rating"), protocol(**LOO, min_rating=3, core={"user": 2, "item": 3}), 0
    )
    assert split.users.keys.to_list() == split.items.keys.to_list() == [0, 1, 2]
    assert [(n.message, n.count) for n in split.notices if n.where == "filter"] == [
        ("rows rated below 3 dropped", 2),
        ("rows outside the core dropped (users 2, items 3 rows at least)", 2),
    ]


def test_items_outside_training_stay_in_the_catalogue() -> None:
    rows = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (1, 0, 1), (1, 1, 2), (1, 3, 3)]
    split = make_split(tables_of(rows), protocol(name="mine", split="last-leave-one-out"), 0)
    assert split.items.keys.to_list() == [0, 1, 2, 3]
    assert counts(split) == {"items without training rows stay candidates, reachable only through relations": 3}
    assert keys(split, split.test) == [(0, 2), (1, 3)]


def test_users_left_without_training_rows() -> None:
    rows = [(0, 0, 1), (0, 1, 2), (0, 2, 3), (7, 0, 1), (7, 1, 2)]
    last = {"name": "mine", "split": "last-leave-one-out"}
    with pytest.raises(InputError, match="without training rows") as error:
        make_split(tables_of(rows), protocol(**last), 0)
    assert error.value.found == "user 7; 1 such users"
    split = make_split(tables_of(rows), protocol(**last, without_train="drop"), 0)
    assert split.users.keys.to_list() == [0]
    assert counts(split)["users without training rows dropped"] == 1
    assert counts(split)["validation and test rows of users without training rows dropped"] == 2


@pytest.mark.parametrize(
    ("rows", "settings", "known", "expected"),
    [
        (ROWS, LOO, {}, (True, False)),  # a random row may come before the training rows
        (ROWS, {"name": "m", "split": "last-leave-one-out"}, {}, (True, True)),
        (AROUND, {"name": "m", "split": "temporal", "cut": 3, "valid_cut": 1}, {}, (True, True)),
        ([row[:2] for row in ROWS], LOO, {}, (False, False)),
        ([row[:2] for row in ROWS], LOO, {"ordered": True}, (True, False)),
        ([row[:2] for row in ROWS], {"name": "m", "split": "last-leave-one-out"}, {"ordered": True}, (True, True)),
    ],
)
def test_split_says_what_its_order_in_time_is(
    rows: list[tuple[int, ...]], settings: dict[str, object], known: dict[str, object], expected: tuple[bool, bool]
) -> None:
    tables = tables_of(rows, "user item time" if len(rows[0]) == 3 else "user item", **known)
    split = make_split(tables, protocol(**settings), 0)
    assert (split.ordered, split.successive) == expected
    # a row drawn at random, without a time, has no place among the training rows any more
    placed = expected[1] or len(rows[0]) == 3
    assert (split.refit().ordered, split.refit().successive) == (expected[0] and placed, expected[1])
    if split.successive and split.train.time is not None:
        assert split.valid.time is not None
        assert split.test.time is not None
        for user in range(split.shape[0]):
            parts = (split.train, split.valid, split.test)
            times = np.concatenate([p.time[p.user == user] for p in parts if p.time is not None])
            assert (np.diff(times) > 0).all()


def test_published_parts_are_ordered_by_their_times_alone() -> None:
    """Held-out rows are drawn at random, and nobody says that a published test part comes last."""
    parts: dict[str, list[tuple[object, ...]]] = {"train": [row for row in ROWS if row[1] < 4], "test": ROWS[4::6]}
    plain = {part: [row[:2] for row in rows] for part, rows in parts.items()}
    for rows, columns, ordered in ((parts, "user item time", True), (plain, "user item", False)):
        frames = {part: tables_of(r, columns).interactions for part, r in rows.items()}
        tables = Tables("x", "user", "item", pl.concat(frames.values()), given=frames)
        split = make_split(tables, protocol(name="m", split="given", valid_share=0.25), 0)
        assert len(split.valid) == 4
        assert (split.ordered, split.successive) == (ordered, False)


def test_tied_last_times_are_counted() -> None:
    rows = [(0, 0, 1), (0, 1, 2), (0, 2, 2), (1, 0, 1), (1, 1, 2), (1, 2, 3)]
    split = make_split(tables_of(rows), protocol(name="mine", split="last-leave-one-out"), 0)
    assert counts(split)["users whose last two times are equal: which row is the last is file order"] == 1
    assert keys(split, split.test) == [(0, 2), (1, 2)]


def test_temporal_split_drops_what_was_unknown_at_the_cut() -> None:
    rows = [
        ("a", 0, 5), ("a", 1, 10), ("a", 2, 20), ("a", 3, 30),  # item 3 is new after the cut
        ("b", 1, 10), ("b", 0, 21),
        ("c", 0, 11), ("c", 1, 25),  # user c is new after the training cut
    ]  # fmt: skip
    split = make_split(tables_of(rows), protocol(name="mine", split="temporal", cut=20, valid_cut=10), 0)
    assert split.users.keys.to_list() == ["a", "b"]
    assert split.items.keys.to_list() == [0, 1]
    assert keys(split, split.train) == [("a", 0), ("a", 1), ("b", 1)]
    assert keys(split, split.valid) == []
    assert keys(split, split.test) == [("b", 0)]
    assert counts(split) == {
        "users without training rows dropped": 1,
        "validation and test rows of users without training rows dropped": 2,
        "validation and test rows of items without training rows dropped": 2,
    }


def test_temporal_cut_as_a_date() -> None:
    rows = [(0, 0, 0), (0, 1, 86_400), (1, 1, 86_400), (1, 0, 86_401)]
    for cut in ("1970-01-02", 86_400, "1970-01-02T01:00:00+01:00"):
        split = make_split(tables_of(rows, time_unit="s"), protocol(name="mine", split="temporal", cut=cut), 0)
        assert (len(split.train), keys(split, split.test)) == (3, [(1, 0)])


def given(**parts: list[tuple[object, ...]]) -> Tables:
    frames = {p: tables_of(rows, "user item rating").interactions for p, rows in parts.items()}
    return Tables("x", "user", "item", pl.concat(frames.values()), given=frames)


def test_given_parts_and_held_out_rows() -> None:
    train = [(u, i, 5.0 if i < 10 else 2.0) for u in range(3) for i in range(20)]
    test = [(0, 30, 5.0), (1, 30, 2.0), (2, 31, 4.0)]
    recipe = {"name": "mine", "split": "given", "valid_share": 0.5}
    split = make_split(given(train=train, test=test), protocol(**recipe), 0)
    assert len(split.train) == len(split.valid) == 30
    assert keys(split, split.test) == [(0, 30), (1, 30), (2, 31)]
    liked = make_split(given(train=train, test=test), protocol(**recipe, truth_min_rating=4), 0)
    assert keys(liked, liked.test) == [(0, 30), (2, 31)]
    assert counts(liked)["test rows rated below 4 are no truth and dropped"] == 1
    # of the same held-out rows those rated below 4 went back to training, where they stay masked
    held = set(keys(split, split.valid))
    assert set(keys(liked, liked.valid)) == {(u, i) for u, i in held if i < 10}
    assert len(liked.train) + len(liked.valid) == 60
    assert liked.seen("test").nnz == 60


def test_given_validation_part_is_used_as_it_is() -> None:
    split = make_split(
        given(train=[(0, 0, 5.0)], valid=[(0, 1, 5.0)], test=[(0, 2, 5.0)]), protocol(name="m", split="given"), 0
    )
    assert keys(split, split.valid) == [(0, 1)]


def test_row_in_two_given_parts() -> None:
    tables = given(train=[(0, 0, 5.0), (0, 1, 5.0)], test=[(0, 1, 4.0)])
    with pytest.raises(InputError, match="row in two parts") as error:
        make_split(tables, protocol(name="mine", split="given"), 0)
    assert error.value.found == "(0, 1); 2 such rows"


def test_masks_truth_and_refit() -> None:
    split = make_split(tables_of(ROWS), protocol(name="mine", split="last-leave-one-out"), 0)
    assert split.seen("valid").nnz == 16
    assert split.seen("test").nnz == 20
    assert split.truth("test").indices.tolist() == [5] * 4
    refit = split.refit()
    assert refit.train.item.tolist() == [0, 1, 2, 3, 4] * 4  # in time order inside a user
    assert refit.train.time is not None and (np.diff(refit.train.time.reshape(4, 5)) > 0).all()  # noqa: PT018
    assert len(refit.valid) == 0
    assert refit.seen("test").nnz == 20
    assert refit.fingerprint == split.fingerprint


@pytest.mark.parametrize(
    ("tables", "settings", "what"),
    [
        (tables_of(ROWS), {"name": "goodbooks-loo"}, "defined on other data"),
        (tables_of(ROWS), LOO | {"min_rating": 4}, "needs ratings"),
        (tables_of(ROWS), LOO | {"core": 9}, "leave no rows"),
        (tables_of(ROWS), {"name": "m", "split": "given"}, "no published parts"),
        (tables_of([(0, 0)], "user item"), {"name": "m", "split": "last-leave-one-out"}, "order in time"),
        (
            tables_of([(0, 0)], "user item", ordered=True),
            {"name": "m", "split": "temporal", "cut": 5},
            "order in time",
        ),
        (tables_of(ROWS), {"name": "m", "split": "temporal", "cut": 100}, "cut is outside the data"),
        (tables_of(ROWS), {"name": "m", "split": "temporal", "cut": 5, "valid_cut": 5}, "not before cut"),
        (tables_of(ROWS), {"name": "m", "split": "temporal", "cut": "soon"}, "times have no unit"),
        (tables_of(ROWS, time_unit="s"), {"name": "m", "split": "temporal", "cut": "soon"}, "not a time"),
    ],
)
def test_tables_that_do_not_fit_the_protocol(tables: Tables, settings: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        make_split(tables, protocol(**settings), 0)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"name": "goodbooks"}, "one of beauty-loo, facebook-books"),
        ({}, "one of beauty-loo, facebook-books"),
        ({"name": "goodbooks-loo", "core": 3}, "fixed protocol"),
        ({"name": "mine", "core": 5}, "split"),
        ({"split": "temporal"}, "cut"),
        ({"split": "given", "cut": 5}, "cut"),
        ({"split": "given", "valid_cut": 5}, "valid_cut"),
        ({"split": "temporal", "cut": 5, "truth_min_rating": 4}, "truth_min_rating"),
        ({"split": "given", "core": -1}, "negative"),
        ({"split": "given", "core": {"user": -1}}, "core"),
        ({"split": "given", "valid_share": 1.0}, "valid_share"),
        ({"split": "given", "spilt": 1}, "unknown key"),
    ],
)
def test_sections_that_do_not_fit(settings: dict[str, object], what: str) -> None:
    with pytest.raises(InputError, match=what):
        protocol(**settings)


def test_a_named_recipe_can_be_written_out_and_read_again() -> None:
    recipe = protocol(name="goodbooks-loo")
    assert protocol(**recipe.model_dump(exclude_unset=True)) == recipe
    assert protocol(**recipe.model_dump()) == recipe


def test_cold_items_leave_new_items_as_the_only_candidates() -> None:
    rows = [(u, i) for u in range(6) for i in range(10) if (u + i) % 3]
    made = make_split(tables_of(rows, "user item"), protocol(split="cold-items", item_share=0.2), seed=0)
    known = set(made.items.at(made.train.item).to_list())
    new = [set(made.items.at(part.item).to_list()) for part in (made.valid, made.test)]
    assert [len(s) for s in (known, *new)] == [6, 2, 2]
    assert known | new[0] | new[1] == set(range(10))
    assert made.items.at(made.closed()).to_list() == sorted(known)
    assert replace(made, new_items_only=False).closed().size == 0
    # who else may be ranked makes it another protocol
    both = [fingerprint(made.users, made.items, (made.train, made.valid, made.test), ordered=False, new_items_only=o)
            for o in (True, False)]  # fmt: skip
    assert made.fingerprint == both[0] != both[1]
    with pytest.raises(InputError, match=r"(?s)no item to hold out.*at least one item: a share of 1/10 or.*0.09$"):
        make_split(tables_of(rows, "user item"), protocol(split="cold-items", item_share=0.09), seed=0)
    with pytest.raises(InputError, match="item_share goes with"):
        protocol(split="last-leave-one-out", item_share=0.1)


def test_shares_of_a_random_ratio_fit_together() -> None:
    rows = [(u, i) for u in range(3) for i in range(10)]
    made = make_split(tables_of(rows, "user item"), protocol(split="random-ratio"), seed=0)
    assert [len(part) for part in (made.train, made.valid, made.test)] == [24, 3, 3]
    assert (made.random, made.successive) == (True, False)
    with pytest.raises(InputError, match="together must be below 1"):
        protocol(split="random-ratio", test_share=0.5, valid_share=0.5)
    for key, value in (("test_share", 0.2), ("rounding", "up")):
        with pytest.raises(InputError, match=f"{key} goes with"):
            protocol(split="given", **{key: value})


def test_share_of_one_item_is_one_item_whatever_the_rounding() -> None:
    """1/49 · 49 is below one in binary."""
    assert 1 / 49 * 49 < 1
    rows = [(u, i) for u in range(3) for i in range(49)]
    made = make_split(tables_of(rows, "user item"), protocol(split="cold-items", item_share=1 / 49), seed=0)
    assert [len(set(part.item.tolist())) for part in (made.train, made.valid, made.test)] == [47, 1, 1]


ALL_DAYS = [(u, (3 * u + 2 * t) % 40, t) for u in range(40) for t in range(8)]
WALKED: dict[str, dict[str, object]] = {
    "random-leave-one-out": {},
    "random-ratio": {"test_share": 0.3},
    "last-leave-one-out": {},
    "given": {"valid_share": 0.3},
    "temporal": {"valid_cut": 3, "cut": 5},
    "cold-items": {"without_train": "drop"},
}
"""Every split, with the settings that it needs."""


@pytest.mark.parametrize("split", get_args(ProtocolConfig.model_fields["split"].annotation))
def test_a_protocol_says_whether_another_seed_is_another_split(split: str) -> None:
    parts = {"train": [r for r in ALL_DAYS if r[2] < 7], "test": [r for r in ALL_DAYS if r[2] == 7]}
    given = {part: tables_of(rows).interactions for part, rows in parts.items()} if split == "given" else {}
    recipe = protocol(name="mine", split=split, **WALKED[split])
    one, other = (make_split(tables_of(ALL_DAYS, given=given), recipe, seed) for seed in (0, 1))
    assert recipe.draws_test == (set(keys(one, one.test)) != set(keys(other, other.test)))
    # a validation part that is not published is drawn, though the test rows stay
    assert (recipe.draws_test or split == "given") == (one.fingerprint != other.fingerprint)


def test_with_all_parts_published_no_seed_changes_anything() -> None:
    days = {"train": range(6), "valid": range(6, 7), "test": range(7, 8)}
    given = {part: tables_of([r for r in ALL_DAYS if r[2] in of]).interactions for part, of in days.items()}
    recipe = protocol(name="mine", split="given")
    prints = {make_split(tables_of(ALL_DAYS, given=given), recipe, seed).fingerprint for seed in (0, 1)}
    assert (len(prints), recipe.draws_test) == (1, False)


def test_ratings_that_would_become_infinite_are_refused() -> None:
    """Ratings are kept as float32; weights of infinite ones would be no numbers."""
    rows: list[tuple[object, ...]] = [(u, i, 1e39 if u == i == 2 else 3.0) for u in range(4) for i in range(4)]
    tables = tables_of(rows, "user item rating")
    with pytest.raises(InputError, match=r"rating is too large[\s\S]*1e\+39; 1 such"):
        make_split(tables, protocol(split="random-leave-one-out"), 0)


@pytest.mark.parametrize("name", [["gowalla"], {"a": 1}, 5, None, True])
def test_a_name_that_is_no_text_is_one_error(name: object) -> None:
    with pytest.raises(InputError, match="name"):
        protocol(name=name, split="given")
    with pytest.raises(InputError, match="unknown protocol"):
        protocol(name=name)
