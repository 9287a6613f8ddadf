"""``relrank doctor``: what it prints, and what it calls slow and broken."""

import os

import pytest
from typer.testing import CliRunner

from relrank.cli import doctor
from relrank.cli.app import app


def test_everything_is_listed_and_nothing_is_broken():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for word in ("Python", "relrank", "torch", "cores", "memory", "threads", "serve", "kernels", "texts"):
        assert f"\n  {word} " in result.output
    assert "Nothing is broken" in result.output


def test_a_missing_library_is_broken_and_a_missing_extra_is_not(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in ("polars", "fastapi") else known(name))
    found = doctor.examine()
    assert found.broken == ["polars is not installed: pip install --upgrade relrank"]
    assert 'pip install "relrank[serve]" (fastapi missing)' in dict(found.sections["Extras"])["serve"]
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "Broken\n  - polars" in result.output


def test_an_old_library_and_one_that_cannot_be_imported_are_broken(monkeypatch):
    known = doctor._version
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0" if name == "numpy" else known(name))
    monkeypatch.setattr(doctor, "_import_error", lambda name: "ImportError: no" if name == "scipy" else None)
    assert [message.split(":")[0] for message in doctor.examine().broken] == [
        "numpy 1.0 is too old",
        "scipy cannot be imported (ImportError",
    ]


def test_what_would_be_slow_is_said_with_a_mend(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "cores", lambda: 1)
    monkeypatch.setattr(doctor, "_core_quota", lambda: 0.5)
    monkeypatch.setenv("RELRANK_MEMORY_GB", "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("RELRANK_CACHE", str(tmp_path / "texts"))
    slow = "\n".join(doctor.examine().slow)
    for message in ("one core", "OMP_NUM_THREADS=1", "1.0 GB of memory", "no kernel is compiled yet"):
        assert message in slow


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_caches_that_cannot_be_written_are_slow(monkeypatch, tmp_path):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kernels"))
    monkeypatch.setenv("RELRANK_CACHE", str(tmp_path / "texts"))
    slow = "\n".join(doctor.examine().slow)
    assert "NUMBA_CACHE_DIR" in slow
    assert "RELRANK_CACHE" in slow


def test_no_writable_folder_for_kernels(monkeypatch):
    monkeypatch.setattr(doctor, "_may_write", lambda folder: False)
    slow = "\n".join(doctor.examine().slow)
    assert "set NUMBA_CACHE_DIR" in slow
    assert "set RELRANK_CACHE" in slow


def test_the_core_quota_of_a_container(tmp_path):
    file = tmp_path / "sys/fs/cgroup/cpu.max"
    assert doctor._core_quota(tmp_path) is None
    file.parent.mkdir(parents=True)
    file.write_text("150000 100000\n")
    assert doctor._core_quota(tmp_path) == 1.5
    file.write_text("max 100000\n")
    assert doctor._core_quota(tmp_path) is None
