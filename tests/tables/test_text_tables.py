"""Texts of nodes: own files, and what TMDB says of MovieLens' films."""

import csv
import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.audit import audit
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import TEXTS, Tables, TextTable
from relrank.tables.tmdb import with_tmdb

TOML = """
user = "reader"
item = "book"
[interactions]
file = "reads.csv"
user = "who"
item = "what"
[texts]
file = "texts.csv"
key = "book"
kind = "sort"
text = "words"
"""
ROWS = 'book,sort,words,stars\n1,blurb,"One, two",3\n2,blurb,12,1\n1,review,,2\n1,review,nice,5\n'

Read = Callable[..., TextTable]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The text table above, with some lines of the TOML and the texts' file replaced."""

    def run(toml: dict[str, str] | None = None, texts: str = ROWS) -> TextTable:
        (tmp_path / "reads.csv").write_text("who,what\nann,1\nann,2\nbob,3\n")
        (tmp_path / "people.csv").write_text("who,age\nann,7\nbob,8\n")
        (tmp_path / "texts.csv").write_text(texts)
        text = TOML
        for old, new in (toml or {}).items():
            assert old in text
            text = text.replace(old, new)
        tables = read_tables(check(tomllib.loads(text), DataConfig, "study.toml"), tmp_path)
        assert tables.texts is not None
        return tables.texts

    return run


def test_texts_as_described(read: Read) -> None:
    texts = read()
    assert (texts.node, texts.kinds, texts.computed) == ("book", ["blurb", "review"], None)
    rows = [(1, "blurb", "One, two"), (2, "blurb", "12"), (1, "review", None), (1, "review", "nice")]
    assert texts.frame.rows() == rows  # 12 stays text, an empty cell is no text
    assert texts.frame.columns == ["key", "kind", "text"]


def test_one_kind_without_a_column_of_kinds_and_texts_of_users(read: Read) -> None:
    own = '[texts]\nnode = "reader"\ncomputed = 1970-01-03'
    nodes = '[nodes.reader]\nfile = "people.csv"\nkey = "who"\n'
    changes = {'kind = "sort"\n': "", "[texts]": nodes + own, 'key = "book"': 'key = "person"'}
    texts = read(changes, "person,words\nbob,hello\n")
    assert (texts.node, texts.kinds, texts.computed) == ("reader", ["text"], 2 * 86400)
    assert texts.frame.rows() == [("bob", "text", "hello")]


def test_keys_without_an_item_are_refused_or_dropped(read: Read) -> None:
    with pytest.raises(InputError, match=r"(?s)unknown key.*column 'book', row 2.*9; 1 of 2 rows"):
        read(texts="book,sort,words\n1,blurb,a\n9,blurb,b\n")
    texts = read({'text = "words"': 'text = "words"\nunknown = "drop"'}, "book,sort,words\n1,blurb,a\n9,blurb,b\n")
    assert texts.frame.rows() == [(1, "blurb", "a")]
    with pytest.raises(InputError, match="empty join"):
        read(texts="book,sort,words\n8,blurb,a\n9,blurb,b\n")


@pytest.mark.parametrize(
    ("toml", "texts", "message"),
    [
        ({'text = "words"': 'text = "plot"'}, ROWS, "column not found.*'plot'.*words"),
        ({'kind = "sort"': 'kind = "words"'}, ROWS, "a column is used twice"),
        ({'key = "book"': 'key = "book"\nnode = "tag"'}, ROWS, r"without a node table.*data\.nodes\.tag.*\[\]"),
        ({}, "book,sort,words\n1,,a\n", "value is missing.*'sort', row 1"),
        ({}, "book,sort,words\n,blurb,a\n", "value is missing.*'book', row 1"),
        ({"texts.csv": "text.csv"}, ROWS, "no such file.*texts.csv"),
        ({'key = "book"': 'key = "book"\ncolour = 1'}, ROWS, "unknown key.*texts.colour"),
    ],
)
def test_slips_are_named(read: Read, toml: dict[str, str], texts: str, message: str) -> None:
    with pytest.raises(InputError, match=f"(?s){message}"):
        read(toml, texts)


def test_numbers_in_parquet_are_no_text(read: Read, tmp_path: Path) -> None:
    pl.DataFrame({"book": [1], "sort": ["blurb"], "words": [5]}).write_parquet(tmp_path / "texts.parquet")
    with pytest.raises(InputError, match=r"(?s)column is not text.*Int64"):
        read({"texts.csv": "texts.parquet"})


