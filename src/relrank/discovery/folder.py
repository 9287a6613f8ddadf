"""The tables in a folder: CSV, TSV, Parquet, other delimited text, JSON lines, SQLite and DuckDB files."""

from __future__ import annotations

import csv
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from relrank.discovery.proposal import Finding
from relrank.errors import InputError
from relrank.tables.files import SEPARATORS, UNREADABLE, parse, read_table, read_text

TEXT = (".csv", ".tsv", ".txt", ".dat", ".tab", ".psv", ".data", ".item", ".user", ".inter", ".base", ".test")
"""Suffixes of delimited text."""
DATABASES = (".sqlite", ".sqlite3", ".db", ".db3", ".duckdb", ".ddb")
TABLES = (*TEXT, ".parquet", ".pq", ".jsonl", ".ndjson", ".gz", *DATABASES)
IGNORED = (".toml", ".md", ".json", ".py", ".ipynb", ".html", ".pdf", ".log", ".lock", ".yaml", ".yml", ".sql", "")
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
    """

    path: Path
    frames: dict[str, pl.DataFrame]
    sources: dict[str, Source]
    findings: list[Finding]


def read_folder(folder: Path) -> Folder:
    """Read all tables of a folder; a folder inside it with files of the same columns is one table.

    Raises:
        InputError: there is no such folder, or it holds no table that can be read.
    """
    if not folder.is_dir():
        found = "a file" if folder.is_file() else "nothing"
        raise InputError("no such folder", where=str(folder), expected="a folder with tables", found=found)
    result = Folder(folder, {}, {}, [])
    entries = sorted(p for p in folder.iterdir() if not p.name.startswith((".", "_")))
    if len(entries) > MOST_FILES:
        expected = f"at most {MOST_FILES:,} files, or the parts of each table in a folder of its own"
        raise InputError("too many files", where=str(folder), expected=expected, found=f"{len(entries):,}")
    for name, parts in _groups([p for p in entries if p.is_file()]).items():
        _add(result, name, parts)
    for inner in (p for p in entries if p.is_dir()):
        parts = sorted(p for p in inner.rglob("*") if p.suffix.lower() in (*TEXT, ".parquet", ".pq"))
        parts = [p for p in parts if not p.name.startswith((".", "_"))]
        if parts and not (inner / "manifest.json").exists() and not inner.name.endswith("-tables"):
            _add(result, inner.name, parts, inner)
    if not result.frames:
        seen = [p.name for p in entries][:20]
        why = [f"{f.where}: {f.message}" for f in result.findings][:5]
        raise InputError(
            "no tables found",
            where=str(folder),
            expected="files in CSV, TSV or Parquet, or a SQLite or DuckDB file, with rows",
            found="; ".join(why) or ", ".join(seen) or "an empty folder",
        )
    return result


def _groups(files: list[Path]) -> dict[str, list[Path]]:
    """Files by the name of their table: those that differ in a number at the end alone may be its parts."""
    stems: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        stems[_PART.sub("", path.stem), path.suffix].append(path)
    groups: dict[str, list[Path]] = {}
    for (stem, suffix), paths in stems.items():
        same = suffix.lower() in (*SEPARATORS, ".parquet") and len({tuple(_header(p) or [p]) for p in paths}) == 1
        if stem and len(paths) > 1 and same:
            groups[stem] = paths
        else:
            groups |= {p.stem if _alone(p, files) else p.name: [p] for p in paths}
    return groups


def _alone(path: Path, files: list[Path]) -> bool:
    """Whether no other table has the same name but for the suffix."""
    return sum(p.stem == path.stem and p.suffix.lower() in TABLES for p in files) <= 1


def _free(name: str, taken: dict[str, Any]) -> str:
    n, free = 2, name
    while free in taken:
        free, n = f"{name}-{n}", n + 1
    return free


def _header(path: Path) -> list[str] | None:
    """The names of the columns of a file; None if it cannot be read."""
    try:
        if path.suffix.lower() == ".parquet":
            return list(pl.read_parquet_schema(path))
        with path.open(encoding="utf-8-sig") as file:
            return file.readline().strip().split(SEPARATORS[path.suffix.lower()])
    except (*UNREADABLE, UnicodeDecodeError):
        return None


def _add(result: Folder, name: str, parts: list[Path], whole: Path | None = None) -> None:
    """Read one table, or note why it is left out."""
    first = parts[0]
    suffix = first.suffix.lower()
    if suffix not in TABLES or _is_note(first):
        if suffix not in IGNORED and not _is_note(first):
            result.findings.append(Finding("left out", first.name, f"no table that can be read: {suffix}"))
        return
    try:
        if suffix in DATABASES:
            for table, frame in _database(first):
                free = _free(table, result.frames)
                result.frames[free] = frame
                result.sources[free] = Source(first, direct=False, what=f"table of {first.name}")
            return
        read = [_read(part) for part in parts]
        frames = [frame for frame, _ in read]
        if len(parts) == 1 and whole is None:
            result.frames[name], result.sources[name] = read[0]
            return
        result.frames[name] = pl.concat(frames, how="vertical_relaxed")
        result.sources[name] = Source(whole or first, direct=False, what=f"{len(parts):,} parts")
    except InputError as error:
        message = f"{error.what}: {error.found[:120]}; expected {error.expected[:120]}"
        result.findings.append(Finding("left out", (whole or first).name, message))
    except (*UNREADABLE, UnicodeDecodeError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        result.findings.append(Finding("left out", (whole or first).name, f"cannot be read: {why}"))


def _is_note(path: Path) -> bool:
    """Whether a file is about the data, and no data."""
    return path.stem.lower() in ("readme", "license", "licence", "changelog", "sources")


def _read(path: Path) -> tuple[pl.DataFrame, Source]:
    """A file of one table."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_table(path), Source(path)
    if suffix == ".pq":
        return pl.read_parquet(path, glob=False), Source(path, direct=False)
    if suffix in (".jsonl", ".ndjson"):
        return pl.read_ndjson(path, infer_schema_length=None), Source(path, direct=False)
    if suffix == ".gz":
        frame = pl.read_csv(path, infer_schema=False, separator="\t" if ".tsv" in path.name else ",")
        return frame, Source(path, direct=False)
    return _read_text(path)


