import os
import subprocess
import sys
from pathlib import Path

import pytest

from relrank.errors import InputError
from relrank.io import atomic as writing
from relrank.io.atomic import atomic_folder, atomic_write, discard


def fail_half_way(path):
    with atomic_write(path) as temporary:
        temporary.write_text("half of the sec")
        raise RuntimeError


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "file"
    with atomic_write(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError):
        fail_half_way(path)
    assert path.read_text() == "first"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def write_half(folder):
    with atomic_folder(folder) as part:
        (part / "one").write_text("half")
        raise RuntimeError


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_is_replaced_whole_and_a_failed_one_leaves_nothing(tmp_path, monkeypatch, in_one_step):
    if not in_one_step:
        monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    folder = tmp_path / "new" / "run"
    with pytest.raises(RuntimeError):
        write_half(folder)
    assert list(folder.parent.iterdir()) == []
    with atomic_folder(folder) as part:
        (part / "one").write_text("first")
        (part / "old only").touch()
        assert not folder.exists()
    with pytest.raises(RuntimeError):
        write_half(folder)
    assert (folder / "one").read_text() == "first"
    with atomic_folder(folder) as part:
        (part / "one").write_text("second")
    assert {f.name: f.read_text() for f in folder.iterdir()} == {"one": "second"}
    assert [f.name for f in folder.parent.iterdir()] == ["run"]


KILLED = """
import os, signal, sys
from pathlib import Path
from relrank.io.atomic import atomic_write, atomic_folder
with atomic_write(Path(sys.argv[1])) as one, atomic_folder(Path(sys.argv[2])) as other:
    one.write_text("half")
    (other / "one").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed_by_the_next_write(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "run"
    subprocess.run([sys.executable, "-c", KILLED, file, folder], check=False)
    assert len(list(tmp_path.iterdir())) == 2
    with atomic_write(file) as mine:
        left = {p.name for p in tmp_path.iterdir()}
        with atomic_write(file) as other:  # nobody removes what a living process writes
            other.write_text("another")
        mine.write_text("mine")
    assert len(left) == 2  # of the folder, and what is being written
    with atomic_folder(folder):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "run"]
    assert file.read_text() == "mine"


def test_two_writers_never_share_a_name_and_a_planted_link_is_not_followed(tmp_path):
    victim, path = tmp_path / "victim", tmp_path / "report.html"
    victim.write_text("precious")
    for name in ("report.html.part", ".report.html.part"):
        (tmp_path / name).symlink_to(victim)
    with atomic_write(path) as one, atomic_write(path) as other:
        assert one != other
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"
    assert victim.read_text() == "precious"


def test_an_older_folder_left_aside_by_a_kill_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(writing, "_exchange", lambda one, other: False)
    aside = tmp_path / ".run.replaced"
    aside.mkdir()
    (aside / "one").write_text("older")
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "run")
    assert (tmp_path / "run" / "one").read_text() == "older"


def test_contents_reach_the_disk_before_their_name_does(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(writing.os, "fsync", lambda handle: done.append(os.readlink(f"/proc/self/fd/{handle}")))
    with atomic_write(tmp_path / "file") as part:
        part.touch()
    assert done == [str(part), str(tmp_path)]
    done.clear()
    with atomic_folder(tmp_path / "run") as part:
        (part / "in").mkdir()
        (part / "in" / "one").touch()
    assert done == [str(part), str(part / "in" / "one"), str(part / "in"), str(tmp_path)]


def test_discarding_a_link_leaves_what_it_leads_to(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").touch()
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "photos")
    discard(tmp_path / "link")
    discard(tmp_path / "folder")
    discard(tmp_path / "nothing")
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == ["photos", "photos/one"]


@pytest.mark.parametrize("path", ["", ".", "..", "/", "run/.."])
def test_paths_without_a_name_are_refused(path):
    for write in (atomic_write, atomic_folder):
        with pytest.raises(InputError, match="not a name"), write(Path(path)):
            pass
