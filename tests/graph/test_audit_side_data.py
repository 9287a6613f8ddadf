"""Side rows that name held-out pairs are found, each way in; what people honestly like, own and list is not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from relrank.graph.audit_side_data import ReachablePairs, find_side_data_leaks, leaking_pairs, match_nodes_to_users
from relrank.graph.construction.build_graph import Attribute, Link, build_graph
from relrank.graph.construction.relation_config import MultiHotFeature
from relrank.kernels.csr import Csr
from relrank.tables.audit import Finding
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.split import Split
from relrank.tables.synthetic import PlantedConfig, planted
from relrank.tables.tables import LinkTable, NodeTable, Tables

MADE = planted(PlantedConfig(users=250, items=200, per_user=7, groups=20, seed=1))
ITEMS = NodeTable("item", MADE.nodes["item"].frame.rename({MADE.nodes["item"].key: "item"}), "item")
SHOP = replace(MADE, nodes={"item": ITEMS})
PAIRS = SHOP.interactions.select("user", "item")
SPLIT = make_split(SHOP, ProtocolConfig(name="mine", split="random-leave-one-out", without_train="drop"), 0)
TRAIN = SPLIT.train.csr(*SPLIT.shape)


def held() -> pl.DataFrame:
    rows = SPLIT.valid.then(SPLIT.test)
    return pl.DataFrame({"user": SPLIT.users.at(rows.user), "item": SPLIT.items.at(rows.item)})


def links(name: str, frame: pl.DataFrame, source: str, target: str) -> LinkTable:
    return LinkTable(name, frame.select(source, target).unique(maintain_order=True), source, source, source, target,
                     target)  # fmt: skip


def with_links(*tables: LinkTable) -> Tables:
    users = NodeTable("user", PAIRS.select("user").unique().sort("user"), "user")
    return replace(SHOP, nodes={**SHOP.nodes, "user": users}, links={t.name: t for t in tables})


def with_column(rows: pl.DataFrame, column: str, side: str = "item") -> Tables:
    """A column of items (or users) that lists what a frame has in that column."""
    cells = rows.group_by(side, maintain_order=True).agg(pl.col(column).cast(pl.String)).rename({column: "listed"})
    table = with_links().nodes[side]
    frame = table.frame.join(cells, on=side, how="left").with_columns(pl.col("listed").list.join("|"))
    return replace(with_links(), nodes={**with_links().nodes, side: replace(table, frame=frame)})


def audited(tables: Tables, *relations: str, split: Split = SPLIT, timed: tuple[str, ...] = ()) -> list[Finding]:
    configs = {name: Link(kind="link", table=name) for name in relations}
    return list(find_side_data_leaks(build_graph(tables, split, configs), split, timed))


def listed(tables: Tables, node: str = "item") -> list[Finding]:
    config = Attribute(kind="attribute", node=node, column="listed", separator="|", target="name")
    return list(find_side_data_leaks(build_graph(tables, SPLIT, {"lists": config}), SPLIT))


def the_leak(found: list[Finding]) -> Finding:
    (one,) = found
    assert one.level == "leak", one
    return one


def test_lists_of_all_that_a_user_chose() -> None:
    lists = PAIRS.with_columns(list=pl.format("l{}", pl.col("user") * 7))
    tables = with_links(links("keeps", lists, "user", "list"), links("on_list", lists, "item", "list"))
    found, n = audited(tables, "keeps", "on_list"), held().height
    # by the users' links to their lists, and by what training items have in common, whoever keeps the lists
    assert {f.names for f in found} == {("keeps", "on_list"), ("on_list",)}
    assert {f.level for f in found} == {"leak"}
    assert found[0].count == n
    assert f"{n:,} of these (100%) are their held-out rows" in found[0].message
    known = audited(tables, "keeps", "on_list", timed=("keeps", "on_list"))
    assert {f.level for f in known} == {"warning"}  # lists that were made before
    # lists that are three times as long look like what people honestly like
    more = pl.concat([lists, *(lists.with_columns(item=(pl.col("item") * k + k) % 200) for k in (3, 7))])
    tables = with_links(links("keeps", lists, "user", "list"), links("on_list", more, "item", "list"))
    assert [f.level for f in audited(tables, "keeps", "on_list")] == ["ok"]


def test_tags_that_users_gave_to_what_they_have_held_out() -> None:
    """Every third choice was tagged by its user, half with a word of their own, half with one of ten words of all."""
    given = PAIRS.gather_every(3).with_row_index("n").with_columns(
        tag=pl.when(pl.col("n") % 2 == 0).then(pl.format("own {}", pl.col("n"))).otherwise(
            pl.format("word {}", pl.col("n") % 10)))  # fmt: skip
    tables = with_links(links("gave", given, "user", "tag"), links("has_tag", given, "item", "tag"))
    found = the_leak(audited(tables, "gave", "has_tag"))
    assert set(found.names) == {"gave", "has_tag"}
    own = given.filter(pl.col("n") % 2 == 0).join(held(), on=["user", "item"])
    assert found.count >= own.height > 20
    # without the tags that users gave to their own held-out items all is well
    clean = given.join(held(), on=["user", "item"], how="anti")
    tables = with_links(links("gave", clean, "user", "tag"), links("has_tag", clean, "item", "tag"))
    assert [f.level for f in audited(tables, "gave", "has_tag")] == ["ok"]


@pytest.mark.parametrize("names", ["their own", "other names"])
def test_a_column_of_items_that_lists_who_chose_them(names: str) -> None:
    rows = PAIRS if names == "their own" else PAIRS.with_columns(user=pl.format("r{}", pl.col("user") * 31 % 1009))
    found = the_leak(listed(with_column(rows, "user")))
    assert found.names == ("lists",)
    assert found.count > 0.9 * held().height
    clean = rows.join(PAIRS.join(held(), on=["user", "item"], how="anti").select("item").unique(), on="item")
    train = PAIRS.with_columns(shown=rows["user"]).join(held(), on=["user", "item"], how="anti")
    assert clean.height
    honest = with_column(train.select("item", user="shown"), "user")
    assert [f.level for f in listed(honest)] == ["ok"]  # who chose them in training may be known


def test_a_column_that_lists_the_test_readers_alone() -> None:
    test = pl.DataFrame({"user": SPLIT.users.at(SPLIT.test.user), "item": SPLIT.items.at(SPLIT.test.item)})
    found = the_leak(listed(with_column(test, "user")))
    assert found.count == len(SPLIT.test)
    assert "whose keys are those of users" in found.message


def test_a_column_of_users_that_lists_what_they_chose() -> None:
    found = the_leak(listed(with_column(PAIRS, "item", "user"), "user"))
    assert "whose keys are those of item nodes" in found.message
    assert found.count == held().height


def test_a_feature_of_items_that_lists_who_chose_them() -> None:
    feature = MultiHotFeature(kind="multi-hot", node="item", column="listed", separator="|")
    tables = with_column(PAIRS.with_columns(user=pl.format("r{}", pl.col("user"))), "user")
    found = the_leak(list(find_side_data_leaks(build_graph(tables, SPLIT, {}, {"readers": feature}), SPLIT)))
    assert found.names == ("readers",)
    assert found.count > 0.9 * held().height


def test_honest_side_rows_pass() -> None:
    """What drives every choice, as attribute and as what users say they like; and lists that editors made."""
    rng = np.random.default_rng(0)
    driver = SHOP.nodes["item"].frame.select("item", like="driver")
    liked = PAIRS.join(driver, on="item").select("user", "like")  # from all rows, held-out ones too: still no pairs
    edited = pl.DataFrame({"item": rng.integers(0, 200, 900), "shelf": rng.integers(0, 60, 900)})
    follows = pl.DataFrame({"user": rng.integers(0, 250, 900), "shelf": rng.integers(0, 60, 900)})
    tables = with_links(
        links("likes", liked, "user", "like"), links("is", driver, "item", "like"),
        links("on_shelf", edited, "item", "shelf"), links("follows", follows, "user", "shelf"),
    )  # fmt: skip
    items = set(PAIRS["item"].to_list())
    assert items <= set(driver["item"].to_list())
    for seed in range(10):
        split = make_split(
            SHOP, ProtocolConfig(name="mine", split="random-leave-one-out", without_train="drop"), seed
        )
        assert [f.level for f in audited(tables, *tables.links, split=split)] == ["ok"]


def test_short_series_that_many_read_to_the_end_are_no_reader() -> None:
    """Authors of five books each: whoever likes one reads most of these to the end, and one of others."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        authors = [rng.choice(24, 7, replace=False) for _ in range(300)]
        books = [
            np.concatenate(
                [rng.choice(5, 4 + (user % 4 > 0), replace=False) + 5 * of[0], 5 * of[1:] + rng.integers(5)]
            )
            for user, of in enumerate(authors)
        ]
        rows = [(user, int(book)) for user, some in enumerate(books) for book in rng.permutation(some)]
        chosen = pl.DataFrame(rows, ["user", "item"], orient="row")
        written = pl.DataFrame({"item": range(120), "author": [f"a{book // 5}" for book in range(120)]})
        tables = Tables(
            "series", "user", "item", chosen, links={"written": links("written", written, "item", "author")}
        )
        split = make_split(tables, ProtocolConfig(split="random-leave-one-out", without_train="drop"), 0)
        assert [f.level for f in audited(tables, "written", split=split)] == ["ok"]


