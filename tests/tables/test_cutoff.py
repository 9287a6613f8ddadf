"""Links and texts are cut at the split as interactions are: which rows are left is worked out by hand."""

from dataclasses import replace

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables.cutoff import LATE, OWN, cut_tables
from relrank.tables.notices import Notice
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import TEXTS, LinkTable, NodeTable, Tables, TextTable

# by last-leave-one-out user 1 has 30 for validation and 40 for test, user 2 has 130 and 140, user 3 has 55 and 60
BOUGHT = [(1, 10, 10), (1, 11, 20), (1, 12, 30), (1, 13, 40),
          (2, 10, 110), (2, 12, 120), (2, 11, 130), (2, 13, 140),
          (3, 13, 45), (3, 12, 50), (3, 10, 55), (3, 11, 60)]  # fmt: skip
SHOP = Tables(
    "shop", "user", "item", pl.DataFrame(BOUGHT, schema=["user", "item", "time"], orient="row"),
    nodes={"user": NodeTable("user", pl.DataFrame({"user": [1, 2, 3], "name": ["a", "b", "c"]}), "user"),
           "item": NodeTable("item", pl.DataFrame({"item": [10, 11, 12, 13]}), "item")},
)  # fmt: skip
LAST = ProtocolConfig(name="last", split="last-leave-one-out")
CUT = ProtocolConfig(name="cut", split="temporal", valid_cut=50, cut=57)


def links(rows: list[tuple[object, ...]], source: str, target: str, **more: str) -> Tables:
    columns = ["a", "b", *dict.fromkeys(v for v in more.values() if v not in ("a", "b") and v != "name")]
    match = {"source_match": more.pop("source_match", source), "target_match": target if target == "item" else None}
    frame = pl.DataFrame(rows, schema=columns, orient="row")
    return replace(SHOP, links={"t": LinkTable("t", frame, source, "a", match["source_match"], target, "b",
                                               match["target_match"], **more)})  # fmt: skip


def left(tables: Tables, protocol: ProtocolConfig = LAST) -> tuple[list[tuple[object, ...]], list[Notice]]:
    cut, notices = cut_tables(tables, make_split(tables, protocol, 0), {"t", TEXTS})
    frame = cut.links["t"].frame if cut.links else cut.texts.frame  # type: ignore[union-attr]
    return frame.rows(), notices


def test_without_times_nothing_is_cut() -> None:
    rows = [(1, 13), (2, 13)]
    assert left(links(rows, "user", "item")) == (rows, [])


def test_a_users_links_are_earlier_than_their_own_held_out_rows() -> None:
    rows = [(1, 13, 29), (1, 13, 30), (1, 13, 31), (2, 13, 41), (2, 13, 129), (2, 13, 130)]
    kept, notices = left(links(rows, "user", "item", time="time"))
    assert kept == [(1, 13, 29), (2, 13, 41), (2, 13, 129)]
    assert notices == [Notice("table 't'", LATE, 3)]


def test_of_two_users_the_earlier_bound_counts() -> None:
    rows = [(1, 2, 29), (1, 2, 31), (2, 1, 31), (2, 3, 54), (2, 3, 56)]
    assert left(links(rows, "user", "user", time="time"))[0] == [(1, 2, 29), (2, 3, 54)]


def test_users_are_found_by_the_column_that_links_match() -> None:
    rows = [("a", 13, 29), ("a", 13, 31), ("b", 13, 31)]
    assert left(links(rows, "user", "item", time="time", source_match="name"))[0] == [("a", 13, 29), ("b", 13, 31)]


def test_links_that_are_of_no_user_are_earlier_than_every_held_out_row() -> None:
    """At 100 nobody has bought 13 for user 2 yet, and user 1's prediction at 40 could not know of it."""
    rows = [(10, "x", 29), (10, "x", 30), (13, "x", 100)]
    assert left(links(rows, "item", "shelf", time="time"))[0] == [(10, "x", 29)]
    assert left(links([(10, 12, 29), (10, 13, 35)], "item", "item", time="time"))[0] == [(10, 12, 29)]


