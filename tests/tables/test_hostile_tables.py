"""Hostile tables get the naive meaning or one InputError: never another exception, never another value."""

from pathlib import Path
from time import perf_counter

import polars as pl
import pytest

from attacks.tables import KINDS, ODD, attacked
from relrank.errors import InputError
from relrank.graph.construction.build_graph import build_graph
from relrank.graph.construction.relation_config import Attribute
from relrank.tables import readers
from relrank.tables.config import check
from relrank.tables.files import MOST_COLUMNS
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.scan import read_columns


@pytest.mark.parametrize("seed", range(4))
def test_hostile_tables_mean_what_they_say_or_are_one_error(seed: int, tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    began, outcomes = perf_counter(), [attacked(number, 100 + seed, tmp_path / "x") for number in range(65)]
    assert [outcome for outcome in outcomes if not outcome.is_right] == []
    assert sum(outcome.found == "same" for outcome in outcomes) > 5
    assert {outcome.kind for outcome in outcomes} == set(KINDS)
    assert perf_counter() - began < 60


@pytest.mark.parametrize("kind", ["key", "number", "time", "text"])
@pytest.mark.parametrize("odd", ODD)
def test_columns_of_any_type_are_read_or_one_error(tmp_path: Path, odd: str, kind: str) -> None:
    ODD[odd](2).alias("v").to_frame().write_parquet(tmp_path / "x.parquet")
    try:
        found = read_columns(tmp_path / "x.parquet", None, {"v": ("v", kind)})["v"]  # type: ignore[dict-item]
    except InputError:
        return
    assert len(found) == 2
    assert found.null_count() == 0 or kind == "text"
    if kind == "key":
        assert found.dtype in (pl.Int64, pl.String)


def test_the_attack_finds_values_that_were_read_as_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were the first of repeated rows kept where the last is asked for, the naive reader would know."""
    once = readers.once
    monkeypatch.setattr(readers, "once", lambda frame, policy, *more: once(frame, "first", *more))
    found = [attacked(number, 1, tmp_path / "x").found for number in range(0, 400, 13)]
    assert "wrong" in found


def test_keys_above_63_bits_are_text_in_every_table(tmp_path: Path) -> None:
    keys = pl.Series("i", [2**63 + n for n in range(4)], pl.UInt64)
    rows = pl.DataFrame({"u": ["a"] * 3 + ["b"] * 3, "i": keys.gather([0, 1, 2, 1, 2, 3])})
    rows.write_parquet(tmp_path / "x.parquet")
    keys.to_frame().with_columns(g=pl.Series(["x", "y", "x", "y"])).write_parquet(tmp_path / "items.parquet")
    interactions = {"file": "x.parquet", "user": "u", "item": "i"}
    nodes = {"item": {"file": "items.parquet", "key": "i"}}
    described = {"user": "user", "item": "item", "interactions": interactions, "nodes": nodes}
    tables = read_tables(check(described, DataConfig, "x"), tmp_path)
    assert tables.interactions["item"].to_list() == [str(2**63 + n) for n in (0, 1, 2, 1, 2, 3)]
    split = make_split(tables, ProtocolConfig(split="random-leave-one-out"), 0)
    graph = build_graph(tables, split, {"g": Attribute(kind="attribute", node="item", column="g")})
    assert len(graph.relations["g"]) == 4


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "x.csv").write_bytes("user,item\n1,é\n".encode(encoding))
    with pytest.raises(InputError, match="not UTF-8 text"):
        read_columns(tmp_path / "x.csv", None, {"user": ("user", "key"), "item": ("item", "key")})


def test_wide_files_are_read_in_linear_time_or_refused(tmp_path: Path) -> None:
    """Six thousand columns nobody wants took minutes, since the time grew with their square."""
    path = tmp_path / "x.csv"
    for width in (6_000, MOST_COLUMNS):
        path.write_text("u,i," + ",".join(f"c{n}" for n in range(width)) + "\n" + f"1,2{',1' * width}\n" * 3)
        wanted = {"u": ("u", "key"), "i": ("i", "key")}
        if width < MOST_COLUMNS:
            began = perf_counter()
            assert read_columns(path, None, wanted).rows() == [(1, 2)] * 3  # type: ignore[arg-type]
            assert perf_counter() - began < 30
        else:
            with pytest.raises(InputError, match="too many columns"):
                read_columns(path, None, wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "what"),
    [("u,u,i\n1,2,3\n", "occurs twice"), ("u,i\n1,2,3\n", "as a table"), ('u,i\n1,"2\n', "as a table")],
)
def test_headers_and_rows_that_do_not_fit(tmp_path: Path, content: str, what: str) -> None:
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(InputError, match=what):
        read_columns(tmp_path / "x.csv", None, {"u": ("u", "key"), "i": ("i", "key")})


@pytest.mark.parametrize("separator", ['"', "\n", "§", ""])
def test_separators_that_cannot_be_are_refused(tmp_path: Path, separator: str) -> None:
    section = {"file": "x.csv", "user": "u", "item": "i", "separator": separator}
    with pytest.raises(InputError, match="separator"):
        check({"user": "user", "item": "item", "interactions": section}, DataConfig, "x")


def test_user_and_item_are_two_types() -> None:
    section = {"file": "x.csv", "user": "u", "item": "i"}
    with pytest.raises(InputError, match="two node types"):
        check({"user": "n", "item": "n", "interactions": section}, DataConfig, "x")


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[2J"])
def test_node_types_have_names(name: str) -> None:
    section = {"file": "x.csv", "user": "u", "item": "i"}
    own: dict[str, object] = {"user": "user", "item": "item", "interactions": section}
    ends = {"source": "item", "source_column": "a", "target": name, "target_column": "b"}
    wrong: list[dict[str, object]] = [
        {"user": name}, {"item": name}, {"nodes": {name: {"file": "x.csv", "key": "i"}}},
        {"links": {"l": {"file": "x.csv", **ends}}},
    ]  # fmt: skip
    for one in wrong:
        with pytest.raises(InputError, match="a name: one line of text, not empty"):
            check(own | one, DataConfig, "x")
    with pytest.raises(InputError, match="a name: one line of text, not empty"):
        check({"kind": "attribute", "node": "item", "column": "c", "target": name}, Attribute, "x")


def test_paths_that_cannot_be_read_are_one_error(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for path in (tmp_path / "folder.csv", tmp_path / ("x" * 5000 + ".csv"), tmp_path / "x\0.csv"):
        with pytest.raises(InputError) as error:
            read_columns(path, None, {"u": ("u", "key")})
        assert len(str(error.value)) < 1000


def test_node_tables_are_bounded_and_columns_of_interactions_differ(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("u,i\na,1\n")
    wide = ",".join(f"c{n}" for n in range(MOST_COLUMNS))
    (tmp_path / "n.csv").write_text(f"i,{wide}\n1{',1' * MOST_COLUMNS}\n")
    section = {"file": "x.csv", "user": "u", "item": "i"}
    described = {"user": "user", "item": "item", "nodes": {"item": {"file": "n.csv", "key": "i"}}}
    with pytest.raises(InputError, match="too many columns"):
        read_tables(check({**described, "interactions": section}, DataConfig, "x"), tmp_path)
    with pytest.raises(InputError, match="different columns"):
        check({**described, "interactions": {**section, "item": "u"}}, DataConfig, "x")
