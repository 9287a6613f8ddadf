"""Tables of a folder in every kind of file."""

import datetime
import gzip
import sqlite3

import polars as pl
import pytest

from relrank.discovery.columns import Column
from relrank.discovery.discover import discover
from relrank.discovery.folder import read_folder
from relrank.errors import InputError
from relrank.tables.files import read_table

FRAME = pl.DataFrame({"user": ["a", "b"], "n": ["1", "02"]})


def test_text_is_read_as_the_study_file_will_read_it(tmp_path):
    (tmp_path / "a.csv").write_text("user;n\na;1\nb;02\n")
    (tmp_path / "b.tsv").write_text("user\tn\na\t1\nb\t02\n")
    (tmp_path / "c.dat").write_text("user|n\na|1\nb|02\n")
    (tmp_path / "d.csv").write_text("\ufeffuser,n\na,1\nb,02\n", encoding="utf-8")
    folder = read_folder(tmp_path)
    assert sorted(folder.frames) == ["a", "b", "c", "d"]
    for name, source in folder.sources.items():
        assert folder.frames[name].equals(FRAME)
        again = read_table(source.path, source.reading.get("separator"), header=source.reading.get("columns"))
        assert source.direct
        assert again.equals(FRAME)


def test_decimal_commas_are_no_separators(tmp_path):
    (tmp_path / "a.csv").write_text("id;price\n" + "".join(f"{n};{n},50\n" for n in range(30)))
    assert read_folder(tmp_path).frames["a"].columns == ["id", "price"]


def test_files_without_a_header_get_names_of_columns(tmp_path):
    (tmp_path / "u.data").write_text("196\t242\t3\n186\t302\t3\n")
    (tmp_path / "u.item").write_text("1::Toy Story, the film::A|B\n2::Heat::C\n")
    folder = read_folder(tmp_path)
    assert folder.sources["u.data"].reading["columns"] == ["column_1", "column_2", "column_3"]
    assert folder.frames["u.item"]["column_2"].to_list() == ["Toy Story, the film", "Heat"]
    assert not folder.sources["u.item"].direct


def test_other_encodings_need_a_copy(tmp_path):
    (tmp_path / "a.csv").write_bytes("name,n\nBüro,1\nKäse,2\n".encode("cp1252"))
    (tmp_path / "b.csv").write_bytes("name,n\nBüro,1\nKäse,2\n".encode("utf-16"))
    folder = read_folder(tmp_path)
    assert folder.frames["a"]["name"].to_list() == folder.frames["b"]["name"].to_list() == ["Büro", "Käse"]
    assert not folder.sources["a"].direct


def test_parts_are_one_table(tmp_path):
    FRAME[:1].write_csv(tmp_path / "sales_2023.csv")
    FRAME[1:].write_csv(tmp_path / "sales_2024.csv")
    (tmp_path / "views").mkdir()
    FRAME[:1].write_parquet(tmp_path / "views" / "part-0.parquet")
    FRAME[1:].write_parquet(tmp_path / "views" / "part-1.parquet")
    folder = read_folder(tmp_path)
    assert {name: frame.rows() for name, frame in folder.frames.items()} == {
        "sales": FRAME.rows(),
        "views": FRAME.rows(),
    }
    assert folder.sources["views"].what == "2 parts"


def test_tables_of_sqlite_and_duckdb(tmp_path):
    duckdb = pytest.importorskip("duckdb")
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("create table t (u, n)")
        connection.executemany("insert into t values (?, ?)", [("a", 1), ("b", None), ("c", 2.5)])
    with duckdb.connect(str(tmp_path / "b.duckdb")) as connection:
        connection.execute("create table d as select 'x' as u, 1 as n union all select 'y', 2 order by 1")
    folder = read_folder(tmp_path)
    assert folder.frames["t"].to_dict(as_series=False) == {"u": ["a", "b", "c"], "n": [1.0, None, 2.5]}
    assert folder.frames["d"].rows() == [("x", 1), ("y", 2)]


