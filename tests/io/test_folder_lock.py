"""One owner of a folder at a time, and no way out of it."""

import os
import subprocess
import sys
import threading

import pytest

from relrank.errors import InputError
from relrank.io.folder_lock import locked_folder, refuse_links

HOLDING = """
import sys, time
from pathlib import Path
from relrank.io.folder_lock import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    with locked_folder(folder):
        pass


def test_a_second_process_is_told_who_holds_the_folder_and_a_killed_one_holds_nothing(tmp_path):
    folder = tmp_path / "new" / "runs"
    other = subprocess.Popen([sys.executable, "-c", HOLDING, folder], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    with pytest.raises(InputError, match=rf"folder is in use[\s\S]*--out[\s\S]*process {other.pid} of \S+, since 20"):
        hold(folder)
    other.kill()
    other.communicate()
    hold(folder)
    assert [f.name for f in folder.iterdir()] == [".lock"]


def test_the_same_thread_may_hold_it_again_and_another_may_not(tmp_path):
    said = []

    def second():
        try:
            hold(tmp_path)
        except InputError as error:
            said.append(error.what)

    with locked_folder(tmp_path):
        hold(tmp_path)
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert said == ["folder is in use"]
    hold(tmp_path)


def test_links_inside_are_refused_and_a_link_to_the_folder_is_not(tmp_path):
    (tmp_path / "run" / "in").mkdir(parents=True)
    (tmp_path / "there").symlink_to(tmp_path / "run")
    hold(tmp_path / "there")
    (tmp_path / "run" / "in" / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match=r"link where relrank writes[\s\S]*run/in/out[\s\S]*remove the link"):
        refuse_links(tmp_path / "run")
    with pytest.raises(InputError, match="link where"):
        hold(tmp_path / "there")


def test_links_beside_what_is_relranks_are_nobodys_business(tmp_path):
    """As those of a virtual environment, where a study is written beside it."""
    names = ("cells", "*.db*", ".lock")
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    (tmp_path / "venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "lib64").symlink_to(tmp_path / "venv")
    refuse_links(tmp_path, names)
    (tmp_path / "cells" / "one").mkdir(parents=True)
    for link in ("cells/one/in", "tuning.db-wal", ".lock"):
        (tmp_path / link).symlink_to(tmp_path / "venv")
        with pytest.raises(InputError, match="link where relrank writes"), locked_folder(tmp_path, names=names):
            pass
        (tmp_path / link).unlink()
    with pytest.raises(InputError, match="link where relrank writes"):
        refuse_links(tmp_path)


@pytest.mark.parametrize("system", ["linux", "win32"])
def test_a_folder_that_passes_leaves_nothing_where_open_files_cannot_be_deleted_either(tmp_path, monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    unlink, refused = os.unlink, []

    def as_there(path, *args, **more):
        held = any(os.path.realpath(f"/proc/self/fd/{fd}").endswith("/.lock") for fd in os.listdir("/proc/self/fd"))
        if system == "win32" and os.fspath(path).endswith(".lock") and held:
            refused.append(path)
            raise PermissionError(path)
        unlink(path, *args, **more)

    monkeypatch.setattr(os, "unlink", as_there)
    folder = tmp_path / "run.checkpoints"
    for delete_on_exit in (False, True):
        with locked_folder(folder) as hold, locked_folder(folder) as inner:
            (folder / "in").mkdir(exist_ok=True)
            (folder / "in" / "part").touch()
            (folder / "out").unlink(missing_ok=True)
            (tmp_path / "kept").touch()
            inner.delete_on_exit = True  # of the outermost block alone
            hold.delete_on_exit = delete_on_exit
        assert folder.exists() is not delete_on_exit
        assert [*map(str, refused)] == []
    assert (tmp_path / "kept").is_file()


def test_a_link_in_a_folder_that_passes_is_not_followed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one").touch()
    with locked_folder(tmp_path / "parts") as hold:
        (tmp_path / "parts" / "there").symlink_to(tmp_path / "photos")
        hold.delete_on_exit = True
    assert not (tmp_path / "parts").exists()
    assert (tmp_path / "photos" / "one").is_file()


def test_a_folder_inside_that_is_deleted_meanwhile_holds_no_link(tmp_path, monkeypatch):
    """As the temporary folders of whoever holds it are: the second process is to be told who that is."""
    (tmp_path / "cells" / "one.part").mkdir(parents=True)
    (tmp_path / "cells" / "two").mkdir()
    scandir = os.scandir

    def gone(path):
        if os.path.basename(path) == "one.part":
            raise FileNotFoundError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", gone)
    refuse_links(tmp_path)
    (tmp_path / "cells" / "two" / "out").symlink_to(tmp_path)
    with pytest.raises(InputError, match="link where relrank writes"):
        refuse_links(tmp_path)