@pytest.mark.parametrize(("computed", "level"), [(None, "ok"), (59, "ok"), (60, "leak")])
def test_audit_asks_when_texts_were_written(computed: int | None, level: str) -> None:
    """Reviews that know of a test row are a leak; a text as such is no count."""
    rows = [("ann", 1, 10), ("ann", 2, 20), ("ann", 3, 60), ("bob", 1, 5), ("bob", 3, 50), ("bob", 2, 60)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    said = pl.DataFrame({"key": [1], "kind": ["review"], "text": ["nice"]})
    tables = Tables("x", "user", "item", frame, texts=TextTable("item", said, computed))
    protocol = check({"name": "own", "split": "last-leave-one-out"}, ProtocolConfig, "study.toml")
    found = [f for f in audit(tables, make_split(tables, protocol, 0), None, [(TEXTS, "text")]) if TEXTS in f.check]
    assert [f.level for f in found] == [level]


def small_tmdb(folder: Path, pairs: str) -> None:
    (folder / "join.csv").write_text("movie_id,title,tmdb_id\n" + pairs)
    keywords = json.dumps([{"id": 1, "name": "toy, small"}, {"id": 2, "name": "é"}])
    with (folder / "tmdb_5000_movies.csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file)
        names = ["id", "keywords", "budget", "revenue", "runtime", "vote_count", "vote_average", "popularity"]
        out.writerow([*names, "overview", "tagline"])
        out.writerow([70, keywords, 5, 0, 90.0, 4, 6.5, 1.25, 'A "toy",\nalive', ""])
        out.writerow([71, "[]", 0, 9, 0.0, 0, 0.0, 0.5, " ", "Boo!"])


@pytest.fixture
def films(ml_100k: Tables) -> Tables:
    return ml_100k


def test_tmdb_by_hand(films: Tables, tmp_path: Path) -> None:
    """0 is unknown for money and length, no votes have no average; a film listed twice has the same texts twice."""
    small_tmdb(tmp_path, "1,x,70\n3,x,\n4,x,71\n5,x,71\n6,x,99\n9999,x,70\n")
    tables = with_tmdb(films, tmp_path, "join.csv")
    frame = tables.nodes["movie"].frame
    assert frame.columns[-7:] == [
        "budget", "revenue", "runtime", "vote_count", "vote_average", "popularity", "keywords"
    ]  # fmt: skip
    assert frame.select(films.nodes["movie"].frame.columns).equals(films.nodes["movie"].frame)
    assert frame.row(0)[-7:] == (5, None, 90.0, 4, 6.5, 1.25, ["toy, small", "é"])
    assert frame.row(3)[-7:] == frame.row(4)[-7:] == (None, 9, None, 0, None, 0.5, None)
    assert frame.row(5)[-7:] == (None,) * 7  # its tmdb_id is no id there
    assert tables.texts is not None
    assert tables.texts.frame.rows() == [
        (1, "overview", 'A "toy",\nalive'), (4, "tagline", "Boo!"), (5, "tagline", "Boo!")
    ]  # fmt: skip
    said = {n.message.split(",")[0].split(":")[0]: n.count for n in tables.notices[len(films.notices) :]}
    assert said == {
        "films that are no row of the data set dropped": 1,
        "films whose tmdb_id is no id there": 1,
        "films that share a row of TMDB with another": 2,
        "films without a row of TMDB": 1682 - 3,
    }


def test_tmdb_that_does_not_fit(films: Tables, tmp_path: Path) -> None:
    small_tmdb(tmp_path, "1,x,99\n")
    with pytest.raises(InputError, match="TMDB does not fit"):
        with_tmdb(films, tmp_path, "join.csv")
    small_tmdb(tmp_path, "1,x,70\n1,x,71\n")
    with pytest.raises(InputError, match="2 films found, 1 different"):
        with_tmdb(films, tmp_path, "join.csv")
    small_tmdb(tmp_path, "1,x,70\n")
    path = tmp_path / "tmdb_5000_movies.csv"
    path.write_text(path.read_text().replace("[{", "{"))
    with pytest.raises(InputError, match="not readable as JSON"):
        with_tmdb(films, tmp_path, "join.csv")


def test_tmdb_of_ml_100k(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the csv module: 485 of 1,682 films, 14 of which are 7 films listed twice."""
    monkeypatch.setenv("RELRANK_DATA", str(data_dir))
    toml = {
        "path": "${RELRANK_DATA}/ml-100k",
        "dataset": "ml-100k",
        "parts": "u1",
        "tmdb": "${RELRANK_DATA}/tmdb",
    }
    tables = read_tables(check(toml, DataConfig, "study.toml"), Path())
    with (data_dir / "tmdb" / "tmdb_5000_movies.csv").open(encoding="utf-8", newline="") as file:
        films = {row["id"]: row for row in csv.DictReader(file)}
    with (data_dir / "tmdb" / "ml-100k_join.csv").open(encoding="utf-8", newline="") as file:
        pairs = {int(row["movie_id"]): row["tmdb_id"] for row in csv.DictReader(file) if row["tmdb_id"]}
    assert tables.texts is not None
    for kind in ("overview", "tagline"):
        expected = {movie: films[film][kind].strip() for movie, film in pairs.items() if films[film][kind].strip()}
        rows = tables.texts.frame.filter(pl.col("kind") == kind)
        assert dict(zip(rows["key"], rows["text"], strict=True)) == expected
    movies = tables.nodes["movie"].frame
    assert movies["vote_count"].is_not_null().sum() == len(pairs) == 485
    budgets = {movie: int(films[film]["budget"]) for movie, film in pairs.items() if films[film]["budget"] != "0"}
    assert dict(movies.select("movie_id", "budget").drop_nulls().rows()) == budgets
    shared = next(n for n in tables.notices if "share a row" in n.message)
    assert shared.count == 14
    split = make_split(tables, check({"name": "ml-100k-u1"}, ProtocolConfig, "study.toml"), 0)
    said = [
        f for f in audit(tables, split, None, [("movie", "vote_count"), ("movie", "genre")]) if "looks" in f.check
    ]
    assert [f.level for f in said] == ["warning"]
    assert "vote_count" in said[0].message


def test_tmdb_of_ml_1m(data_dir: Path) -> None:
    tables = datasets.ml_1m(data_dir / "ml-1m", "ml-1m_sasrec.txt", data_dir / "tmdb")
    assert tables.texts is not None
    assert tables.texts.frame["kind"].value_counts().sort("kind").rows() == [("overview", 1095), ("tagline", 981)]
    assert tables.nodes["movie"].frame["vote_count"].is_not_null().sum() == 1095


def test_tmdb_goes_with_movielens_only() -> None:
    with pytest.raises(InputError, match="tmdb does not go with"):
        check({"dataset": "gowalla", "tmdb": "x"}, DataConfig, "study.toml")
