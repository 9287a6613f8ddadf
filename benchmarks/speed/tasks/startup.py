"""From the start of a process to its end, or to its first line: relrank's answers, and imports of everybody else.

``python -c pass`` is what no program can beat. A command that reads or fits is timed to its first printed line, on a
small planted study; that includes loading torch and numba. Each runs once beforehand, so that files and byte code are
there; then all take turns. An import is of the module that the models are in.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from relrank import __version__
from speed.environments import Skipped
from speed.frame import Context, Row, Target

WANTED = 0.3
STUDY = """
name = "startup"
[data]
dataset = "planted"
planted = { users = 200, items = 80, per_user = 6, groups = 8 }
[protocol]
split = "random-leave-one-out"
[study]
trials = 1
resamples = 200
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


def rows(context: Context) -> Iterator[Row]:
    """Relrank's commands, then imports beside ``import relrank``."""
    program = str(Path(sys.executable).with_name("relrank"))
    whole = {"python -c pass": [sys.executable, "-c", "pass"]}
    whole |= {f"relrank {' '.join(words)}": [program, *words] for words in ANSWERS}
    first = {f"relrank {' '.join(words)}, first line": [program, *words] for words in FIRST_LINES}
    imports = {"import relrank": [sys.executable, "-c", "import relrank"]}
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
    _seconds([program, *BEFORE], folder, first_line=False)
    times: dict[str, list[float]] = {name: [] for name in (*whole, *first, *imports)}
    few, many = (1, 3) if context.quick else (2, 9)
    for turn in range(1 + many):
        for name, command in (whole | (first | imports if turn <= few else {})).items():
            try:
                took = _seconds(command, folder, first_line=name in first)
            except RuntimeError as error:
                if name not in IMPORTS.values():
                    raise
                missing[name] = str(error)
                del imports[name]
                continue
            if turn:
                times[name].append(took)
    for group, base in (((*whole, *first), "relrank --help"), (imports, "import relrank")):
        for name in group:
            found = median(times[name])
            target = None
            if name == "relrank --help":
                target = Target(f"at most {WANTED:g} s", found, WANTED, at_least=False)
            title = "an import" if name in imports else "a command"
            version = __version__ if "relrank" in name else ""
            yield Row(
                "startup", title, name, found, found / median(times[base]), target=target, runs=times[name],
                version=version,
            )  # fmt: skip
    for statement, why in missing.items():
        yield Row("startup", "an import", statement, None, note=why)


def _seconds(command: list[str], folder: Path, *, first_line: bool) -> float:
    """From the start of a process to its end, or to the end of its first line."""
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        took = time.perf_counter() - began
        _, errors = process.communicate()
        if not first_line:
            took = time.perf_counter() - began
    if process.returncode or (first_line and not said):
        raise RuntimeError(f"{' '.join(command)}: {(errors.strip() or 'says nothing').splitlines()[-1]}")
    return took
