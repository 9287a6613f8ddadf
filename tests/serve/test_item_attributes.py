"""Which attributes stand beside titles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from library import library
from shelf import AUTHORS, WRITTEN, shelf

from relrank.runs.fitted_run import NODE_KEY, FittedRun, item_relations
from relrank.serve.item_attributes import ItemAttributes
from relrank.serve.service import Service

N = 40
TITLES = [f"Title {i}" for i in range(N)]
WORDS = ["oak", "elm", "ash", "yew", "fir"]


def chosen(columns: Mapping[str, Any], linked: Mapping[str, Any] | None = None) -> ItemAttributes:
    return ItemAttributes(library().graph, TITLES, linked or {}, pl.DataFrame(columns), {})


def of_run(run: FittedRun) -> ItemAttributes:
    titles = run.titles["title"].to_list()
    return ItemAttributes(run.graph, titles, item_relations(run.graph), run.item_attributes, run.nodes)


def test_nodes_that_an_item_is_linked_with() -> None:
    attributes = of_run(shelf())
    assert attributes.names == ["written_by", "stands_on"]
    for item in range(14):
        assert attributes.of(item) == {"written_by": [AUTHORS[WRITTEN[item]]], "stands_on": ["ab"[item % 2]]}


def test_three_values_at_most_those_of_most_items_first() -> None:
    links = [["rare", "elm", "oak", "ash"], [], ["elm", "oak"], ["oak"], *([["oak", "elm", "ash"]] * (N - 4))]
    attributes = chosen({"relation:made_of": links})
    assert [attributes.of(item) for item in range(4)] == [
        {"made_of": ["oak", "elm", "ash"]}, {}, {"made_of": ["oak", "elm"]}, {"made_of": ["oak"]},
    ]  # fmt: skip


def test_four_attributes_relations_first_and_dates_before_other_columns() -> None:
    relations = {f"relation:r{n}": [[WORDS[(i + n) % 5]] for i in range(N)] for n in range(5)}
    columns = {
        "column:shelf": [WORDS[i % 3] * 2 for i in range(N)],
        "column:first_year": [1990.0 + i % 7 for i in range(N)],
    }
    assert chosen(relations | columns).names == ["r0", "r1", "r2", "first_year"]
    assert chosen(columns).names == ["first_year", "shelf"]
    assert chosen(columns).of(1) == {"first_year": [1991], "shelf": ["elmelm"]}
    assert chosen(relations).names == ["r0", "r1", "r2", "r3"]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("name", TITLES),
        ("sku", [f"{i:05}x" for i in range(N)]),  # tells all apart
        ("stock", list(range(1000, 1000 + N))),
        ("category_id", [i % 4 for i in range(N)]),
        ("ratings_count", [i % 9 for i in range(N)]),
        ("blurb", [WORDS[i % 5] * 20 for i in range(N)]),
        ("in_print", [bool(i % 2) for i in range(N)]),
        ("is_new", [i % 2 for i in range(N)]),
        ("rare", [WORDS[i] if i < 5 else None for i in range(N)]),
        ("same", ["one"] * N),
        ("broken", [float("nan")] * N),
        ("empty", [None] * N),
    ],
)
def test_columns_that_help_nobody_are_left_out(name: str, values: list[Any]) -> None:
    attributes = chosen({f"column:{name}": values, "column:tree": [WORDS[i % 5] for i in range(N)]})
    assert attributes.names == ["tree"]


def test_prices_may_all_differ_also_as_texts() -> None:
    prices = [round(3.1 + 1.37 * i, 2) for i in range(N)]
    assert chosen({"column:price": prices}).of(2) == {"price": [5.84]}
    assert chosen({"column:price": [*map(str, prices)]}).of(2) == {"price": ["5.84"]}
    gaps = chosen({"column:price": [None, float("inf"), *prices[2:]]})
    assert [gaps.of(item) for item in range(3)] == [{}, {}, {"price": [5.84]}]


@pytest.mark.parametrize(
    "links",
    [
        [[f"({i % 4}, {i % 4 + 1}]"] for i in range(N)],  # intervals of numbers
        [[f"{word}{n}" for n in range(9) for word in WORDS] for _ in range(N)],  # tags of a crowd
        [["oak"] for _ in range(N)],
        [["oak"] if i == 3 else ["elm"] if i == 4 else [] for i in range(N)],
    ],
)
def test_relations_that_help_nobody_are_left_out(links: list[list[str]]) -> None:
    assert chosen({"relation:r": links}).names == []


def test_codes_only_without_words_and_no_column_that_a_relation_repeats() -> None:
    codes = {"relation:made_by": [[f"m.0{i % 7}"] for i in range(N)]}
    words = {"relation:grows_in": [[WORDS[i % 5], WORDS[(i + 1) % 5]] for i in range(N)]}
    column = {"column:woods": [f"{WORDS[i % 5]}, {WORDS[(i + 1) % 5]}" for i in range(N)]}
    assert chosen(codes).names == ["made_by"]
    assert chosen(codes | words).names == ["grows_in"]
    assert chosen(words | column).names == ["grows_in"]
    assert chosen(column).names == ["woods"]


def test_nodes_have_the_names_of_their_table() -> None:
    table = pl.DataFrame({"relation:made_by": [[str(i % 3)] if i < 30 else ["9"] for i in range(N)]})
    makers = pl.DataFrame({NODE_KEY: ["0", "1", "2"], "town": ["Ulm"] * 3, "maker_name": ["Ada", "Ben", "Cy"]})
    attributes = ItemAttributes(library().graph, TITLES, {}, table, {"maker": (("made_by",), makers)})
    assert [attributes.of(item) for item in (1, 2, 35)] == [
        {"made_by": ["Ben"]}, {"made_by": ["Cy"]}, {"made_by": ["9"]},
    ]  # fmt: skip


def test_long_values_are_cut_and_missing_ones_left_out() -> None:
    links = [["x" * 300], ["(missing)"], *([[WORDS[i % 5]] for i in range(N - 2)])]
    attributes = chosen({"relation:r": links})
    assert attributes.of(0) == {"r": ["x" * 79 + "…"]}
    assert attributes.of(1) == {}


def test_a_catalogue_without_any() -> None:
    attributes = ItemAttributes(library().graph, TITLES, {}, None, {})
    assert (attributes.names, attributes.of(3)) == ([], {})


def test_relations_of_the_graph_whose_items_are_targets() -> None:
    run = library()
    of_item, other, node = item_relations(run.graph)["wrote"]
    attributes = ItemAttributes(run.graph, run.titles["title"].to_list(), {"wrote": (of_item, other, node)}, None, {})
    assert [attributes.of(item) for item in (0, 11)] == [{"wrote": ["0"]}, {"wrote": ["2"]}]
    assert np.array_equal(np.sort(of_item), np.arange(48))


def test_reasons_name_the_nodes_too() -> None:
    run = shelf()
    names = pl.DataFrame({NODE_KEY: ["Ada", "Ben"], "full name": ["Ada Ash", "Ben Birch"]})
    service = Service({"one": replace(run, nodes={"author": (("written_by",), names)})})
    reasons = service.explain(3, history=[1], n=20)["reasons"]  # North Wind, by the author of North Star
    (reason,) = [one for one in reasons if one["relation"] == "written_by"]
    assert reason["through"] == [{"type": "author", "id": "Ada", "name": "Ada Ash"}]
    assert "share author Ada Ash (written_by)" in reason["sentence"]
