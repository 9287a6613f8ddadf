"""The relations of goodbooks-loo, built from the real files and counted again by other means."""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.graph.bundle import load_graph, save_graph
from relrank.graph.construction.build_graph import FeatureConfig, RelationConfig, build_graph
from relrank.graph.coverage import coverage
from relrank.graph.graph import Graph
from relrank.tables.config import ConfigSection, check
from relrank.tables.datasets import goodbooks_10k
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.split import Split
from relrank.tables.tables import Tables

RELATIONS = {
    "has_tag": {"kind": "link", "table": "book_tags", "weight": "log1p", "top": 50, "min_target_degree": 10},
    "written_by": {"kind": "attribute", "node": "book", "column": "authors", "separator": ",", "target": "author"},
    "in_language": {"kind": "attribute", "node": "book", "column": "language_code", "missing": "node"},
    "published_in": {
        "kind": "bins",
        "node": "book",
        "column": "original_publication_year",
        "edges": [1950, 1970, 1990, 2005, 2015],
    },
    "similar_text": {"kind": "text", "node": "book", "columns": ["title", "authors"]},
}


class Relations(ConfigSection):
    relations: dict[str, RelationConfig]


class Features(ConfigSection):
    features: dict[str, FeatureConfig]


def build(tables: Tables, split: Split, *names: str) -> Graph:
    config = check({"relations": {name: RELATIONS[name] for name in names}}, Relations, "study.toml")
    return build_graph(tables, split, config.relations)


@pytest.fixture(scope="module")
def tables(data_dir: Path) -> Tables:
    return goodbooks_10k(data_dir / "goodbooks-10k", "ratings_v2_users5pct.csv")


@pytest.fixture(scope="module")
def split(tables: Tables) -> Split:
    return make_split(tables, ProtocolConfig.model_validate({"name": "goodbooks-loo"}), seed=0)


@pytest.fixture(scope="module")
def graph(tables: Tables, split: Split) -> Graph:
    return build(tables, split, *RELATIONS)


@pytest.fixture(scope="module")
def books(tables: Tables, split: Split) -> pl.DataFrame:
    return tables.nodes["book"].frame.filter(pl.col("book_id").is_in(split.items.keys.to_list()))


def test_interactions_are_the_training_rows_and_nothing_else(graph: Graph, split: Split) -> None:
    pairs = set(zip(graph.interactions.src.tolist(), graph.interactions.dst.tolist(), strict=True))
    assert len(pairs) == len(split.train) == 192_177
    held_out = {
        *zip(split.test.user, split.test.item, strict=True),
        *zip(split.valid.user, split.valid.item, strict=True),
    }
    assert pairs.isdisjoint(held_out)


def test_tags_joined_by_the_right_key_reach_every_book(graph: Graph) -> None:
    assert coverage(graph)["has_tag"] == 1
    assert len(graph.nodes["tag"]) == 2366


def test_wrong_key_joined_reaches_8_percent_of_books_and_says_so(tables: Tables, split: Split) -> None:
    wrong = replace(tables, links={"book_tags": replace(tables.links["book_tags"], source_match="book_id")})
    graph = build(wrong, split, "has_tag")
    assert 0.07 < coverage(graph)["has_tag"] < 0.09
    notices = {n.message: n.count for n in graph.notices}
    assert notices["book nodes without an edge, of 7,770"] > 7_000
    assert notices["book_tags.goodreads_book_id is missing or no book of the graph: dropped"] > 900_000


def test_has_tag_agrees_with_group_by(graph: Graph, books: pl.DataFrame, data_dir: Path) -> None:
    rows = pl.read_csv(data_dir / "goodbooks-10k" / "book_tags.csv").filter(pl.col("count") > 0)
    rows = rows.group_by("goodreads_book_id", "tag_id").agg(pl.col("count").max())
    rows = rows.join(books.select("goodreads_book_id", "book_id"), on="goodreads_book_id")
    rows = rows.sort("count", "tag_id", descending=[True, False]).group_by("book_id").head(50)
    rows = rows.filter(pl.len().over("tag_id") >= 10).sort("book_id", "tag_id")
    r = graph.relations["has_tag"]
    assert len(r) == len(rows) == 367_236
    assert graph.nodes["book"].at(r.src).to_list() == rows["book_id"].to_list()
    assert graph.nodes["tag"].at(r.dst).to_list() == rows["tag_id"].to_list()
    np.testing.assert_allclose(r.weight, np.log1p(rows["count"].to_numpy()), rtol=1e-6)


def test_every_book_has_its_authors_one_language_and_one_period(graph: Graph, books: pl.DataFrame) -> None:
    authors = {(b, a.strip()) for b, text in books.select("book_id", "authors").iter_rows() for a in text.split(",")}
    r = graph.relations["written_by"]
    found = zip(graph.nodes["book"].at(r.src), graph.nodes["author"].at(r.dst), strict=True)
    assert set(found) == authors
    assert len(r) == len(authors) == 10_265
    for name, column in (("in_language", "language_code"), ("published_in", "original_publication_year")):
        r = graph.relations[name]
        assert (r.degrees("book", graph.n_items) == 1).all()
        missing = graph.nodes[column].keys.to_list().index("(missing)")
        assert (r.dst == missing).sum() == books[column].null_count() > 0
    assert graph.nodes["original_publication_year"].keys.to_list() == [
        "(-∞, 1950]",
        "(1950, 1970]",
        "(1970, 1990]",
        "(1990, 2005]",
        "(2005, 2015]",
        "(2015, ∞)",
        "(missing)",
    ]
    years = books["original_publication_year"].drop_nulls().to_numpy()
    in_order = np.bincount(np.digitize(years, [1950, 1970, 1990, 2005, 2015], right=True)).tolist()
    degrees = graph.relations["published_in"].degrees("original_publication_year", 7).tolist()
    assert degrees == [*in_order, books["original_publication_year"].null_count()]


