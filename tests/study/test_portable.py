"""What Linux alone has: on macOS and Windows a study runs without it. Both are simulated."""

import builtins
import os
import signal
import sys
from importlib import import_module

import pytest

from relrank.cli import app
from relrank.parallel import environment, memory
from relrank.parallel.machine import machine
from relrank.parallel.memory import peak_memory_mb
from relrank.study import engines
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
    else:
        assert memory.available_memory() == sys.maxsize
        assert machine()["memory_gb"] == 0
        assert peak_memory_mb() == 0


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
