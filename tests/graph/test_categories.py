"""Spellings of a value, lists and paths: noticed, and read as they are meant where a setting says so."""

from typing import Any

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Attribute, CategoryFeature, MultiHotFeature
from relrank.graph.graph import Graph
from relrank.tables.config import check
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import NodeTable, Tables


def build(cells: list[str | None], feature: bool = False, **settings: Any) -> Graph:
    """A graph of one relation (or multi-hot feature) "c" of as many items as there are cells."""
    n = len(cells)
    rows = Interactions(np.zeros(n, np.int32), np.arange(n, dtype=np.int32))
    none = rows.take(np.zeros(0, np.int64))
    split = Split(IdMap("user", pl.Series(["u"])), IdMap("item", pl.Series(range(n))), rows, none, none, "t", "f")
    frame = pl.DataFrame({"item": range(n), "c": cells})
    tables = Tables("t", "user", "item", pl.DataFrame(), {"item": NodeTable("item", frame, "item")})
    section = {"node": "item", "column": "c", **settings}
    if feature:
        return build_graph(tables, split, {}, {"c": MultiHotFeature(kind="multi-hot", **section)})
    return build_graph(tables, split, {"c": Attribute(kind="attribute", **section)})


def edges(graph: Graph) -> dict[int, list[str]]:
    r = graph.relations["c"]
    found: dict[int, list[str]] = {}
    for row, value in zip(r.src.tolist(), graph.nodes["c"].at(r.dst), strict=True):
        found.setdefault(row, []).append(value)
    return {row: sorted(values) for row, values in found.items()}


def said(graph: Graph, part: str) -> list[tuple[str, int]]:
    return [(n.message, n.count) for n in graph.notices if part in n.message]


COLOURS = [
    "Black",
    "Black ",
    "black",
    "BLACK",
    "dark  blue",
    "Dark blue",
    "Dark blue",
    "Caf\u00e9",
    "Cafe\u0301",
    "red",
]


def test_spellings_of_a_value_are_noticed_and_merged_where_it_is_said() -> None:
    plain = build(list(COLOURS))
    assert plain.nodes["c"].keys.len() == 8  # spaces at the ends never count
    assert said(plain, "ignore_case") == [
        ("values that differ from another in case or spaces alone, such as 'BLACK' and 'Black': "
         "ignore_case = true makes them one", 4)
    ]  # fmt: skip
    merged = build(list(COLOURS), ignore_case=True)
    assert merged.nodes["c"].keys.len() == 4
    assert {"Black", "Dark blue", "red"} < set(merged.nodes["c"].keys)
    assert [edges(merged)[row] for row in range(4)] == [["Black"]] * 4
    assert said(merged, "spellings") == [("spellings of a value that are rarer than another: read as that", 4)]
    assert said(build(["a", "b", "c", "a"]), "differ") == []


@pytest.mark.parametrize("kind", [CategoryFeature, MultiHotFeature])
def test_features_read_alike(kind: type) -> None:
    config = {"kind": kind.model_fields["kind"].annotation.__args__[0], "node": "item", "column": "c"}
    assert kind.model_validate({**config, "ignore_case": True}).ignore_case
    graph = build(["Red|red", "blue|RED", "blue|x"], feature=True, separator="|", ignore_case=True)
    feature = graph.features["c"].sparse
    assert feature is not None
    assert feature.n_cols == 3


@pytest.mark.parametrize("mark", ["|", ";", ","])
def test_lists_that_are_not_split_are_noticed(mark: str) -> None:
    cells = [mark.join(pair) for pair in (("a", "b"), ("b", "c"), ("a", "c"), ("c", "d"), ("a", "d"), ("b", "d"))]
    message = f"c: cells look like lists: separator = {mark!r} would split them"
    assert said(build(list(cells)), "look like") == [(message, 6)]
    wrong = "/"
    assert said(build(list(cells), separator=wrong), "no cell") == [("c: no cell holds the separator '/'", 6)]
    right = build(list(cells), separator=mark)
    assert said(right, "look like") == said(right, "no cell") == []
    assert right.nodes["c"].keys.to_list() == ["a", "b", "c", "d"]
    assert said(build(["Doe, J", "Roe, K", "Poe, L"]), "look like") == []  # names, not lists


def test_paths_have_a_node_of_each_level() -> None:
    cells = ["Shoes > Boots > Winter", "Shoes > Boots", "Shoes>Sandals", "Hats > Winter", None]
    plain = build(list(cells))
    assert said(plain, "levels") == [("c: cells look like paths, one value each: levels = '>' has their levels", 3)]
    assert edges(build(list(cells), levels=">")) == {
        0: ["Shoes", "Shoes > Boots", "Shoes > Boots > Winter"],
        1: ["Shoes", "Shoes > Boots"],
        2: ["Shoes", "Shoes > Sandals"],
        3: ["Hats", "Hats > Winter"],
    }
    assert said(build(list(cells), levels=">"), "look like") == []


def test_lists_of_paths() -> None:
    graph = build(["A > B|A > C", "A", "B > A"], separator="|", levels=">")
    assert edges(graph) == {0: ["A", "A > B", "A > C"], 1: ["A"], 2: ["B", "B > A"]}
    section = {"kind": "attribute", "node": "item", "column": "c", "separator": ">", "levels": ">"}
    with pytest.raises(InputError, match="must differ"):
        check(section, Attribute, "study.toml")
