"""Damage to what relrank keeps: every change is refused in one error, or changes no answer.

Runs, cells, results and exports of small studies are damaged one way after another: bytes that flip, files that are
cut, swapped, taken from another folder of the same kind, linked or gone. Everything follows from the seed.

    python benchmarks/corruptions.py --n 3000 --seed 0
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from relrank.checkpoint import load_tensors
from relrank.errors import InputError
from relrank.study.cells import kept_weights, load_cell
from relrank.study.config import read_study
from relrank.study.export import Program, export, load_program
from relrank.study.fitted import PARTS, load_run
from relrank.study.result import StudyResult
from relrank.study.run import keep_winner, prepare, run_study

STUDY = """
name = "small"
[data]
dataset = "planted"
planted = {{ users = 60, items = 40, per_user = 6, groups = 6, seed = {seed} }}
[protocol]
split = "random-leave-one-out"
[relations.driver]
kind = "attribute"
node = "item"
column = "driver"
[study]
seeds = [0]
trials = 2
[[models]]
name = "ease"
[[models]]
name = "relational-ease"
arms = ["interactions", "all"]
[[models]]
name = "mf"
config = {{ dim = 4 }}
train = {{ epochs = 2, batch = 64, every = 1 }}
"""
LONGEST = 2_000
"""Characters of an error that is still read."""


@dataclass(frozen=True, slots=True)
class Target:
    """A folder that is damaged.

    Attributes:
        name: for reports.
        folder: as it was written.
        donor: another one of its kind, whose files may be put in its place.
        answer: sha256 of all that it says.
    """

    name: str
    folder: Path
    donor: Path
    answer: Callable[[Path], str]


def targets_in(folder: Path) -> list[Target]:
    """Two small studies with other data, and what they and their exports keep."""
    made = [_study(folder / name, seed) for name, seed in (("one", 1), ("two", 2))]
    kinds: dict[str, Callable[[Path], str]] = {
        "run": run_answer, "cell": cell_answer, "result": result_answer, "export": export_answer,
        "weights": weights_answer, "checkpoint": checkpoint_answer,
    }  # fmt: skip
    # another checkpoint is one; which it has to be, training knows
    made[1]["checkpoint"] = [folder / "nothing"]
    return [
        Target(f"{kind} {number}", one, other, answer)
        for kind, answer in kinds.items()
        for number, (one, other) in enumerate(zip(made[0][kind], made[1][kind], strict=True))
    ]


def _study(folder: Path, seed: int) -> dict[str, list[Path]]:
    """A study and its export; folders by kind."""
    folder.mkdir(parents=True)
    file, out = folder / "small.toml", folder / "out"
    file.write_text(STUDY.format(seed=seed))
    config = read_study(file)
    material = prepare(config, folder)
    run_study(config, material, out)
    cells = sorted(path for path in (out / "cells").iterdir())
    weights = [folder / "weights" / cell.name for cell in cells if (cell / "model.safetensors").is_file()]
    for of in weights:  # which a cell loses when the study has a winner
        shutil.copytree(out / "cells" / of.name, of)
    (folder / "checkpoint").mkdir()
    shutil.copy(weights[0] / "model.safetensors", folder / "checkpoint")
    run = keep_winner(config, material, out)
    export(run, "torch", folder / "export")
    result = folder / "result"
    shutil.copytree(out, result, ignore=shutil.ignore_patterns("cells", "winner", ".lock"))
    of_each = {load_cell(cell).model: cell for cell in cells}  # trained, searched, and neither
    return {
        "run": [out / "winner"], "cell": list(of_each.values()), "result": [result], "export": [folder / "export"],
        "weights": weights[:1], "checkpoint": [folder / "checkpoint"],
    }  # fmt: skip


def run_answer(folder: Path) -> str:
    """Scores of everybody, of a history, titles, and what the run says of itself."""
    run = load_run(folder)
    rows = [getattr(run.split, part) for part in PARTS]
    with torch.no_grad():
        scores = run.model.score(torch.arange(run.graph.n_users)).numpy()
        folded = run.model.fold_in([torch.arange(3), torch.arange(0)]).numpy()
    return _digest(
        run.note, run.graph.fingerprint, scores, folded, run.titles, run.split.users.keys.to_list(),
        *(side for part in rows for side in (part.user, part.item)),
    )  # fmt: skip


def cell_answer(folder: Path) -> str:
    """All of a cell's result."""
    found = load_cell(folder)
    history = [] if found.history is None else [found.history]
    held = [] if found.held is None else [found.held.table, sorted(found.held.unused)]
    said = [found.model, found.arm, found.seed, found.chosen, found.valid, found.finished, found.cost, found.note]
    trials = [asdict(trial) for trial in found.trials]
    return _digest(said, trials, found.began_after, found.evaluation.table, found.evaluation.summary, *history, *held)


def weights_answer(folder: Path) -> str:
    """The parameters in a cell's folder; without them the study fits the model once more."""
    weights = kept_weights(folder)
    if weights is None:
        raise InputError("no weights", where=str(folder), expected="weights", found="none")
    return _digest(*(weights[name].numpy() for name in sorted(weights)))