def test_no_relation_of_items_is_no_finding() -> None:
    assert list(find_side_data_leaks(build_graph(SHOP, SPLIT, {}), SPLIT)) == []


def test_what_is_reached_is_counted_once() -> None:
    """Two users and four items; both lists of user 0 name its test item."""

    def pairs(*rows: tuple[int, int], shape: tuple[int, int]) -> Csr:
        return Csr.from_pairs(np.array([a for a, _ in rows]), np.array([b for _, b in rows]), shape)

    n_users, n_items = SPLIT.shape
    user, item = int(SPLIT.test.user[0]), int(SPLIT.test.item[0])
    train = SPLIT.train.item[SPLIT.train.user == user]
    to_items = pairs((0, item), (1, item), (1, int(train[0])), shape=(2, n_items))
    to_nodes = pairs((user, 0), (user, 1), shape=(n_users, 2))
    assert leaking_pairs(to_nodes, to_items, SPLIT, TRAIN) is None  # one pair is no proof
    many = pairs(*[(n, int(i)) for n, i in enumerate(SPLIT.test.item)], shape=(len(SPLIT.test), n_items))
    own = pairs(*[(int(u), n) for n, u in enumerate(SPLIT.test.user)], shape=(n_users, len(SPLIT.test)))
    assert leaking_pairs(own, many, SPLIT, TRAIN) == ReachablePairs(len(SPLIT.test), len(SPLIT.test))