def _read_text(path: Path) -> tuple[pl.DataFrame, Source]:
    """Delimited text, whose separator, encoding and header are found by its first lines."""
    encoding = _encoding(path)
    text = read_text(path, encoding)
    lines = [line for line in text[:_SNIFFED].splitlines()[:400] if line.strip()]
    if len(text) > _SNIFFED and len(lines) > 1:
        lines = lines[:-1]
    mark, rows = _separator(lines, path)
    header = None if _has_header(rows) else [f"column_{n + 1}" for n in range(len(rows[0]))]
    direct = encoding == "utf-8" and len(mark) == 1
    if len(mark) > 1:
        text, mark = text.replace(mark, "\x1f"), "\x1f"
    try:
        frame = parse(text, path, mark, header=header, quote='"')
    except InputError:
        frame, direct = parse(text, path, mark, header=header), False
    reading: dict[str, Any] = {}
    if SEPARATORS.get(path.suffix.lower()) != mark:
        reading["separator"] = mark
    if header is not None:
        reading["columns"] = header
    what = "" if encoding == "utf-8" else f"in {encoding}"
    return frame, Source(path, reading if direct else {}, direct, what)


def _encoding(path: Path) -> str:
    """UTF-8, UTF-16 by its mark, else Windows-1252."""
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    try:
        path.read_bytes().decode("utf-8")
    except UnicodeDecodeError:
        return "cp1252" if _decodes(path, "cp1252") else "latin-1"
    return "utf-8"


def _decodes(path: Path, encoding: str) -> bool:
    try:
        path.read_bytes().decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _separator(lines: list[str], path: Path) -> tuple[str, list[list[str]]]:
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
        preferred = mark == SEPARATORS.get(path.suffix.lower())
        rank = (round(same, 1) + (0.5 if preferred else 0.0), fields)
        if best is None or rank > best[:2]:
            best = (*rank, mark, rows)
    if best is None:
        mark = SEPARATORS.get(path.suffix.lower(), ",")
        return mark, list(csv.reader(lines, delimiter=mark))
    return best[2], best[3]


def _has_header(rows: list[list[str]]) -> bool:
    """Whether the first row names the columns: no numbers, nothing twice, nothing that the column also holds."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    if any(re.fullmatch(r"[+-]?\d+([.,]\d+)?|\d{4}-\d\d-\d\d.*", cell) for cell in first):
        return False
    if len({*first}) < len(first):
        return False
    return not any(
        cell and any(len(row) > n and row[n].strip() == cell for row in rest) for n, cell in enumerate(first)
    )


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
