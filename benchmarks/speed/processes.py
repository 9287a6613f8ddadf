"""Other programs, ended with all that they started, whatever becomes of us; a full pipe stops none of them."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Ended:
    """What a program left.

    Attributes:
        status: 0 where it went well, below 0 the signal that ended it.
        out: what it printed.
        errors: what it printed on the other stream.
    """

    status: int
    out: str
    errors: str

    @property
    def why(self) -> str:
        """Why it failed, in one line; nothing where it did not."""
        return why(self.status, self.errors)


def run(
    command: Sequence[str], seconds: float, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """Run a program to its end, in a session of its own, so that its workers end with it.

    Args:
        command: program and words.
        seconds: that it may take.
        folder: where it is started.
        environment: its variables; ours by default.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    # files, not pipes: a worker that outlives its parent would keep a pipe open
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=out, stderr=errors, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        finally:
            end(process)
        return Ended(status, *(_read(file) for file in (out, errors)))


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a program that leads a session, and whatever of its workers is left."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def why(status: int, errors: str) -> str:
    """Why a program failed, in one line: its signal, the last line that it said, or its status; nothing for 0."""
    if status < 0:
        return f"ended by signal {-status}"
    said = [line.strip() for line in errors.splitlines() if line.strip()]
    return "" if status == 0 else said[-1] if said else f"exit status {status}"


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