def test_similar_text_agrees_with_brute_force_neighbours(graph: Graph, books: pl.DataFrame) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.neighbors import NearestNeighbors

    r = graph.relations["similar_text"]
    assert len(r) == 127_760
    edges = {(a, b): w for a, b, w in zip(r.src.tolist(), r.dst.tolist(), r.weight.tolist(), strict=True)}
    books = books.sort("book_id")
    x = TfidfVectorizer(ngram_range=(1, 2), min_df=2).fit_transform(
        (books["title"] + " " + books["authors"]).to_list()
    )
    some = np.random.default_rng(0).choice(graph.n_items, 40, replace=False)
    distance, found = NearestNeighbors(n_neighbors=31, metric="cosine", algorithm="brute").fit(x).kneighbors(x[some])
    checked = 0
    for book, near, far in zip(some.tolist(), found.tolist(), distance.tolist(), strict=True):
        for other, d in zip(near, far, strict=True):
            if other != book and 1 - d > 0.1 and d < far[-1] - 1e-6:  # a tie at the rim may go either way
                assert edges[min(book, other), max(book, other)] == pytest.approx(1 - d, abs=1e-6)
                checked += 1
    assert checked > 500


def test_relations_do_not_depend_on_the_cut(graph: Graph, tables: Tables) -> None:
    other = make_split(tables, ProtocolConfig.model_validate({"name": "goodbooks-loo"}), seed=1)
    again = build(tables, other, "written_by")
    np.testing.assert_array_equal(again.relations["written_by"].dst, graph.relations["written_by"].dst)
    assert again.fingerprint != graph.fingerprint
    assert not np.array_equal(again.interactions.dst, graph.interactions.dst)


def test_rewired_tags_keep_degrees_and_lose_most_edges(graph: Graph) -> None:
    before, after = graph.relations["has_tag"], graph.rewired("has_tag", seed=1).relations["has_tag"]
    for end in ("book", "tag"):
        n = len(graph.nodes[end])
        np.testing.assert_array_equal(before.degrees(end, n), after.degrees(end, n))
    keys = [r.src.astype(np.int64) << 32 | r.dst for r in (before, after)]
    assert np.isin(*keys).mean() < 0.5  # tags such as "to-read" are on nearly every book and cannot move


def test_bundle_of_the_whole_graph(graph: Graph, tmp_path: Path) -> None:
    save_graph(graph, tmp_path / "bundle")
    again = load_graph(tmp_path / "bundle")
    assert repr(again) == repr(graph)
    assert again.notices == graph.notices
    np.testing.assert_array_equal(again.relations["similar_text"].weight, graph.relations["similar_text"].weight)


def test_features_are_counted_again_from_the_file(tables: Tables, split: Split, data_dir: Path) -> None:
    features = {
        "year": {"kind": "number", "node": "book", "column": "original_publication_year"},
        "author": {"kind": "multi-hot", "node": "book", "column": "authors", "separator": ",", "min_count": 2},
        "period": RELATIONS["published_in"],
        "words": {"kind": "text", "node": "book", "columns": ["title", "authors"], "dims": 16},
    }
    with (data_dir / "goodbooks-10k" / "books.csv").open(encoding="utf-8", newline="") as file:
        said = {int(row["book_id"]): row for row in csv.DictReader(file)}
    rows = [said[key] for key in split.items.keys]
    year = [float(row["original_publication_year"] or "nan") for row in rows]
    names = [{name.strip() for name in row["authors"].split(",")} - {""} for row in rows]
    often = {name for name, n in Counter(name for those in names for name in those).items() if n > 1}
    built = build_graph(tables, split, {}, check({"features": features}, Features, "study.toml").features).features

    assert built["year"].known.tolist() == [y == y for y in year]
    assert (~built["year"].known).sum() == 11
    known = np.array([y for y in year if y == y])
    assert built["year"].dense is not None
    np.testing.assert_allclose(
        built["year"].dense[built["year"].known, 0], (known - known.mean()) / known.std(), rtol=1e-4, atol=1e-6
    )
    assert built["author"].sparse is not None
    assert built["author"].dims == len(often)
    assert built["author"].sparse.degrees().tolist() == [len(those & often) for those in names]
    assert built["period"].sparse is not None
    bins = Counter(built["period"].sparse.indices.tolist())
    edges = RELATIONS["published_in"]["edges"]
    assert bins == Counter(sum(y > e for e in edges) for y in known)
    # books of one series are near each other, two books drawn at random are not
    vectors = built["words"].dense
    assert vectors is not None
    potter = [i for i, row in enumerate(rows) if "Harry Potter and" in row["title"]]
    assert len(potter) > 5
    near = np.linalg.norm(vectors[potter] - vectors[potter].mean(0), axis=1).mean()
    assert near < 0.5 * np.linalg.norm(vectors[potter].mean(0) - vectors, axis=1).mean()
