"""Whether the first row of delimited text names its columns, and the names."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from relrank.discovery import vocabulary
from relrank.discovery.proposal import FindingKind
from relrank.tables.missing import NA_VALUES

_NUMBER = re.compile(r"[€$£]?\s*[+-]?\d+([.,]\d+)*\s*[€$£%]?")
_DATE = re.compile(r"\d{4}-\d\d?-\d\d?.*|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}.*")
_YEAR = re.compile(r"(19|20)\d\d")
_MOSTLY = 0.95
_WORDS = frozenset[str]().union(*(w for w in vars(vocabulary).values() if isinstance(w, frozenset)))
_SURE = 2
"""Evidence of a cell that is unlike all cells below it in type."""


@dataclass(frozen=True, slots=True)
class Names:
    """The names of columns.

    Attributes:
        columns: all different.
        header: whether the first row holds them; if not, they are column_1, column_2, …
        findings: kind and message of what people should know about them.
    """

    columns: list[str]
    header: bool
    findings: tuple[tuple[FindingKind, str], ...] = ()


def column_names(rows: list[list[str]]) -> Names:
    """The names of the columns of some rows, the first ones of a file."""
    if not _is_header(rows):
        shown = ", ".join(rows[0][:4]) + (", …" if len(rows[0]) > 4 else "")
        message = (
            f"no header is recognized: the first row ({shown[:80]}) is taken as data, and the columns are called "
            "column_1, …; write a row with their names above it"
        )
        return Names([f"column_{n + 1}" for n in range(len(rows[0]))], False, (("ambiguous", message),))
    names: list[str] = []
    findings: list[tuple[FindingKind, str]] = []
    for n, name in enumerate(rows[0]):
        free, count = name, 2
        while free in names or (free != name and free in rows[0]):
            free, count = f"{name.strip() or 'column'}_{count if name.strip() else n + count - 1}", count + 1
        if free != name:
            what = f"is called {name!r} as one before it" if name.strip() else "has no name"
            findings.append(("cleaning", f"column {n + 1} {what}; it is read as {free!r}"))
        names.append(free)
    return Names(names, True, tuple(findings))


def _is_header(rows: list[list[str]]) -> bool:
    """Whether the first row is unlike the rows below it in types, patterns and repetition, or holds known words."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    below = [[cell for row in rest if len(row) > n and (cell := row[n].strip())] for n in range(len(first))]
    evidence = sum(_evidence(cell, cells) for cell, cells in zip(first, below, strict=True))
    if evidence:
        return evidence > 0
    plain = not any(_NUMBER.fullmatch(cell) or _DATE.fullmatch(cell) for cell in first)
    return plain and not any(cell and cell in cells for cell, cells in zip(first, below, strict=True))


def _evidence(cell: str, below: list[str]) -> int:
    """How much a cell speaks for a header; below zero if it is like the cells below it."""
    if cell in NA_VALUES or not cell:
        return 0
    known = 1 if _is_known(cell) else 0
    year = _YEAR.fullmatch(cell) is not None
    for kind in (_NUMBER, _DATE):
        if below and _share(below, kind) >= _MOSTLY:
            if not kind.fullmatch(cell):
                return _SURE + known
            return 0 if year and _share(below, _YEAR) < _MOSTLY else -_SURE
    if _NUMBER.fullmatch(cell) or _DATE.fullmatch(cell):
        return 0 if year else -1
    if cell in below:
        return known - 1
    (shape, count), *_ = Counter(map(_shape, below)).most_common(1) or [("", 0)]
    if "9" in shape and count >= _MOSTLY * len(below):
        return known + (-1 if _shape(cell) == shape else 1)
    return known + (1 if len(below) >= 10 and len(set(below)) < 0.5 * len(below) else 0)


def _share(cells: list[str], kind: re.Pattern[str]) -> float:
    return sum(kind.fullmatch(cell) is not None for cell in cells) / len(cells)


def _shape(cell: str) -> str:
    """The pattern of a text: ``i17`` and ``i4`` are ``i9``."""
    return re.sub(r"\d+", "9", cell)


def _is_known(cell: str) -> bool:
    """Whether at least half of the words of a short text are those of names of columns."""
    words = vocabulary.words_of(cell)
    held = sum(vocabulary.names_a(word, _WORDS) for word in words)
    return 0 < len(words) <= 3 and 2 * held >= len(words)
