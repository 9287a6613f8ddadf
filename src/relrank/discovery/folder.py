"""The tables in a folder: CSV, TSV, Parquet, other delimited text, JSON lines, SQLite and DuckDB files."""

from __future__ import annotations

import csv
import gzip
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from relrank.discovery.headers import column_names
from relrank.discovery.proposal import Finding
from relrank.discovery.statements import Statement, statement_of
from relrank.discovery.totals import without_totals
from relrank.errors import InputError
from relrank.tables.files import SEPARATORS, UNREADABLE, parse, read_table

TEXT = (".csv", ".tsv", ".txt", ".dat", ".tab", ".psv", ".data", ".item", ".user", ".inter", ".base", ".test")
"""Suffixes of delimited text."""
DATABASES = (".sqlite", ".sqlite3", ".db", ".db3", ".duckdb", ".ddb")
JSON = (".json", ".jsonl", ".ndjson")
TABLES = (*TEXT, ".parquet", ".pq", *JSON, ".gz", *DATABASES)
NOTES = ("readme", "license", "licence", "changelog", "sources")
OTHERS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "a spreadsheet; save each sheet as CSV"),
    **dict.fromkeys((".zip", ".7z", ".rar", ".tar", ".tgz", ".bz2", ".xz", ".zst"), "an archive; unpack it"),
    **dict.fromkeys((".toml", ".yaml", ".yml"), "settings"),
}
"""What files of other kinds are, and what to do with them."""
MOST_ALIKE = 5
"""Files that are left out for one reason and named one by one, at most."""
_SNIFFED = 1 << 16
_MARKS = ("\t", "::", ";", "|", ",", " ")
_PART = re.compile(r"[-_. ]?(part[-_]?)?\d[\d_-]*$")
MOST_FILES = 2_000


@dataclass(frozen=True, slots=True)
class Source:
    """Where a table comes from.

    Attributes:
        path: the file or folder.
        reading: keys of a study file that say how it is read, such as ``separator``.
        direct: whether a study file can read it as it is; if not, a copy in Parquet has to be written.
        what: for people, such as "3 parts".
    """

    path: Path
    reading: dict[str, Any] = field(default_factory=dict)
    direct: bool = True
    what: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Folder:
    """The tables in a folder.

    Attributes:
        path: the folder.
        frames: by name of the table.
        sources: likewise.
        findings: files that were left out, and why.
        stated: keys and times that files state, by name of the table.
    """

    path: Path
    frames: dict[str, pl.DataFrame]
    sources: dict[str, Source]
    findings: list[Finding]
    stated: dict[str, Statement] = field(default_factory=dict)


