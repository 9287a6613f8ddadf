"""Own training, validation and test files, rows in the order of time, and files without a header."""

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from relrank.errors import InputError
from relrank.tables import datasets
from relrank.tables.config import check
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import Tables

TRAIN = "u,i,t\na,1,2024-01-01\na,2,2024-01-02\nb,2,2024-01-01\nb,3,2024-01-02\n"
VALID = "u,i,t\na,3,2024-01-03\n"
TEST = "u,i,t\na,4,2024-01-04T00:00:00.5\nb,1,2024-01-04\n"
GIVEN = ProtocolConfig(split="given")


def read(folder: Path, ending: str = "csv", nodes: bool = False, **changes: object) -> Tables:
    rows = {"file": f"train.{ending}", "valid": f"valid.{ending}", "test": f"test.{ending}", "user": "u", "item": "i",
            "time": "t", **changes}  # fmt: skip
    described: dict[str, object] = {"user": "user", "item": "item", "interactions": rows}
    if nodes:
        described["nodes"] = {"item": {"file": "items.csv", "key": "i"}}
    return read_tables(check(described, DataConfig, "study.toml"), folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        (tmp_path / f"{name}.csv").write_text(text)
        pl.read_csv(text.encode(), schema_overrides={"t": pl.String}).write_parquet(tmp_path / f"{name}.parquet")
    (tmp_path / "items.csv").write_text("i\n1\n2\n3\n4\n")
    return tmp_path


def keys(split: Split, rows: Interactions) -> list[tuple[object, object]]:
    return sorted(zip(split.users.at(rows.user), split.items.at(rows.item), strict=True))


@pytest.mark.parametrize("ending", ["csv", "parquet"])
@pytest.mark.parametrize("nodes", [True, False])
def test_own_parts_are_taken_as_they_are(folder: Path, ending: str, nodes: bool) -> None:
    tables = read(folder, ending, nodes)
    assert tables.ticks == 10**9  # a fraction of a second in one part is one in all
    split = make_split(tables, GIVEN, 0)
    assert keys(split, split.train) == [("a", 1), ("a", 2), ("b", 2), ("b", 3)]
    assert keys(split, split.valid) == [("a", 3)]
    assert keys(split, split.test) == [("a", 4), ("b", 1)]
    assert split.test.time is not None
    assert split.test.time.tolist() == [1_704_326_400_500_000_000, 1_704_326_400_000_000_000]


def test_without_a_validation_file_rows_of_training_are_held_out(folder: Path) -> None:
    rows = "".join(f"{u},{i},2024-01-01\n" for u in "ab" for i in range(10, 20))
    (folder / "train.csv").write_text("u,i,t\n" + rows)
    split = make_split(read(folder, valid=None), GIVEN, 0)
    assert (len(split.train), len(split.valid), len(split.test)) == (18, 2, 2)


def test_keys_of_all_parts_are_of_one_type(folder: Path) -> None:
    (folder / "test.csv").write_text("u,i,t\na,x9,2024-01-04\nb,1,2024-01-04\n")
    split = make_split(read(folder), GIVEN, 0)
    assert split.items.keys.to_list() == ["1", "2", "3", "x9"]
    assert keys(split, split.test) == [("a", "x9"), ("b", "1")]


def test_errors_of_parts_name_their_file(folder: Path) -> None:
    (folder / "valid.csv").write_text("u,i,t\na,3,\n")
    with pytest.raises(InputError, match="value is missing") as error:
        read(folder)
    assert error.value.where == f"{folder / 'valid.csv'}, column 't', row 1"
    (folder / "valid.csv").write_text("u,i,t\na,3,7\n")
    with pytest.raises(InputError, match="times of two kinds"):
        read(folder)
    (folder / "valid.csv").write_text("u,i,t\na,2,2024-01-03\n")
    with pytest.raises(InputError, match="row in two parts"):
        make_split(read(folder), GIVEN, 0)
    with pytest.raises(InputError, match="goes with one of test rows"):
        read(folder, test=None)
    with pytest.raises(InputError, match="no published parts") as error:
        make_split(read(folder, valid=None, test=None), GIVEN, 0)
    assert "[data.interactions]" in error.value.expected


def test_rows_of_a_file_are_in_the_order_of_time_where_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("u,i\nb,3\na,1\nb,1\na,3\na,2\nb,2\n")
    tables = read(tmp_path, file="x.csv", valid=None, test=None, time="row")
    assert tables.interactions.columns == ["user", "item"]
    assert tables.ordered
    split = make_split(tables, ProtocolConfig(split="last-leave-one-out"), 0)
    assert split.ordered
    assert split.successive
    assert keys(split, split.test) == [("a", 2), ("b", 2)]
    assert keys(split, split.valid) == [("a", 3), ("b", 1)]
    later = read(tmp_path, file="x.csv", valid=None, test=None, time="row", duplicates="last")
    assert later.ordered


def test_a_column_named_row_is_a_column(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("u,i,row\na,1,2024-01-03\na,2,2024-01-01\na,3,2024-01-02\n")
    tables = read(tmp_path, file="x.csv", valid=None, test=None, time="row")
    assert tables.interactions["time"].to_list() == [1_704_240_000, 1_704_067_200, 1_704_153_600]


def test_edge_lists_have_no_header(tmp_path: Path) -> None:
    (tmp_path / "edges.txt").write_text("7 30\n7 20\n9 30\n")
    (tmp_path / "items.txt").write_text("20|red\n30|007\n")
    rows = {"file": "edges.txt", "separator": " ", "columns": ["u", "i"], "user": "u", "item": "i", "time": "row"}
    nodes = {"item": {"file": "items.txt", "separator": "|", "columns": ["i", "code"], "key": "i"}}
    described = {"user": "user", "item": "item", "interactions": rows, "nodes": nodes}
    tables = read_tables(check(described, DataConfig, "study.toml"), tmp_path)
    assert tables.interactions.rows() == [(7, 30), (7, 20), (9, 30)]
    assert tables.nodes["item"].frame.rows() == [(20, "red"), (30, "007")]
    (tmp_path / "edges.txt").write_text("7 30\n7 20 5\n9 30\n")
    with pytest.raises(InputError, match="same number of fields"):
        read_tables(check(described, DataConfig, "study.toml"), tmp_path)
    with pytest.raises(InputError, match="columns must differ"):
        check({**described, "interactions": {**rows, "columns": ["u", "u"]}}, DataConfig, "study.toml")
    with pytest.raises(InputError, match="Parquet file has column names"):
        check({**described, "interactions": {**rows, "file": "x.parquet"}}, DataConfig, "study.toml")


def atomic(folder: Path, **files: str) -> None:
    for name, rows in files.items():
        heading = "user_id:token\titem_id:token\ttimestamp:float\n"
        (folder / f"{name.replace('_', '.')}.inter").write_text(heading + rows.replace(" ", "\t"))


def test_split_files_of_recbole(tmp_path: Path) -> None:
    parts = {"x_train": "a 1 1700000000000\na 2 1700000001500\n", "x_test": "a 3 1700000002000\n"}
    atomic(tmp_path, **parts)
    (tmp_path / "x.item").write_text("item_id:token\tgenre:token\n1\tred\n2\tred\n3\tblue\n")
    tables = datasets.recbole(tmp_path)
    assert (tables.name, sorted(tables.given), tables.ticks) == ("x", ["test", "train"], 10**9)
    assert tables.given["train"]["time"].to_list() == [1_700_000_000 * 10**9, 1_700_000_001_500_000_000]
    assert [n.message.split(":")[0] for n in tables.notices] == ["read as milliseconds since 1970"] * 2
    later = replace(tables, interactions=pl.DataFrame({"user": ["a"], "item": ["1"], "time": [1_700_000_000]}))
    assert later.interactions["time"].to_list() == [1_700_000_000 * 10**9]  # seconds, on the clock of the files
    assert sorted(tables.nodes) == ["item"]
    split = make_split(tables, GIVEN.model_copy(update={"valid_share": 0.5}), 0)
    assert keys(split, split.test) == [("a", 3)]
    assert keys(split, split.train.then(split.valid)) == [("a", 1), ("a", 2)]
    atomic(tmp_path, x_valid="a 4 1700000001600\n")
    split = make_split(datasets.recbole(tmp_path), GIVEN, 0)
    assert keys(split, split.valid) == [("a", 4)]
    atomic(tmp_path, y="a 1 1700000000000\n")
    with pytest.raises(InputError, match="no single split"):
        datasets.recbole(tmp_path)


def test_any_file_of_s3rec(tmp_path: Path) -> None:
    (tmp_path / "Toys.txt").write_text("1 5 6 7\n2 7 5\n")
    (tmp_path / "Toys_item2attributes.json").write_text('{"5": [1, 2], "7": [2]}')
    config = check({"dataset": "s3rec", "file": "Toys.txt"}, DataConfig, "x")
    tables = read_tables(config, tmp_path)
    assert (tables.name, tables.ordered) == ("Toys", True)
    assert tables.interactions.rows() == [(1, 5), (1, 6), (1, 7), (2, 7), (2, 5)]
    assert tables.links["has_attribute"].frame.rows() == [(5, 1), (5, 2), (7, 2)]
    with pytest.raises(InputError, match="needs file"):
        check({"dataset": "s3rec"}, DataConfig, "x")
