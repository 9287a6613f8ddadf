"""Tables of a folder in every kind of file."""

import sqlite3

import polars as pl
import pytest

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
    assert sorted(f.where for f in folder.findings) == ["b.csv", "c.xlsx", "d.db"]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_folder_without_tables_is_an_error(tmp_path, make):
    make(tmp_path / "shop")
    with pytest.raises(InputError, match=r"no such folder|no tables found"):
        read_folder(tmp_path / "shop")
