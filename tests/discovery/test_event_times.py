"""Which dates are times of rows, and which are attributes of a user or an item."""

from datetime import datetime, timedelta

import numpy as np
import polars as pl
import pytest

from relrank.discovery import Hints, discover
from relrank.discovery.columns import Table
from relrank.discovery.reshaping import depends_on_key

USERS, ITEMS, BOUGHT = 150, 60, 8
START = datetime(2024, 1, 1)


@pytest.fixture(scope="module")
def orders():
    """Eight items of each user at times of their own."""
    rng = np.random.default_rng(0)
    rows = [
        (f"u{u}", f"i{i}", START + timedelta(days=int(rng.integers(30)) + 30 * n, hours=u % 24))
        for u in range(USERS)
        for n, i in enumerate(rng.choice(ITEMS, BOUGHT, False))
    ]
    return pl.DataFrame(rows, schema=["user_id", "item_id", "ts"], orient="row")


def released(key="item_id"):
    """A date of each item or user, long before the orders."""
    days = pl.col(key).str.slice(1).cast(pl.Int64) * 7
    return pl.lit(datetime(2010, 1, 1)) + pl.duration(days=days)


def found(proposal, kind):
    return {f.where: f.message for f in proposal.findings if f.kind == kind}


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("release_date", "item_id"), ("available_on", "item_id"), ("created_at", "item_id"),
        ("customer_since_date", "user_id"), ("birth_date", "user_id"), ("ordered_at", "user_id"),
    ],
)  # fmt: skip
def test_a_date_of_a_user_or_an_item_is_no_time_of_interactions(orders, name, key):
    proposal = discover({"orders": orders.with_columns(released(key).alias(name))})
    assert proposal.config["data"]["interactions"]["time"] == "ts"
    assert proposal.config["protocol"]["split"] == "last-leave-one-out"
    assert "all rows of" in found(proposal, "left out")[f"orders.{name}"]
    assert proposal.choices == ()
    alone = discover({"orders": orders.drop("ts").with_columns(released(key).alias(name))})
    assert "time" not in alone.config["data"]["interactions"]
    assert alone.config["protocol"]["split"] == "random-leave-one-out"