def test_what_cannot_be_read_is_named(tmp_path):
    FRAME.write_csv(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("x,y\n1,2\n1,2,3,4\n")
    (tmp_path / "c.xlsx").write_bytes(b"PK")
    (tmp_path / "d.db").write_bytes(b"no database at all")
    (tmp_path / "README.md").write_text("text")
    folder = read_folder(tmp_path)
    assert sorted(folder.frames) == ["a"]
    assert sorted(f.where for f in folder.findings) == ["README.md", "b.csv", "c.xlsx", "d.db"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_folder_without_tables_is_an_error(tmp_path, make):
    make(tmp_path / "shop")
    with pytest.raises(InputError, match=r"no such folder|no tables found"):
        read_folder(tmp_path / "shop")


def test_no_file_takes_the_name_of_another(tmp_path):
    FRAME.write_csv(tmp_path / "items.csv")
    FRAME[:1].write_csv(tmp_path / "items.tsv", separator="\t")
    for suffix in ("xlsx", "json", "pdf", "sql", "db"):
        (tmp_path / f"items.{suffix}").write_text("nothing of use")
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("create table shops as select 'x' as u")
    FRAME.write_csv(tmp_path / "shops.csv")
    FRAME.write_csv(tmp_path / "users.csv")
    (tmp_path / "users.xlsx").write_text("nothing of use")
    folder = read_folder(tmp_path)
    assert {name: frame.height for name, frame in folder.frames.items()} == {
        "items.csv": 2, "items.tsv": 1, "a-shops": 1, "shops.csv": 2, "users": 2,
    }  # fmt: skip
    assert sorted(f.where for f in folder.findings) == [
        "items.db", "items.json", "items.pdf", "items.sql", "items.xlsx", "users.xlsx",
    ]  # fmt: skip


KEYS = [f"i{n}" for n in range(12)]


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("item,name,name", "{},Old {},blue", ["item", "name", "name_2"]),
        ("item,name,2023", "{},Old {},5", ["item", "name", "2023"]),
        ("item,name,brand", "{},Old {},brand", ["item", "name", "brand"]),
        ("item,,", "{},Old {},x", ["item", "", "column_3"]),
        ('"the ""item""",name', '{},"Old ""{}"""', ['the "item"', "name"]),
        ("Müsli,Preis €", "{},5{}", ["Müsli", "Preis €"]),
    ],
)
def test_a_header_is_told_from_data_by_the_rows_below(tmp_path, header, row, columns):
    (tmp_path / "a.csv").write_text("\n".join([header, *(row.format(key, n) for n, key in enumerate(KEYS))]))
    folder = read_folder(tmp_path)
    assert folder.frames["a"].columns == columns
    assert folder.frames["a"].to_series(0).to_list() == KEYS
    assert len(folder.findings) == (columns[-1] in ("name_2", "column_3"))


@pytest.mark.parametrize(
    "rows",
    ["u1,i1,2023\nu2,i2,2024\n", "1|24|M|technician\n2|53|F|other\n3|23|M|writer\n", "anna,i1\nbob,i2\neva,i3\n"],
)
def test_rows_without_a_header_are_data_and_a_finding_says_so(tmp_path, rows):
    (tmp_path / "a.csv").write_text(rows)
    folder = read_folder(tmp_path)
    assert folder.frames["a"].height == rows.count("\n")
    assert [(f.kind, f.where) for f in folder.findings] == [("ambiguous", "a")]


