"""What is stated of tables, compared with their values: what does not hold is said, and not used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from relrank.discovery.columns import Column, Table
from relrank.discovery.proposal import Finding
from relrank.discovery.references import NAMED, key_stated_of
from relrank.discovery.statements import Statement


def without_contradictions(tables: Mapping[str, Table]) -> tuple[dict[str, Table], list[Finding]]:
    """Tables with the statements that hold, and findings about the others."""
    findings: list[Finding] = []
    keyed: dict[str, Table] = {}
    for name, table in tables.items():
        keyed[name] = table
        if (stated := table.stated) is not None:
            own = {what: _column(table, what, column, findings) for what, column in _named(stated).items()}
            key, time = own.get("primary key"), own.get("time")
            foreign = {c: of for c, of in stated.foreign.items() if _column(table, f"keys of {of!r}", c, findings)}
            if key is not None and (why := _no_key(table[key])):
                findings.append(Finding("ambiguous", table[key].where, f"no primary key as stated: {why[0]}", why[1]))
                key = None
            if time is not None and table[time].kind != "time":
                shown = f"{table[time].values.dtype}, such as {table[time].text.drop_nulls().head(1).to_list()}"
                findings.append(Finding("ambiguous", table[time].where, f"no times as stated: {shown}"))
                time = None
            keyed[name] = Table(name, table.frame, Statement(key, foreign, time))
    result = {}
    for name, table in keyed.items():
        stated, wrong = table.stated, dict[str, Finding]()
        if stated is not None:
            wrong = dict(_wrong_references(table, stated, keyed))
            findings += wrong.values()
            held = {c: of for c, of in stated.foreign.items() if c not in wrong or of not in keyed}
            stated = Statement(stated.key, held, stated.time)
        result[name] = table if stated is None else Table(name, table.frame, stated)
    findings += [f for name in result for f in _orphans(result[name], result)]
    return result, findings


def _named(stated: Statement) -> dict[str, str]:
    own = {"primary key": stated.key, "time": stated.time}
    return {what: column for what, column in own.items() if column is not None}


def _column(table: Table, what: str, column: str, findings: list[Finding]) -> str | None:
    """The name of a column, if the table has it."""
    if column in table.columns:
        return column
    message = f"states that {column!r} holds its {what}, and has no such column"
    findings.append(Finding("ambiguous", table.name, message))
    return None


def _no_key(column: Column) -> tuple[str, int] | None:
    """Why a column is no primary key, and the number of rows that show it."""
    rows = len(column.values)
    lacking, repeated = rows - column.n_known, column.n_known - column.n_distinct
    if column.is_unique:
        return None
    return f"{lacking:,} of {rows:,} rows have no value, {repeated:,} repeat one", lacking + repeated


def _wrong_references(table: Table, stated: Statement, tables: Mapping[str, Table]) -> Iterator[tuple[str, Finding]]:
    """The stated references that lead nowhere, by column."""
    for column, of in stated.foreign.items():
        where = table[column].where
        if of not in tables:
            message = f"holds keys of {of!r} as stated, and there is no such table"
            yield column, Finding("ambiguous", where, message, table[column].n_known)
        elif (key := key_stated_of(table[column], tables[of])) is None:
            message = f"holds keys of {of!r} as stated, which has no column of keys: it is not used as such"
            yield column, Finding("ambiguous", where, message, table[column].n_known)
        elif table[column].n_known and _held(table[column], key) < NAMED:
            n = _rows_without(table[column], key)
            message = f"holds keys of {of!r} as stated, but {n:,} of {table[column].n_known:,} rows hold none of "
            yield column, Finding("ambiguous", where, f"{message}{key.where}: it is not used as such", n)


def _held(column: Column, key: Column) -> float:
    """Share of the different values that are keys."""
    return float(column.distinct.is_in(key.distinct.implode()).mean() or 0)  # type: ignore[arg-type]


def _rows_without(column: Column, key: Column) -> int:
    """Number of rows with a value that is no key."""
    return int((~column.text.drop_nulls().is_in(key.distinct.implode())).sum())


def _orphans(table: Table, tables: Mapping[str, Table]) -> Iterator[Finding]:
    """Findings about references of which some rows lead nowhere."""
    for column, of in (table.stated.foreign if table.stated is not None else {}).items():
        key = key_stated_of(table[column], tables[of]) if of in tables else None
        if key is not None and (n := _rows_without(table[column], key)):
            message = (
                f"{n:,} of {table[column].n_known:,} rows hold keys that are not in {key.where}: they count as none"
            )
            yield Finding("cleaning", table[column].where, message, n)
