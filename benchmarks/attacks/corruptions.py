"""Damage to what relrank keeps: every change is refused in one error, or changes no answer.

Bytes that flip, files that are cut, swapped, emptied, taken from a folder of the same kind and of another shape,
linked or gone; JSON, Parquet and safetensors whose values change and whose syntax does not. Some of these are sealed
anew, as by somebody who means it: then the folder may answer as it says, and must not fail in another way.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors

from attacks.lanes import Attack
from attacks.ledger import Outcome, judged
from attacks.study_files import within
from relrank.errors import InputError
from relrank.evaluation.evaluate import evaluate
from relrank.io.manifest import MANIFEST, consistent
from relrank.io.tensors import load_tensors
from relrank.report import write_report
from relrank.runs.batch import batch
from relrank.runs.export import Program, export, load_program
from relrank.runs.fitted_run import PARTS, FittedRun, load_run
from relrank.study.cell_store import load_cell, load_cell_weights
from relrank.study.config import StudyConfig, read_study
from relrank.study.fit_run import fit_run
from relrank.study.grid import cell_with_prerequisites
from relrank.study.model_comparison import compare_models
from relrank.study.optuna_search import search_study
from relrank.study.per_user_tables import read_per_user_tables
from relrank.study.prepare import StudyData, prepare
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.study.tuned_config import write_tuned
from relrank.study.winner import save_winner
from relrank.testing import planted_study

MODELS = """
[[models]]
name = "ease"
[[models]]
name = "relational-ease"
arms = ["interactions", "all"]
[[models]]
name = "mf"
config = { dim = 4 }
train = { epochs = 2, batch = 64, every = 1 }
"""
FITTED = ("sparse-ease", "mf", "relational-lightgcn", "item-knn")
"""Models whose runs are damaged, beside the study's winner."""
SMALL = {"mf": "dim = 4", "relational-lightgcn": "dim = 4, negatives = 8"}
SHAPES = ((60, 40, 1), (60, 40, 2), (48, 52, 3))
"""Users, items and seed of three studies: the first is damaged, files of the others are put into it."""
CHANGING = {"seconds", "peak_mb", "machine", "key", "cells", "created", "version", "relrank"}
"""Names in results that may differ between two runs of the same."""
FOREIGN = b'{"format": "another", "version": 7}'


@dataclass(frozen=True, slots=True)
class Target:
    """A folder that is damaged.

    Attributes:
        name: for reports.
        folder: as it was written.
        donors: others of its kind, whose files may be put in its place.
        answer: what it says, as text.
    """

    name: str
    folder: Path
    donors: Sequence[Path]
    answer: Callable[[Path], str]


def made(folder: Path) -> None:
    """Three small studies with other data, and what they and their exports keep; whole or not at all."""
    for number, (users, items, seed) in enumerate(SHAPES):
        if not (folder / f"{number}").is_dir():
            part = folder / f"{number}.part"
            shutil.rmtree(part, ignore_errors=True)
            _study(part, users, items, seed)
            part.rename(folder / f"{number}")


def _study(folder: Path, users: int, items: int, seed: int) -> None:
    folder.mkdir(parents=True)
    (folder / "small.toml").write_text(planted_study("small", users, items, seed=seed, models=MODELS))
    config, material = _material(folder)
    out = folder / "out"
    run_study(config, material, out)
    cells = sorted(path for path in (out / "cells").iterdir())
    for cell in cells:  # which loses its weights when the study has a winner
        if (cell / "model.safetensors").is_file():
            shutil.copytree(cell, folder / "weights" / cell.name)
            (folder / "checkpoint").mkdir(exist_ok=True)
            shutil.copy(cell / "model.safetensors", folder / "checkpoint")
    run = save_winner(config, material, out)
    for model in FITTED:
        named = planted_study(
            "small", users, items, seed=seed, models=f'[[models]]\nname = "{model}"\n' + _settings(model)
        )
        (folder / "one.toml").write_text(named)
        one = read_study(folder / "one.toml")
        fit_run(
            cell_with_prerequisites(one, material, model), material.tables, folder / "runs" / model, lambda _: None
        )
    vectors = load_run(folder / "runs" / "mf")
    for name, to, what in (("closed", "torch", run), ("vectors", "torch", vectors), ("parquet", "parquet", vectors)):
        export(what, to, folder / "exports" / name)
    shutil.copytree(out, folder / "result", ignore=shutil.ignore_patterns("cells", "winner", ".lock"))
    tuning = folder / "tuning"
    found = search_study(config, material, tuning, 2, ["mf", "relational-ease"])
    write_tuned(config, found, folder, tuning / "tuned.toml", "small")
    with suppress(_StoppedError):
        batch(run, folder / "lists" / "lists.parquet", 5, _stopped, 50)


