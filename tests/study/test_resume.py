"""kill -9 at random moments of a study, then rerun: the same tables, bit for bit."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from relrank.study.config import read_study
from relrank.study.prepare import prepare
from relrank.study.run import run_study

TRAINED = """
[[models]]
name = "relational-lightgcn"
arms = ["interactions", "all", "drop", "alone"]
config = { dim = 16, negatives = 64 }
train = { epochs = 24, batch = 128, every = 2 }
"""


def study(file: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "relrank.cli.app", "study", str(file), "--out", str(out)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_cell_that_lacks_but_its_name_is_made_again(finished, tmp_path):
    """As a kill leaves it after its last file and before it is called finished."""
    path, before = finished
    out = tmp_path / "out"
    shutil.copytree(path.parent / "out", out)
    cell = sorted(out.glob("cells/*"))[0]
    cell.rename(part := cell.with_name(cell.name + ".part"))
    (part / "users.parquet").write_bytes(b"what a kill left of it")
    config = read_study(path)
    after = run_study(config, prepare(config, path.parent), out)
    assert cell.is_dir()
    assert not part.exists()
    for table in ("verdicts", "effects", "tuning"):
        assert getattr(before, table).equals(getattr(after, table), null_equal=True), table


@pytest.mark.slow
def test_killed_three_times_the_verdicts_are_the_same_bit_for_bit(study_file, tmp_path):
    study_file.write_text(study_file.read_text().replace("seeds = [0, 1]", "seeds = [0]") + TRAINED)
    whole = study(study_file, tmp_path / "whole")
    began = time.monotonic()
    said, _ = whole.communicate(timeout=300)
    seconds = time.monotonic() - began
    assert whole.returncode == 0, said

    out, rng, kept = tmp_path / "killed", random.Random(5), []
    for _ in range(3):
        running = study(study_file, out)
        # a random moment after it has begun to work: a further cell, or a checkpoint of one, is there
        before = len(list(out.glob("cells/*")))
        while running.poll() is None and len(list(out.glob("cells/*"))) <= before:
            time.sleep(0.01)
        time.sleep(rng.uniform(0.0, 0.04) * seconds)
        os.kill(running.pid, signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL, "it was over before it could be killed"
        running.stdout.close()
        kept.append({cell.name for cell in out.glob("cells/*") if cell.suffix != ".part"})
        assert all((out / "cells" / name / "cell.json").is_file() for name in kept[-1])
    assert kept[0] <= kept[1] <= kept[2]  # a finished cell is never lost
    last = study(study_file, out)
    said, _ = last.communicate(timeout=300)
    assert last.returncode == 0, said
    assert not list(out.glob("cells/*.part"))  # killed just before it had its name, or in the middle: made again

    for table in ("verdicts", "effects", "groups", "tuning", "curves"):
        one, other = (pl.read_parquet(folder / f"{table}.parquet") for folder in (tmp_path / "whole", out))
        assert one.equals(other, null_equal=True), table
    for name in ("whole", "killed"):
        assert (tmp_path / name / "report.html").stat().st_size > 50_000
