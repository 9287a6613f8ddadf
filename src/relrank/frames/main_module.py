"""Whether a script can be run by several processes."""

from __future__ import annotations

import multiprocessing
import sys
from pathlib import Path

from relrank.errors import InputError


def check_main_module(jobs: int) -> None:
    """Refuse to start processes from a script that would start itself again in each of them.

    Every process imports the script that runs; a notebook or a prompt has none.

    Args:
        jobs: for the message.

    Raises:
        InputError: the script does its work on import.
    """
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    is_child = getattr(multiprocessing.current_process(), "_inheriting", False)
    if not is_child and (file is None or not file.endswith(".py") or not Path(file).is_file()):
        return
    if is_child or "__main__" not in Path(file or "").read_text(encoding="utf-8", errors="replace"):
        raise InputError(
            "script would start itself again in every process",
            where=f"{file}, jobs={jobs}",
            expected='its work below the line: if __name__ == "__main__":',
            found="work that starts when the file is imported",
        )