def _settings(model: str) -> str:
    held = f"config = {{ {SMALL[model]} }}\n" if model in SMALL else ""
    return held + ("train = { epochs = 2, batch = 64, every = 1 }\n" if model in SMALL else "")


def _material(folder: Path) -> tuple[StudyConfig, StudyData]:
    config = read_study(folder / "small.toml")
    return config, prepare(config, folder)


class _StoppedError(Exception):
    """Lists are left where they are, as a kill leaves them."""


def _silent(what: str, done: int, total: int) -> None:
    del what, done, total


def _stopped(what: str, done: int, total: int) -> None:
    del what
    if done == total:
        raise _StoppedError


def targets_in(folder: Path) -> list[Target]:
    """What was made there, by kind and answer."""
    made(folder)
    config, material = _material(folder / "0")
    run = load_run(folder / "0" / "out" / "winner")
    vectors = load_run(folder / "0" / "runs" / "mf")
    places: list[tuple[str, str, Callable[[Path], str]]] = [
        ("run", "out/winner", run_answer),
        *(("run", f"runs/{model}", run_answer) for model in FITTED),
        *(("cell", f"out/cells/{of.name}", cell_answer) for of in _kinds_of_cells(folder / "0" / "out" / "cells")),
        ("result", "result", result_answer),
        ("program", "exports/closed", program_answer),
        ("program", "exports/vectors", program_answer),
        ("export over an older one", "exports/parquet", lambda at: export_answer(vectors, at)),
        *(("weights", f"weights/{at.name}", weights_answer) for at in (folder / "0" / "weights").iterdir()),
        ("checkpoint", "checkpoint", checkpoint_answer),
        ("tuning", "tuning", lambda at: tuning_answer(config, material, at)),
        ("lists", "lists", lambda at: lists_answer(run, at)),
        ("study gone on with", "out", lambda at: study_answer(config, material, at)),
        ("comparison", "out", comparison_answer),
    ]
    return [
        Target(kind, folder / "0" / place, _donors(folder, kind, place), answer) for kind, place, answer in places
    ]


def _kinds_of_cells(folder: Path) -> list[Path]:
    """One of each model: trained, searched, and neither."""
    return list({load_cell(cell).model: cell for cell in sorted(folder.iterdir()) if cell.is_dir()}.values())


def _donors(folder: Path, kind: str, place: str) -> list[Path]:
    """Folders of the same kind in the other studies."""
    if kind == "checkpoint":  # another one is one; which it has to be, training knows
        return [folder / "nothing"]
    found = []
    for number in ("1", "2"):
        at = folder / number / place
        cells = sorted(path for path in at.parent.iterdir() if path.is_dir()) if at.parent.is_dir() else []
        found.append(at if at.is_dir() or not cells else cells[0])
    return found


def run_answer(folder: Path) -> str:
    """Scores of everybody, of a history, lists, titles, metrics, and what the run says of itself."""
    run = load_run(folder)
    rows = [getattr(run.split, part) for part in PARTS]
    with torch.no_grad():
        scores = run.model.score(torch.arange(run.graph.n_users)).numpy()
        folded = run.model.fold_in([torch.arange(3), torch.arange(0)]).numpy()
    user = run.split.users.keys[0]
    return _digest(
        run.note, run.graph.fingerprint, scores, folded, run.titles, run.split.users.keys.to_list(),
        run.recommend(user, 5), run.history(user), evaluate(run.model, run.split, (10,)).summary, repr(run),
        *(side for part in rows for side in (part.user, part.item)),
    )  # fmt: skip


