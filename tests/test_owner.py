"""One owner of a folder at a time, and no way out of it."""

import subprocess
import sys
import threading

import pytest

from relrank.errors import InputError
from relrank.owner import owned, refuse_links

HOLDING = """
import sys, time
from pathlib import Path
from relrank.owner import owned
with owned(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder):
    with owned(folder):
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

    with owned(tmp_path):
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
