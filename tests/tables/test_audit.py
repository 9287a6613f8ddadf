"""Each check finds what was planted, counts it, and says "ok" where there is nothing."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from relrank.kernels.csr import Csr
from relrank.tables.audit import Finding, audit
from relrank.tables.ids import IdMap
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import LinkTable, NodeTable, Tables


def rows(*triples: tuple[int, int, int], timed: bool = True) -> Interactions:
    user, item, time = (np.array(c) for c in zip(*triples, strict=True))
    return Interactions(user.astype(np.int32), item.astype(np.int32), time=time.astype(np.int64) if timed else None)


def split_of(train: Interactions, valid: Interactions, test: Interactions, n: int = 4) -> Split:
    users, items = (IdMap(kind, pl.Series(range(n), dtype=pl.Int64)) for kind in ("user", "item"))
    return Split(users, items, train, valid, test, "mine, seed 0", "f" * 64)


TABLES = Tables(
    "x",
    "user",
    "item",
    pl.DataFrame(),
    nodes={
        "item": NodeTable(
            "item", pl.DataFrame({"item": [0], "year": [1999], "average_rating": [4.5], "ratings": ["PG"]}), "item"
        )
    },
    links={
        "tags": LinkTable(
            "tags", pl.DataFrame({"a": [0], "b": ["x"], "n": [1], "count": [2]}), "item", "a", "item", "tag", "b"
        )
    },
    ticks=0,  # times below are an order
)

# no leak of any kind: everything in training is earlier than everything in validation, then test
CLEAN = split_of(
    rows((0, 0, 1), (0, 1, 2), (1, 0, 1), (1, 1, 2), (2, 3, 3)),
    rows((0, 2, 10), (1, 2, 11)),
    rows((0, 3, 20), (1, 3, 21)),
)


def finding(findings: list[Finding], check: str) -> Finding:
    (found,) = [f for f in findings if f.check == check]
    return found


def test_a_clean_split_passes_every_check_by_name() -> None:
    findings = audit(TABLES, CLEAN, CLEAN.train.csr(4, 4), [("item", "year"), ("tags", "n")])
    assert [(f.level, f.count) for f in findings] == [("ok", 0)] * len(findings)
    assert [f.check for f in findings] == [
        "validation rows in the graph",
        "test rows in the graph",
        "repeated rows",
        "rows in two parts",
        "tied last times",
        "training rows later than the test row",
        "training rows in the future of the test part",
        "item looks computed from interactions",
        "tags looks computed from interactions",
        "users without training rows",
        "items without training rows",
    ]


def test_test_rows_in_the_graph() -> None:
    everything = CLEAN.train.then(CLEAN.valid.take(np.array([0]))).then(CLEAN.test)
    findings = audit(TABLES, CLEAN, everything.csr(4, 4))
    assert finding(findings, "test rows in the graph") == Finding(
        "leak",
        "test rows in the graph",
        "2 of 2 test rows are edges of the graph",
        2,
        ("interactions",),
        "build the graph from training rows alone",
    )
    valid = finding(findings, "validation rows in the graph")
    assert (valid.level, valid.count) == ("leak", 1)
    with pytest.raises(ValueError, match="shape"):
        audit(TABLES, CLEAN, Csr.from_pairs(np.array([0]), np.array([0]), (3, 4)))


def test_rows_repeated_inside_and_across_parts() -> None:
    train = rows((0, 0, 1), (0, 0, 2), (0, 1, 2), (1, 0, 1), (1, 1, 2), (2, 3, 3))
    test = rows((0, 3, 20), (1, 1, 21), (1, 0, 22))
    findings = audit(TABLES, split_of(train, CLEAN.valid, test))
    inside, across = (finding(findings, check) for check in ("repeated rows", "rows in two parts"))
    assert (inside.level, inside.count) == ("warning", 1)
    assert (across.level, across.count) == ("leak", 2)


def test_reversed_rows_where_users_choose_users() -> None:
    people = replace(TABLES, user="person", item="person")
    train, test = rows((0, 1, 1), (2, 3, 2), (3, 0, 2)), rows((1, 0, 20), (0, 2, 20), (3, 2, 21))
    split = split_of(train, rows((2, 0, 10)), test)
    found = finding(audit(people, split), "reversed rows")
    assert (found.level, found.count) == ("leak", 3)  # (1, 0) and (3, 2) of training, (0, 2) of validation
    # rows are compared by key: the same split with item row 0 being person 9
    other = replace(split, items=IdMap("item", pl.Series([9, 1, 2, 3])))
    assert finding(audit(people, other), "reversed rows").count == 1
    assert not [f for f in audit(TABLES, split) if f.check == "reversed rows"]


def test_tied_and_later_times() -> None:
    train = rows((0, 0, 1), (0, 1, 20), (1, 0, 30), (1, 1, 2), (2, 3, 3))
    findings = audit(TABLES, split_of(train, CLEAN.valid, CLEAN.test))
    assert finding(findings, "tied last times").count == 1  # user 0: 20 twice
    later = finding(findings, "training rows later than the test row")
    assert (later.level, later.count) == ("warning", 1)  # user 1: 30 after 21
    assert "(50%)" in later.message
    assert finding(findings, "training rows in the future of the test part").count == 1  # 30 > 20


def test_without_times_the_audit_says_so() -> None:
    parts = (Interactions(p.user, p.item) for p in (CLEAN.train, CLEAN.valid, CLEAN.test))
    findings = audit(TABLES, split_of(*parts))
    assert finding(findings, "times").level == "warning"
    assert not [f for f in findings if "later" in f.check]


@pytest.mark.parametrize(("computed", "level", "count"), [(19, "ok", 0), (20, "leak", 1), (99, "leak", 2)])
def test_features_declared_as_computed_after_the_cut(computed: int, level: str, count: int) -> None:
    tables = replace(
        TABLES,
        nodes={"item": replace(TABLES.nodes["item"], computed=computed)},
        links={"tags": replace(TABLES.links["tags"], computed=computed)},
    )
    findings = audit(tables, CLEAN, columns=[("item", "average_rating"), ("tags", "count")])
    for name in ("item", "tags"):
        found = finding(findings, f"{name} computed after the cut")
        assert (found.level, found.count) == (level, count)
    assert not [f for f in findings if "looks" in f.check]


def test_undeclared_aggregates_are_suspected_only_where_they_are_used() -> None:
    findings = audit(TABLES, CLEAN, columns=[("item", "average_rating"), ("item", "year"), ("tags", "count")])
    found = finding(findings, "item looks computed from interactions")
    assert (found.level, found.count) == ("warning", 1)
    assert "average_rating" in found.message
    assert "year" not in found.message
    assert finding(findings, "tags looks computed from interactions").count == 1
    text = audit(TABLES, CLEAN, columns=[("item", "ratings")])  # PG, R: no number, so no aggregate
    assert finding(text, "item looks computed from interactions").level == "ok"


def test_declared_but_nothing_to_compare_with() -> None:
    parts = (Interactions(p.user, p.item) for p in (CLEAN.train, CLEAN.valid, CLEAN.test))
    tables = replace(TABLES, nodes={"item": replace(TABLES.nodes["item"], computed=5)})
    findings = audit(tables, split_of(*parts), columns=[("item", "year")])
    assert finding(findings, "item computed after the cut").level == "warning"


def test_users_and_items_without_training_rows() -> None:
    findings = audit(TABLES, split_of(rows((0, 0, 1), (0, 1, 2)), CLEAN.valid, CLEAN.test))
    assert finding(findings, "users without training rows").count == 1
    assert finding(findings, "items without training rows").count == 2
    # a split of new items wants them so, and item 3, which is in test, nowhere else
    for item, level, count in ((2, "ok", 0), (3, "leak", 2)):
        split = replace(split_of(rows((0, 0, 1), (1, item, 1)), CLEAN.valid, CLEAN.test), new_items_only=True)
        found = finding(audit(TABLES, split), "items without training rows")
        assert (found.level, found.count) == (level, count)


def test_what_is_known_of_ml_100k(ml_100k: Tables, ml_100k_u1: Tables) -> None:
    recipe = ProtocolConfig(name="mine", split="given", truth_min_rating=4)
    random = audit(ml_100k_u1, make_split(ml_100k_u1, recipe, 0))
    assert "(97%)" in finding(random, "training rows later than the test row").message
    last = make_split(ml_100k, ProtocolConfig(name="last", split="last-leave-one-out"), 0)
    findings = audit(ml_100k, last)
    assert "415 of 943 users (44%)" in finding(findings, "tied last times").message
    assert finding(findings, "training rows later than the test row").level == "ok"
