"""Every way a file can be wrong gets one clear error; keys and numbers mean what they say."""

from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables.files import as_keys, as_numbers, column, parse, read_table, read_text


def test_missing_file_names_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "books.csv").write_text("a\n1\n")
    with pytest.raises(InputError) as error:
        read_table(tmp_path / "bocks.csv")
    assert "books.csv" in error.value.found
    with pytest.raises(InputError, match="no such folder"):
        read_table(tmp_path / "nowhere" / "books.csv")


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.csv", "\n \n"), ("a.parquet", "")])
def test_empty_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match="file is empty"):
        read_table(tmp_path / name)


def test_header_without_rows(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="no rows"):
        read_table(tmp_path / "a.csv")
    pl.DataFrame({"a": []}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no rows"):
        read_table(tmp_path / "a.parquet")


def test_not_utf8_names_line_and_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes("name\nLima\nBogotá\n".encode("latin-1"))
    with pytest.raises(InputError) as error:
        read_table(path)
    assert error.value.where == f"{path}, line 3, byte 15"
    assert error.value.found == "byte 0xe1"
    assert read_text(path, "latin-1").endswith("Bogotá\n")


def test_byte_order_mark_is_no_part_of_the_first_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbfa,b\n1,2\n")
    assert read_table(tmp_path / "a.csv").columns == ["a", "b"]
    assert read_text(tmp_path / "a.csv") == "a,b\n1,2\n"


def test_ragged_rows_and_foreign_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,4,5\n")
    with pytest.raises(InputError, match="not readable as a table"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("not parquet at all")
    with pytest.raises(InputError, match="not readable as Parquet"):
        read_table(tmp_path / "a.parquet")


def test_separators_and_endings(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a;b\n1;2\n")
    (tmp_path / "a.tsv").write_text("a\tb\n1\t2\n")
    (tmp_path / "a.txt").write_text("a|b\n1|2\n")
    pl.DataFrame({"a": ["1"], "b": ["2"]}).write_parquet(tmp_path / "a.parquet")
    frames = [read_table(tmp_path / f, s) for f, s in (("a.csv", ";"), ("a.tsv", None), ("a.txt", "|"))]
    for frame in [*frames, read_table(tmp_path / "a.parquet")]:
        assert frame.rows() == [("1", "2")]
    with pytest.raises(InputError, match="unknown kind of file"):
        read_table(tmp_path / "a.txt")


def test_text_columns_keep_their_leading_zeros_and_others_their_types() -> None:
    frame = parse("isbn,year,mean\n007,1999,1.5\n008,,2\n", Path("x"), ",", as_text=["isbn"])
    assert frame.rows() == [("007", 1999, 1.5), ("008", None, 2.0)]


def test_missing_column_names_those_there() -> None:
    with pytest.raises(InputError) as error:
        column(pl.DataFrame({"a": [1], "b": [2]}), "c", "x.csv")
    assert error.value.found == "columns a, b"


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        (["1", "20"], [1, 20]),
        (["1.0", "2", None], [1, 2, None]),  # the classical trap: pandas wrote a column with gaps
        ([1.0, 2.0, float("nan")], [1, 2, None]),
        ([1.5, 2.0], ["1.5", "2.0"]),
        (["007", "8"], ["007", "8"]),
        (["-3", "0"], [-3, 0]),
        (["1", "x"], ["1", "x"]),
        (["12345678901234567890"], ["12345678901234567890"]),
    ],
)
def test_keys(values: list[object], keys: list[object]) -> None:
    assert as_keys(pl.Series(values)).to_list() == keys


def test_small_integers_and_categories_are_keys_too() -> None:
    assert as_keys(pl.Series([1, 2], dtype=pl.UInt8)).dtype == pl.Int64
    assert as_keys(pl.Series(["a", "b"], dtype=pl.Categorical)).dtype == pl.String


@pytest.mark.parametrize(
    ("bad", "found"), [("five", "'five'"), ("1,5", "'1,5'"), ("inf", "'inf'"), ("-Infinity", "'-Infinity'")]
)
def test_numbers_name_row_and_value(bad: str, found: str) -> None:
    with pytest.raises(InputError) as error:
        as_numbers(pl.Series("stars", ["1", "2.5", bad, bad]), "x.csv")
    assert error.value.where == "x.csv, column 'stars', row 3"
    assert error.value.found == f"{found}; 2 rows in all"


def test_missing_number() -> None:
    with pytest.raises(InputError, match="row 2"):
        as_numbers(pl.Series("stars", ["1", None]), "x.csv")
    assert as_numbers(pl.Series(["1", " 2.5"]), "x").to_list() == [1.0, 2.5]
