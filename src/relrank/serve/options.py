"""What a server serves, and how."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from relrank.runs.run_folder import find_run
from relrank.serve.ann_index import FROM_ITEMS
from relrank.serve.limits import Limits

Print = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """Options of a server.

    Attributes:
        folders: of the runs, by their served names; the first is the default.
        host: name or address to listen on.
        port: 0 picks a free one.
        token: bearer token; None for none.
        hosts: accepted ``Host`` names; () for any.
        workers: processes, each with its own copy of the runs.
        grace: seconds between SIGTERM and the end of new connections.
        poll: seconds between two checks of the folders.
        index_from: see ``ServedModel``.
        limits: of requests and connections.
    """

    folders: Mapping[str, Path]
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    hosts: tuple[str, ...] = ()
    workers: int = 1
    grace: float = 1.0
    poll: float = 2.0
    index_from: int = FROM_ITEMS
    limits: Limits = field(default_factory=Limits)


def name_runs(folders: Sequence[Path]) -> dict[str, Path]:
    """Runs by name: that of the folder, or of the study for its winner; a number tells equal names apart.

    Raises:
        InputError: a folder holds no run.
    """
    named: dict[str, Path] = {}
    for folder in folders:
        run = Path(os.path.abspath(find_run(folder)))  # not resolved: a link may point elsewhere later
        name = base = run.parent.name if run.name == "winner" else run.name
        number = 2
        while name in named:
            name, number = f"{base}-{number}", number + 1
        named[name] = run
    return named
