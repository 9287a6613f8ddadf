"""Proposals for shops whose truth is known, and for tables that leave something open."""

from dataclasses import replace

import polars as pl
import pytest

from discovery import score
from discovery_shops import SHOPS, plain_shop, write_shop
from relrank.discovery import Hints, discover
from relrank.discovery.columns import tables_of
from relrank.discovery.folder import read_folder
from relrank.discovery.references import references
from relrank.errors import InputError
from relrank.study.config import StudyConfig


@pytest.fixture(scope="module")
def shop():
    return plain_shop(300, 200)


@pytest.mark.parametrize("name", SHOPS)
def test_every_shop_is_read_as_a_careful_person_would(name, tmp_path):
    truth = write_shop(name, tmp_path / name)
    proposal = discover(read_folder(tmp_path / name).frames)
    result = score(proposal, truth)
    assert (result.missing, result.wrong, result.unnamed) == (frozenset(), frozenset(), frozenset())
    assert len(result.extra) <= 2
    StudyConfig.model_validate(proposal.config)


def test_typed_frames_are_read_as_files_are(shop):
    proposal = discover(shop.tables)
    result = score(proposal, shop.truth)
    assert (result.missing, result.wrong, result.unnamed) == (frozenset(), frozenset(), frozenset())


def test_order_lines_are_joined_with_the_customers_of_their_orders(shop):
    proposal = discover(shop.tables)
    rows = proposal.config["data"]["interactions"]
    assert rows["file"] == "order_lines-with-orders"
    assert (rows["user"], rows["item"], rows["time"]) == ("customer_id", "product_id", "ordered_at")
    lines, joined = shop.tables["order_lines"], proposal.derived["order_lines-with-orders"]
    assert joined["line_no"].to_list() == lines["line_no"].to_list()
    of = dict(shop.tables["orders"].select("order_id", "customer_id").iter_rows())
    assert joined["customer_id"].to_list() == [of[order] for order in lines["order_id"]]


def test_private_and_useless_columns_are_left_out_with_reasons(shop):
    left_out = {f.where: f.message for f in discover(shop.tables).findings if f.kind == "left out"}
    assert left_out["customers.email"] == "holds e-mail addresses"
    assert left_out["products.Unnamed: 0"] == "numbers the rows"
    assert "'active'" in left_out["products.status"]
    assert "price_list" in left_out


def test_numeric_keys_with_another_meaning_are_no_reference(shop):
    # warehouses 1 to 5 are all among the brands 1 to 40, cities 1 to 60 hold all brands
    found = {(r.table, r.column, r.target) for r in references(tables_of(shop.tables))}
    assert ("products", "brand_id", "brands") in found
    assert not {("products", "warehouse_id", "brands"), ("products", "brand_id", "cities")} & found


def test_two_tables_that_are_equally_likely_are_named(shop):
    tables = {"sales_north": _sales(shop, 0), "sales_south": _sales(shop, 1)}
    proposal = discover(tables)
    assert proposal.config["data"]["interactions"]["file"] in tables
    assert [c.hint for c in proposal.choices] == ["interactions"]
    assert set(proposal.choices[0].options) == set(tables)
    assert [f.kind for f in proposal.findings].count("ambiguous") == 1


def _sales(shop, half):
    rows = shop.tables["order_lines"].join(shop.tables["orders"], on="order_id")
    return rows.select("customer_id", "product_id", "ordered_at").gather_every(2, half)


def test_hints_are_taken_as_given(shop):
    hints = Hints(interactions="views", user="customer_id", item="product_id", item_node="thing", user_node="person")
    data = discover(shop.tables, hints).config["data"]
    assert (data["interactions"]["file"], data["user"], data["item"]) == ("views", "person", "thing")
    swapped = replace(hints, interactions="wishlist", user="product_id", item="customer_id")
    data = discover(shop.tables, swapped).config["data"]
    assert (data["interactions"]["user"], data["interactions"]["item"]) == ("product_id", "customer_id")


@pytest.mark.parametrize("hints", [Hints(interactions="vews"), Hints(interactions="views", time="seen")])
def test_a_hint_that_names_nothing_is_an_error(shop, hints):
    with pytest.raises(InputError, match=r"no such table|column not found"):
        discover(shop.tables, hints)


