"""Studies over Ray, on a cluster of two machines with one core each, both of them this one."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from unittest import mock

import psutil
import pytest
from engine_runs import STUDY, Counting, same

import relrank
from relrank.cli.studies import make_engine
from relrank.errors import InputError
from relrank.study.callbacks import NullCallback
from relrank.study.engines import ray_worker
from relrank.study.engines.ray_engine import RayEngine, load_ray
from relrank.study.engines.split_files import pack, pack_cell
from relrank.study.grid import grid
from relrank.study.memory_limits import graph_bytes, required_memory
from relrank.study.run import run_study
from relrank.study.winner import save_winner

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # read on import: these machines are on the loopback alone
ray = pytest.importorskip("ray")

CELLS = 1 + 4 + 2
MACHINE = {"num_cpus": 1, "object_store_memory": 100 << 20}


class Apart(RayEngine):
    """No worker sees the study's folder."""

    def _submit(self, key, cell, folder, mark, needs):
        return super()._submit(key, cell, folder / "elsewhere", mark, needs)


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_memory_monitor_refresh_ms": "0"}
    with mock.patch.dict(os.environ, settings):
        both = Cluster(
            initialize_head=True,
            head_node_args={**MACHINE, "include_dashboard": False},
        )
        both.add_node(**MACHINE)
        yield both
        started = [p for p in psutil.Process().children(recursive=True) if "ray" in titled(p)]
        both.shutdown()
    _, left = psutil.wait_procs(started, timeout=60)
    assert not [titled(process) for process in left]


def titled(process):
    """A process's command line, which Ray's workers set to what they do; empty if it is over."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
def test_the_same_to_the_bit_on_machines_that_do_not_see_the_folder(cluster, study, local):
    config, material, folder = study
    callback, out = Counting(), folder / "apart"
    with Apart(cluster.address) as engine:
        result = run_study(config, material, out, callback, engine)
    same(result, out, local)
    assert sorted(callback.started) == sorted(callback.finished) == sorted(local[1])
    assert len(callback.finished) == CELLS
    assert "2 machines, 2 cores, 1 per cell" in result.card["machine"]["engine"]
    # a study that one engine made is the other's
    again = Counting()
    run_study(config, material, out, again)
    assert again.finished == []
    assert save_winner(config, material, out).note["cell"] in local[1]


def busy(node):
    """Workers of a machine that are at a cell."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [p for p in raylet.children(recursive=True) if titled(p).startswith("ray::work")]


@pytest.mark.slow
def test_a_worker_and_then_a_machine_die_in_the_middle_of_a_cell(cluster, study, local):
    config, material, folder = study
    second = next(node for node in cluster.list_all_nodes() if node != cluster.head_node)

    class Killing(Counting):
        def on_status(self, cell, message):
            if not message.startswith("epoch"):
                return
            if not self.gone:
                for node in cluster.list_all_nodes():
                    for worker in busy(node):
                        os.kill(worker.pid, signal.SIGKILL)
            elif second in cluster.list_all_nodes() and busy(second):
                cluster.remove_node(second, allow_graceful=False)

    callback, out = Killing(), folder / "killed"
    with RayEngine(cluster.address) as engine:
        result = run_study(config, material, out, callback, engine)
    assert second not in cluster.list_all_nodes()
    assert len(callback.gone) >= 2
    same(result, out, local)
    assert sorted(callback.finished) == sorted(local[1])  # each once
    # begun again only if its worker was lost
    assert all(callback.started.count(key) <= 1 + callback.gone.count(key) for key in callback.finished)
    cluster.add_node(**MACHINE)  # as it was


@pytest.mark.slow
def test_a_cell_that_kills_its_workers_ends_the_study(cluster, study, tmp_path):
    config, material, _ = study

    class Killing(NullCallback):
        def on_status(self, cell, message):
            for node in cluster.list_all_nodes():
                for worker in busy(node):
                    os.kill(worker.pid, signal.SIGKILL)

    with (
        mock.patch("relrank.study.engines.engine.TRIES", 1),
        pytest.raises(InputError, match="its worker died 1 times"),
        RayEngine(cluster.address) as engine,
    ):
        run_study(config, material, tmp_path, Killing(), engine)