@pytest.mark.parametrize("of_lines", [True, False])
def test_nor_of_orders_and_their_lines(orders, of_lines):
    numbered = orders.with_row_index("n").with_columns(order_id="o" + (pl.col("n") // 2).cast(pl.String))
    heads = numbered.unique("order_id", maintain_order=True).select("order_id", "user_id", "ts")
    lines = numbered.select("order_id", "item_id")
    if of_lines:
        lines = lines.with_columns(released().alias("release_date"))
    else:
        heads = heads.with_columns(released("user_id").alias("customer_since_date"))
    rows = discover({"orders": heads, "order_lines": lines}).config["data"]["interactions"]
    assert (rows["file"], rows["time"]) == ("order_lines-with-orders", "ts")


def test_two_times_of_interactions_are_named_and_asked_about(orders):
    two = orders.with_columns(moment=pl.col("ts") + pl.duration(hours=pl.int_range(pl.len()) % 7))
    proposal = discover({"orders": two})
    assert proposal.config["data"]["interactions"]["time"] == "ts"
    assert "could be the time" in found(proposal, "ambiguous")["orders.moment"]
    assert [(c.hint, c.options) for c in proposal.choices] == [("time", ("ts", "moment"))]
    answered = discover({"orders": two}, Hints(time="moment"))
    assert answered.config["data"]["interactions"]["time"] == "moment"
    assert answered.choices == ()
    assert not found(answered, "ambiguous")


@pytest.mark.parametrize(
    ("name", "key"), [("release_date", "item_id"), ("signup_date", "user_id"), ("viewed_on", "item_id")]
)
def test_links_are_cut_by_their_own_time(orders, name, key):
    clicks = orders.sample(fraction=0.8, seed=1).with_columns(pl.col("ts") + pl.duration(hours=5))
    clicks = clicks.with_columns(released(key).alias(name)).select("user_id", "item_id", name, "ts")
    proposal = discover({"orders": orders, "clicks": clicks})
    assert proposal.config["data"]["links"]["clicks"]["time"] == "ts"
    assert "is the same" in found(proposal, "left out")[f"clicks.{name}"]
    proposal = discover({"orders": orders, "clicks": clicks.drop("ts")})
    assert not proposal.config["data"].get("links")
    assert "clicks" in found(proposal, "leak")


def test_of_several_times_of_links_the_latest_is_taken(orders):
    early = pl.col("ts") - pl.duration(days=pl.int_range(pl.len()) % 9)
    clicks = orders.sample(fraction=0.8, seed=1).with_columns(pl.col("ts") + pl.duration(hours=5))
    proposal = discover({"orders": orders, "clicks": clicks.with_columns(viewed_at=early)}, Hints("orders"))
    assert proposal.config["data"]["links"]["clicks"]["time"] == "ts"
    assert "viewed_at" in found(proposal, "ambiguous")["clicks"]


def test_a_copy_of_the_interactions_is_a_leak_whatever_its_first_date_is(orders):
    copy = orders.sample(fraction=0.9, seed=1).with_columns(day=pl.col("ts") - pl.duration(days=90))
    proposal = discover({"orders": orders, "copy": copy.select("user_id", "item_id", "day", "ts")}, Hints("orders"))
    assert "copy" in found(proposal, "leak")


@pytest.mark.parametrize("by_date", [True, False])
def test_texts_of_no_user_with_dates_need_a_split_at_a_date(orders, by_date):
    if by_date:  # two items at each time
        orders = orders.with_columns(pl.col("ts").gather((pl.int_range(pl.len()) // 2) * 2))
        number = pl.col("user_id").str.slice(1).cast(pl.Int64) + USERS
        more = orders.with_columns(user_id="u" + number.cast(pl.String))
        orders = pl.concat([orders, more])
    words = ["soft", "warm", "light", "strong", "red", "long", "round", "small"]
    rows = [
        (f"i{i % ITEMS}", " ".join(words[(i * k + i // 7) % 8] for k in range(1, 8)) + f" {i}", START + timedelta(i))
        for i in range(3 * ITEMS)
    ]
    texts = pl.DataFrame(rows, schema=["item_id", "body", "written_at"], orient="row")
    proposal = discover({"orders": orders, "notices": texts})
    assert proposal.config["protocol"]["split"] == ("temporal" if by_date else "last-leave-one-out")
    if by_date:
        assert proposal.config["data"]["texts"]["time"] == "written_at"
    else:
        assert "texts" not in proposal.config["data"]
        assert "held-out" in found(proposal, "left out")["notices"]
    undated = discover({"orders": orders, "notices": texts.drop("written_at")})
    assert undated.config["data"]["texts"]["text"] == "body"


def test_one_text_per_item_is_a_table_of_texts(orders):
    texts = pl.DataFrame(
        {
            "item_id": [f"i{i}" for i in range(ITEMS)],
            "kind": ["description"] * ITEMS,
            "text": [f"warm canvas fern slate of number {i}" for i in range(ITEMS)],
        }
    )
    products = texts.select(
        "item_id",
        colour=pl.Series(["red", "green", "blue"] * 20),
        size=pl.Series([1, 2] * 30),
        fabric=pl.Series(["wool", "silk", "felt", "hemp"] * 15),
    )
    data = discover({"orders": orders, "descriptions": texts, "products": products}).config["data"]
    assert (data["texts"]["key"], data["texts"]["text"]) == ("item_id", "text")
    codes = texts.select("item_id", ean=pl.col("text").str.extract(r"(\d+)"))
    translated = discover({"orders": orders, "codes": codes, "products": products})
    assert "counterpart" in found(translated, "left out")["codes"]


def test_rows_of_other_kinds_of_events_are_counted(orders):
    log = orders.with_columns(
        event=pl.Series([["view", "purchase", "refund", "share"][n % 4] for n in range(len(orders))])
    )
    left = [f for f in discover({"log": log}).findings if f.kind == "left out" and f.where == "log"]
    assert [f.count for f in left] == [USERS * BOUGHT // 2]
    two = log.filter(pl.col("event").is_in(["view", "purchase"]))
    assert not [f for f in discover({"log": two}).findings if f.kind == "left out" and f.where == "log"]


def test_keys_in_several_rows_decide_what_depends_on_them():
    once = [(f"k{n}", n) for n in range(50)]
    same = [(f"s{n // 2}", n // 2) for n in range(20)]
    frame = pl.DataFrame([*once, *same], schema=["key", "value"], orient="row")
    assert depends_on_key(frame)
    assert not depends_on_key(frame.head(50))
    assert not depends_on_key(frame.vstack(pl.DataFrame({"key": ["k0"], "value": [7]})))
    assert Table("t", frame)["value"].n_distinct == 50


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (
            lambda n: "2023-01-13" if n % 9 else "13.01.",
            "'13.01.' is in no known format, or in another one than most",
        ),
        (lambda n: str(44_000 + n), "numbers from 44000 to 44299 are no seconds, or parts of them, since 1970"),
        (lambda n: f"2023-01-{n % 28 + 1:02}" if n % 3 == 0 else None, "100 of 300 rows have one"),
    ],
)
def test_what_keeps_times_from_being_read_is_said(times, message):
    rows = [(f"u{n % 20}", f"i{n % 17}", times(n)) for n in range(300)]
    proposal = discover({"sales": pl.DataFrame(rows, ["user", "item", "date"], orient="row")})
    expected = f"the times in 'date' are not used: {message}, so held-out rows are drawn"
    assert found(proposal, "protocol")["sales"] == f"random-leave-one-out: {expected}"
    assert proposal.comments["protocol.split"] == expected


def test_without_a_column_of_times_nothing_is_said_of_one():
    rows = [(f"u{n % 20}", f"i{n % 17}", n % 24) for n in range(300)]
    proposal = discover({"sales": pl.DataFrame(rows, ["user", "item", "hour"], orient="row")})
    assert "there are no times, so" in found(proposal, "protocol")["sales"]


def test_times_of_items_alone_are_named(orders):
    alone = discover({"orders": orders.drop("ts").with_columns(released().alias("released"))})
    message = "the times in 'released' are the same in all rows of a user or an item, so held-out rows are drawn"
    assert alone.comments["protocol.split"] == message
