"""Anyone's own tables: what is read, and one clear error for everything that can be wrong."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables.config import check
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.tables import Tables

TOML = """
user = "reader"
item = "book"
[interactions]
file = "reads.csv"
user = "reader_id"
item = "book_id"
rating = "stars"
time = "read_at"
time_unit = "s"
[nodes.book]
file = "books.csv"
key = "book_id"
title = "title"
computed = 1970-01-03
[links.shelved]
file = "shelves.csv"
source = "book"
source_column = "isbn"
source_match = "isbn"
target = "tag"
target_column = "tag"
weight = "n"
"""

FILES = {
    "reads.csv": "reader_id,book_id,stars,read_at\nann,1.0,5,1970-01-02\nann,2.0,3.5,60\nbob,1.0,4,120\n",
    "books.csv": "book_id,title,isbn,year,mean\n1,One,007,1999,1.5\n2,Two,008,,2\n3,Three,7,2001,3\n",
    "shelves.csv": "isbn,tag,n\n007,crime,2\n008,crime,1\n",
}

Read = Callable[..., Tables]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Reads the tables above, with some files and some lines of the TOML replaced."""

    def run(files: dict[str, str] | None = None, toml: dict[str, str] | None = None) -> Tables:
        for name, content in {**FILES, **(files or {})}.items():
            (tmp_path / name).write_text(content)
        text = TOML
        for old, new in (toml or {}).items():
            assert old in text
            text = text.replace(old, new)
        return read_tables(check(tomllib.loads(text), DataConfig, "study.toml"), tmp_path)

    return run


SECONDS = {"reads.csv": "reader_id,book_id,stars,read_at\nann,1.0,5,30\nann,2.0,3.5,60\nbob,1.0,4,120\n"}


def test_tables_as_described(read: Read, tmp_path: Path) -> None:
    tables = read(SECONDS)
    assert (tables.name, tables.user, tables.item, tables.notices) == (tmp_path.name, "reader", "book", ())
    assert tables.interactions.rows() == [("ann", 1, 5.0, 30), ("ann", 2, 3.5, 60), ("bob", 1, 4.0, 120)]
    assert tables.interactions.columns == ["user", "item", "rating", "time"]
    book = tables.nodes["book"]
    assert (book.key, book.title, book.computed) == ("book_id", "title", 2 * 86400)
    assert dict(book.frame.schema) == {
        "book_id": pl.Int64, "title": pl.String, "isbn": pl.String, "year": pl.String, "mean": pl.String
    }  # fmt: skip
    link = tables.links["shelved"]
    assert link.frame.rows() == [("007", "crime", 2.0), ("008", "crime", 1.0)]
    assert (link.source_match, link.target_match, link.weight) == ("isbn", None, "n")


def test_times_of_two_kinds_in_one_column_are_refused(read: Read) -> None:
    with pytest.raises(InputError, match="not a time") as error:
        read()
    assert error.value.where.endswith("column 'read_at', row 1")  # the one date among numbers


def test_parquet_and_csv_give_the_same_tables(read: Read, tmp_path: Path) -> None:
    as_csv = read(SECONDS)
    pl.read_csv(SECONDS["reads.csv"].encode()).write_parquet(tmp_path / "reads.parquet")
    texts = dict.fromkeys(("isbn", "year", "mean"), pl.String)
    books = pl.read_csv(FILES["books.csv"].encode(), schema_overrides=texts)
    books.write_parquet(tmp_path / "books.parquet")
    as_parquet = read(SECONDS, {"reads.csv": "reads.parquet", "books.csv": "books.parquet"})
    assert as_parquet.interactions.equals(as_csv.interactions)
    assert as_parquet.nodes["book"].frame.equals(as_csv.nodes["book"].frame)


def test_lists_in_parquet_stay_lists(read: Read, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"book_id": [1, 2, 3], "title": "x", "isbn": ["007", "008", "7"], "genres": [["a"], [], None]}
    )
    frame.write_parquet(tmp_path / "books.parquet")
    assert read(SECONDS, {"books.csv": "books.parquet"}).nodes["book"].frame["genres"].to_list() == [["a"], [], None]