@pytest.mark.parametrize(("cut", "until"), [({"valid_cut": 50, "cut": 57}, 50), ({"cut": 115}, 115)])
def test_a_temporal_split_cuts_everything_where_training_ends(cut: dict[str, int], until: int) -> None:
    protocol = ProtocolConfig(name="cut", split="temporal", **cut)
    for rows, ends in (([(1, 13, t) for t in (1, until - 1, until, until + 1)], ("user", "item")),
                       ([(10, 13, t) for t in (1, until - 1, until, until + 1)], ("item", "item")),
                       ([(10, "x", t) for t in (1, until - 1, until, until + 1)], ("item", "shelf"))):  # fmt: skip
        kept, notices = left(links(rows, *ends, time="time"), protocol)
        assert [row[2] for row in kept] == [1, until - 1]
        assert notices == [Notice("table 't'", LATE, 2)]


def test_what_users_made_of_their_own_held_out_items_is_out_whatever_its_time() -> None:
    rows = [(13, "tag", 1), (12, "tag", 1), (10, "tag", 1), (13, "tag", 3), (11, "tag", 2), (11, "tag", 99)]
    kept, notices = left(links(rows, "item", "tag", by="by"))
    assert kept == [(10, "tag", 1), (13, "tag", 3), (11, "tag", 99)]  # 99 is nobody of the split
    assert notices == [Notice("table 't'", OWN, 3)]
    timed = [(*row, t) for row, t in zip(rows, (1, 1, 31, 200, 1, 200), strict=True)]
    kept, notices = left(links(timed, "item", "tag", by="by", time="time"))
    assert kept == [(11, "tag", 99, 200)]  # 31 is after user 1's validation row, 200 after user 3's; 99 has no bound
    assert [n.count for n in notices] == [3, 2]


def test_the_maker_may_be_an_end() -> None:
    rows = [(1, 10), (1, 13), (2, 13), (2, 10), (3, 13)]
    assert left(links(rows, "user", "item", by="a"))[0] == [(1, 10), (2, 10), (3, 13)]


def texts(rows: list[tuple[object, ...]], *more: str, node: str = "item") -> Tables:
    frame = pl.DataFrame(rows, schema=["key", *more], orient="row")
    return replace(SHOP, texts=TextTable(node, frame.with_columns(kind=pl.lit("review"), text=pl.lit("good"))))


def test_reviews_of_held_out_interactions_are_out() -> None:
    kept, notices = left(texts([(13, 1), (10, 1), (13, 3), (11, 3)], "by"))
    assert [row[:2] for row in kept] == [(10, 1), (13, 3)]
    assert notices == [Notice(TEXTS, OWN, 2)]


def test_texts_are_cut_by_their_writers_or_else_by_everybody() -> None:
    rows = [(10, 1, 29), (10, 1, 31), (10, 2, 109), (13, 2, 109)]
    assert [row[:3] for row in left(texts(rows, "by", "time"))[0]] == [(10, 1, 29), (10, 2, 109)]
    plain = [(10, 29), (10, 30), (10, 109)]
    assert [row[:2] for row in left(texts(plain, "time"))[0]] == [(10, 29)]
    assert [row[:2] for row in left(texts(plain, "time"), CUT)[0]] == [(10, 29), (10, 30)]
    own = [(1, 29), (1, 31), (2, 109)]  # what users wrote of themselves
    assert [row[:2] for row in left(texts(own, "time", node="user"))[0]] == [(1, 29), (2, 109)]


def test_tables_that_nothing_reads_are_left_alone() -> None:
    tables = links([(10, 13, 500)], "item", "item", time="time")
    cut, notices = cut_tables(tables, make_split(tables, LAST, 0), set())
    assert (cut.links["t"].frame.height, notices) == (1, [])


def test_what_cannot_be_cut_is_refused_in_plain_words() -> None:
    late = links([(10, 13, 500), (10, 12, 31)], "item", "item", time="time")
    with pytest.raises(InputError, match="no row that was known before") as error:
        left(late)
    assert "2 rows" in error.value.found
    assert "temporal split" in error.value.expected
    timeless = replace(late, interactions=late.interactions.drop("time"), ordered=True)
    with pytest.raises(InputError, match="'t' has times, and the interactions have none"):
        left(timeless)
    strangers = links([(10, "x", "nobody")], "item", "tag", by="by")
    with pytest.raises(InputError, match="no user in common"):
        left(strangers)