def cell_answer(folder: Path) -> str:
    """All of a cell's result."""
    found = load_cell(folder)
    history = [] if found.history is None else [found.history]
    held = [] if found.held is None else [found.held.table, sorted(found.held.unused)]
    said = [found.model, found.arm, found.seed, found.chosen, found.valid_metric, found.converged, found.cost]
    said.append(found.learned_values)
    trials = [asdict(trial) for trial in found.trials]
    return _digest(
        said, trials, found.warm_started_from, found.evaluation.table, found.evaluation.summary, *history, *held
    )


def weights_answer(folder: Path) -> str:
    """The parameters in a cell's folder; without them the study fits the model once more."""
    weights = load_cell_weights(folder)
    if weights is None:
        raise InputError("no weights", where=str(folder), expected="weights", found="none")
    return _digest(*(weights[name].numpy() for name in sorted(weights)))


def checkpoint_answer(folder: Path) -> str:
    """The same of a file that is read by itself, as a checkpoint is."""
    tensors, note = load_tensors(folder / "model.safetensors")
    return _digest(note, *(tensors[name].numpy() for name in sorted(tensors)))


def result_answer(folder: Path) -> str:
    """All tables of a study, and its page, as ``relrank report`` writes it."""
    result = StudyResult.load(folder)
    with consistent(folder, "run it again"):
        write_report(result, folder / "report.html")
    return _digest(*(getattr(result, part.name) for part in fields(result)))


def program_answer(folder: Path) -> str:
    """Scores of a program."""
    program = load_program(folder)
    weights: torch.Tensor = program.weights if isinstance(program, Program) else program.matrix
    return _digest(program.input_kind, program(torch.eye(weights.shape[0])).numpy())


def export_answer(run: FittedRun, folder: Path) -> str:
    """Tables of an export that replaces what is there."""
    export(run, "parquet", folder)
    return _digest(*(pl.read_parquet(file) for file in sorted(folder.rglob("*.parquet"))))


def lists_answer(run: FittedRun, folder: Path) -> str:
    """Lists of everybody, gone on with."""
    batch(run, folder / "lists.parquet", 5, _silent, 50)
    return _digest(pl.read_parquet(folder / "lists.parquet"))


def tuning_answer(config: StudyConfig, material: StudyData, folder: Path) -> str:
    """A search gone on with, and the file that comes of it."""
    found = search_study(config, material, folder, 2, ["mf", "relational-ease"])
    write_tuned(config, found, folder.parent, folder / "tuned.toml", "small")
    trials = [[asdict(t) | {"seconds": 0} for t in search.trials] for search in found]
    return _digest(trials, (folder / "tuned.toml").read_text())


def study_answer(config: StudyConfig, material: StudyData, folder: Path) -> str:
    """A study gone on with, to its winner."""
    result = run_study(config, material, folder)
    save_winner(config, material, folder)
    tables = [plain(getattr(result, p.name).to_dicts()) for p in fields(result) if p.name not in ("card", "curves")]
    return _digest(plain(result.card), plain(json.loads((folder / "results.json").read_text())["card"]), *tables)


def comparison_answer(folder: Path) -> str:
    """What a gate says of two arms of a study."""
    sides = [read_per_user_tables(folder, "ndcg@10", model) for model in ("relational-ease", "ease")]
    return _digest(asdict(compare_models(sides[0], sides[1], "ndcg@10", "1%")))


def plain(value: Any) -> Any:
    """Without what may differ between two runs of the same."""
    if isinstance(value, dict):
        return {name: plain(v) for name, v in value.items() if name not in CHANGING and "second" not in name}
    return [plain(v) for v in value] if isinstance(value, list) else value


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


BYTES = (
    "flip",
    "flip",
    "random",
    "zeros",
    "digit",
    "digit",
    "truncate",
    "extend",
    "cut",
    "empty",
    "lines",
    "letters",
)
FILES = (
    "delete", "folder", "rename", "donor", "donor", "donor", "link", "loop", "link to nothing", "pipe", "swap",
    "foreign", "beside", "no folder", "all of another",
)  # fmt: skip
MEANING = ("edit", "edit", "rewrite")
SEALED = ("edit, sealed", "edit, sealed", "edit, sealed", "donor, sealed", "names, sealed", "rewrite, sealed")
KINDS = (*BYTES, *FILES, *MEANING, *SEALED)


