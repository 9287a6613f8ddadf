"""One virtual environment per peer, from a pinned list; what cannot be had is skipped, with its reason.

Whoever needs torch gets the one that relrank is measured with, first; a peer that asks for another does not install.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from speed import processes

HERE = Path(__file__).parent
FOLDER = HERE.parent / ".environments"
TORCH = "torch==2.13.0"
INSTALLING, IMPORTING = 1800.0, 120.0
"""Seconds that a step of an installation may take, and an import."""

OWN = ("relrank", "plain", "pyg", "pyg_sampling", "torch_lightgcn")
"""Peers that live in the environment that runs the benchmark."""

IMPORTS = {
    "recbole": "recbole.model.general_recommender.lightgcn",
    "lenskit": "lenskit",
    "cornac": "cornac.models.lightgcn.lightgcn",
    "rectools": "rectools",
    "implicit": "implicit",
    "sansa": "sansa",
}
"""Other environments, by what shows that they are there; each has a pinned list in ``requirements/``.

A peer lives in the one that its name begins with: ``lenskit_lightgcn`` in ``lenskit``.
"""


@dataclass(frozen=True)
class Skipped:
    """Nothing was measured.

    Attributes:
        why: one line for the reader.
    """

    why: str


class Environments:
    """The peers' Pythons, made when first asked for.

    Args:
        say: is told what is being installed.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._known: dict[str, Path | Skipped] = {}

    def python(self, peer: str) -> Path | Skipped:
        """The interpreter of a peer, or why there is none."""
        if peer in OWN:
            return Path(sys.executable)
        name = peer.partition("_")[0]
        if name not in self._known:
            self._known[name] = self._made(name)
        return self._known[name]

    def _made(self, peer: str) -> Path | Skipped:
        requirements = HERE / "requirements" / f"{peer}.txt"
        folder = FOLDER / peer
        python, ready = folder / "bin" / "python", folder / ".ready"
        wanted = hashlib.sha256(requirements.read_bytes() + TORCH.encode()).hexdigest()
        if not ready.exists() or ready.read_text() != wanted:
            self._say(f"installing {peer} into {folder.relative_to(HERE.parents[1])}")
            constraint = FOLDER / "torch.txt"
            FOLDER.mkdir(exist_ok=True)
            constraint.write_text(TORCH + "\n")
            pip = [str(python), "-m", "pip", "install", "--quiet", "--no-input"]
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(folder)],
                *([[*pip, TORCH]] if TORCH in requirements.read_text().splitlines() else []),
                [*pip, "-c", str(constraint), "-r", str(requirements)],
            ):
                failed = _failed(command, INSTALLING)
                if failed:
                    return Skipped(f"does not install: {failed}")
            ready.write_text(wanted)
        failed = _failed([str(python), "-c", f"import {IMPORTS[peer]}"], IMPORTING)
        return Skipped(f"does not import: {failed}") if failed else python


def _failed(command: list[str], seconds: float) -> str:
    """Why a command failed, or nothing."""
    try:
        return processes.run(command, seconds).why
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:.0f} s"
