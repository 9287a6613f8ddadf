"""Two processes on one machine, started by torchrun and connected by gloo."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import two_processes as two

from relrank.cli import app
from relrank.errors import InputError
from relrank.io.tensors import load_tensors
from relrank.parallel.process_group import SINGLE_PROCESS, ProcessGroup, distributed_group, rank_here
from relrank.runs.fitted_run import load_run
from relrank.testing import planted_auc, planted_graph, planted_study
from relrank.training import fit

STUDY = planted_study(
    "small",
    300,
    120,
    seed=3,
    study="seeds = [0]\ntrials = 3",
    models="""[[models]]
name = "mf"
train = { epochs = 4, every = 2, batch = 256 }
[[models]]
name = "ease"
""",
)


def torchrun(*command):
    """Two processes; no test waits for ever."""
    env = {k: v for k, v in os.environ.items() if k not in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS")}
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, command)]
    return subprocess.run(run, capture_output=True, text=True, timeout=300, check=False, env=env)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Everything once, with a process killed at the end; then the same command again, to the end of the run."""
    out = tmp_path_factory.mktemp("ran")
    killed = torchrun(two.__file__, out, "everything")
    said = [json.loads((out / f"said-{rank}.json").read_text()) for rank in range(2)]
    shutil.copytree(out / "killed", out / "left")
    again = torchrun(two.__file__, out, "again")
    return SimpleNamespace(out=out, killed=killed, again=again, said=said)


def weights(path):
    return load_tensors(path)[0]


def test_shares_are_disjoint_and_cover_all():
    for n in (0, 1, 2, 7, 4096):
        for size in (1, 2, 3, 8):
            shares = [list(range(n))[ProcessGroup(rank, size).share(n)] for rank in range(size)]
            assert [i for share in shares for i in share] == list(range(n))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_nothing_is_connected(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    with distributed_group() as group:
        assert group is SINGLE_PROCESS
    seed = np.random.SeedSequence(1)
    assert SINGLE_PROCESS.seed(seed) is seed
    assert SINGLE_PROCESS.on_all_ranks(lambda: 3) == SINGLE_PROCESS.broadcast_from_rank0(lambda: 3) == 3
    with pytest.raises(InputError, match="of one") as caught:
        SINGLE_PROCESS.on_all_ranks(
            lambda: (_ for _ in ()).throw(InputError("of one", where="", expected="", found=""))
        )
    assert type(caught.value) is InputError
    assert not torch.distributed.is_initialized()


def test_each_process_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    second = ProcessGroup(5, 8, 1)
    assert second.device(torch.device("cpu")) == torch.device("cpu")
    assert second.device(torch.device("cuda")) == torch.device("cuda", 1)
    assert SINGLE_PROCESS.device(torch.device("cuda", 3)) == torch.device("cuda", 3)
    with pytest.raises(InputError, match="one GPU for several processes"):
        second.device(torch.device("cuda", 0))
    with pytest.raises(InputError, match="more processes than GPUs"):
        ProcessGroup(6, 8, 2).device(torch.device("cuda"))


@pytest.mark.slow
def test_what_the_first_says_holds_for_all(ran):
    first, other = ran.said
    assert (first["together"], other["together"]) == (0, 1)
    assert first["decided"] == other["decided"] == [0, 0.1 + 0.2]
    assert first["tensors"] == other["tensors"] == {"a": [[1.0] * 3, "torch.float32"], "none": [[], "torch.int64"]}


@pytest.mark.parametrize(
    ("what", "message"),
    [("refused by 1", "nothing goes\n  where:    process 1: here\n  expected: something\n  found:    rank 1"),
     ("refused by 0", "nothing goes\n  where:    here\n  expected: something\n  found:    rank 0"),
     ("no file", "found:    no such file or directory"), ("not a number", "loss is not finite\n  where:    epoch 2"),
     ("other data", "processes differ in what they train on\n  where:    process 1: edges"),
     ("other device", "where:    process 1: device\n  expected: that of the first process, cpu\n  found:    meta"),
     ("other relrank", "where:    process 1: relrank\n  expected: that of the first process, 0.")],
)  # fmt: skip
@pytest.mark.slow
def test_an_error_of_one_is_raised_by_all(ran, what, message):
    """A process that waits for one that gave up would wait for ever."""
    assert ran.said[0][what] == ran.said[1][what]
    assert message in ran.said[0][what]


@pytest.mark.slow
def test_shares_of_every_batch_make_up_the_batch_of_one_process(ran):
    alone, _, _ = two.one_epoch(SINGLE_PROCESS)
    parts = [said["edges"] for said in ran.said]
    assert [len(part) for part in parts] == [3, 4]  # of the last batch, a single edge, the first has nothing
    parts[0].append([])
    for batch, first, second in zip(alone.edges, *parts, strict=True):
        assert [tuple(edge) for edge in first + second] == batch
        assert abs(len(first) - len(second)) <= 1


@pytest.mark.slow
def test_no_two_processes_draw_the_same_negatives(ran):
    seeds = [seed for said in ran.said for seed in said["seeds"]]
    assert len(seeds) == len(set(seeds)) == 7


@pytest.mark.slow
def test_a_step_of_two_is_the_step_of_one(ran):
    """BPR with own negatives is a mean over edges, so the weighted mean of the shares' gradients is the gradient."""
    _, expected, loss = two.one_epoch(SINGLE_PROCESS)
    found, same = (weights(ran.out / f"steps-{rank}") for rank in range(2))
    for n, step in enumerate(expected):
        for k, gradient in enumerate(step):
            torch.testing.assert_close(
                found[f"{n} {k}"], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max())
            )
            assert torch.equal(found[f"{n} {k}"], same[f"{n} {k}"])
    assert ran.said[0]["loss"] == pytest.approx(loss, rel=1e-6)
    assert ran.said[1]["loss"] == ran.said[0]["loss"]


