"""A study's folder is one study's and one process's, and nothing is written or deleted outside."""

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import polars as pl
import pytest
from command_line import relrank
from studies import open_study

from relrank.errors import InputError
from relrank.io import manifest
from relrank.runs import fitted_run
from relrank.runs.fitted_run import load_run
from relrank.study import winner as running
from relrank.study.config import read_study
from relrank.study.folder import names_of_study
from relrank.study.result import StudyResult
from relrank.study.run import run_study
from relrank.study.winner import save_winner
from relrank.testing import planted_study

TINY = planted_study(
    "tiny",
    60,
    40,
    seed=1,
    relations=(),
    study="seeds = [0]",
    models="""[[models]]
name = "popularity"
""",
)
MF = '[[models]]\nname = "mf"\nconfig = { dim = 4 }\ntrain = { epochs = 2, batch = 64, every = 1 }\n'
HOLDING = """
import sys
from pathlib import Path
from relrank.io.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    input()
"""


def opened(folder: Path, text: str = TINY):
    return open_study(folder / "tiny.toml", text)


def inside(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_of_another_study_is_refused_before_data_is_read(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra tune")
    (tmp_path / "one.toml").write_text(TINY)
    (tmp_path / "other.toml").write_text(TINY.replace('"tiny"', '"other"').replace("users = 60", "users = -1"))
    assert relrank(monkeypatch, capsys, tmp_path, "study", "one.toml", "--out", "out")[0] == 0
    before = inside(tmp_path / "out")
    for command in ("study", "tune"):
        code, _, said = relrank(monkeypatch, capsys, tmp_path, command, "other.toml", "--out", "out")
        assert code == 2
        assert said == (
            "error: folder of another study\n  where:    out\n"
            "  expected: that of other, or a new one: name it with --out\n  found:    tiny\n"
        )
    code, _, said = relrank(monkeypatch, capsys, tmp_path, "study", "other.toml", "--out", "out/winner")
    assert (code, said.splitlines()[-1]) == (2, "  found:    a fitted model")
    assert inside(tmp_path / "out") == before
    assert relrank(monkeypatch, capsys, tmp_path, "study", "one.toml", "--smoke", "--out", "out")[0] == 0
    code, _, said = relrank(monkeypatch, capsys, tmp_path, "study", "one.toml", "--out", "out-smoke")
    assert (code, said.splitlines()[-1]) == (2, "  found:    tiny, a smoke run")


def test_a_study_that_ended_before_its_data_leaves_the_folder_to_others(tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.toml").write_text(TINY.replace('"tiny"', '"bad"').replace("per_user = 6", "per_user = 99"))
    (tmp_path / "one.toml").write_text(TINY)
    assert relrank(monkeypatch, capsys, tmp_path, "study", "bad.toml", "--out", "out")[0] == 2
    assert relrank(monkeypatch, capsys, tmp_path, "study", "one.toml", "--out", "out")[0] == 0
    assert json.loads((tmp_path / "out" / "study.json").read_text())["name"] == "tiny"


def test_a_damaged_winner_is_kept_again(tmp_path):
    config, material = opened(tmp_path)
    run_study(config, material, tmp_path / "out")
    before = save_winner(config, material, tmp_path / "out").recommend(0, 3)
    (tmp_path / "out" / "winner" / "titles.parquet").write_bytes(b"gone")
    assert save_winner(config, material, tmp_path / "out").recommend(0, 3).equals(before)


NAMED = """
name = "named"
[data]
user = "user"
item = "item"
[data.interactions]
file = "rows.csv"
user = "u"
item = "i"
time = "t"
[data.nodes.item]
file = "items.csv"
key = "i"
title = "title"
[protocol]
split = "last-leave-one-out"
[study]
seeds = [0]
[[models]]
name = "ease"
trials = 1
"""


def named(folder: Path, titles: str, more: int = 0):
    rows = [f"u{u},i{(u * 2 + k) % 9},{k}" for u in range(12) for k in range(4)]
    (folder / "rows.csv").write_text("u,i,t\n" + "\n".join(dict.fromkeys(rows)) + "\n")
    items = [f"i{i},{titles} {i},{i % 2}" for i in range(9 + more)]
    (folder / "items.csv").write_text("i,title,colour\n" + "\n".join(items) + "\n")
    return opened(folder, NAMED)


def test_the_winner_has_the_titles_and_columns_that_items_have_now(tmp_path, monkeypatch):
    out = tmp_path / "out"
    config, material = named(tmp_path, "Old")
    run_study(config, material, out)
    before = save_winner(config, material, out).recommend("u3", 4)
    assert before["title"].str.starts_with("Old ").all()
    config, material = named(tmp_path, "New")
    run_study(config, material, out)
    fits = []
    monkeypatch.setattr(running, "_fit_winner", lambda *_: fits.append(1))
    winner = save_winner(config, material, out)
    assert fits == []  # the model is what it was
    after = load_run(out).recommend("u3", 4)
    assert after["title"].to_list() == [title.replace("Old", "New") for title in before["title"]]
    assert after.drop("title").equals(before.drop("title"))
    written = (out / "winner" / "manifest.json").stat().st_mtime_ns
    assert save_winner(config, material, out).item_attributes.equals(winner.item_attributes)
    assert (out / "winner" / "manifest.json").stat().st_mtime_ns == written
    monkeypatch.undo()
    config, material = named(tmp_path, "New", more=2)  # of which a model has to know how many there are
    run_study(config, material, out)
    assert len(save_winner(config, material, out).split.items) == len(material.split_contexts[0].split.items) == 11


def test_the_winner_has_what_is_known_of_nodes_behind_items_now(tmp_path):
    """Filters read it; a run saved before there were filters has none."""
    config, material = named(tmp_path, "Old")
    run_study(config, material, tmp_path / "out")
    run = save_winner(config, material, tmp_path / "out")
    nodes = pl.DataFrame({fitted_run.NODE_KEY: ["0"], "finish": ["matt"]})
    known = {"colour": (("colour",), nodes)}
    for stale in (replace(run, nodes=known), run):
        now = {} if stale.nodes else known
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitted_run, "build_node_attributes", lambda *_, now=now: now)
            again = fitted_run.refresh_run(
                stale, material.tables, material.split_contexts[0].graph, tmp_path / "out" / "winner"
            )
        assert again.nodes.keys() == load_run(tmp_path / "out").nodes.keys() == now.keys()


def test_a_winner_that_cannot_be_read_now_is_told_and_not_fitted_again(tmp_path, monkeypatch):
    config, material = opened(tmp_path)
    out = tmp_path / "out"
    run_study(config, material, out)
    save_winner(config, material, out)
    before = inside(out / "winner")
    monkeypatch.setattr(running, "_fit_winner", lambda *_: pytest.fail("fitted again"))
    with monkeypatch.context() as small:
        small.setattr(fitted_run, "available_memory", lambda: 10)
        with pytest.raises(InputError, match="model does not fit into memory"):
            save_winner(config, material, out)
    read = manifest.read_bytes_within

    def broken(folder, name):
        if name == "model.safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return read(folder, name)

    monkeypatch.setattr(manifest, "read_bytes_within", broken)
    with pytest.raises(InputError, match=r"file cannot be read[\s\S]*Input/output error"):
        save_winner(config, material, out)
    assert inside(out / "winner") == before


def test_a_winner_whose_note_is_damaged_or_of_another_version_is_kept_again(tmp_path):
    config, material = opened(tmp_path)
    out = tmp_path / "out"
    run_study(config, material, out)
    before = save_winner(config, material, out).recommend(0, 3)
    for text in ("{", "[]", '{"format": "relrank-run-1"}'):
        (out / "winner" / "run.json").write_text(text)
        assert save_winner(config, material, out).recommend(0, 3).equals(before)


def test_a_study_may_lie_beside_what_holds_links(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "ratings.csv").symlink_to(tmp_path / "tiny.toml")
    assert relrank(monkeypatch, capsys, tmp_path, "study", "tiny.toml", "--out", ".")[0] == 0
    assert (tmp_path / ".venv" / "bin" / "python").is_symlink()
    names = {path.name for path in tmp_path.iterdir()} - {".venv", "ratings.csv", "tiny.toml"}
    ours = names_of_study()
    assert [name for name in names if not any(fnmatchcase(name, one) for one in ours)] == []
    for name in sorted(names - {".lock"}):  # whatever it wrote there, a link in its place is refused
        (tmp_path / name).rename(tmp_path / "aside")
        (tmp_path / name).symlink_to(tmp_path / "aside")
        code, _, said = relrank(monkeypatch, capsys, tmp_path, "study", "tiny.toml", "--out", ".")
        assert (code, said.splitlines()[0]) == (2, "error: link where relrank writes and deletes")
        (tmp_path / name).unlink()
        (tmp_path / "aside").rename(tmp_path / name)


def test_changed_settings_of_the_same_study_run_in_its_folder(tmp_path):
    run_study(*opened(tmp_path), tmp_path / "out")
    result = run_study(*opened(tmp_path, TINY + '[[models]]\nname = "random"\n'), tmp_path / "out")
    assert result.leaderboard["model"].to_list() == ["popularity", "random"]
    assert StudyResult.load(tmp_path / "out").leaderboard.equals(result.leaderboard)


@pytest.mark.parametrize("name", [".", "..", ".hidden", "a/b", "../a"])
def test_a_study_s_name_leads_nowhere(tmp_path, name):
    (tmp_path / "tiny.toml").write_text(TINY.replace('"tiny"', f'"{name}"'))
    with pytest.raises(InputError, match=r"key name"):
        read_study(tmp_path / "tiny.toml")


def test_a_second_process_is_told_of_the_first(tmp_path, monkeypatch, capsys):
    pytest.importorskip("optuna", reason="needs the extra tune")
    config, material = opened(tmp_path)
    out = tmp_path / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLDING, out], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    for call in (run_study, save_winner):
        with pytest.raises(InputError, match=rf"folder is in use[\s\S]*process {other.pid} of"):
            call(config, material, out)
    code, _, said = relrank(monkeypatch, capsys, tmp_path, "tune", "tiny.toml", "--out", "out")
    assert (code, said.splitlines()[0]) == (2, "error: folder is in use")
    other.communicate(b"\n")
    run_study(config, material, out)


def test_links_in_a_study_s_folder_are_not_followed(tmp_path):
    config, material = opened(tmp_path, TINY + MF)
    out, photos = tmp_path / "out", tmp_path / "photos"
    run_study(config, material, out)
    (photos / "more").mkdir(parents=True)
    for name in ("one", "more/two", "model.safetensors"):
        (photos / name).write_text("precious")
    before = inside(photos)
    cell = next((out / "cells").iterdir())
    for name in (f"cells/{cell.name}.part", "cells/linked", "winner", "winner.checkpoints", "tuning.checkpoints"):
        (out / name).symlink_to(photos)
        for call in (run_study, save_winner):
            with pytest.raises(InputError, match=r"link where relrank writes[\s\S]*remove the link"):
                call(config, material, out)
        (out / name).unlink()
    (out / "winner").mkdir()
    (out / "winner" / "run.json").symlink_to(photos / "one")
    with pytest.raises(InputError, match="link where"):
        save_winner(config, material, out)
    assert inside(photos) == before
    shutil.rmtree(out / "winner")
    (tmp_path / "there").symlink_to(out)
    assert save_winner(config, material, tmp_path / "there").note["name"] in ("popularity", "mf")


def test_a_cell_is_its_own_folder_s_and_whole_or_refused(tmp_path):
    config, material = opened(tmp_path, TINY + '[[models]]\nname = "random"\n')
    out = tmp_path / "out"
    first = run_study(config, material, out)
    one, other = sorted((out / "cells").iterdir())
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    with pytest.raises(InputError, match=r"folder of another cell[\s\S]*runs the cell again"):
        run_study(config, material, out)
    shutil.rmtree(one)
    shutil.rmtree(other)
    again = run_study(config, material, out)
    costs = ("seconds", "peak_mb")
    assert again.leaderboard.drop(costs).equals(first.leaderboard.drop(costs), null_equal=True)
    for name in ("cell.json", "users.parquet", "manifest.json"):
        (one / name).rename(tmp_path / "aside")
        with pytest.raises(InputError, match="delete the cell's folder"):
            run_study(config, material, out)
        (tmp_path / "aside").rename(one / name)
    run_study(config, material, out)


def test_what_a_killed_cell_left_does_not_become_the_cell_s(tmp_path):
    config, material = opened(tmp_path)
    out = tmp_path / "out"
    run_study(config, material, out)
    (cell,) = (out / "cells").iterdir()
    names = sorted(file.name for file in cell.iterdir())
    shutil.rmtree(cell)
    part = cell.with_name(cell.name + ".part")
    part.mkdir()
    (part / "model.safetensors").write_text("of an earlier version")
    (part / ".users.parquet.abcdef-1-0.part").touch()
    (out / "cells" / ".mark").touch()  # of an engine
    run_study(config, material, out)
    assert save_winner(config, material, out).note["name"] == "popularity"
    assert sorted(file.name for file in cell.iterdir()) == names
    assert set(json.loads((cell / "manifest.json").read_text())["files"]) == set(names) - {"manifest.json"}


def test_one_fit_at_a_time_and_not_through_a_link(tmp_path, monkeypatch, capsys):
    opened(tmp_path)
    command, beside = ("fit", "tiny.toml", "--model", "mf", "--out", "run"), tmp_path / "run.checkpoints"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "one").write_text("precious")
    beside.symlink_to(photos)
    code, _, said = relrank(monkeypatch, capsys, tmp_path, *command)
    assert (code, said.splitlines()[0]) == (2, "error: link where relrank writes and deletes")
    assert inside(photos) == {"one": b"precious"}
    beside.unlink()
    other = subprocess.Popen([sys.executable, "-c", HOLDING, beside], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    other.stdout.readline()
    code, _, said = relrank(monkeypatch, capsys, tmp_path, *command)
    assert code == 2
    assert said.startswith("error: folder is in use\n  where:    run\n")
    assert f"process {other.pid} of" in said
    other.kill()
    other.communicate()
    (tmp_path / "tiny.toml").write_text(TINY + MF)
    assert relrank(monkeypatch, capsys, tmp_path, *command)[0] == 0
    assert not beside.exists()