def test_who_is_who_is_told_by_training_items() -> None:
    def rows(*lists: list[int]) -> Csr:
        n = [np.full(len(items), i) for i, items in enumerate(lists)]
        return Csr.from_pairs(np.concatenate(n), np.concatenate([np.array(i, int) for i in lists]), (len(lists), 9))

    train = rows([0, 1, 2, 3], [4, 5, 6], [0, 4, 8])
    nodes = rows([4, 5, 6, 7], [0, 1, 2, 3, 8], list(range(9)), [8])
    found = match_nodes_to_users(train, nodes)
    assert [found.indices[found.indptr[u] : found.indptr[u + 1]].tolist() for u in range(3)] == [[1], [0], []]
    found = match_nodes_to_users(rows([0, 1, 2, 3], [0, 1, 2, 4], [4, 5, 6], [4, 5, 6, 7]), nodes)
    assert [found.indices[found.indptr[u] : found.indptr[u + 1]].tolist() for u in range(4)] == [[1], [], [], [0]]


def test_findings_are_read_with_titles_and_accepted_by_names() -> None:
    lists = PAIRS.with_columns(list=pl.format("l{}", pl.col("user") * 7))
    tables = with_links(links("keeps", lists, "user", "list"), links("on_list", lists, "item", "list"))
    configs = {name: Link(kind="link", table=name) for name in ("keeps", "on_list")}
    titles = {"keeps": "Keeper", "on_list": "Listing"}
    found = list(find_side_data_leaks(build_graph(tables, SPLIT, configs), SPLIT, (), titles))
    assert {f.names: f.check.partition(": ")[2] for f in found} == {
        ("keeps", "on_list"): "Keeper and Listing", ("on_list",): "Listing",
    }  # fmt: skip
    assert {f.message.partition(" leads")[0] for f in found} == {"Keeper and Listing", "Listing"}
