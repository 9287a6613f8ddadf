"""Tables with many columns: columns of 0 and 1 are one relation, and a proposal has no hundreds of them."""

import numpy as np
import polars as pl
import pytest

from relrank.discovery import discover
from relrank.discovery.limit import MOST_RELATIONS

ITEMS, USERS = 60, 90
GENRES = ("Action", "Comedy", "Sci-Fi", "Film Noir")
COLOURS = ("red", "green", "blue")


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    pairs = [(f"u{u}", f"i{i}") for u in range(USERS) for i in rng.choice(ITEMS, 8, False)]
    return pl.DataFrame(pairs, ["user_id", "item_id"], orient="row")


def items(**columns):
    return pl.DataFrame({"item_id": [f"i{n}" for n in range(ITEMS)], **columns})


def bits(n, values=(0, 1)):
    return [values[(i * (n + 3) // 7 + i) % 2] for i in range(ITEMS)]


def blocks(prefix, names, values=(0, 1), mark="_"):
    return {f"{prefix}{mark}{name}": bits(n, values) for n, name in enumerate(names)}


@pytest.mark.parametrize("values", [(0, 1), ("0", "1"), (False, True), (0.0, 1.0), ("False", "True"), (None, 1)])
def test_columns_that_begin_alike_are_one_relation_each(rows, values):
    columns = blocks("genre", GENRES, values) | blocks("colour", COLOURS, values)
    proposal = discover({"orders": rows, "items": items(**columns)})
    relations = proposal.config["relations"]
    assert {name: (r["column"], r["target"]) for name, r in relations.items()} == {
        "genre": ("genre", "genre"), "colour": ("colour", "colour"),
    }  # fmt: skip
    lists = proposal.derived["items-prepared"]["genre"].to_list()
    names = ["Action", "Comedy", "Sci Fi", "Film Noir"]
    expected = [[n for k, n in enumerate(names) if bits(k)[i]] for i in range(ITEMS)]
    assert lists == expected


def test_longer_beginnings_are_told_apart(rows):
    columns = blocks("item_genre", GENRES) | blocks("item_colour", COLOURS)
    relations = discover({"orders": rows, "items": items(**columns)}).config["relations"]
    assert set(relations) == {"item_genre", "item_colour"}
    camel = discover({"orders": rows, "items": items(**blocks("Genre", GENRES, mark=""))}).config["relations"]
    assert set(camel) == {"genre"}


def test_numbered_and_unrelated_columns_are_one_list_of_flags(rows):
    numbered = discover({"orders": rows, "items": items(**blocks("column", range(5, 24)))}).config["relations"]
    assert set(numbered) == {"flags"}
    names = ("vegan", "new", "is_heavy", "is_small", "is_light")
    mixed = {name: bits(n) for n, name in enumerate(names)} | blocks("genre", GENRES)
    assert set(discover({"orders": rows, "items": items(**mixed)}).config["relations"]) == {"genre", "flags"}
    few = {name: bits(n) for n, name in enumerate(names[:3])}
    assert set(discover({"orders": rows, "items": items(**few)}).config["relations"]) == {"vegan", "new", "is_heavy"}


@pytest.mark.parametrize("prefix", ["owns_", ""])
def test_one_column_per_item_that_users_bought_is_a_leak(rows, prefix):
    users = rows.with_columns(n=1).pivot("item_id", index="user_id", values="n").fill_null(0)
    users = users.rename({c: f"{prefix}{c}" for c in users.columns if c != "user_id"})
    proposal = discover({"orders": rows, "users": users.with_columns(region=pl.Series(["n", "s", "w"] * 30))})
    leak = next(f for f in proposal.findings if f.kind == "leak")
    assert leak.count == ITEMS
    assert "names items that each user chose (item keys)" in leak.message
    assert set(proposal.config["relations"]) == {"user_region"}


def test_columns_named_after_what_users_like_are_a_leak(rows):
    liked = {f"favourite_{c}": [int(n % k == 0) for n in range(USERS)] for k, c in enumerate(COLOURS, 2)}
    proposal = discover(
        {"orders": rows, "users": pl.DataFrame({"user_id": [f"u{n}" for n in range(USERS)], **liked})}
    )
    assert "relations" not in proposal.config
    assert "favourite_red to favourite_blue" in next(f.message for f in proposal.findings if f.kind == "leak")


def test_the_columns_that_say_least_are_left_out_and_listed(rows):
    rng = np.random.default_rng(1)
    many = {f"good{n}": rng.choice(list("abcdefgh"), ITEMS) for n in range(MOST_RELATIONS - 2)}
    sparse = {f"sparse{n}": [f"v{i % 2}" if i < 6 else None for i in range(ITEMS)] for n in range(30)}
    constant = {f"constant{n}": ["x"] * (ITEMS - 4) + ["y"] * 4 for n in range(30)}
    brands = pl.DataFrame({"brand_id": [f"b{n}" for n in range(12)], "land": list("xyz") * 4})
    half = {"half": ["xyz"[n % 3] if n < 36 else None for n in range(ITEMS)]}
    columns = sparse | constant | many | half | {"brand_id": [f"b{n % 12}" for n in range(ITEMS)]}
    proposal = discover({"orders": rows, "items": items(**columns), "brands": brands})
    kept = set(proposal.config["relations"])
    assert len(kept) == MOST_RELATIONS
    assert kept == {*many, "half", "brand"}  # keys stay; a step farther away, the land of a brand counts for half
    left_out = {f.where: f.message for f in proposal.findings if f.kind == "left out"}
    assert {f"items.{name}" for name in (*sparse, *constant)} | {"brands.land"} <= set(left_out)
    assert left_out["items.sparse0"].endswith("a node shares 0.1 values with others, 50% of pairs of them differ")
    assert set(proposal.comments) >= {f"relations.{name}" for name in kept}
    assert not {name for name in proposal.comments if name.startswith("relations.")} - {
        f"relations.{n}" for n in kept
    }