def read_folder(folder: Path) -> Folder:
    """Read all tables of a folder; a folder inside it with files of the same columns is one table.

    A folder inside it whose files state keys of each other is a database, with a table in each file.

    Raises:
        InputError: there is no such folder, or it holds no table that can be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise InputError("no such folder", where=str(folder), expected="a folder with tables", found=found)
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith("."))
    if len(entries) > MOST_FILES:
        expected = f"at most {MOST_FILES:,} files, or the parts of each table in a folder of its own"
        raise InputError("too many files", where=str(folder), expected=expected, found=f"{len(entries):,}")
    findings: list[Finding] = []
    read: list[_Read] = []
    for path in entries:
        if (why := _left_out(path)) is not None:
            findings.append(Finding("left out", path.name, why))
        elif path.is_dir():
            read += _attempt(path, findings, _read_parts)
        else:
            read += _attempt(path, findings, _read_file)
    result = Folder(folder, {}, {}, [])
    for table in (tables := _whole(read, findings)):
        alone = sum(other.name == table.name for other in tables) == 1
        name = _free(table.name if alone else table.longer, result.frames)
        result.frames[name], result.sources[name] = table.frame, table.source
        if table.stated is not None:
            result.stated[name] = table.stated
        result.findings.extend(replace(f, where=name) for f in table.findings)
    result.findings.extend(_grouped(findings))
    if not result.frames:
        seen = [p.name for p in entries][:20]
        why_not = [f"{f.where}: {f.message}" for f in result.findings][:5]
        raise InputError(
            "no tables found",
            where=str(folder),
            expected="files in CSV, TSV or Parquet, or a SQLite or DuckDB file, with rows",
            found="; ".join(why_not) or ", ".join(seen) or "an empty folder",
        )
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """A table as read: the name it gets if no other has it, else a longer one, and what was found."""

    name: str
    longer: str
    frame: pl.DataFrame
    source: Source
    findings: tuple[Finding, ...] = ()
    stated: Statement | None = None


def _left_out(path: Path) -> str | None:
    """Why a file or folder is not even opened; None if it may be a table."""
    suffix = path.suffix.lower()
    if path.name.startswith("_"):
        return "its name starts with _; rename it if it is a table"
    if path.is_dir():
        if path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve()):
            return "a link to a folder that contains it"
        if path.name == "tasks" and path.with_name("db").is_dir():
            return "labels of tasks about the database beside it, which tell of times to come"
        if (path / "manifest.json").exists():
            return "a folder with results"
        stem = path.name.removesuffix("-tables")
        if stem != path.name and path.with_name(f"{stem}.toml").exists():
            return f"copies of tables for {stem}.toml"
        return None if _parts_in(path) else "a folder without files in CSV, TSV or Parquet"
    if not path.is_file():
        return "a link to nothing" if path.is_symlink() else "no file"
    if suffix in (".txt", ".md", "") and path.stem.lower() in NOTES:
        return "a note about the data; rename it if it is a table"
    if suffix not in TABLES:
        return f"no table that can be read: {OTHERS.get(suffix, suffix or 'a file without a suffix')}"
    return None


def _parts_in(folder: Path) -> list[Path]:
    parts = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (*TEXT, ".parquet", ".pq") and p.is_file())
    return [p for p in parts if not p.name.startswith((".", "_"))]


def _attempt(path: Path, findings: list[Finding], read: Callable[[Path], list[_Read]]) -> list[_Read]:
    """The tables of a file or folder; if it cannot be read none, and a finding says why."""
    try:
        return read(path)
    except InputError as error:
        message = f"{error.what}: {error.found[:120]}; expected {error.expected[:120]}"
    except (*UNREADABLE, UnicodeDecodeError, EOFError) as error:
        message = f"cannot be read: {next(iter(str(error).splitlines()), type(error).__name__)[:160]}"
    findings.append(Finding("left out", path.name, message))
    return []


def _read_parts(folder: Path) -> list[_Read]:
    """The one table of a folder inside, or all of a database."""
    parts = [table for path in _parts_in(folder) for table in _read_file(path)]
    if any(part.stated is not None and part.stated.key is not None for part in parts):
        return parts
    if not _contained(parts):
        different = sorted({", ".join(part.frame.columns)[:60] for part in parts})
        raise InputError(
            "the files have different columns",
            where=str(folder),
            expected="parts of one table; put files of different tables beside it, not into it",
            found="; ".join(different[:3]),
        )
    name, longer = folder.name, f"{folder.name}-parts"
    return [_joined(name, longer, parts, folder) if len(parts) > 1 else replace(parts[0], name=name, longer=longer)]


def _whole(read: list[_Read], findings: list[Finding]) -> list[_Read]:
    """The tables, with files that differ in a number at the end of their names and fit together as one."""
    groups: dict[tuple[str, str], list[_Read]] = defaultdict(list)
    for table in read:
        name = table.source.path.name
        stem, suffix = _split(table.source.path)
        part = suffix.removesuffix(".gz") in (*SEPARATORS, ".parquet", ".pq", ".gz") and table.name == stem
        part = part and table.stated is None
        groups[(_PART.sub("", stem), suffix) if part else (name, f"/{table.name}")].append(table)
    tables: list[_Read] = []
    for (stem, _), parts in groups.items():
        if not stem or len(parts) == 1:
            tables += parts
            continue
        try:
            if not _contained(parts):
                raise InputError("", where=stem, expected="", found="they have different columns")
            tables.append(_joined(stem, f"{stem}-parts", parts, parts[0].source.path))
        except (InputError, *UNREADABLE) as error:
            why = error.found if isinstance(error, InputError) else "their columns have different types"
            message = f"read as tables of their own, and not as parts of one: {why}"
            findings.append(Finding("ambiguous", _names(parts), message, len(parts)))
            tables += parts
    return tables


def _contained(parts: list[_Read]) -> bool:
    """Whether one part has the columns of all others."""
    return set().union(*(p.frame.columns for p in parts)) == set(
        max(parts, key=lambda p: p.frame.width).frame.columns
    )


def _joined(name: str, longer: str, parts: list[_Read], path: Path) -> _Read:
    """Parts as one table; a column that a part lacks is missing in its rows."""
    frame = pl.concat([part.frame for part in parts], how="diagonal_relaxed")
    message = f"{len(parts):,} parts of one table: {_names(parts)}"
    for column in frame.columns:
        if lacking := [part for part in parts if column not in part.frame.columns]:
            message += f"; {column!r} is missing in {_names(lacking)}"
    found = Finding("cleaning", name, message, len(parts))
    more = {f.message: f for part in parts for f in part.findings}
    source = Source(path, direct=False, what=f"{len(parts):,} parts")
    return _Read(name, longer, frame, source, (found, *more.values()))


def _names(parts: list[_Read]) -> str:
    names = [part.source.path.name for part in parts]
    return ", ".join(names[:4]) + (f" and {len(names) - 4:,} more" if len(names) > 4 else "")


def _grouped(findings: list[Finding]) -> list[Finding]:
    """Findings with those that say the same of many files put together, such as of pictures."""
    by_message: dict[tuple[str, str], list[Finding]] = defaultdict(list)
    for found in findings:
        by_message[found.kind, found.message].append(found)
    result: list[Finding] = []
    for group in by_message.values():
        if len(group) > MOST_ALIKE:
            where = f"{group[0].where} and {len(group) - 1:,} more"
            result.append(replace(group[0], where=where, count=len(group)))
        else:
            result += group
    return result


def _free(name: str, taken: dict[str, Any]) -> str:
    n, free = 2, name
    while free in taken:
        free, n = f"{name}-{n}", n + 1
    return free


def _split(path: Path) -> tuple[str, str]:
    """Name and suffix of a file; those of a compressed one are split behind both its suffixes."""
    if path.suffix.lower() != ".gz":
        return path.stem, path.suffix.lower()
    inner = Path(path.stem)
    return inner.stem, f"{inner.suffix}{path.suffix}".lower()


def _read_file(path: Path) -> list[_Read]:
    """The tables of a file: one, but for databases."""
    name, suffix = _split(path)
    if suffix in DATABASES:
        source = Source(path, direct=False)
        return [
            _Read(table, f"{name}-{table}", frame, replace(source, what=f"table of {path.name}"))
            for table, frame in _database(path)
        ]
    findings: tuple[Finding, ...] = ()
    stated = None
    if suffix in (".parquet", ".pq"):
        direct = suffix == ".parquet"
        frame = read_table(path) if direct else pl.read_parquet(path, glob=False)
        source = Source(path, direct=direct)
        stated, wrong = statement_of(path)
        findings = () if wrong is None else (Finding("ambiguous", path.name, wrong),)
    elif suffix.removesuffix(".gz") in JSON:
        frame, source = _read_json(path), Source(path, direct=False)
    else:
        frame, source, findings = _read_text(path)
    return [_Read(name, path.name, frame, source, findings, stated)]


def _content(path: Path) -> bytes:
    """The bytes of a file, decompressed."""
    return gzip.decompress(path.read_bytes()) if path.suffix.lower() == ".gz" else path.read_bytes()


def _read_json(path: Path) -> pl.DataFrame:
    """Objects with the values of a row each, one a line or in a list.

    Raises:
        InputError: the file holds something else.
    """
    content = _content(path).strip()
    lines = content.split(b"\n", 2)
    if content.startswith(b"["):
        frame = pl.read_json(content, infer_schema_length=None)
    elif ".json" in path.suffixes and not (len(lines) > 1 and all(line.startswith(b"{") for line in lines[:2])):
        expected = "a list of objects, or an object with the values of a row in every line"
        raise InputError("JSON without rows", where=str(path), expected=expected, found="another structure")
    else:
        frame = pl.read_ndjson(content, infer_schema_length=None)
    if frame.is_empty():
        raise InputError("table has no rows", where=str(path), expected="rows", found="none")
    return frame


def _read_text(path: Path) -> tuple[pl.DataFrame, Source, tuple[Finding, ...]]:
    """Delimited text, whose separator, encoding and header are found by its first lines."""
    content = _content(path)
    encoding = _encoding(content)
    if not content.strip():
        found = f"{len(content)} bytes"
        raise InputError("file is empty", where=str(path), expected="at least one row", found=found)
    if encoding != "utf-16" and b"\0" in content[:1000]:
        raise InputError("no text", where=str(path), expected="delimited text", found="zero bytes")
    text = content.decode(encoding).removeprefix("\ufeff").lstrip("\r\n")
    lines = [line for line in text[:_SNIFFED].splitlines()[:400] if line.strip()]
    if len(text) > _SNIFFED and len(lines) > 1:
        lines = lines[:-1]
    suffix = _split(path)[1].removesuffix(".gz")
    mark, rows = _separator(lines, path, SEPARATORS.get(suffix))
    names = column_names(rows)
    direct = encoding == "utf-8" and len(mark) == 1 and path.suffix.lower() != ".gz"
    separator = mark if len(mark) == 1 else "\x1f"
    if separator != mark:
        text = text.replace(mark, separator)
    # polars would rename columns of one name, and leaves doubled quotes as they are
    renamed = names.header and (names.columns != rows[0] or any('"' in name for name in names.columns))
    header = names.columns if renamed or not names.header else None
    try:
        frame = parse(text, path, separator, header=header, quote='"')
    except InputError:
        frame, direct = parse(text, path, separator, header=header), False
    if renamed:
        frame, direct = frame.slice(1), False
        if frame.is_empty():
            raise InputError("table has no rows", where=str(path), expected="rows below the header", found="none")
    reading: dict[str, Any] = {}
    if SEPARATORS.get(path.suffix.lower()) != mark:
        reading["separator"] = mark
    if not names.header:
        reading["columns"] = names.columns
    what = "" if encoding == "utf-8" else f"in {encoding}"
    frame, totals = without_totals(frame, path.name)
    direct = direct and not totals
    findings = (*(Finding(kind, path.name, message) for kind, message in names.findings), *totals)
    return frame, Source(path, reading if direct else {}, direct, what), findings


def _encoding(content: bytes) -> str:
    """UTF-8, UTF-16 by its mark, else Windows-1252."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    for encoding in ("utf-8", "cp1252"):
        try:
            content.decode(encoding)
        except UnicodeDecodeError:
            continue
        return encoding
    return "latin-1"


