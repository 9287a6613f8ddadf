"""From the start of a process to its end, or to its first line: relrank's answers, and imports of everybody else.

``python -c pass`` is what no program can beat. A command that reads or fits is timed to its first printed line, on a
small planted study; that includes loading torch and numba. Each runs once beforehand, so that files and byte code are
there; then all take turns. An import is of the module that the models are in, relrank's too; ``import relrank`` alone
loads no library.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from relrank import __version__
from speed import processes
from speed.environments import Skipped
from speed.frame import Context, Row, Target

WANTED = 0.3
HELP = "relrank --help"
IMPORT = "import relrank.models"
LONGEST = 120.0
"""Seconds; a command that takes longer is ended."""
STUDY = """
name = "startup"
[data]
dataset = "planted"
planted = { users = 200, items = 80, per_user = 6, groups = 8 }
[protocol]
split = "random-leave-one-out"
[study]
seeds = [0]
trials = 1
[[models]]
name = "popularity"
"""
BEFORE = ("study", "study.toml", "--out", "run")
"""What the commands below it read."""
ANSWERS = (("--help",), ("study", "--help"), ("recommend", "--help"))
FIRST_LINES = (
    ("audit", "study.toml"), BEFORE, ("evaluate", "run"), ("recommend", "run", "--user", "0"), ("report", "run"),
)  # fmt: skip
IMPORTS = {
    "implicit": "import implicit.als",
    "cornac": "import cornac",
    "recbole": "import recbole.model.general_recommender",
    "rectools": "import rectools.models",
    "lenskit": "import lenskit, lenskit.pipeline, lenskit.als",
    "pyg": "import torch_geometric.nn",
}


def promised(quick: bool) -> Iterator[Row]:
    """A quick answer."""
    del quick
    yield Row("startup", "a command", HELP, None, note="not measured", target=_target(None))


def rows(context: Context) -> Iterator[Row]:
    """Relrank's commands, then imports beside that of relrank's models."""
    program = str(Path(sys.executable).with_name("relrank"))
    whole = {"python -c pass": [sys.executable, "-c", "pass"]}
    whole |= {f"relrank {' '.join(words)}": [program, *words] for words in ANSWERS}
    first = {f"relrank {' '.join(words)}, first line": [program, *words] for words in FIRST_LINES}
    imports = {name: [sys.executable, "-c", name] for name in (IMPORT, "import relrank")}
    missing: dict[str, str] = {}
    for peer, statement in IMPORTS.items():
        python = context.environments.python(peer)
        if isinstance(python, Skipped):
            missing[statement] = python.why
        else:
            imports[statement] = [str(python), "-c", statement]
    folder = context.scratch / "startup"
    folder.mkdir(exist_ok=True)
    (folder / "study.toml").write_text(STUDY)
    seconds([program, *BEFORE], folder, first_line=False)
    times: dict[str, list[float]] = {name: [] for name in (*whole, *first, *imports)}
    few, many = (1, 3) if context.quick else (2, 9)
    for turn in range(1 + many):
        for name, command in (whole | (first | imports if turn <= few else {})).items():
            if name in missing:
                continue
            try:
                took = seconds(command, folder, first_line=name in first)
            except RuntimeError as error:
                missing[name] = str(error)
                continue
            if turn:
                times[name].append(took)
    not_there = [name for name in missing if name not in times]
    for title, group, base in (
        ("a command", [*whole, *first], HELP),
        ("an import", [*imports, *not_there], IMPORT),
    ):
        for name in group:
            if name in missing:
                yield Row("startup", title, name, None, note=missing[name])
                continue
            found = median(times[name])
            # relrank without a library is beside nobody's import
            ratio = None if name == "import relrank" or base in missing else found / median(times[base])
            yield Row(
                "startup", title, name, found, ratio, target=_target(found) if name == HELP else None,
                runs=times[name], version=__version__ if "relrank" in name else "",
            )  # fmt: skip


def _target(found: float | None) -> Target:
    return Target(f"at most {WANTED:g} s", found, WANTED, at_least=False)


def seconds(command: list[str], folder: Path, *, first_line: bool, longest: float = LONGEST) -> float:
    """From the start of a process to its end, or to the end of its first line.

    Raises:
        RuntimeError: it failed, said nothing, or was ended after ``longest`` seconds.
    """
    with tempfile.TemporaryFile() as errors:
        began = time.perf_counter()
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        over = threading.Timer(longest, processes.end, (process,))
        over.start()
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            line = time.perf_counter() - began
            while process.stdout.read(1 << 16):
                pass
            process.wait()
            took = line if first_line else time.perf_counter() - began
        finally:
            over.cancel()
            processes.end(process)
            process.stdout.close()
        errors.seek(0)
        why = processes.why(process.returncode, errors.read().decode(errors="replace"))
    if why or (first_line and not said):
        raise RuntimeError(f"{' '.join(command)}: {why or 'says nothing'}")
    return took
