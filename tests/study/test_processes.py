"""Studies in several processes of this machine."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import suppress
from unittest import mock

import psutil
import pytest
from engine_runs import STUDY, Counting, cells, same
from studies import open_study
from threadpoolctl import threadpool_limits

from relrank.cli.studies import make_engine
from relrank.errors import InputError
from relrank.study.callbacks import NullCallback
from relrank.study.engines import process_engine
from relrank.study.engines.process_engine import ProcessEngine
from relrank.study.run import run_study

FOUR = """
[relations.third]
kind = "attribute"
node = "item"
column = "fame"
[relations.fourth]
kind = "attribute"
node = "item"
column = "echo"
[study]
"""


@pytest.fixture(autouse=True)
def _two_cores(monkeypatch):
    """Each of two processes has one thread on any machine."""
    monkeypatch.setattr(process_engine, "cores", lambda: 2)


def workers():
    """Processes started here; a command line is empty for a moment after a start, and would not show them all."""
    return multiprocessing.active_children()


@pytest.mark.slow
def test_the_same_to_the_bit_though_a_process_is_killed(study, local):
    config, material, folder = study

    class Killing(Counting):
        def on_status(self, cell, message):
            if message.startswith("epoch") and not self.gone:
                for worker in workers():
                    os.kill(worker.pid, signal.SIGKILL)

    callback, out = Killing(), folder / "both"
    with ProcessEngine(2) as engine:
        result = run_study(config, material, out, callback, engine)
        assert len(workers()) == 2
    assert workers() == []
    same(result, out, local)
    assert callback.gone
    assert sorted(callback.finished) == sorted(local[1])  # each once
    assert len(callback.started) == len(callback.finished) + len(callback.gone)
    assert result.card["machine"]["engine"] == "2 processes, 1 thread each"


@pytest.mark.slow
def test_two_splits_whose_cells_wait_for_each_other(tmp_path):
    """Four relations have a path, whose arms are planned from what came before; trials are made once a split."""
    text = STUDY.replace("[study]", FOUR).replace("seeds = [0]", "seeds = [0, 1]")
    text = text[: text.index("[[models]]")] + '[[models]]\nname = "sparse-ease"\n'
    config, material = open_study(tmp_path / "four.toml", text.replace("trials = 2", "trials = 16"))
    with threadpool_limits(1):
        expected = run_study(config, material, tmp_path / "local")
    finished = set()

    class InOrder(Counting):
        def start(self, cell):
            super().start(cell)
            assert finished >= set(cell.prerequisites)

        def done(self, cell, result, fresh):
            super().done(cell, result, fresh)
            finished.add(cell.key())

    callback = InOrder()
    with ProcessEngine(2) as engine:
        found = run_study(config, material, tmp_path / "both", callback, engine)
    same(found, tmp_path / "both", (expected, cells(tmp_path / "local")))
    notes = [json.loads(p.read_text()) for p in (tmp_path / "both").glob("cells/*/cell.json")]
    assert any(note["identity"].get("adds") for note in notes)
    assert len(callback.finished) == len(notes)


def test_what_is_wrong_in_a_cell_is_one_clear_error(study, tmp_path):
    config, material, _ = study
    wrong = config.models[2].model_copy(update={"train": {"device": "tpu"}})
    config = config.model_copy(update={"models": (wrong,)})
    with ProcessEngine(2) as engine, pytest.raises(InputError) as said:
        run_study(config, material, tmp_path, engine=engine)
    assert (said.value.where, said.value.found) == ("training settings, device", "'tpu'")
    assert not list(tmp_path.glob("cells/*/cell.json"))
    assert workers() == []


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (signal.SIGTERM, r"its worker died 2 times(.|\n)*ended with -15"),
        (signal.SIGKILL, r"no model of the study fits into memory(.|\n)*memory ended while it ran"),
    ],
)
@pytest.mark.slow
def test_a_cell_that_kills_its_processes_is_given_up(study, tmp_path, how, message):
    config, material, _ = study
    # one that takes a millisecond may be done before its process is killed
    long = config.models[2].model_copy(update={"train": {**config.models[2].train, "epochs": 4000}})
    config = config.model_copy(update={"models": (long,)})

    class Killing(NullCallback):
        def start(self, cell):
            for worker in workers():
                os.kill(worker.pid, how)

    with (
        mock.patch("relrank.study.engines.engine.TRIES", 2),
        pytest.raises(InputError, match=message),
        ProcessEngine(1) as engine,
    ):
        run_study(config, material, tmp_path, Killing(), engine)
    assert workers() == []


@pytest.mark.slow
def test_a_process_that_cannot_unpack_says_so(study, tmp_path):
    """What fails before a cell runs is no death of the process."""
    config, material, _ = study
    with (
        mock.patch(
            "relrank.study.engines.process_engine.pack", return_value={"rows.safetensors": b"", "split.json": b"{}"}
        ),
        pytest.raises(InputError, match="incomplete graph bundle"),
        ProcessEngine(1) as engine,
    ):
        run_study(config, material, tmp_path, engine=engine)


@pytest.mark.slow
def test_threads_are_set_before_a_process_loads_anything(tmp_path):
    """Its script is imported first, and may load every library."""
    before = dict(os.environ)
    with process_engine._threads(3):
        assert os.environ["OMP_NUM_THREADS"] == os.environ["NUMBA_NUM_THREADS"] == "3"
    assert dict(os.environ) == before
    script = tmp_path / "script.py"
    script.write_text(
        "import torch, os, sys, time\n"
        "from relrank.study.engines import process_engine\n"
        "if __name__ != '__main__':\n"
        "    open(sys.argv[1], 'w').write(str(torch.get_num_threads()))\n"
        "else:\n"
        "    process_engine.cores = lambda: 2\n"
        "    with process_engine.ProcessEngine(2) as engine:\n"
        "        engine._idle()\n"
        "        while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):\n"
        "            time.sleep(0.1)\n"
    )
    subprocess.run([sys.executable, script, tmp_path / "threads"], check=True, timeout=120)
    assert (tmp_path / "threads").read_text() == "1"


@pytest.mark.slow
def test_a_process_ends_with_whoever_started_it(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from relrank.study.engines.process_engine import ProcessEngine\n"
        "if __name__ == '__main__':\n"
        "    engine = ProcessEngine(1)\n"
        "    (worker,) = engine._idle()\n"
        "    print(worker.process.pid, flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, timeout=120, text=True)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(timeout=60)


def test_slips_are_found_before_data_is_read():
    with pytest.raises(InputError, match="no process to run on"):
        ProcessEngine(0)
    with pytest.raises(InputError, match="--jobs"):
        make_engine("ray", 2, None, None)
    assert isinstance(make_engine("local", 2, None, None), ProcessEngine)
