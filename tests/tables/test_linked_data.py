"""LinkedDatasets: published parts, features and names, and the recipe of published results."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.tables import Tables

FILES = {
    "trainingset.tsv": "1\t10\t5.0\n1\t11\t2.0\n2\t10\t4.0\n",
    "testset.tsv": "1\t12\t5.0\n",
    "map.tsv": "10\t0\t1\t1\n11\n12\t1\t2\n99\t5\n10\t1\t3\n",
    "mappingLinkedData.tsv": "10\thttp://dbpedia.org/resource/What%3F_(film)\n11\thttp://dbpedia.org/resource/8½\n"
    "12\thttp://dbpedia.org/resource/AC/DC\n10\thttp://dbpedia.org/resource/Other\n13\tplain\n",
}


def written(folder: Path, **changed: str) -> Path:
    for name, text in (FILES | {f"{k}.tsv": v for k, v in changed.items()}).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_small_files_by_hand(tmp_path: Path) -> None:
    tables = datasets.yahoo_movies(written(tmp_path))
    assert {part: rows.rows() for part, rows in tables.given.items()} == {
        "train": [(1, 10, 5.0), (1, 11, 2.0), (2, 10, 4.0)], "test": [(1, 12, 5.0)],
    }  # fmt: skip
    assert (tables.name, tables.item, tables.nodes["movie"].title) == ("yahoo-movies", "movie", "title")
    titles = tables.nodes["movie"].frame.select("item_id", "title").rows()
    assert titles == [(10, "What? (film)"), (11, "8½"), (12, "AC/DC"), (13, "plain")]
    assert tables.links["features"].frame.rows() == [(10, 0), (10, 1), (12, 1), (12, 2), (10, 3)]
    assert {n.message: n.count for n in tables.notices} == {
        "further resources of an item dropped, the first kept": 1,
        "repeated (item, feature) rows dropped": 2,
        "features of items that mappingLinkedData.tsv lacks dropped": 1,
    }
    assert datasets.facebook_books(tmp_path).item == "book"


@pytest.mark.parametrize(
    ("changed", "what", "where"),
    [
        ({"map": "10\t0\n11\tx\n"}, "not a list of numbers", "map.tsv, line 2"),
        ({"map": "10 0\n"}, "not a list of numbers", "map.tsv, line 1"),
        ({"trainingset": "1\t10\t5\n1\t10\t4\n"}, "interaction occurs twice", "trainingset.tsv"),
        ({"trainingset": "1\t10\tgood\n"}, "not a finite number", "trainingset.tsv"),
        ({"testset": "1\t77\t5\n"}, "item without a resource", "mappingLinkedData.tsv"),
        ({"testset": "\n"}, "file is empty", "testset.tsv"),
    ],
)
def test_files_that_are_not_as_published_are_one_error(
    tmp_path: Path, changed: dict[str, str], what: str, where: str
) -> None:
    with pytest.raises(InputError, match=what) as error:
        datasets.yahoo_movies(written(tmp_path, **changed))
    assert where in error.value.where


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    (written(tmp_path) / "map.tsv").unlink()
    with pytest.raises(InputError, match=r"no such file[\s\S]*map\.tsv"):
        datasets.facebook_books(tmp_path)


def test_published_counts(load: Callable[[str], Tables]) -> None:
    books, movies = load("facebook-books"), load("yahoo-movies")
    assert {part: rows.height for part, rows in books.given.items()} == {"train": 15_234, "test": 3744}
    assert {part: rows.height for part, rows in movies.given.items()} == {"train": 55_711, "test": 14_135}
    assert (books.nodes["book"].frame.height, movies.nodes["movie"].frame.height) == (2933, 3309 - 46)
    assert books.links["features"].frame.height == 269_042
    assert movies.links["features"].frame.height == 475_690 - 1562
    assert set(books.interactions["rating"]) == {1.0}
    assert sorted(set(movies.interactions["rating"])) == [1, 2, 3, 4, 5]
    assert movies.interactions["user"].n_unique() == 4000
    assert movies.interactions["item"].n_unique() == 2626


@pytest.mark.parametrize(("name", "rating"), [("facebook-books-5core", 1), ("yahoo-movies-5core", 3)])
def test_the_recipe_of_published_results(name: str, rating: int, load: Callable[[str], Tables]) -> None:
    """All rows of both files from the threshold on, 5-core; of n rows ⌈n / 5⌉ are test, as in a naive loop."""
    tables = load(name)
    rows = tables.interactions.filter(pl.col("rating") >= rating)
    while True:
        users = rows.filter((pl.len().over("user") >= 5) & (pl.len().over("item") >= 5))
        if users.height == rows.height:
            break
        rows = users
    split = make_split(tables, ProtocolConfig.model_validate({"name": name}), 0)
    n = np.bincount(np.concatenate([split.train.user, split.valid.user, split.test.user]))
    counts = dict(rows.group_by("user").len().rows())
    assert dict(zip(split.users.keys, n, strict=True)) == counts
    tested = np.bincount(split.test.user, minlength=n.size)
    assert (tested == -(-n // 5)).all()
    valid = np.bincount(split.valid.user, minlength=n.size)
    published = np.ceil(np.round(0.1 * (n - tested), 9))
    assert abs(valid - published).max() <= 1  # the source takes a tenth of what is left after the test part