def test_without_interactions_the_error_says_what_was_seen(shop):
    with pytest.raises(InputError, match="no table of interactions") as error:
        discover({"products": shop.tables["products"], "brands": shop.tables["brands"]})
    assert "products: 200 rows" in error.value.found
    assert "a column of users" in error.value.expected


def test_untimed_behaviour_and_copies_of_the_interactions_are_leaks(shop):
    rows = _sales(shop, 0)
    likes = plain_shop(300, 200, seed=9).tables["wishlist"]
    tables = {"sales": rows, "copy": rows.sample(fraction=0.5, seed=0), "likes": likes}
    leaks = {f.where for f in discover(tables, Hints(interactions="sales")).findings if f.kind == "leak"}
    assert leaks == {"copy", "likes"}


def test_an_order_in_which_times_tie_is_split_at_a_date():
    at = pl.datetime_range(pl.datetime(2024, 1, 1), pl.datetime(2024, 12, 30), "1d", eager=True)
    rows = [
        (f"u{u}", f"i{(7 * u + k * 13) % 90}", at[(u * 11 + 40 * (k // 2)) % 360])
        for u in range(400)
        for k in range(14)
    ]
    frame = pl.DataFrame(rows, schema=["user", "item", "bought_at"], orient="row")
    protocol = discover({"purchases": frame}).config["protocol"]
    assert protocol["split"] == "temporal"
    assert "2024-01-01" < protocol["valid_cut"] < protocol["cut"] < "2024-12-30"


def test_columns_of_items_that_tell_who_chose_them_are_leaks(shop):
    products = shop.tables["products"]
    keys, people = products["product_id"], shop.tables["customers"]["customer_id"]
    chosen = [[people[(i * 7 + k * 3) % len(people)] for k in range(3)] for i in range(len(products))]
    lists = [[keys[(i * 7 + k) % len(keys)] for k in range(1, 4)] for i in range(len(products))]
    more = products.with_columns(
        pl.Series("also_bought", ["|".join(row) for row in lists]),
        pl.Series("fits", [";".join(row[:2]) for row in lists]),
        pl.Series("buyers", ["|".join(row) for row in chosen]),
        pl.Series("stock", [i * 7 % 50 for i in range(len(products))]),
        pl.Series("stars", [3.5, 4.0, 4.5, 5.0] * (len(products) // 4)),
        pl.Series("bestseller", ["yes", "no"] * (len(products) // 2)),
    )
    proposal = discover(shop.tables | {"products": more})
    leaks = {f.where for f in proposal.findings if f.kind == "leak"}
    assert {f"products.{c}" for c in ("also_bought", "buyers", "stock", "stars", "bestseller")} <= leaks
    fits = proposal.config["relations"]["fits"]
    assert (fits["target"], fits["separator"]) == ("product", ";")


@pytest.mark.parametrize("descending", [True, False])
def test_the_place_in_the_order_of_sales_is_a_leak(descending):
    """Rank 1 may be the item with the most or the fewest rows; the name says nothing."""
    pairs = [(f"u{(i * 3 + k) % 90}", f"i{i}") for i in range(60) for k in range(4 + i)]
    orders = pl.DataFrame(pairs, ["user", "item"], orient="row")
    places = [(60 - i if descending else i + 1) // 2 for i in range(60)]
    items = pl.DataFrame({"item": [f"i{i}" for i in range(60)], "z": places, "colour": ["a", "b", "c"] * 20})
    proposal = discover({"orders": orders, "items": items})
    assert "items.z" in {f.where for f in proposal.findings if f.kind == "leak"}


def test_a_bare_list_of_pairs_is_enough_if_it_is_all_there_is(shop):
    pairs = pl.DataFrame([(f"a{i % 40}", f"b{(i * 7 + i // 40) % 60}") for i in range(800)], ["a", "b"], orient="row")
    assert discover({"pairs": pairs}).config["data"]["interactions"]["file"] == "pairs"
    with pytest.raises(InputError, match="no table of interactions"):
        discover({"products": shop.tables["products"].select("product_id", "brand_id", "colour", "material")})