@pytest.mark.slow
def test_two_learn_what_one_learns(ran):
    """Within four standard deviations of one process under other seeds, and far from where they began."""
    ones = np.array([two.learned(SINGLE_PROCESS, seed)[0] for seed in range(4)])
    untrained = two.RelationalLightGCN(
        planted_graph(),
        two.RelationalLightGCNConfig(
            dim=16, layers=2, negatives=1024, similarity="cosine", temperature=0.3, ridge=0.0
        ),
    )
    untrained.init_weights(0)
    assert planted_auc(untrained) < 0.7
    assert ran.said[0]["auc"] > 0.95
    assert abs(ran.said[0]["auc"] - ones.mean()) < 4 * ones.std(ddof=1)
    assert ran.said[1]["auc"] == ran.said[0]["auc"], "all hold the best epoch's parameters"


@pytest.mark.slow
def test_the_first_validates_and_writes_alone(ran):
    first, other = ran.said
    assert (
        first["metrics"]
        == other["metrics"]
        == [None, 1.0, None, pytest.approx(48 / 49), None, pytest.approx(47 / 49)]
    )
    assert first["best epoch"] == other["best epoch"] == 2
    assert (first["wrote"], other["wrote"]) == (True, False)


@pytest.mark.slow
def test_killed_and_started_again_it_ends_with_the_same_bits(ran):
    assert ran.killed.returncode != 0
    assert "SIGKILL" in ran.killed.stderr
    kept = load_tensors(ran.out / "left" / "last.safetensors")[1]
    assert (kept["epoch"], kept["best_epoch"]) == (4, 2)
    whole, found = (weights(ran.out / name / "last.safetensors") for name in ("whole-0", "killed"))
    assert whole.keys() == found.keys()
    assert all(torch.equal(whole[name], found[name]) for name in whole)


@pytest.mark.slow
def test_another_number_of_processes_may_go_on(ran):
    """One process; other negatives, the same run."""
    metric = two.falling()
    metric(), metric()
    fitted = fit(two.dying("no way"), two.KILLED, metric, 3, ran.out / "left")
    assert fitted.history["epoch"].to_list() == [1, 2, 3, 4, 5, 6]
    assert fitted.best_epoch == 2


@pytest.mark.slow
def test_an_error_in_the_middle_of_an_epoch_ends_all(ran):
    """One process refuses its batch while the other waits for its gradients."""
    assert ran.again.returncode != 0
    assert "InputError: nothing goes" in ran.again.stderr
    assert (ran.out / "refused" / "last.safetensors").is_file(), "epochs 1 to 4 are kept"


@pytest.mark.slow
def test_fit_from_the_command_line(tmp_path):
    (tmp_path / "small.toml").write_text(STUDY)
    here = torchrun("-m", "relrank", "fit", tmp_path / "small.toml", "--model", "mf", "--out", tmp_path / "run")
    assert here.returncode == 0, here.stderr
    assert here.stdout.count("saved in") == 1
    run = load_run(tmp_path / "run")
    assert run.note["model"] == "mf"
    assert len(run.recommend(run.split.users.keys[0], 5)) == 5
    assert not list(tmp_path.glob("*.checkpoints"))


@pytest.mark.slow
def test_an_error_of_all_is_said_once(tmp_path):
    (tmp_path / "small.toml").write_text(STUDY)
    here = torchrun("-m", "relrank", "fit", tmp_path / "small.toml", "--model", "ease", "--out", tmp_path / "run")
    assert here.returncode != 0
    assert here.stderr.count("closed forms are solved by one process") == 1
    assert "cli.py" not in here.stderr, "a message and no stack trace of ours"
    assert "exitcode  : 2" in here.stderr


def pretend(monkeypatch, rank, size=2):
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", size), ("LOCAL_WORLD_SIZE", size)):
        monkeypatch.setenv(name, str(value))


def test_other_commands_are_of_one_process(monkeypatch, capsys):
    """Several would write the same study at once."""
    pretend(monkeypatch, 1)
    assert rank_here() == 1
    monkeypatch.setattr(sys, "argv", ["relrank", "study", "small.toml"])
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 2
    assert "error in process 1: command of one process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("set_before", "omp", "numba"), [({"OMP_NUM_THREADS": "1"}, "4", "4"), ({"OMP_NUM_THREADS": "3"}, "3", "3"),
                                     ({"OMP_NUM_THREADS": "4,2"}, "4,2", "4"),
                                     ({"NUMBA_NUM_THREADS": "2"}, "4", "2")],
)  # fmt: skip
def test_processes_share_the_cores(monkeypatch, set_before, omp, numba):
    pretend(monkeypatch, 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(9)))
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_CORETYPE", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "set for the test, so that it is put back")
        monkeypatch.delenv(name)
    for name, value in set_before.items():
        monkeypatch.setenv(name, value)
    app.set_thread_environment()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["NUMBA_NUM_THREADS"]) == (omp, numba)


def test_module_is_a_program():
    here = subprocess.run([sys.executable, "-m", "relrank", "--help"], capture_output=True, text=True, check=True)
    assert "fit" in here.stdout