@pytest.mark.slow
def test_what_is_wrong_in_a_cell_is_one_clear_error(cluster, study, tmp_path):
    config, material, _ = study
    wrong = config.models[2].model_copy(update={"train": {"device": "tpu"}})
    config = config.model_copy(update={"models": (wrong,)})
    with RayEngine(cluster.address) as engine, pytest.raises(InputError) as said:
        run_study(config, material, tmp_path, engine=engine)
    assert said.value.found == "'tpu'"
    assert said.value.where == "training settings, device"
    assert type(said.value) is InputError
    assert not list(tmp_path.glob("cells/*/cell.json"))


@pytest.mark.slow
def test_another_relrank_on_a_worker_is_refused(cluster, study, tmp_path):
    config, material, _ = study
    with (
        RayEngine(cluster.address) as engine,
        mock.patch("relrank.__version__", "9.9"),
        pytest.raises(InputError, match=r"another relrank on a worker(.|\n)*9\.9, as in this process"),
    ):
        run_study(config, material, tmp_path, engine=engine)


@pytest.mark.slow
def test_a_machine_that_is_too_small_is_named(cluster, study, tmp_path):
    config, material, _ = study
    with RayEngine(cluster.address, cores=64) as engine, pytest.raises(InputError, match="64 cores") as said:
        run_study(config, material, tmp_path, engine=engine)
    assert said.value.found.startswith("1 cores")


@pytest.mark.slow
def test_the_last_machine_that_is_large_enough_goes_away(cluster, study, tmp_path):
    """Ray would wait for another one for ever."""
    config, material, _ = study
    large = cluster.add_node(**MACHINE | {"num_cpus": 2})

    class Removing(NullCallback):
        def start(self, cell):
            if large in cluster.list_all_nodes():
                cluster.remove_node(large, allow_graceful=False)

    with (
        RayEngine(cluster.address, cores=2) as engine,
        pytest.raises(InputError, match="no machine can run this cell") as said,
    ):
        run_study(config, material, tmp_path, Removing(), engine)
    assert said.value.found == "1 cores, 0 GPUs"


def order_of(cell, folder):
    """The order of a worker that cannot access the study's folder."""
    return {
        "key": cell.key(), "cell": pack_cell(cell), "relrank": relrank.__version__, "cores": 1,
        "folder": str(folder), "mark": ".mark", "environment": {},
    }  # fmt: skip


@pytest.mark.parametrize("fails", ["unpack", "mkdir", "cell"])
def test_a_full_disk_on_a_worker_is_one_clear_error_and_leaves_nothing(study, tmp_path, monkeypatch, fails):
    config, material, _ = study
    cell = grid(config, material)[0]
    full = OSError(28, "No space left on device")
    files = {} if fails == "unpack" else pack(cell.split_context)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if fails == "mkdir":
        (tmp_path / f"relrank.mark.{cell.key()}").touch()
    there = list(tmp_path.iterdir())
    with (
        mock.patch.dict(os.environ),
        mock.patch("relrank.study.run_cell.fill_cell", side_effect=full),
        mock.patch("relrank.study.engines.split_files.unpack", side_effect=full)
        if fails == "unpack"
        else nullcontext(),
    ):
        answer = ray_worker.work(order_of(cell, tmp_path / "elsewhere"), files, mock.MagicMock())
    assert ("File exists" if fails == "mkdir" else "No space left") in answer["failed"]
    assert list(tmp_path.iterdir()) == there


def test_what_fails_on_leaving_does_not_hide_the_study_s_error():
    engine = RayEngine()
    engine._ray, engine._is_local = mock.MagicMock(), True
    engine._ray.kill.side_effect = RuntimeError("no actor")
    engine.__exit__(None, None, None)
    engine._ray.shutdown.assert_called_once()


def test_a_failure_after_connecting_ends_the_ray_that_was_started():
    engine = RayEngine()
    engine._ray = started = mock.MagicMock()
    started.is_initialized.return_value = False
    started.nodes.return_value = [{"NodeManagerAddress": "127.0.0.1"}]
    started.remote.side_effect = RuntimeError("no board")
    with pytest.raises(RuntimeError, match="no board"):
        engine.__enter__()
    started.shutdown.assert_called_once()


def test_a_ray_that_others_reach_is_ended_again():
    engine = RayEngine()
    engine._ray = started = mock.MagicMock()
    started.is_initialized.return_value = False
    started.nodes.return_value = [{"NodeManagerAddress": "10.1.2.3"}]
    with pytest.raises(InputError, match="more than the loopback") as said:
        engine.__enter__()
    assert said.value.found == "10.1.2.3"
    started.shutdown.assert_called_once()