def test_nothing_is_passed_over_in_silence(tmp_path):
    FRAME.write_csv(tmp_path / "sources.csv")
    FRAME.write_csv(tmp_path / "_brands.csv")
    (tmp_path / "items.json").write_text('{"user": "a", "n": "1"}\n{"user": "b", "n": "02"}\n')
    (tmp_path / "list.json").write_text('[{"user": "a", "n": "1"}, {"user": "b", "n": "02"}]')
    (tmp_path / "settings.json").write_text('{\n  "user": "a"\n}')
    (tmp_path / "zipped.csv.gz").write_bytes(gzip.compress(b"user;n\na;1\nb;02\n"))
    (tmp_path / "gone.csv").symlink_to("nowhere.csv")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "product-tables").mkdir()
    FRAME.write_csv(tmp_path / "product-tables" / "a.csv")
    (tmp_path / "study-tables").mkdir()
    (tmp_path / "study.toml").write_text("")
    for n in range(9):
        (tmp_path / f"{n}.jpg").write_text("a picture")
    folder = read_folder(tmp_path)
    assert sorted(folder.frames) == ["items", "list", "product-tables", "sources", "zipped"]
    assert all(frame.equals(FRAME) for frame in folder.frames.values())
    assert sorted(f.where for f in folder.findings) == [
        "0.jpg and 8 more", "_brands.csv", "gone.csv", "loop", "settings.json", "study-tables", "study.toml",
    ]  # fmt: skip


def test_parts_may_lack_columns_and_order_them_otherwise(tmp_path):
    (tmp_path / "sales_2023.csv").write_text("user,item\nu1,i1\nu2,i2\n")
    (tmp_path / "sales_2024.csv").write_text("item,user,channel\ni3,u3,web\ni4,u4,shop\n")
    (tmp_path / "list_1.csv").write_text("item,name\ni1,Old\ni2,New\n")
    (tmp_path / "list_2.csv").write_text("item,price\ni1,10\ni2,20\n")
    folder = read_folder(tmp_path)
    assert sorted(folder.frames) == ["list_1", "list_2", "sales"]
    assert folder.frames["sales"].rows() == [
        ("u1", "i1", None), ("u2", "i2", None), ("u3", "i3", "web"), ("u4", "i4", "shop"),
    ]  # fmt: skip
    sales, lists = sorted(folder.findings, key=lambda f: f.kind, reverse=True)
    assert "'channel' is missing in sales_2023.csv" in sales.message
    assert lists.where == "list_1.csv, list_2.csv"


DAY = datetime.datetime(2023, 1, 13, 14, 28)


@pytest.mark.parametrize(
    "text", ["01/13/2023 02:28 PM", "13-Jan-2023 14:28:00", "13 Jan 2023 14:28", "Jan 13, 2023 2:28 pm"]
)
def test_more_formats_of_dates_are_read(text):
    assert Column("t", "time", pl.Series("time", [text] * 3)).times.to_list() == [DAY] * 3


def test_days_that_could_be_months_are_named():
    swap = {day: Column("t", "time", pl.Series("time", ["02/03/2023", day])) for day in ("05/06/2023", "05/16/2023")}
    assert [column.days_may_be_months for column in swap.values()] == [True, False]


def test_zero_dates_are_missing():
    column = Column("t", "time", pl.Series("time", ["0000-00-00 00:00:00", "2023-01-13 14:28:00"]))
    assert column.times.to_list() == [None, DAY]
    assert not column.times_are_plain


@pytest.mark.parametrize(
    ("values", "first"),
    [
        (["2023-01-13 14:28:00", "13.01.2023 14:28", "1673620080", "2023-01-14 00:00:00"], "13.01.2023 14:28"),
        (["2023-01-13", "2023-01-14", "2023-13-45"], "2023-13-45"),
        (["13/01/2023", "yesterday", "14/01/2023"], "yesterday"),
        (["0-19-853453-1", "0-19-853454-X"], None),
        (["soon", "later"], None),
        (["2023-01-13", "2023-01-14"], None),
    ],
)
def test_times_that_cannot_be_read_are_named(values, first):
    assert Column("t", "when", pl.Series("when", values)).unread_time == first


def test_unread_times_are_left_out_of_the_proposal_with_a_reason():
    rows = [(f"u{n % 20}", f"i{n % 17}", "2023-01-13" if n % 9 else "13.01.") for n in range(300)]
    sales = pl.DataFrame(rows, ["user", "item", "time"], orient="row")
    left_out = [f for f in discover({"sales": sales}).findings if f.kind == "left out"]
    assert [f.where for f in left_out if "'13.01.'" in f.message] == ["sales.time"]