def damage(folder: Path, donors: Sequence[Path], rng: np.random.Generator) -> str:
    """Change one thing in a folder; returns what was done. What lies in ``donors`` stays as it is."""
    files = sorted(
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.name != ".lock"
    )
    if not files:
        return "nothing left"
    file, kind = files[int(rng.integers(len(files)))], KINDS[int(rng.integers(len(KINDS)))]
    donor, name = donors[int(rng.integers(len(donors)))], str(file.relative_to(folder))
    if kind in BYTES:
        file.write_bytes(changed(bytearray(file.read_bytes()), kind, rng))
    elif kind in FILES:
        _file_changed(folder, file, files[int(rng.integers(len(files)))], donor, kind)
    elif kind == "names, sealed":
        _names_changed(file.parent, rng)
    else:
        name += f" {_meaning_changed(file, donor, kind, rng)}"
        if kind.endswith("sealed"):
            seal_again(file.parent, folder)
    return f"{kind} {name}"


def _file_changed(folder: Path, file: Path, other: Path, donor: Path, kind: str) -> None:
    """Put something else in a file's place."""
    content = file.read_bytes()
    twins = sorted(path for path in donor.rglob(file.name) if path.is_file()) if donor.is_dir() else []
    if kind == "swap":
        file.write_bytes(other.read_bytes())
        other.write_bytes(content)
    elif kind == "beside":
        (file.parent / f"{file.stem}-copy{file.suffix}").write_bytes(content)
    elif kind == "foreign":
        file.write_bytes(FOREIGN)
    elif kind == "no folder":
        if file.parent != folder:
            shutil.rmtree(file.parent)
            file.parent.write_bytes(content)
    elif kind == "all of another":
        if donor.is_dir():
            shutil.rmtree(folder)
            shutil.copytree(donor, folder, symlinks=True)
    elif kind == "rename":
        file.rename(file.with_name(file.name + ".old"))
    else:
        file.unlink()
        if kind == "folder":
            file.mkdir()
        elif kind == "pipe":
            os.mkfifo(file)
        elif kind == "loop":
            file.symlink_to(file.name)
        elif kind in ("link", "link to nothing"):
            file.symlink_to(twins[0] if twins and kind == "link" else donor / "nothing")
        elif kind == "donor" and twins:
            shutil.copyfile(twins[0], file)


def changed(content: bytearray, kind: str, rng: np.random.Generator) -> bytes:
    """Other bytes."""
    size, many = len(content), int(rng.integers(1, 65))
    at = int(rng.integers(size)) if size else 0
    if kind == "flip" and size:
        content[at] ^= 1 << int(rng.integers(8))
    elif kind == "random":
        content[at : at + many] = rng.bytes(min(many, size - at))
    elif kind == "zeros":
        content[at : at + many] = bytes(min(many, size - at))
    elif kind in ("digit", "letters"):  # still JSON where it was
        low, high = (48, 57) if kind == "digit" else (97, 122)
        places = [n for n, byte in enumerate(content) if low <= byte <= high]
        if places:
            place = places[int(rng.integers(len(places)))]
            content[place] = low + (content[place] - low + int(rng.integers(1, 10))) % (high - low + 1)
    elif kind in ("truncate", "empty"):
        del content[at if kind == "truncate" else 0 :]
    elif kind == "extend":
        content += rng.bytes(many)
    elif kind == "cut":
        del content[at : at + many]
    elif kind == "lines":
        return bytes(content).replace(b"\n", b"\r\n")
    return bytes(content)


def _meaning_changed(file: Path, donor: Path, kind: str, rng: np.random.Generator) -> str:
    """Change values and no syntax, or how the same values are written; returns what was done."""
    if kind.startswith("donor"):
        twins = sorted(path for path in donor.rglob(file.name) if path.is_file()) if donor.is_dir() else []
        if twins:
            shutil.copyfile(twins[0], file)
        return "of another"
    same = kind.startswith("rewrite")
    try:
        match file.suffix:
            case ".json":
                value = json.loads(file.read_bytes())
                done = "" if same else _edit_json(value, rng)
                file.write_text(json.dumps(value, indent=3))
            case ".parquet":
                frame, done = pl.read_parquet(file), ""
                if not same:
                    frame, done = _edit_frame(frame, rng)
                frame.write_parquet(file, compression="gzip")
            case ".safetensors":
                done = _edit_tensors(file, same, rng)
            case _:
                file.write_bytes(changed(bytearray(file.read_bytes()), "digit", rng))
                done = "digit"
    except Exception:  # damaged before, in whatever way
        return "unreadable"
    return done


ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, -(2**70), 1e300, 0.5, "", "x", "../x", "\0", [], {}, [1], ["a"], {"a": 1},
    "1e400",
)  # fmt: skip


