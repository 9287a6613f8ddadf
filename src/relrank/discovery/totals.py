"""Lines of totals, and empty lines, that programs write among or below the rows of a table."""

from __future__ import annotations

import polars as pl

from relrank.discovery.columns import Column
from relrank.discovery.proposal import Finding

FEWEST_ROWS = 5
"""Rows besides lines of totals, at least, for saying what is unlike them."""
MOST_TOTALS = 0.2
"""Share of the rows that may be lines of totals, at most."""
CLOSE = 0.005
"""Share of a sum that may be lost in rounding."""
LARGER = 2.0
"""Times the largest other number from which on a number is one of a line of totals; keys that go on are smaller."""
SHOWN = 5
_WORD = (
    r"(?i)^\W*((grand|sub|over ?all)[ _-]?)?(total|sum|summe|gesamt|gesamtsumme|gesamtbetrag|zwischensumme|endsumme"
    r"|insgesamt)s?\W*(\(.*\)|\d[\d.,' ]*)?\W*$"
)
_NUMBER = r"^[€$£]?\s*[+-]?\d[\d.,' ]*\s*([€$£%]|EUR|USD|CHF|GBP)?$"


def without_totals(frame: pl.DataFrame, name: str) -> tuple[pl.DataFrame, tuple[Finding, ...]]:
    """A table without its lines of totals and without empty lines, and findings that count them.

    A line of totals has a word such as "Total" in one cell and else nothing but sums of the other numbers of the
    column, or numbers that are far larger: a brand may be called "Total". The last line is one without such a word,
    too, if it lacks what every other row has, and if a number in it is the sum of the rows above it.

    Args:
        frame: the cells as text.
        name: of the table.
    """
    text = frame.with_columns(pl.col(pl.String).str.strip_chars().replace("", None))
    empty = text.select(pl.all_horizontal(pl.all().is_null())).to_series()
    says = text.select(pl.any_horizontal(pl.col(pl.String).str.contains(_WORD).fill_null(False))).to_series()
    likely, rest = text.filter(says), text.filter(~says & ~empty)
    totals = says.clone()
    if text.width < 2 or rest.height < FEWEST_ROWS or likely.height > MOST_TOTALS * text.height:
        totals = says & False
    elif likely.height:
        totals = totals.scatter(says.arg_true(), _are_totals(likely, rest))
    last = int((~empty).arg_true()[-1] or 0) if not empty.all() else 0
    others = text.filter(~totals & ~empty)
    if not totals[last] and others.height > FEWEST_ROWS and _is_sum(others[-1:], others[:-1]):
        totals = totals.scatter(last, True)
    findings = []
    if n := int(totals.sum()):
        places = ", ".join(f"{row + 1:,}" for row in totals.arg_true()[:SHOWN]) + (", …" if n > SHOWN else "")
        message = f"{n:,} line{'s' if n > 1 else ''} of totals left out, row{'s' if n > 1 else ''} {places}"
        findings.append(Finding("cleaning", name, message, n))
    if n := int(empty.sum()):
        findings.append(Finding("cleaning", name, f"{n:,} empty line{'s' if n > 1 else ''} left out", n))
    return (frame.filter(~totals & ~empty) if findings else frame), tuple(findings)


def _are_totals(likely: pl.DataFrame, rest: pl.DataFrame) -> pl.Series:
    """Which rows with a word for totals hold else nothing but figures of the rest; beside a sum also an average."""
    cells = likely.with_columns(pl.when(~pl.col(c).str.contains(_WORD)).then(c) for c in likely.columns)
    fit, summed, measured = ([of(cells[c], rest[c]) for c in rest.columns] for of in (_fits, _sums, _measures))
    total = pl.all_horizontal(fit) | (pl.any_horizontal(summed) & pl.all_horizontal(measured))
    return pl.select(total).to_series()


def _is_sum(last: pl.DataFrame, above: pl.DataFrame) -> bool:
    """Whether a row lacks what all rows above it have, and holds a sum of theirs."""
    lacking = any(last[c].null_count() and not above[c].null_count() for c in above.columns)
    if not lacking or not all(bool(_fits(last[c], above[c]).all()) for c in above.columns):
        return False
    return any(bool(_sums(last[c], above[c]).any()) for c in above.columns)


def _fits(cells: pl.Series, others: pl.Series) -> pl.Series:
    """Which cells are missing, or figures of the other cells of their column, such as 0 of zeros."""
    numbers, known = _numbers(cells, others)
    if known is None:  # a number among texts is none of these
        alike = float(others.drop_nulls().str.contains(_NUMBER).mean() or 0) > 0.02  # type: ignore[arg-type]
        return cells.is_null() | (cells.str.contains(_NUMBER).fill_null(False) & (not alike))
    larger: pl.Series = numbers.abs() >= LARGER * float(known.abs().max() or 0)  # type: ignore[arg-type]
    return cells.is_null() | larger.fill_null(False) | _sums(cells, others)


def _measures(cells: pl.Series, others: pl.Series) -> pl.Series:
    """Which cells are missing, numbers in a column of numbers, or figures of the others."""
    numbers, known = _numbers(cells, others)
    return _fits(cells, others) if known is None else cells.is_null() | numbers.is_not_null()


def _sums(cells: pl.Series, others: pl.Series) -> pl.Series:
    """Which cells are the sum of the other cells of their column."""
    numbers, known = _numbers(cells, others)
    total = 0.0 if known is None else float(known.sum())
    near: pl.Series = (numbers - total).abs() <= CLOSE * abs(total)
    return near.fill_null(False) & (total != 0)


def _numbers(cells: pl.Series, others: pl.Series) -> tuple[pl.Series, pl.Series | None]:
    """Cells and other cells of a column as numbers in one notation; None if the others are none."""
    column = Column("", cells.name, pl.concat([others, cells]))
    alone = Column("", cells.name, others).numbers
    both = None if alone is None else column.numbers
    if both is None:
        return pl.Series(cells.name, [None] * len(cells), pl.Float64), alone
    return both[len(others) :], alone