def checkpoint_answer(folder: Path) -> str:
    """The same of a file that is read by itself, as a checkpoint is."""
    tensors, note = load_tensors(folder / "model.safetensors")
    return _digest(note, *(tensors[name].numpy() for name in sorted(tensors)))


def result_answer(folder: Path) -> str:
    """All tables of a study."""
    result = StudyResult.load(folder)
    return _digest(*(getattr(result, part.name) for part in fields(result)))


def export_answer(folder: Path) -> str:
    """Scores of a program."""
    program = load_program(folder)
    weights: torch.Tensor = program.weights if isinstance(program, Program) else program.matrix
    return _digest(program.takes, program(torch.eye(weights.shape[0])).numpy())


def _digest(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        elif isinstance(part, pl.DataFrame):
            digest.update(f"{part.schema}".encode() + part.write_json().encode())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def damage(folder: Path, donor: Path, rng: np.random.Generator) -> str:
    """Change one thing in a folder; returns what was done. What lies in ``donor`` stays as it is."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "nothing left"
    file = files[int(rng.integers(len(files)))]
    kind = KINDS[int(rng.integers(len(KINDS)))]
    name = str(file.relative_to(folder))
    content = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
    elif kind == "folder":
        file.unlink()
        file.mkdir()
    elif kind == "rename":
        file.rename(file.with_name(file.name + ".old"))
    elif kind in ("donor", "link"):
        others = sorted(path for path in donor.rglob(file.name) if path.is_file()) or [donor / "nothing"]
        file.unlink()
        if kind == "link":
            file.symlink_to(others[0])
        elif others[0].is_file():
            shutil.copyfile(others[0], file)
    elif kind == "swap":
        other = files[int(rng.integers(len(files)))]
        name += f" with {other.relative_to(folder)}"
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
    else:
        file.write_bytes(_changed(content, kind, rng))
    return f"{kind} {name}"


def _changed(content: bytearray, kind: str, rng: np.random.Generator) -> bytes:
    size = len(content)
    at = int(rng.integers(size)) if size else 0
    many = int(rng.integers(1, 65))
    if kind == "flip" and size:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "random":
        content[at : at + many] = rng.bytes(min(many, size - at))
    elif kind == "zeros":
        content[at : at + many] = bytes(min(many, size - at))
    elif kind == "digit":  # still JSON where it was
        digits = [n for n, byte in enumerate(content) if 48 <= byte <= 57]
        if digits:
            place = digits[int(rng.integers(len(digits)))]
            content[place] = 48 + (content[place] - 48 + int(rng.integers(1, 10))) % 10
    elif kind == "truncate":
        del content[at:]
    elif kind == "extend":
        content += rng.bytes(many)
    elif kind == "cut":
        del content[at : at + many]
    return bytes(content)


KINDS = (
    "flip", "flip", "flip", "random", "zeros", "digit", "digit", "truncate", "extend", "cut", "delete", "folder",
    "rename", "donor", "donor", "link", "swap",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one damaged folder: "refused", "same", or what is wrong; and what had been done."""

    target: str
    done: str
    found: str

    @property
    def is_right(self) -> bool:
        """Whether the damage was noticed, or changed nothing."""
        return self.found in ("refused", "same")


def attack(targets: Sequence[Target], n: int, seed: int, scratch: Path, start: int = 0) -> Iterator[Outcome]:
    """Damage folders ``start`` … ``n`` − 1 of the series that the seed gives, each in a fresh copy.

    Args:
        targets: damaged in turn.
        n: of them.
        seed: number ``i`` follows from this and ``i`` alone, so that a series goes on where it was.
        scratch: a folder for the copies.
        start: those before it are left out.
    """
    expected = {target.name: target.answer(target.folder) for target in targets}
    for number in range(start, n):
        target, rng = targets[number % len(targets)], np.random.default_rng([seed, number])
        copy = scratch / f"{number}" / target.folder.name  # a cell is known by its name
        shutil.copytree(target.folder, copy, symlinks=True)
        done = "; ".join(damage(copy, target.donor, rng) for _ in range(int(rng.integers(1, 4))))
        yield Outcome(target.name, done, _found(target, copy, expected[target.name]))
        shutil.rmtree(scratch / f"{number}")


def _found(target: Target, folder: Path, expected: str) -> str:
    try:
        return "same" if target.answer(folder) == expected else "another answer, in silence"
    except InputError as error:
        said = str(error)
        return "refused" if len(said) <= LONGEST else f"an error of {len(said):,} characters: {said[:200]}"
    except BaseException as error:  # Polars panics with one
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:200]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    wrong = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in attack(targets_in(Path(folder) / "made"), asked.n, asked.seed, Path(folder) / "copies"):
            kind = outcome.target.rpartition(" ")[0]
            counts[kind, outcome.found if outcome.is_right else "wrong"] += 1
            if not outcome.is_right:
                wrong.append(outcome)
                print(" | ".join(astuple(outcome)), flush=True)
    for (kind, found), n in sorted(counts.items()):
        print(f"{kind:15} {found:8} {n:6,}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