def test_keys_of_one_table_are_text_where_the_other_holds_text_as_well(read: Read) -> None:
    books = "book_id,title,isbn\n1,One,007\n2,Two,008\nx9,Nine,009\n"
    tables = read(SECONDS | {"books.csv": books})
    assert tables.interactions["item"].to_list() == ["1", "2", "1"]


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ('item = "book"\n', "", "interactions"),
        ('key = "book_id"', 'kye = "book_id"', "nodes.book"),
        ('user = "reader"\n', 'user = "reader"\ndataset = "ml-100k"\n', "does not go with dataset"),
        ('user = "reader"\n', 'user = "reader"\nratings = "x.csv"\n', "does not go with own tables"),
        ('weight = "n"', 'unknown = "ignore"', "links.shelved.unknown"),
    ],
)
def test_sections_that_do_not_fit(read: Read, old: str, new: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        read(toml={old: new})


def test_a_data_set_by_name_needs_no_tables_and_takes_only_its_options() -> None:
    assert check({"dataset": "ml-1m", "ratings": "ratings.dat"}, DataConfig, "x").ratings == "ratings.dat"
    with pytest.raises(InputError, match="parts does not go"):
        check({"dataset": "ml-1m", "parts": "u1"}, DataConfig, "x")
    with pytest.raises(InputError, match="sasrec"):
        check({"dataset": "sasrec"}, DataConfig, "x")
    with pytest.raises(InputError, match="interactions"):
        check({}, DataConfig, "x")


def test_environment_variable_in_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.txt").write_text("1 5\n1 6\n2 5\n")
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    config = check({"dataset": "sasrec", "file": "x.txt", "path": "${SOME_FOLDER}"}, DataConfig, "x")
    assert read_tables(config, Path("elsewhere")).interactions.rows() == [(1, 5), (1, 6), (2, 5)]


CASES = {
    "missing column": ({"toml": {'item = "book_id"': 'item = "books"'}}, "column not found", "reader_id, book_id"),
    "missing title column": ({"toml": {'title = "title"': 'title = "name"'}}, "column not found", "book_id, title"),
    "missing match column": (
        {"toml": {'source_match = "isbn"': 'source_match = "isbn13"'}}, "column not found", "book_id, title",
    ),
    "missing user": (
        {"files": {"reads.csv": "reader_id,book_id,stars,read_at\nann,1,5,1\n,2,5,2\n"}},
        "value is missing", "row 2",
    ),
    "rating": (
        {"files": {"reads.csv": "reader_id,book_id,stars,read_at\nann,1,5,1\nann,2,good,2\n"}},
        "not a finite number", "column 'stars', row 2",
    ),
    "nan rating": (
        {"files": {"reads.csv": "reader_id,book_id,stars,read_at\nann,1,5,1\nann,2,NaN,2\n"}},
        "value is missing", "column 'stars', row 2",
    ),
    "missing key": (
        {"files": {"books.csv": "book_id,title,isbn\n1,One,007\n,Two,008\n"}}, "value is missing", "'book_id', row 2",
    ),
    "key twice": (
        {"files": {"books.csv": "book_id,title,isbn\n1,One,007\n2,Two,008\n1,Again,9\n"}},
        "key occurs twice", "which row 1 has already",
    ),
    "matched column not unique": (
        {"files": {"books.csv": "book_id,title,isbn\n1,One,007\n2,Two,008\n3,Three,007\n"}},
        "unique values to match", "'007' in several rows; 2",
    ),
    "unknown item": (
        {"files": {"reads.csv": "reader_id,book_id,stars,read_at\nann,1,5,1\nann,4,5,2\nbob,5,5,2\n"}},
        "unknown key", "4; 2 of 3 rows",
    ),
    "empty join": (
        {"files": {"shelves.csv": "isbn,tag,n\n901,crime,2\n902,crime,1\n"}}, "empty join", "901, 902 (Int64)",
    ),
    "link without source table": (
        {"toml": {'source = "book"': 'source = "author"'}}, "no node table", "'author'",
    ),
    "target match without table": (
        {"toml": {'target = "tag"': 'target = "tag"\ntarget_match = "tag_id"'}}, "without a node table", "tag_id",
    ),
    "column used twice": ({"toml": {'weight = "n"': 'weight = "tag"'}}, "used twice", "isbn"),
    "weight": ({"files": {"shelves.csv": "isbn,tag,n\n007,crime,many\n"}}, "not a finite number", "'many'"),
    "computed": ({"toml": {"computed = 1970-01-03": 'computed = "May"'}}, "not a time", "'May'"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_clear_error(read: Read, case: str) -> None:
    change, what, detail = CASES[case]
    with pytest.raises(InputError) as error:
        read(SECONDS | change.get("files", {}), change.get("toml"))
    assert what in error.value.what
    assert detail in str(error.value)


def test_wrong_key_joined_is_found_out(read: Read) -> None:
    """goodreads_book_id joined as book_id: some keys match by accident, and the right column is named."""
    books = "book_id,title,isbn,other_id\n1,One,007,2\n2,Two,008,900\n3,Three,7,901\n"
    reads = "reader_id,book_id,stars,read_at\nann,2,5,1\nann,900,5,2\nbob,901,5,2\n"
    with pytest.raises(InputError, match="'other_id' holds 100% of them"):
        read({"books.csv": books, "reads.csv": reads})


def test_unknown_keys_are_dropped_and_counted_where_that_is_the_policy(read: Read) -> None:
    reads = "reader_id,book_id,stars,read_at\nann,1,5,1\nann,x,5,2\nann,2,5,3\nbob,9,5,2\n"
    shelves = "isbn,tag,n\n007,crime,2\n999,crime,1\n"
    tables = read(
        {"reads.csv": reads, "shelves.csv": shelves},
        {'rating = "stars"': 'rating = "stars"\nunknown = "drop"', 'weight = "n"': 'weight = "n"\nunknown = "drop"'},
    )
    assert tables.interactions.select("user", "item").rows() == [("ann", 1), ("ann", 2)]
    assert tables.interactions["item"].dtype == pl.Int64
    assert tables.links["shelved"].frame.height == 1
    assert [(n.where, n.count) for n in tables.notices] == [
        ("reads.csv, column book_id", 2),
        ("shelves.csv, column isbn", 1),
    ]
    with pytest.raises(InputError, match="empty join"):  # dropping everything is never the policy
        read(
            {"reads.csv": "reader_id,book_id,stars,read_at\nann,8,5,1\nbob,9,5,2\n"},
            {'rating = "stars"': 'rating = "stars"\nunknown = "drop"'},
        )


REPEATED = "reader_id,book_id,stars,read_at\nann,1,2,30\nann,2,1,50\nann,1,5,10\nann,1,5,40\nann,2,1,50\n"


def test_duplicates_are_an_error(read: Read) -> None:
    with pytest.raises(InputError) as error:
        read({"reads.csv": REPEATED})
    assert error.value.where.endswith("rows 1 and 3")
    assert error.value.found.endswith("3 repeated rows in all, 2 with other values")


@pytest.mark.parametrize(
    ("policy", "kept"),
    [
        ("first", [("ann", 2, 1.0, 50), ("ann", 1, 5.0, 10)]),
        ("last", [("ann", 1, 5.0, 40), ("ann", 2, 1.0, 50)]),
        ("max", [("ann", 2, 1.0, 50), ("ann", 1, 5.0, 10)]),
    ],
)
def test_duplicates_by_policy(read: Read, policy: str, kept: list[tuple[object, ...]]) -> None:
    tables = read({"reads.csv": REPEATED}, {'rating = "stars"': f'rating = "stars"\nduplicates = "{policy}"'})
    assert tables.interactions.rows() == kept
    assert [n.count for n in tables.notices] == [3]


def test_duplicates_by_place_where_there_are_no_times(read: Read) -> None:
    no_time = {
        'time = "read_at"\ntime_unit = "s"\n': "",
        'rating = "stars"': 'rating = "stars"\nduplicates = "first"',
    }
    assert read({"reads.csv": REPEATED}, no_time).interactions.rows() == [("ann", 1, 2.0), ("ann", 2, 1.0)]
    no_rating = {'rating = "stars"': 'duplicates = "max"'}
    with pytest.raises(InputError, match="without ratings"):
        read({"reads.csv": REPEATED}, no_rating)


def test_row_numbers_are_those_of_the_file_after_other_rows_were_dropped(read: Read) -> None:
    repeated = REPEATED.replace("read_at\n", "read_at\nann,77,1,1\n")
    with pytest.raises(InputError) as error:
        read({"reads.csv": repeated}, {'rating = "stars"': 'rating = "stars"\nunknown = "drop"'})
    assert error.value.where.endswith("rows 2 and 4")


def test_nan_in_an_attribute_is_missing_and_counted(read: Read) -> None:
    tables = read(SECONDS | {"books.csv": "book_id,title,isbn,mean\n1,One,007,NaN\n2,Two,008,1.5\n"})
    assert tables.nodes["book"].frame["mean"].to_list() == [None, "1.5"]
    assert [str(n) for n in tables.notices] == ["books.csv, column mean: NaN read as missing (1)"]


def test_links_to_users_without_a_node_table_are_checked_against_those_who_interact(read: Read) -> None:
    change = {'source = "book"': 'source = "reader"', 'source_match = "isbn"\n': "", '"isbn"': '"reader"'}
    tables = read(SECONDS | {"shelves.csv": "reader,tag,n\nann,club,1\n"}, change)
    assert tables.nodes["reader"].frame["reader"].to_list() == ["ann", "bob"]
    with pytest.raises(InputError, match="unknown key"):
        read(SECONDS | {"shelves.csv": "reader,tag,n\nann,club,1\neve,club,1\n"}, change)
