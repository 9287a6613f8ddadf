"""Errors cross processes whole, and objects that hold arrays can be compared."""

import copy
import dataclasses
import importlib
import pickle
import pkgutil
import re
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import polars as pl
import pytest
from safetensors import SafetensorError

import relrank
from relrank.cli import app
from relrank.errors import InputError, LeakError
from relrank.parallel.process_group import AllRanksError

HOLDS_ARRAYS = re.compile(
    r"\b(Int32|Int64|Float32|Float64|NDArray|ndarray|Tensor|DataFrame|Series|Csr|Graph|Split|SplitContext|Tables|Parts)\b"
)


def fails(kind):
    raise kind("column not found", where="x.csv", expected="a column 'user'", found="columns a, b")


@pytest.mark.parametrize("kind", [InputError, LeakError, AllRanksError])
def test_an_error_is_the_same_after_pickling(kind):
    error = kind("column not found", where="x.csv", expected="a column 'user'", found="columns a, b")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == str(error)
        assert (again.what, again.where, again.expected, again.found) == (
            "column not found", "x.csv", "a column 'user'", "columns a, b",
        )  # fmt: skip


def test_a_page_of_text_does_not_hide_what_is_said_of_it():
    """A key may be a whole review; its beginning and its end are shown, the error itself holds all of it."""
    error = InputError("twice", where="x.csv", expected="once", found=f"'{'x' * 5000}' in rows 3 and 7")
    assert len(str(error)) < 1100
    assert "found:    'xxx" in str(error)
    assert str(error).endswith("xxx' in rows 3 and 7")
    assert len(error.found) > 5000


@pytest.mark.parametrize(
    "error",
    [
        pl.exceptions.ComputeError("x: No space left on device (os error 28)"),
        SafetensorError("Error while serializing: I/O error: File too large (os error 27)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        pl.exceptions.PanicException(
            'called `Result::unwrap()` on an `Err` value: Os { code: 24, kind: TooManyOpenFiles, message: "Too" }'
        ),
    ],
)
def test_what_the_system_said_through_a_library_is_one_sentence(error, monkeypatch, capsys):
    def fails():
        raise error

    monkeypatch.setattr(app, "app", fails)
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == ["  where", "  expected", "  found"]
    monkeypatch.setattr(app, "app", lambda: fails_otherwise())
    with pytest.raises(pl.exceptions.ComputeError):
        app.main()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="bounds of open files are set as on Linux")
def test_too_few_files_are_refused_before_anything_begins():
    """Polars panics in the middle of its work where it may open none, and says so in words of its own."""
    code = (
        "import resource, sys; from relrank.cli.app import main; sys.argv = ['relrank', '--help'];"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40)); main()"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    assert run.stderr.startswith("error: too few files may be open at once")
    assert "ulimit -n" in run.stderr


def fails_otherwise():
    raise pl.exceptions.ComputeError("a mistake of ours")


def test_a_pool_hands_the_error_on():
    """One that could not be unpickled left the pool waiting for ever."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool, pytest.raises(InputError, match=r"where:    x\.csv"):
        pool.submit(fails, InputError).result(timeout=60)


def test_no_dataclass_compares_arrays():
    """The generated ``==`` of two objects with arrays raises, as "the truth value is ambiguous"."""
    found = []
    for module in pkgutil.walk_packages(relrank.__path__, "relrank."):
        if module.name.endswith("__main__"):
            continue
        for kind in vars(importlib.import_module(module.name)).values():
            if not (isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == module.name):
                continue
            holds = [f.name for f in dataclasses.fields(kind) if HOLDS_ARRAYS.search(str(f.type))]
            if holds and kind.__dataclass_params__.eq:
                found.append(f"{module.name}.{kind.__name__}: {', '.join(holds)}")
    assert not found