def listening(process):
    """Addresses on which a process can be reached."""
    try:
        return {c.laddr.ip for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN}
    except psutil.Error:
        return set()


@pytest.mark.slow
def test_a_ray_of_one_s_own_listens_on_the_loopback_alone_and_ends_with_the_study(tmp_path):
    tiny = STUDY.partition('[[models]]\nname = "relational-ease"')[0]
    (tmp_path / "tiny.toml").write_text(tiny)
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"HOME": str(tmp_path)}
    command = [sys.executable, "-m", "relrank", "study", "tiny.toml", "--smoke", "--engine", "ray", "--out", "run"]
    started, addresses = {}, set()
    with psutil.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as study:
        while study.poll() is None:
            try:
                started |= {p.pid: p for p in study.children(recursive=True)}
            except psutil.NoSuchProcess:
                break
            addresses |= set().union(*map(listening, [study, *started.values()]))
            time.sleep(0.2)
        said = study.stdout.read().decode()
    assert study.returncode == 0, said
    assert len(started) > 2
    assert {ip.removeprefix("::ffff:") for ip in addresses} == {"127.0.0.1"}
    _, left = psutil.wait_procs(started.values(), timeout=60)
    assert not [titled(process) for process in left]


def test_without_ray_the_extra_is_named():
    with (
        mock.patch.dict(os.environ),
        mock.patch.dict(sys.modules, ray=None),
        pytest.raises(InputError, match=r"ray is not installed(.|\n)*relrank\[ray\]"),
    ):
        make_engine("ray", 1, None, None)


def test_slips_are_found_before_data_is_read():
    with pytest.raises(InputError, match=r"no Ray to run on(.|\n)*127\.0\.0\.1:1"):
        make_engine("ray", 1, "127.0.0.1:1", None)
    with (
        mock.patch.dict(os.environ, RAY_ADDRESS="http://127.0.0.1:8265"),
        pytest.raises(InputError, match=r"not a cluster's address(.|\n)*RAY_ADDRESS(.|\n)*of jobs"),
    ):
        make_engine("ray", 1, None, None)
    with pytest.raises(InputError, match="--cores"):
        make_engine("local", 1, None, 2)


def test_nothing_imports_ray_unasked():
    load_ray()
    code = "import relrank.study.run, relrank.cli.app, sys; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_memory_that_ends_on_a_worker_is_no_error_there(study, tmp_path):
    config, material, _ = study
    cell = grid(config, material)[0]
    ends = MemoryError("1 TiB")
    with mock.patch.dict(os.environ), mock.patch("relrank.study.run_cell.fill_cell", side_effect=ends):
        answer = ray_worker.work(order_of(cell, tmp_path), pack(cell.split_context), mock.MagicMock())
    assert answer == {"memory": "1 TiB"}


@pytest.mark.slow
def test_cells_whose_workers_have_no_memory_left_are_left_out(cluster, study, tmp_path):
    config, material, _ = study

    def short(order, split_context, board):
        return {"memory": "1 TiB"}

    with (
        mock.patch.object(ray_worker, "work", short),
        RayEngine(cluster.address) as engine,
        pytest.raises(InputError, match="no model of the study fits into memory") as said,
    ):
        run_study(config, material, tmp_path, engine=engine)
    assert "memory ended while it ran" in said.value.found


@pytest.mark.slow
def test_a_cell_asks_ray_for_the_memory_of_its_estimate(cluster, study):
    config, material, _ = study
    cell = grid(config, material)[0]
    with RayEngine(cluster.address) as engine:
        assert engine.memory() > 1 << 20
        needed = required_memory(cell) + graph_bytes(cell.split_context)
        assert engine._needs(cell)["memory"] == min(engine.memory(), needed) > 0


@pytest.mark.slow
def test_cells_larger_than_any_machine_are_left_out(cluster, study, tmp_path):
    config, material, _ = study
    with (
        RayEngine(cluster.address) as engine,
        mock.patch.object(engine, "memory", return_value=1000),
        pytest.raises(InputError, match="no model of the study fits into memory"),
    ):
        run_study(config, material, tmp_path, engine=engine)