def _edit_json(value: Any, rng: np.random.Generator) -> str:
    """Change, drop or add something anywhere in a JSON value."""
    places = list(_places(value))
    if not places:
        return "nothing"
    holder, key = places[int(rng.integers(len(places)))]
    kind = int(rng.integers(6))
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == 2 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] += int(rng.integers(-2, 3)) or 7
    elif kind == 3:
        other, name = places[int(rng.integers(len(places)))]
        holder[key] = json.loads(json.dumps(other[name])) if name in other or isinstance(other, list) else None
    else:
        holder[key] = ODD[int(rng.integers(len(ODD)))]
    return f"{key}"


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places(value[key])


def _edit_frame(frame: pl.DataFrame, rng: np.random.Generator) -> tuple[pl.DataFrame, str]:
    """Change rows, columns, types or values of a table."""
    column = frame.columns[int(rng.integers(frame.width))]
    kinds = ("drop", "rename", "null", "head", "twice", "reverse", "cast", "type", "nan", "empty", "unknown", "wide")
    kind = str(rng.choice(kinds))
    values, dtype = frame[column], frame[column].dtype
    match kind:
        case "drop":
            frame = frame.drop(column)
        case "rename":
            frame = frame.rename({column: f"{column}x"})
        case "null":
            frame = frame.with_columns(pl.lit(None, dtype).alias(column))
        case "head":
            frame = frame.head(int(rng.integers(frame.height + 1)))
        case "twice":
            frame = pl.concat([frame, frame])
        case "reverse":
            frame = frame.with_columns(values.reverse())
        case "cast":
            frame = frame.with_columns(values.cast(pl.String, strict=False))
        case "type":
            frame = frame.with_columns(pl.Series(column, [[1]] * frame.height))
        case "nan":
            odd = float("nan") if rng.random() < 0.5 else -1.0
            frame = frame.with_columns(
                (pl.lit(odd) if dtype.is_numeric() else pl.lit("?")).cast(dtype, strict=False).alias(column)
            )
        case "empty":
            frame = frame.clear()
        case "unknown":
            frame = frame.with_columns((pl.lit(10**12) if dtype.is_integer() else pl.lit("nobody")).alias(column))
        case _:
            frame = frame.with_columns(pl.lit(1).alias("more"))
    return frame, f"{kind} {column}"


def _edit_tensors(file: Path, same: bool, rng: np.random.Generator) -> str:
    """Change shapes, types, names or numbers of tensors; their own checksum stays what it was."""
    content = file.read_bytes()
    tensors, size = load_safetensors(content), int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size]).get("__metadata__")
    done = "same"
    if not same and tensors:
        name = sorted(tensors)[int(rng.integers(len(tensors)))]
        one, kinds = (
            tensors[name],
            ("nan", "huge", "negative", "type", "shape", "cut", "name", "gone", "more", "shuffled", "note"),
        )
        done = str(rng.choice(kinds))
        if done in ("nan", "huge", "negative"):
            odd = {"nan": float("nan") if one.is_floating_point() else -(2**31), "huge": 2**30, "negative": -1}[done]
            flat = one.clone().flatten()
            flat[int(rng.integers(max(1, flat.numel()))) :][:1] = odd if one.dtype != torch.bool else 1
            tensors[name] = flat.reshape(one.shape)
        elif done == "type":
            tensors[name] = one.to(torch.int64 if one.is_floating_point() else torch.float32)
        elif done == "shape":
            tensors[name] = one.t().contiguous() if one.dim() == 2 else one.flatten()[None]
        elif done == "cut":
            tensors[name] = one[: max(0, len(one) - 1)].clone() if one.dim() else one[None]
        elif done == "name":
            tensors[f"{name}x"] = tensors.pop(name)
        elif done == "gone":
            del tensors[name]
        elif done == "more":
            tensors["more"] = torch.zeros(3)
        elif done == "shuffled" and one.dim():
            tensors[name] = one.flip(0).contiguous()
        elif done == "note" and metadata:
            metadata[str(rng.choice(sorted(metadata)))] = str(rng.choice(["", "x", "[]", "{}", '{"a": 1}']))
        done += f" {name}"
    file.write_bytes(save_safetensors(tensors, metadata))
    return done