def _separator(lines: list[str], path: Path, usual: str | None) -> tuple[str, list[list[str]]]:
    """The mark that splits the lines into equally many fields, and the fields."""
    if not lines:
        raise InputError("file is empty", where=str(path), expected="at least one row", found="no lines")
    best: tuple[float, int, str, list[list[str]]] | None = None
    for mark in _MARKS:
        rows = [line.split(mark) for line in lines] if len(mark) > 1 else list(csv.reader(lines, delimiter=mark))
        (fields, count), *_ = Counter(len(row) for row in rows).most_common(1)
        same = count / len(rows)
        if fields < 2 or len(rows[0]) != fields or same < 0.9 or (mark == " " and same < 1.0):
            continue
        preferred = mark == usual
        rank = (round(same, 1) + (0.5 if preferred else 0.0), fields)
        if best is None or rank > best[:2]:
            best = (*rank, mark, rows)
    if best is None:
        mark = usual or ","
        return mark, list(csv.reader(lines, delimiter=mark))
    return best[2], best[3]


def _database(path: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    """The tables of a SQLite or DuckDB file.

    Raises:
        InputError: it is neither, or duckdb is not installed.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if start.startswith(b"SQLite format 3"):
        yield from _sqlite(path)
        return
    if start[8:12] != b"DUCK":
        raise InputError(
            "no database", where=str(path), expected="a SQLite or DuckDB file", found="another kind of file"
        )
    try:
        import duckdb
    except ModuleNotFoundError:
        raise InputError(
            "DuckDB file", where=str(path), expected='duckdb: pip install "relrank[sql]"', found="no such package"
        ) from None
    with duckdb.connect(str(path), read_only=True) as connection:
        for (name,) in connection.execute("select table_name from duckdb_tables() order by 1").fetchall():
            quoted = name.replace('"', '""')
            cursor = connection.execute(f'select * from "{quoted}"')
            columns = [c[0] for c in cursor.description or ()]
            frame = pl.DataFrame(cursor.fetchall(), columns, orient="row", infer_schema_length=None, strict=False)
            if frame.height:
                yield name, frame


def _sqlite(path: Path) -> Iterator[tuple[str, pl.DataFrame]]:
    # "immutable" also opens databases in folders that cannot be written
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        names = connection.execute("select name from sqlite_master where type = 'table' and name not like 'sqlite_%'")
        for (name,) in sorted(names.fetchall()):
            quoted = name.replace('"', '""')
            cursor = connection.execute(f'select * from "{quoted}"')
            columns = [c[0] for c in cursor.description]
            rows = cursor.fetchall()
            if rows:
                values = zip(*rows, strict=True)
                yield name, pl.DataFrame([_series(c, v) for c, v in zip(columns, values, strict=True)])


def _series(name: str, values: tuple[Any, ...]) -> pl.Series:
    """A column of SQLite, whose rows may have values of several types: then all are text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} and kinds:
        return pl.Series(name, values, pl.Int64 if kinds == {int} else pl.Float64, strict=False)
    texts = [None if v is None or isinstance(v, bytes) else str(v) for v in values]
    return pl.Series(name, texts, pl.String)
