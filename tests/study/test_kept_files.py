"""Stored models are checked when they are loaded, and do not depend on their files afterwards."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
import torch
from kept_runs import N_ITEMS, kept

from relrank.errors import InputError
from relrank.io.manifest import MANIFEST, write_manifest
from relrank.io.tensors import load_tensors, save_tensors
from relrank.runs.export import PROGRAM, export, load_program
from relrank.runs.fitted_run import load_run


@pytest.mark.parametrize("name", ["ease", "sparse-ease", "popularity"])
def test_a_loaded_model_does_not_depend_on_its_files(name: str, tmp_path: Path) -> None:
    """``cp`` overwrites files in place: a memory-mapped file would crash the process."""
    run = kept(tmp_path, name)
    before = run.recommend("c03", 8)
    for file in (path for path in (tmp_path / "run").rglob("*") if path.is_file()):
        with file.open("r+b") as other:
            other.truncate(0)
    assert run.recommend("c03", 8).equals(before)
    with pytest.raises(InputError):
        load_run(tmp_path / "run")


def test_the_model_of_another_run_is_refused(tmp_path: Path) -> None:
    for folder, l2 in (("one", 5.0), ("two", 50.0)):
        kept(tmp_path / folder, "ease", l2=l2)
    shutil.copy(tmp_path / "two" / "run" / "model.safetensors", tmp_path / "one" / "run")
    with pytest.raises(
        InputError, match=r"file was changed\n  where:    .*one/run/model\.safetensors\n[\s\S]*fit it"
    ):
        load_run(tmp_path / "one" / "run")


def test_shapes_and_numbers_are_checked_even_if_the_manifest_matches(tmp_path: Path) -> None:
    run = kept(tmp_path, "sparse-ease", neighbours=4)
    state, folder = run.model.state(), tmp_path / "run"
    wrong = {
        "fewer items": {"indptr": state["indptr"][:-3]},
        "columns": {"indices": state["indices"] + N_ITEMS},
        "starts": {"indptr": state["indptr"].flip(0)},
        "entries": {"weights": state["weights"][:-1]},
        "no number": {"weights": state["weights"] * torch.nan},
        "type": {"indices": state["indices"].long()},
    }
    for tensors in wrong.values():
        save_tensors(folder / "model.safetensors", state | tensors, {})
        write_manifest(folder)
        with pytest.raises(InputError, match="parameters do not fit the model"):
            load_run(folder)
    save_tensors(folder / "model.safetensors", state, {})
    write_manifest(folder)
    assert load_run(folder).recommend("c03", 5).equals(run.recommend("c03", 5))


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    kept(tmp_path, "ease")
    (tmp_path / "run" / MANIFEST).unlink()
    with pytest.raises(InputError, match=r"no manifest[\s\S]*fit it again"):
        load_run(tmp_path / "run")


def test_links_out_of_a_run_are_not_followed_and_others_are(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease")
    folder, names = tmp_path / "run", ("model.safetensors", "graph", "graph/edges.safetensors", "run.json")
    for name in names:
        (folder / name).rename(tmp_path / "outside")
        (folder / name).symlink_to(tmp_path / "outside")
        with pytest.raises(InputError, match="link leads out of its folder"):
            load_run(folder)
        (folder / name).unlink()
        (tmp_path / "outside").rename(folder / name)
    (tmp_path / "latest").symlink_to(folder)
    os.rename(folder / "model.safetensors", folder / "model-1.safetensors")
    (folder / "model.safetensors").symlink_to("model-1.safetensors")
    assert load_run(tmp_path / "latest").recommend("c03").equals(run.recommend("c03"))


def test_a_named_pipe_instead_of_a_file_is_refused(tmp_path: Path) -> None:
    kept(tmp_path, "ease")
    (tmp_path / "run" / "titles.parquet").unlink()
    os.mkfifo(tmp_path / "run" / "titles.parquet")
    with pytest.raises(InputError, match=r"cannot be read[\s\S]*not a file"):
        load_run(tmp_path / "run")


def test_a_changed_program_is_refused(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease")
    export(run, "torch", tmp_path / "out")
    load_program(tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"file was changed[\s\S]*export the model again"):
        load_program(tmp_path / "out")
    export(run, "parquet", tmp_path / "out")
    with pytest.raises(InputError, match="not a program for torch"):
        load_program(tmp_path / "out")


NO_CANDIDATES = "held-out rows of items that are excluded from the candidates"
"""Evaluating them would end in a trace."""


@pytest.mark.parametrize(
    ("said", "message"),
    [
        *((said, "setting does not fit")
          for said in ({"config": None}, {"unseen": -1}, {"protocol": 5}, {"ordered": "yes"}, {"arm": []})),
        ({"new_items_only": True}, NO_CANDIDATES), ({"unseen": 30}, NO_CANDIDATES),
    ],
)  # fmt: skip
def test_invalid_metadata_of_a_run_are_one_error(said: dict[str, object], message: str, tmp_path: Path) -> None:
    """Checksums detect changes, not files that were written with invalid content."""
    kept(tmp_path, "popularity")
    note = tmp_path / "run" / "run.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | said))
    write_manifest(tmp_path / "run")
    with pytest.raises(InputError, match=message):
        load_run(tmp_path / "run")


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("split", lambda frame: pl.concat([frame, frame.head(3)])),
        ("split", lambda frame: frame.drop("part")),
        ("split", lambda frame: frame.with_columns(pl.lit([1]).alias("item"))),
        ("titles", lambda frame: frame.head(5)),
        ("titles", lambda frame: frame.reverse()),
        ("titles", lambda frame: frame.rename({"title": "name"})),
        ("facts", lambda frame: frame.head(5)),
    ],
)
def test_tables_of_a_run_that_do_not_fit_together_are_one_error(
    table: str, change: Callable[[pl.DataFrame], pl.DataFrame], tmp_path: Path
) -> None:
    kept(tmp_path, "popularity")
    path = tmp_path / "run" / f"{table}.parquet"
    change(pl.read_parquet(path)).write_parquet(path)
    write_manifest(tmp_path / "run")
    with pytest.raises(InputError):
        load_run(tmp_path / "run")


def test_programs_that_do_not_fit_together_are_one_error(tmp_path: Path) -> None:
    export(kept(tmp_path, "ease"), "torch", tmp_path / "program")
    state = load_tensors(tmp_path / "program" / PROGRAM)[0]
    for tensors in (
        {"other": state["weights"]},
        {"weights": state["weights"] * torch.nan},
        {"weights": state["weights"], "indptr": torch.zeros(3)},
    ):
        save_tensors(tmp_path / "program" / PROGRAM, tensors, {"takes": "history"})
        write_manifest(tmp_path / "program")
        with pytest.raises(InputError, match="parts do not fit together"):
            load_program(tmp_path / "program")
