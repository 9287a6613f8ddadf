"""Columns read in a stream are those of the whole table in memory; what is not wanted takes no memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from relrank.errors import InputError
from relrank.tables import files
from relrank.tables.files import as_keys, as_numbers, check_text, column, read_table
from relrank.tables.missing import refuse_missing
from relrank.tables.protocols import ProtocolConfig, make_split
from relrank.tables.readers import DataConfig, InteractionsConfig, read_tables
from relrank.tables.scan import read_columns
from relrank.tables.times import as_times

WANTED = {"user": ("u", "key"), "item": ("i", "key"), "rating": ("r", "number"), "time": ("t", "time"),
          "said": ("s", "text")}  # fmt: skip
ROWS = {
    "whole": '1,10,4,100,fine\n2,11,3.5,200,\n1,12.0, 5 ,50,"a, b"\n',
    "text": 'a,007,4,2017-09-01,x\nb,7,1e1,2017-09-01T12:30:00,"two\nlines"\n'
    "ä,12345678901234567890,-0,2016-01-01,x\n",
    "one leading zero": "1,1,1,1,1\n01,2,2,2,2\n",
    "no text at all": "1,1,1,1,\n2,2,2,2,\n",
    "carriage returns": "1,1,1,1,x\r\n2,2,2,2,y\r\n",
}
"""Below a header; a column "fat" that nobody wants stands first."""


def written(folder: Path, rows: str) -> Path:
    """The rows in a file, each with an unwanted field."""
    path = folder / "rows.csv"
    fat = "".join(line if line.startswith("lines") else f"much,{line}" for line in rows.splitlines(keepends=True))
    path.write_text("fat,u,i,r,t,s\n" + fat, newline="")
    return path


def in_memory(path: Path) -> pl.DataFrame:
    """The same columns from the whole table, one after the other."""
    raw, where = read_table(path), str(path)
    return pl.DataFrame(
        {
            "user": as_keys(refuse_missing(column(raw, "u", where), where)),
            "item": as_keys(refuse_missing(column(raw, "i", where), where)),
            "rating": as_numbers(column(raw, "r", where), where),
            "time": as_times(column(raw, "t", where), where),
            "said": raw["s"],
        }
    )


@pytest.mark.parametrize("case", ROWS)
def test_columns_in_a_stream_are_those_in_memory(tmp_path: Path, case: str) -> None:
    path = written(tmp_path, ROWS[case])
    expected = in_memory(path)
    assert len(expected) == ROWS[case].count("\n") - ("lines" in ROWS[case])
    assert_frame_equal(read_columns(path, None, WANTED), expected)
    expected.select(pl.all().name.map(lambda n: WANTED[n][0])).write_parquet(path.with_suffix(".parquet"))
    assert_frame_equal(read_columns(path.with_suffix(".parquet"), None, WANTED), expected)


@pytest.mark.parametrize(
    "bad",
    ["1,10,4,100,x\n,11,4,100,x\n", "1,10,4,100,x\n1,11,nan,100,x\n", "1,10,4,100,x\n1,11,good,100,x\n",
     "1,10,4,100,x\n1,11,,100,x\n", "1,10,4,100,x\n1,11,4,,x\n", "1,10,4,100,x\n1,11,4,yesterday,x\n",
     "1,10,4,2017-09-01,x\n1,11,4,100,x\n", "1,10,4,100,x\n1,11,4,100,x,more\n", "1,10,4,100,x\n1,11,4,100,\"x\n"],
)  # fmt: skip
def test_errors_are_those_of_a_table_in_memory(tmp_path: Path, bad: str) -> None:
    """To the letter: file, column, row, value, and how many there are."""
    path = written(tmp_path, bad)
    with pytest.raises(InputError) as expected:
        in_memory(path)
    with pytest.raises(InputError) as found:
        read_columns(path, None, WANTED)
    if '"' in bad:  # two parsers of polars word a quotation mark that nothing closes differently
        assert found.value.what == expected.value.what == "not readable as a table"
    else:
        assert str(found.value) == str(expected.value)


def test_a_row_with_too_many_fields_is_refused_wherever_they_are(tmp_path: Path) -> None:
    """An unquoted comma in a text that nobody wants has moved the columns that are wanted."""
    path = tmp_path / "rows.csv"
    path.write_text("fat,u,i\nlong text,1,2\nlong, text,3,4\n")
    with pytest.raises(InputError, match="same number of fields"):
        read_columns(path, None, {"user": ("u", "key"), "item": ("i", "key")})


def test_missing_column_names_all_that_are_there(tmp_path: Path) -> None:
    path = written(tmp_path, ROWS["whole"])
    with pytest.raises(InputError, match="columns fat, u, i, r, t, s"):
        read_columns(path, None, {"user": ("nobody", "key")})


@pytest.mark.parametrize(("before", "line"), [("", 1), ("é\n" * 9, 10), ("é\n" * 8 + "x", 9)])
def test_bytes_of_another_encoding_are_found_in_any_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: str, line: int
) -> None:
    monkeypatch.setattr(files, "_PIECE", 4)  # cuts characters of two bytes in two
    (tmp_path / "x.csv").write_bytes(before.encode() + b"\xff\n")
    with pytest.raises(InputError) as error:
        check_text(tmp_path / "x.csv")
    assert error.value.where == f"{tmp_path / 'x.csv'}, line {line}, byte {len(before.encode())}"
    (tmp_path / "cut.csv").write_bytes("é".encode()[:1])
    with pytest.raises(InputError, match="byte 0xc3"):
        check_text(tmp_path / "cut.csv")


def test_unwanted_bytes_of_another_encoding_are_refused_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"fat,u,i\nlong,1,2\n\xe9t\xe9,3,4\n")
    with pytest.raises(InputError, match=r"line 3, byte 17[\s\S]*0xe9"):
        read_columns(path, None, {"user": ("u", "key")})


def test_a_split_of_streamed_tables_has_the_fingerprint_of_those_in_memory(tmp_path: Path) -> None:
    """Filter, core and cut after a file with fat columns, and after the bare columns from memory."""
    rng = np.random.default_rng(0)
    pairs = np.unique(rng.integers(0, [60, 40], (1500, 2)), axis=0)
    rng.shuffle(pairs)
    frame = pl.DataFrame({"u": [f"u{u}" for u in pairs[:, 0]], "i": pairs[:, 1], "r": rng.integers(1, 6, len(pairs)),
                          "t": rng.integers(0, 999, len(pairs)), "fat": ["a, \"b\"\n" * 9] * len(pairs)})  # fmt: skip
    frame.write_csv(tmp_path / "x.csv")
    frame.write_parquet(tmp_path / "x.parquet")
    splits = []
    for name in ("x.csv", "x.parquet"):
        described = InteractionsConfig(file=name, user="u", item="i", rating="r", time="t")
        config = DataConfig(user="user", item="item", interactions=described)
        tables = read_tables(config, tmp_path)
        raw = read_table(tmp_path / name)
        assert tables.interactions["user"].equals(as_keys(raw["u"]).alias("user"))
        kinds = [ProtocolConfig(min_rating=3, core=3, split=f"{k}-leave-one-out") for k in ("random", "last")]
        splits += [make_split(tables, kind, 0).fingerprint for kind in kinds]
    assert splits[:2] == splits[2:]
    assert splits[0] != splits[1]


READ = """
import sys
from pathlib import Path
from relrank.tables.scan import read_columns
from relrank.tables.files import read_table
def forget():
    Path("/proc/self/clear_refs").write_text("5")
