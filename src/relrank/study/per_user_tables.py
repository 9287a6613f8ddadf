"""The two sides of a comparison: per-user tables by split, from a study, a fitted model or Parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from relrank.errors import InputError, did_you_mean
from relrank.io.manifest import ManifestReader, parse_parquet
from relrank.study.arms import INTERACTIONS
from relrank.study.result import REPAIR_HINT

TablesBySplit = dict[str | None, pl.DataFrame]
"""Per-user tables by the name of their split; None for a single table without one."""


def read_per_user_tables(path: Path, metric: str, model: str | None = None, arm: str | None = None) -> TablesBySplit:
    """The per-user tables of one side.

    Args:
        path: the folder of a study, whose cells have a table per split; the folder of a fitted model, which is
            evaluated on its test rows; a Parquet table; or a folder of Parquet tables. The split of a row is in
            column ``split``, else ``fingerprint``; without either it is named like the file, if there are several.
        metric: column that is required.
        model: of a study; by default that of its winner.
        arm: of a study; by default the winner's; with ``model``, "all", or "interactions" if that has not run.

    Raises:
        InputError: nothing to read, a column is missing, or a split occurs twice.
    """
    study = (path / "card.json").is_file()
    if not study and (model or arm):
        raise InputError(
            "only studies have models and arms",
            where=str(path),
            expected="the folder of a study",
            found=f"a choice of {model or arm!r}",
        )
    if study:
        return _of_study(path, metric, model, arm)
    if (path / "run.json").is_file():
        return _of_run(path, metric)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise InputError(
            "nothing to compare",
            where=str(path),
            found="nothing",
            expected="a Parquet file, a folder of such files, or the folder of a study or a model",
        )
    side: TablesBySplit = {}
    for file in files:
        rows = _checked(metric, parse_parquet(file.read_bytes(), str(file)), file)
        for name, table in _by_split(rows, file, None if len(files) == 1 else file.stem).items():
            if name in side:
                raise InputError(
                    "split occurs twice",
                    where=str(file),
                    found=f"split {_short(name)} again",
                    expected="every split in one table",
                )
            side[name] = table
    return side


def paired(new: TablesBySplit, baseline: TablesBySplit) -> tuple[list[pl.DataFrame], list[pl.DataFrame], list[str]]:
    """The tables of both sides, split by split, and the names of the splits.

    Raises:
        InputError: a split is on one side only. A single table without a split name pairs with any single table.
    """
    if len(new) == len(baseline) == 1 and (None in new or None in baseline):
        return [*new.values()], [*baseline.values()], []
    only = {"new": [s for s in new if s not in baseline], "baseline": [s for s in baseline if s not in new]}
    if any(only.values()):
        unpaired = "; ".join(f"only in the {side}: {_listed(names)}" for side, names in only.items() if names)
        raise InputError(
            "splits do not pair up",
            where="relrank compare",
            expected="the same splits on both sides, named by a column 'split' or by their fingerprints",
            found=unpaired,
        )
    names = sorted(new, key=str)  # the result does not depend on the order of files
    return [new[name] for name in names], [baseline[name] for name in names], [_short(name) for name in names]


def _of_study(path: Path, metric: str, model: str | None, arm: str | None) -> TablesBySplit:
    from relrank.study.cell_store import load_cell

    card = ManifestReader(path, REPAIR_HINT).json("card.json")
    winner = path / "winner" / "run.json"
    if not model and not winner.is_file():
        raise InputError("study has no winner yet", where=str(path), expected="a model by name", found="none")
    cells = {(row["model"], row["arm"]) for row in card["cells"]}
    if model is None:
        metadata = ManifestReader(winner.parent, REPAIR_HINT).json(winner.name)
        model, arm = metadata["name"], arm or metadata["arm"]
    elif arm is None:
        arm = "all" if (model, "all") in cells else INTERACTIONS.name
    rows = [row for row in card["cells"] if (row["model"], row["arm"]) == (model, arm)]
    if not rows:
        arms, models = sorted(a for m, a in cells if m == model), {m for m, _ in cells}
        known = f"one of its arms {', '.join(arms)}" if arms else f"one of {', '.join(sorted(models))}"
        near = did_you_mean(arm, arms) if arms else did_you_mean(model, models)
        raise InputError("no such cells", where=str(path), expected=known, found=f"{model} on {arm}{near}")
    side: TablesBySplit = {}
    fingerprints = set()
    for row in rows:
        cell = path / "cells" / row["key"]
        table = _checked(metric, load_cell(cell).evaluation.table, cell)
        name = str(table["fingerprint"][0])
        fingerprints.add(name)
        side[f"{name}, seed {row['seed']}"] = table
    if len(fingerprints) < len(side):  # seeds that are other initializations on one split
        return side
    return {name.partition(",")[0]: table for name, table in side.items() if name is not None}


def _of_run(path: Path, metric: str) -> TablesBySplit:
    from relrank.evaluation.evaluate import evaluate
    from relrank.runs.fitted_run import load_run

    run = load_run(path)
    cut = metric.partition("@")[2]
    table = evaluate(run.model, run.split, (int(cut),) if cut.isdigit() else (10,)).table
    return {run.split.fingerprint: _checked(metric, table, path)}


def _checked(metric: str, table: pl.DataFrame, path: Path) -> pl.DataFrame:
    lacking = [name for name in ("user", metric) if name not in table.columns]
    if lacking:
        raise InputError(
            "column is missing",
            where=str(path),
            expected=" and ".join(repr(name) for name in lacking),
            found=", ".join(table.columns) + did_you_mean(lacking[0], table.columns),
        )
    if not table[metric].dtype.is_numeric() and table[metric].dtype != pl.Boolean:
        raise InputError(
            "metric is not numeric",
            where=f"{path}, column {metric!r}",
            expected="numbers",
            found=str(table[metric].dtype),
        )
    return table.with_columns(pl.col(metric).cast(pl.Float64))


def _by_split(table: pl.DataFrame, path: Path, name: str | None) -> Mapping[str | None, pl.DataFrame]:
    column = next((c for c in ("split", "fingerprint") if c in table.columns), None)
    if column is None:
        return {name: table}
    if n := table[column].null_count():
        raise InputError(
            "split is missing", where=f"{path}, {column}", expected="one in every row", found=f"{n:,} rows without"
        )
    return {str(key): rows for (key,), rows in table.group_by(column, maintain_order=True)}


def _short(name: str | None) -> str:
    """A split's name for messages: of a fingerprint the first twelve digits."""
    split, comma, seed = (name or "").partition(",")
    return f"{split[:12] if len(split) == 64 else split}{comma}{seed}" if name else "without a name"


def _listed(names: list[str | None]) -> str:
    return ", ".join(map(_short, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
