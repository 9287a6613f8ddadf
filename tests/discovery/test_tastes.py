"""Columns of users that are what they chose last or most."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from relrank.discovery import discover

BRANDS = 12


@pytest.fixture(scope="module")
def shop():
    """Purchases, products with brands in a table of their own, customers."""
    rng = np.random.default_rng(0)
    rows = [
        (f"c{c}", f"p{p}", datetime(2024, 1, 1) + timedelta(days=20 * n + int(rng.integers(19))))
        for c in range(200)
        for n, p in enumerate(rng.choice(60, 8, False))
    ]
    names = [f"House {n}" for n in range(BRANDS)]
    products = pl.DataFrame(
        {
            "product_id": [f"p{p}" for p in range(60)],
            "brand_id": [f"b{p % BRANDS}" for p in range(60)],
            "kind": [f"{'vwxyz'[p % 5]}|{'vwxyz'[(p + 1 + p // 5 % 3) % 5]}" for p in range(60)],
            "path": [f"Above {p % 9 // 3} > Below {p % 9}" for p in range(60)],
        }
    )
    customers = pl.DataFrame({"customer_id": [f"c{c}" for c in range(200)], "region": list("NSEW") * 50})
    return {
        "purchases": pl.DataFrame(rows, schema=["customer_id", "product_id", "bought_at"], orient="row"),
        "products": products,
        "brands": pl.DataFrame({"brand_id": [f"b{n}" for n in range(BRANDS)], "label": names}),
        "customers": customers,
    }


def chosen(shop, what):
    """Per customer, what was chosen last or most: a key, a brand, the name of the brand or a part of the kind."""
    rows = shop["purchases"].join(shop["products"], on="product_id").join(shop["brands"], on="brand_id")
    rows = rows.with_columns(level=pl.col("path").str.split(" > ").list.last()).sort("bought_at")
    if what == "part":
        rows = rows.with_columns(part=pl.col("kind").str.split("|")).explode("part")
    column = {"name": "label", "most": "brand_id", "brand": "brand_id", "item": "product_id"}.get(what, what)
    by = rows.group_by("customer_id").agg(last=pl.col(column).last(), most=pl.col(column).mode().sort().first())
    return by.select("customer_id", cluster=pl.col("most" if what in ("most", "part", "level") else "last"))


def leaks(shop, customers):
    proposal = discover(shop | {"customers": customers})
    return proposal, {f.where: f.message for f in proposal.findings if f.kind == "leak"}


@pytest.mark.parametrize("what", ["brand", "name", "most", "item", "part", "level"])
def test_what_was_chosen_last_or_most_is_a_leak(shop, what):
    customers = shop["customers"].join(chosen(shop, what), on="customer_id")
    proposal, found = leaks(shop, customers)
    assert "held-out" in found["customers.cluster"]
    used = {r.get("column") for r in proposal.config["relations"].values()}
    assert "cluster" not in used
    assert "region" in used
    # the same values of other customers are no leak
    moved = customers.with_columns(pl.col("cluster").shuffle(seed=3))
    assert "customers.cluster" not in leaks(shop, moved)[1]


def test_four_of_five_are_enough_and_half_are_not(shop):
    customers = shop["customers"].join(chosen(shop, "brand"), on="customer_id")
    for share, leak in ((0.9, True), (0.5, False)):
        wrong = pl.int_range(pl.len()) >= int(share * 200)
        other = pl.when(wrong).then(pl.col("cluster").shuffle(seed=3)).otherwise("cluster")
        found = leaks(shop, customers.with_columns(other.alias("cluster")))[1]
        assert ("customers.cluster" in found) is leak


def test_what_most_customers_share_anyway_is_none(shop):
    # two kinds of products, nine of ten purchases of one of them: that most customers have it says nothing
    products = shop["products"].with_columns(line=pl.Series(["men"] * 54 + ["women"] * 6))
    customers = shop["customers"].with_columns(sex=pl.Series((["men"] * 9 + ["women"]) * 20))
    assert "customers.sex" not in leaks(shop | {"products": products}, customers)[1]


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("recent_brand", True), ("favourite_category", True), ("favorite_kind", True), ("topBrand", True),
        ("preferred_product", True), ("last_purchase_channel", True), ("bought", True),
        ("preferred_language", False), ("class", False),
    ],
)  # fmt: skip
def test_names_of_what_was_chosen(shop, name, leak):
    customers = shop["customers"].with_columns(pl.Series(name, list("abcd") * 50).shuffle(seed=5))
    assert (f"customers.{name}" in leaks(shop, customers)[1]) is leak


TITLE = "One of the long names of {} that has many words"


@pytest.fixture(scope="module")
def named(shop):
    """The shop with long titles of products and with names of customers, of which some occur twice."""
    products = shop["products"].with_columns(title=pl.format(TITLE, "product_id"))
    customers = shop["customers"].with_columns(full_name=pl.Series([f"Ann B{n % 190}" for n in range(200)]))
    return shop | {"products": products, "customers": customers}


def history(shop, column, by, pick):
    """Per customer or product, what a column of the other says of their purchases, in the order of time."""
    rows = shop["purchases"].join(shop["products"], on="product_id").join(shop["customers"], on="customer_id")
    values = pl.col(column).cast(pl.String)
    return rows.sort("bought_at").group_by(by, maintain_order=True).agg(x=pick(values))


@pytest.mark.parametrize("column", ["title", "product_id"])
@pytest.mark.parametrize(
    "pick",
    [
        lambda c: c.last(), lambda c: c.first(), lambda c: c.tail(3).str.join(" | "),
        lambda c: c.tail(2).str.join(", "), lambda c: c.tail(4),
    ],
    ids=["last", "first", "last three", "last two", "list"],
)  # fmt: skip
def test_a_column_of_customers_that_names_their_purchases_is_a_leak(named, column, pick):
    customers = named["customers"].join(history(named, column, "customer_id", pick), on="customer_id")
    _, found = leaks(named, customers)
    assert "held-out" in found["customers.x"]
    moved = customers.with_columns(pl.col("x").shuffle(seed=3))
    assert "customers.x" not in leaks(named, moved)[1]


def test_the_title_of_the_last_purchase_is_one_where_most_customers_have_another(named):
    bought = history(named, "title", "customer_id", lambda c: c.last())[:120]  # so few that titles look like prose
    customers = named["customers"].join(bought, on="customer_id", how="left")
    assert "last products.title" in leaks(named, customers)[1]["customers.x"]


@pytest.mark.parametrize("column", ["full_name", "customer_id"])
@pytest.mark.parametrize("pick", [lambda c: c.last(), lambda c: c.tail(3).str.join("; ")], ids=["last", "last three"])
def test_a_column_of_products_that_names_their_buyers_is_a_leak(named, column, pick):
    products = named["products"].join(history(named, column, "product_id", pick), on="product_id", how="left")
    message = leaks(named | {"products": products}, named["customers"])[1]["products.x"]
    assert message.startswith("names users who chose each item")
    # names of users are never used, whoever they are
    moved = products.with_columns(pl.col("x").shuffle(seed=3))
    assert "names users" in leaks(named | {"products": moved}, named["customers"])[1]["products.x"]


def test_whole_numbers_name_buyers_only_where_they_are_those(named):
    def numbered(frame):
        return frame.with_columns(pl.col("customer_id").str.slice(1).cast(pl.Int64))

    tables = named | {"purchases": numbered(named["purchases"])}
    buyers = history(named, "customer_id", "product_id", lambda c: c.str.slice(1).cast(pl.Int64).min())
    products = named["products"].join(buyers, on="product_id", how="left")
    customers = numbered(named["customers"])
    assert "customer keys" in leaks(tables | {"products": products}, customers)[1]["products.x"]
    moved = products.with_columns(pl.col("x").shuffle(seed=3))
    assert "products.x" not in leaks(tables | {"products": moved}, customers)[1]