def _names_changed(folder: Path, rng: np.random.Generator) -> None:
    """Put names into a manifest that lead elsewhere, or take some out, and seal it."""
    manifest = _manifest(folder)
    if manifest is None:
        return
    files = manifest["files"]
    name = sorted(files)[int(rng.integers(len(files)))]
    odd = ("../x", "..", "/etc/passwd", "", ".", "\0", "x" * 5000, f"./{name}", f"x/../{name}", MANIFEST, "a\nb")
    kind = int(rng.integers(5))
    if kind == 0:
        del files[name]
    elif kind == 1:
        files[str(rng.choice(odd))] = files.pop(name)
    elif kind == 2:
        files[str(rng.choice(odd))] = files[name]
    elif kind == 3:
        files[name] = ODD[int(rng.integers(len(ODD)))]
    else:
        manifest["files"] = ODD[int(rng.integers(len(ODD)))]
    _write_manifest(folder / MANIFEST, manifest)


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What a folder is sealed with; None where it is not, or where an earlier damage took that or made it a pipe."""
    path = folder / MANIFEST
    if path.is_symlink() or not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError:
        return None
    fits = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and manifest["files"]
    return manifest if fits else None


def _write_manifest(path: Path, manifest: dict[str, Any]) -> None:
    """A manifest with the seal of its content."""
    manifest.pop("sha256", None)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(manifest | {"sha256": digest}))


def seal_again(at: Path, top: Path) -> None:
    """Give folders that have a manifest the checksums of what is there now, from here up to the top."""
    while True:
        if (manifest := _manifest(at)) is not None:
            for name in manifest["files"]:
                with suppress(OSError, ValueError):  # names of an earlier damage
                    if (at / name).is_file():
                        manifest["files"][name] = hashlib.sha256((at / name).read_bytes()).hexdigest()
            _write_manifest(at / MANIFEST, manifest)
        if at == top or at == at.parent:
            return
        at = at.parent


class Attacked:
    """Targets, with what they answer undamaged.

    Args:
        targets: damaged in turn.
        seed: number ``i`` follows from this and ``i`` alone, so that a series goes on where it was.
        scratch: a folder for the copies.
    """

    def __init__(self, targets: Sequence[Target], seed: int, scratch: Path) -> None:
        self._targets, self._seed, self._scratch = targets, seed, scratch
        self._expected: dict[int, str] = {}

    def __call__(self, number: int) -> Outcome:
        """Damage a fresh copy, one to three times, and ask."""
        which = number % len(self._targets)
        target, rng = self._targets[which], np.random.default_rng([self._seed, number])
        copy = self._scratch / f"{number}" / target.folder.name  # a cell is known by its name
        if which not in self._expected:
            self._expected[which] = target.answer(self._copied(target, copy))
        self._copied(target, copy)
        done = "; ".join(damage(copy, target.donors, rng) for _ in range(int(rng.choice([1, 1, 2, 3]))))
        expected = self._expected[which]
        try:
            return judged(target.name, f"number {number}: {done}", lambda: self._right(target, copy, expected, done))
        finally:
            shutil.rmtree(self._scratch / f"{number}", ignore_errors=True)

    @staticmethod
    def _copied(target: Target, copy: Path) -> Path:
        shutil.rmtree(copy.parent, ignore_errors=True)
        shutil.copytree(target.folder, copy, symlinks=True)
        return copy

    @staticmethod
    def _right(target: Target, copy: Path, expected: str, done: str) -> bool:
        with within(90, TimeoutError):
            found = target.answer(copy)
        # what was sealed anew, or is wholly another folder, may say so
        return found == expected or "sealed" in done or "all of another" in done


class Corruptions:
    """The part "corruptions"."""

    name, seconds = "corruptions", 150.0

    def prepare(self, folder: Path) -> None:
        """The studies."""
        made(folder)

    def open(self, folder: Path, seed: int) -> Attack:
        """Copies lie in the lane's folder."""
        return Attacked(targets_in(folder), seed, Path("copies").absolute())
