"""What Linux alone has: on macOS and Windows a study runs without it. Both are simulated."""

import builtins
import ctypes
import os
import signal
import socket
import subprocess
import sys
from importlib import import_module
from io import BytesIO, TextIOWrapper

import pytest
from system_libraries import Library

from relrank.cli import app
from relrank.cli.console_encoding import replace_missing_characters
from relrank.io import atomic
from relrank.io.terminal_safe import command_line
from relrank.parallel import environment, memory
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb
from relrank.serve import server
from relrank.study import engines, tuned_config
from relrank.study.config import read_study
from relrank.study.engines import process_engine
from relrank.study.prepare import prepare
from relrank.study.run import run_study


def without(monkeypatch, *names):
    """The module ``os`` of another system, and no files of the kernel."""
    for name in names:
        monkeypatch.delattr(os, name, raising=False)
    read = memory.Path.read_text
    monkeypatch.setattr(memory, "_lines", lambda path: [])

    def elsewhere(path, *args, **more):
        if path.as_posix().startswith("/proc/"):
            raise FileNotFoundError(path)
        return read(path, *args, **more)

    monkeypatch.setattr(memory.Path, "read_text", elsewhere)


@pytest.fixture(params=["darwin", "win32"])
def system(request, monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", request.param)
    if request.param == "darwin":
        without(monkeypatch, "sched_getaffinity")
        return request.param
    without(monkeypatch, "sched_getaffinity", "sysconf")
    monkeypatch.delattr(signal, "SIGKILL")
    monkeypatch.setattr(ctypes, "WinDLL", Library, raising=False)
    importing = builtins.__import__

    def no_resource(name, *args, **more):
        if name == "resource":
            raise ImportError(name)
        return importing(name, *args, **more)

    monkeypatch.delitem(sys.modules, "resource", raising=False)
    monkeypatch.setattr(builtins, "__import__", no_resource)
    return request.param


def test_cores_and_memory_of_other_systems(system, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert environment.cores() == 6
    assert machine()["cores"] == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert environment.cores() == 1
    if system == "darwin":
        pages = {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": 1 << 20}
        monkeypatch.setattr(os, "sysconf", pages.__getitem__)
        assert memory.available_memory() == 16 * memory.GB
        assert machine()["memory_gb"] == 16.0
        usage = type("Usage", (), {"ru_maxrss": 3 << 30})()  # bytes there, kilobytes on Linux
        monkeypatch.setattr("resource.getrusage", lambda who: usage)
        assert peak_memory_mb() == 3 * 1024
        monkeypatch.setattr(ctypes, "CDLL", Library)
        assert memory.available_memory() == 12 * memory.GB  # 75 % of the fake's 16 GB
    else:
        assert memory.available_memory() == 12 * memory.GB
        assert machine()["memory_gb"] == 16.0
        assert peak_memory_mb() == 300


def test_the_share_of_a_process_that_torchrun_started(system, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.setenv(name, "1")  # so that what is set below goes again, where there was none
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    app.set_thread_environment()
    assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "3"


def test_a_study_runs(system, study_file, tmp_path):
    config = read_study(study_file)
    config = config.model_copy(update={"models": config.models[:2], "relations": {}})
    result = run_study(config, prepare(config, tmp_path), tmp_path / "out")
    assert result.card["machine"]["cores"] >= 1
    assert set(result.leaderboard["model"]) == {"popularity", "ease"}


def test_the_processes_of_a_study_need_no_signal_that_windows_lacks(system, monkeypatch):
    monkeypatch.setattr(engines, "process_engine", process_engine)  # other tests know the module as it was
    monkeypatch.delitem(sys.modules, process_engine.__name__)
    assert import_module(process_engine.__name__).KILLED == 9


def test_memory_that_no_library_tells_is_unknown(system, monkeypatch):
    for name in ("GlobalMemoryStatusEx", "K32GetProcessMemoryInfo", "sysctlbyname"):
        monkeypatch.setattr(Library, f"call_{name}", lambda *_: int(system == "darwin"))  # failed, in both ways
    monkeypatch.setattr(ctypes, "CDLL", Library)
    monkeypatch.setattr(os, "sysconf", lambda name: 0, raising=False)
    assert memory.available_memory() == sys.maxsize
    assert memory.physical_memory() == 0
    assert system == "darwin" or memory.peak_memory() == 0


def test_a_rename_waits_until_nobody_has_the_file_open(system, monkeypatch, tmp_path):
    real, refused, pauses = os.replace, [], []

    def replace(source, target):
        if len(refused) < 3:
            refused.append(source)
            raise PermissionError(13, "in use")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr("time.sleep", pauses.append)
    (tmp_path / "one").write_text("text")
    if system == "darwin":
        with pytest.raises(PermissionError):
            atomic.rename(tmp_path / "one", tmp_path / "two")
        assert (len(refused), pauses) == (1, [])
        return
    atomic.rename(tmp_path / "one", tmp_path / "two")
    assert (tmp_path / "two").read_text() == "text"
    assert len(pauses) == 3
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(PermissionError(13, "in use")))
    with pytest.raises(PermissionError):
        atomic.rename(tmp_path / "two", tmp_path / "three")


def test_leftovers_of_a_process_are_removed_once_it_has_ended(system, monkeypatch, tmp_path):
    monkeypatch.setattr(ctypes, "get_last_error", lambda: 87, raising=False)
    if system == "win32":
        monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("this would end the process"))
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left = {n: tmp_path / f".a.txt.{atomic._here()}-{n}-abc.part" for n in (ended.pid, os.getppid())}
    for path in left.values():
        path.touch()
    with atomic.atomic_write(tmp_path / "a.txt") as part:
        atomic.write_text(part, "one\ntwo\n")
    assert [path.exists() for path in left.values()] == [False, True]
    assert (tmp_path / "a.txt").read_bytes() == b"one\ntwo\n"


def test_commands_are_quoted_for_the_shell(system):
    words = ["relrank", "report", "my runs", "it's"]
    shown = 'relrank report "my runs" it\'s' if system == "win32" else "relrank report 'my runs' 'it'\"'\"'s'"
    assert command_line(words) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has one option for both")
def test_two_servers_cannot_share_a_port(system, monkeypatch):
    """On Windows SO_REUSEADDR lets a second server take the port of the first."""
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)  # of no consequence
    with server._listen("127.0.0.1", 0) as listener:
        assert bool(listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) == (system == "darwin")


def test_a_path_on_another_drive_stays_absolute(monkeypatch, tmp_path):
    def relpath(path, start):
        raise ValueError("path is on mount 'D:', start on mount 'C:'")

    assert tuned_config._path_from(tmp_path / "runs" / "a", tmp_path / "data") == "../../data"
    monkeypatch.setattr(os.path, "relpath", relpath)
    assert tuned_config._path_from(tmp_path / "runs", tmp_path / "data") == (tmp_path / "data").as_posix()


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("cp1252", "a → b ≤ 1 · café ✓", b"a -> b <= 1 \xb7 caf\xe9 v"),
        ("ascii", "−0.5 ± 0.1 … café, 東京", b"-0.5 +- 0.1 ... cafe, ??"),
        ("utf-8", "a → b", "a → b".encode()),
    ],
)
def test_characters_that_an_output_lacks_are_replaced(encoding, text, shown, monkeypatch):
    written = BytesIO()
    stream = TextIOWrapper(written, encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    replace_missing_characters()
    print(text, end="", flush=True)
    assert written.getvalue() == shown
