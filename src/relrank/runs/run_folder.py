"""Where the folder of a run is; without torch, so that a process that only starts others stays small."""

from __future__ import annotations

from pathlib import Path

from relrank.errors import InputError


def find_run(folder: Path) -> Path:
    """The folder of a run: the folder itself, or that of the winner inside a study's folder.

    Raises:
        InputError: there is neither.
    """
    for candidate in (folder, folder / "winner"):
        if (candidate / "run.json").is_file():
            return candidate
    raise InputError(
        "no fitted model here",
        where=str(folder),
        expected="a folder made by relrank fit or study",
        found=_found(folder),
    )


def _found(folder: Path) -> str:
    """What there is in place of a run."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file"
    if (folder / "cells").is_dir():
        return "a study without a winner: run it to its end, or relrank fit its file"
    below = sorted(one.parent for pattern in ("*/run.json", "*/winner/run.json") for one in folder.glob(pattern))
    runs = [str(run.parent if run.name == "winner" else run) for run in below]
    return f"folders that have one: {', '.join(runs[:5])}" if runs else "none"