def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
small, big = Path(sys.argv[1]), Path(sys.argv[2])
read = {
    "stream": lambda path: read_columns(path, None, {"user": ("u", "key"), "item": ("i", "key")}),
    "whole": lambda path: read_table(path).select("u", "i"),
}[sys.argv[3]]
read(small)
forget()
before = peak()
n = len(read(big))
print(n, peak() - before)
"""


def grown(small: Path, big: Path, how: str) -> float:
    """MB that reading takes at most, in a process of its own that has read a small file before."""
    command = [sys.executable, "-c", READ, str(small), str(big), how]
    env = {"POLARS_MAX_THREADS": "1", "PATH": "", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=env)
    rows, peak = ran.stdout.split()
    assert int(rows) == 300_000
    return float(peak)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("ending", [pytest.param("csv", marks=pytest.mark.slow), "parquet"])  # 450 MB are written
def test_a_fat_column_that_nobody_wants_takes_no_memory(tmp_path: Path, ending: str) -> None:
    """450 MB of text beside 300,000 pairs: all of it is never there, where the whole table takes it and more."""
    n = np.arange(300_000)
    frame = pl.DataFrame({"u": n % 5000, "i": n // 40}).with_columns(
        fat=pl.lit("x" * 1480) + pl.col("i").cast(pl.String).str.zfill(20)
    )
    small, big = tmp_path / f"small.{ending}", tmp_path / f"big.{ending}"
    for path, rows in ((small, frame.head(10)), (big, frame)):
        rows.write_csv(path) if ending == "csv" else rows.write_parquet(path, row_group_size=10_000)
    del frame
    assert grown(small, big, "stream") < 320
    if ending == "csv":
        assert grown(small, big, "whole") > 450
    big.unlink()  # pytest would keep it for three runs
