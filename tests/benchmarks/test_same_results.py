"""Results that differ in one bit of one user are found, and a new name of a column is no difference."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from same_results import main


def study(folder: Path, value: float = 0.5, column: str = "ndcg@10", arms: tuple[str, ...] = ("all", "none")) -> None:
    for number, arm in enumerate(arms):
        cell = folder / "small" / "cells" / f"{folder.name}{number}"
        cell.mkdir(parents=True)
        (cell / "cell.json").write_text(json.dumps({"model": "ease", "arm": arm, "seed": 0}))
        pl.DataFrame({"user": [0, 1], column: [value, np.nan]}).write_parquet(cell / "users.parquet")
    (folder / "small" / "card.json").write_text("{}")
    pl.DataFrame({"relation": ["tag"], "mean": [value]}).write_parquet(folder / "small" / "effects.parquet")


def test_the_same_is_the_same(tmp_path, capsys):
    study(tmp_path / "one")
    study(tmp_path / "other", column="metric")
    assert main([str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    assert "2 cells, 4 rows of users" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "lines"),
    [
        ({"value": np.nextafter(0.5, 1)}, ["('ease', 'all', 0): users differ", "effects.parquet differs"]),
        ({"arms": ("all",)}, ["('ease', 'none', 0): only in one of both"]),
    ],
)
def test_differences_are_named(tmp_path, capsys, other, lines):
    study(tmp_path / "one")
    study(tmp_path / "other", **other)
    assert main([str(tmp_path / "one"), str(tmp_path / "other")]) == 1
    printed = capsys.readouterr().out
    assert all(line in printed for line in lines), printed
