"""macOS and Windows, simulated in other processes (tests/platforms): a study runs without what only Linux has."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT
from urllib.request import urlopen

import pytest

import relrank
from relrank.testing import planted_study

ROOT = Path(__file__).parents[1]
SIMULATED = Path(__file__).parent / "platforms"
DEVICES = {"con", "prn", "aux", "nul"}


def environment(system: str) -> dict[str, str]:
    """Variables of a process that is to believe that it runs on another system, with an output in cp1252."""
    paths = [str(SIMULATED), str(Path(relrank.__file__).parents[1])]
    return {
        **os.environ,
        "RELRANK_SIMULATE": system,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONIOENCODING": "cp1252",
        "PYTHONWARNDEFAULTENCODING": "1",
        "NUMBA_THREADING_LAYER": "workqueue",  # the only one in every wheel
        "COLUMNS": "110",
    }


def run(system: str, *words: str, at: Path) -> str:
    """What a command prints on a system."""
    done = subprocess.run(
        [sys.executable, *words], cwd=at, env=environment(system), capture_output=True, timeout=240, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr).decode("cp1252")
    return done.stdout.decode("cp1252")


def refuse_odd_names(folder: Path) -> None:
    """Every name in a folder is one that Windows allows, and no two differ in case alone."""
    paths = [path.relative_to(folder) for path in folder.rglob("*")]
    assert len({str(path).casefold() for path in paths}) == len(paths)
    for path in paths:
        assert not re.search(r'[<>:"\\|?*\x00-\x1f]', path.name), path
        assert not path.name.endswith((".", " ")), path
        assert path.name.partition(".")[0].casefold() not in DEVICES, path
        assert len(str(path)) < 120, path  # paths of more than 260 characters need a setting of Windows


@dataclass(frozen=True)
class Demo:
    system: str
    home: Path  # with a finished study in planted-smoke
    out: str  # what the study printed


@pytest.fixture(scope="module", params=[("win32", "1"), ("darwin", "2")], ids=["win32", "darwin, two processes"])
def demo(request, tmp_path_factory) -> Demo:
    system, jobs = request.param
    home, study = tmp_path_factory.mktemp(system), str(ROOT / "studies" / "planted.toml")
    out = run(system, "-m", "relrank", "study", study, "--smoke", "--jobs", jobs, "--out", "planted", at=home)
    return Demo(system, home, out)


def test_the_demo_runs(demo):
    assert re.search(r"^\|driver +\| undecided", demo.out, re.MULTILINE), demo.out
    assert "all - all without it" in demo.out  # a minus sign that cp1252 lacks
    card = json.loads((demo.home / "planted-smoke" / "card.json").read_text(encoding="utf-8"))
    assert card["machine"]["cores"] == os.cpu_count()
    refuse_odd_names(demo.home)
    assert b"\r" not in (demo.home / "planted-smoke" / "report.html").read_bytes()


def test_its_command_recommends(demo):
    command = re.search(r"^ +relrank (recommend .+?)\r?$", demo.out, re.MULTILINE)
    assert command, demo.out
    out = run(demo.system, "-m", "relrank", *shlex.split(command.group(1)), at=demo.home)
    assert len(re.findall(r"item \d+", out)) >= 10


def test_its_winner_is_served(demo):
    if demo.system == "darwin":
        pytest.skip("the signals and sockets of a server are those of Linux")
    words = ("-m", "relrank", "serve", "planted-smoke", "--port", "0", "--grace", "0")
    with subprocess.Popen(
        [sys.executable, *words], cwd=demo.home, env=environment(demo.system), stdout=PIPE, stderr=STDOUT
    ) as server:
        try:
            assert server.stdout is not None
            lines = iter(server.stdout.readline, b"")
            address = next((a for line in lines if (a := re.search(rb"serving on (http://\S+)", line))), None)
            assert address
            with urlopen(f"{address.group(1).decode()}/health", timeout=60) as answer:
                assert json.load(answer)["status"] == "ok"
        finally:
            server.kill()


NAMES = ("Brand", "brand", "a:b?*", "con", "dot.", "\N{CHECK MARK} \N{GREEK SMALL LETTER ALPHA}")


def test_relations_whose_names_no_file_can_have(tmp_path):
    """Names that differ in case alone, have reserved characters, or are devices of Windows: none becomes a path."""
    models = '[[models]]\nname = "popularity"\n[[models]]\nname = "relational-ease"\n'
    data, section, study = planted_study("odd", 150, 80, seed=0, relations=(), models=models).partition("[study]\n")
    relations = [f'[relations."{name}"]\nkind = "attribute"\nnode = "item"\ncolumn = "driver"\n' for name in NAMES]
    (tmp_path / "odd.toml").write_text("".join([data, *relations, section, study]), encoding="utf-8")
    out = run("win32", "-m", "relrank", "study", "odd.toml", "--smoke", at=tmp_path)
    assert "Brand" in out
    assert "v ? " in out  # the check mark and the letter, which cp1252 lacks
    refuse_odd_names(tmp_path)


@pytest.mark.parametrize("name", ["con", "NUL.2024", "lpt1", "shop."])
def test_a_study_whose_folder_windows_could_not_have_is_refused(name, tmp_path):
    (tmp_path / "study.toml").write_text(planted_study("shop", 50, 30).replace('"shop"', f'"{name}"'))
    with pytest.raises(relrank.InputError, match="reserved on Windows"):
        relrank.read_study(tmp_path / "study.toml")


@pytest.mark.parametrize(
    ("system", "code", "error"),
    [
        ("win32", "import resource", "No module named 'resource' on win32"),
        ("win32", "import signal; signal.SIGKILL", "'SIGKILL' on win32"),
        ("win32", "import os; os.sysconf('SC_PAGE_SIZE')", "'sysconf' on win32"),
        ("win32", "import os; os.kill(os.getpid(), 0)", "ends the process"),
        ("win32", "import os; os.open('.', os.O_RDONLY)", "Windows cannot open folders"),
        ("win32", "from pathlib import Path; Path('a').open('wb'); Path('a').write_text('a')", "EncodingWarning"),
        ("win32", "f = open('a', 'wb'); import os; os.rename('a', 'b')", "in use on Windows"),
        ("win32", "f = open('a', 'wb'); import os; os.unlink('a')", "in use on Windows"),
        ("win32", "import os; os.mkdir('a'); os.mkdir('b'); os.replace('a', 'b')", "Windows replaces no folder"),
        ("darwin", "import os; os.sched_getaffinity(0)", "'sched_getaffinity' on darwin"),
        ("darwin", "from os import sched_getaffinity", "cannot import name 'sched_getaffinity'"),
        ("darwin", "from select import epoll", "cannot import name 'epoll'"),
        ("darwin", "from pathlib import Path; Path('/proc/meminfo').read_text('utf-8')", "no such file on darwin"),
        ("darwin", "import multiprocessing as m; m.get_context('fork').Process(target=print).start()", "a fork"),
    ],
)
def test_the_simulation_lacks_what_the_system_lacks(system, code, error, tmp_path):
    """Otherwise the tests above would pass with such a call in relrank."""
    script = f"exec(compile({code!r}, 'probe.py', 'exec'), {{'__name__': 'relrank.probe'}})"
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment(system), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert error in done.stderr


def test_other_packages_see_linux(tmp_path):
    run(
        "win32",
        "-c",
        "import os, resource, sys; assert sys.platform == 'linux'; os.sched_getaffinity(0)",
        at=tmp_path,
    )
