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
        "no fitted model here", where=str(folder), expected="a folder made by relrank fit or study", found="none"
    )
