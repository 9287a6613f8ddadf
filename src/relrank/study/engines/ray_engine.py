"""Cells of a study as Ray tasks, on the cores of this machine or of a cluster.

Nothing is assumed of the machines but Ray and the same relrank: what a cell needs travels there as files, once per
seed and machine, and the files of its folder travel back to the study's process, which alone writes them. Where a
worker sees the study's folder, it keeps its checkpoints there, and a cell whose worker died goes on from them on any
machine; elsewhere it goes on if it comes to the same machine again, or else begins anew. Ray itself sends code and
messages as pickles between processes of one cluster, which trust each other; relrank gives it plain Python alone.
"""

from __future__ import annotations

import os
import shutil
import socket
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import relrank
from relrank.errors import InputError
from relrank.io.atomic import atomic_folder
from relrank.models import MODELS, Trained
from relrank.parallel.environment import cores, recommended_environment
from relrank.study.callbacks import StudyCallback
from relrank.study.cell import Cell, SplitContext
from relrank.study.cell_store import CellResult, load_cell
from relrank.study.engines import engine, ray_worker
from relrank.study.engines.engine import cell_label, raise_failure, refuse_deadly
from relrank.study.engines.split_files import pack, pack_cell
from relrank.study.memory_limits import required_memory
from relrank.study.warm_starts import load_warm_start

POLL = 0.3
"""Seconds between two looks at what workers say."""
LOCAL = {"127.0.0.1"}
"""Where a Ray of one's own may listen."""
REACHED = 10.0
"""Seconds in which a cluster's port must answer; Ray would try for minutes."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable: where it is 0, as by default on those systems, Ray stays at 127.0.0.1 if it is told to."""
STORE = 256 << 20
"""Bytes of shared memory of a Ray of one's own; larger data goes to disk, and little is asked of small containers."""


def load_ray(own: bool = False) -> Any:
    """The ray module.

    Args:
        own: whether a Ray is to be started by this process. It then listens on the loopback, where this call is the
            first to import ray; otherwise Ray would take the machine's own address instead.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import: nothing is sent anywhere
    if own:
        os.environ[LOOPBACK] = "0"  # read on import, too, and by the processes that Ray starts
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "ray is not installed", where="--engine ray", expected='pip install "relrank[ray]"', found=str(error)
        ) from None
    return ray


class RayEngine:
    """An engine (``engines.Engine``) that runs as many cells at once as there are cores; to be used in a ``with``.

    Args:
        address: of a cluster, IP:PORT of its head, or "auto" on one of its machines; this process must run on one of
            them. None starts a Ray on this machine, for as long as the engine is open. A Ray that this process is
            connected to already is used, and left as it is.
        cores: of each cell; libraries get as many threads. A trained model that may train on a GPU gets one, where
            the cluster has any.

    Raises:
        InputError: ray is not installed; there is no cluster at the address, or one of another version; a Ray of
            one's own would listen on more than the loopback, since this process imported ray before.
    """

    def __init__(self, address: str | None = None, cores: int = 1) -> None:
        scheme, apart, _ = (address or "").partition("://")
        if apart:
            raise InputError(
                "not a cluster's address",
                where="relrank study --address, or RAY_ADDRESS",
                found=f"{scheme}://…",
                expected='IP:PORT of the head, or "auto"; http:// is the address of jobs, ray:// that of clients',
            )
        self._ray, self._address, self._cores = load_ray(own=address is None), address, cores
        host, _, port = (address or "").rpartition(":")
        if host and port.isdigit() and "/" not in host:
            try:
                socket.create_connection((host, int(port)), REACHED).close()
            except (OSError, OverflowError) as error:
                raise self._nowhere(error) from None
        self._benches: dict[int, tuple[SplitContext, Any]] = {}
        self._board: Any = None
        self._mine = False

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            self._connect()
            self._mine = True
        try:
            ray.cloudpickle.register_pickle_by_value(ray_worker)
            here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                ray.get_runtime_context().get_node_id(), soft=True
            )
            board = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(ray_worker.Board)
            self._board = board.remote()
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        """What goes wrong here must not hide why a study ended."""
        self._benches.clear()
        try:
            with suppress(Exception):
                self._ray.kill(self._board)
            with suppress(ValueError):  # it was not registered
                self._ray.cloudpickle.unregister_pickle_by_value(ray_worker)
        finally:
            if self._mine:
                self._ray.shutdown()
                self._mine = False

    def _connect(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address is None:
                # on the loopback alone: whoever reaches a Ray may run anything; see LOOPBACK
                self._ray.init(
                    address="local",
                    num_cpus=cores(),
                    object_store_memory=STORE,
                    include_dashboard=False,
                    _node_ip_address="127.0.0.1",
                    **quiet,
                )
            else:
                self._ray.init(address=self._address, **quiet)
        except (OSError, ValueError, RuntimeError, self._ray.exceptions.RayError) as error:
            raise self._nowhere(error) from None
        if self._address is None and (open_to := {node["NodeManagerAddress"] for node in self._ray.nodes()} - LOCAL):
            self._ray.shutdown()
            raise InputError(
                "Ray would listen on more than the loopback",
                where="--engine ray",
                found=", ".join(sorted(open_to)),
                expected=f"a process that has not imported ray yet, or {LOOPBACK}=0 before it does",
            )

    def _nowhere(self, error: Exception) -> InputError:
        if self._address is None:
            where, expected = "--engine ray", "a Ray that starts on this machine"
        else:
            where = f"--address {self._address}"
            expected = 'IP:PORT of a cluster\'s head, or "auto" on one of its machines, with the same ray and Python'
        return InputError("no Ray to run on", where=where, expected=expected, found=" ".join(str(error).split()))

    def machine(self) -> dict[str, Any]:
        """What a study's card says of where its cells ran."""
        n = len(self._nodes())
        machines = f"{n} machine{'s' if n > 1 else ''}, {self._n_cores()} cores, {self._cores} per cell"
        return {"engine": f"Ray {self._ray.__version__}: {machines}"}

    def memory(self) -> int | None:
        """What Ray says that the largest machine has for tasks, which it shares out by what each cell needs."""
        return max((int(node.get("memory", 0)) for node in self._nodes()), default=0) or None

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``engines.Engine``. A cell whose worker dies begins again, on another machine if need be.

        A cell whose worker Ray killed for want of memory ``engines.TRIES`` times is left out.

        Raises:
            InputError: what a cell finds wrong; another relrank on a machine; no machine large enough, or no longer
                one; a cell whose workers died ``engines.TRIES`` times.
            OSError: a worker could not write.
        """
        ray, folder = self._ray, folder.resolve()
        # once, since it depends on the machines: a cell that waits for a GPU goes on waiting for it
        needs = {key: self._needs(cell) for key, cell in cells.items()}
        left, machines = dict(cells), self._machines()
        self._refuse_too_large(left, needs)
        mark = f".{uuid.uuid4().hex}"
        with_warm_start: set[str] = set()
        deaths = dict.fromkeys(cells, 0)
        queue, running = list(cells), dict[Any, str]()
        (folder / mark).touch()
        try:
            while queue or running:
                before, machines = machines, self._machines()
                if not before <= machines:  # one is gone, and Ray would wait for another for ever
                    self._refuse_too_large(left, needs)
                # In turn, so that baselines are there early; some wait in Ray, where an autoscaler sees them.
                while len(running) < 2 * max(1, self._n_cores() // self._cores):
                    key = next((k for k in queue if not left.keys() & set(cells[k].prerequisites)), None)
                    if key is None:
                        break
                    queue.remove(key)
                    running[self._submit(key, load_warm_start(cells[key], folder), folder, mark, needs[key])] = key
                ready, _ = ray.wait(list(running), timeout=POLL)
                for key, message in self._messages().items():
                    if key in running.values():
                        if key not in with_warm_start:
                            with_warm_start.add(key)
                            callback.start(cells[key])
                        callback.on_status(cells[key], message)
                for task in ready:
                    key = running.pop(task)
                    cell = cells[key]
                    try:
                        answer = ray.get(task)
                    except (
                        ray.exceptions.WorkerCrashedError,
                        ray.exceptions.NodeDiedError,
                        ray.exceptions.OutOfMemoryError,
                        ray.exceptions.ObjectLostError,
                    ) as error:
                        deaths[key] += 1
                        if deaths[key] == engine.TRIES and isinstance(error, ray.exceptions.OutOfMemoryError):
                            del left[key]
                            yield key, None
                            continue
                        refuse_deadly(cell, deaths[key], _first_sentence(error))
                        callback.worker_lost(cell, _first_sentence(error))
                        with_warm_start.discard(key)
                        queue.insert(0, key)
                        continue
                    if key not in with_warm_start:
                        callback.start(cell)
                    if "memory" in answer:
                        del left[key]
                        yield key, None
                        continue
                    with atomic_folder(folder / key) as part:
                        for name, content in _files_of(answer).items():
                            (part / name).write_bytes(content)
                    shutil.rmtree(folder / f"{key}.part", ignore_errors=True)
                    del left[key]
                    yield key, load_cell(folder / key)
        finally:
            for task in running:
                ray.cancel(task, force=True)
            (folder / mark).unlink(missing_ok=True)

    def _submit(self, key: str, cell: Cell, folder: Path, mark: str, needs: Mapping[str, int]) -> Any:
        order = {
            "key": key,
            "cell": pack_cell(cell),
            "relrank": relrank.__version__,
            "cores": self._cores,
            "folder": str(folder),
            "mark": mark,
            "environment": {name: os.environ[name] for name in recommended_environment() if name in os.environ},
        }
        if id(cell.split_context) not in self._benches:
            self._benches[id(cell.split_context)] = cell.split_context, self._ray.put(pack(cell.split_context))
        task = self._ray.remote(
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            memory=needs["memory"],
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        return task(ray_worker.work).remote(order, self._benches[id(cell.split_context)][1], self._board)

    def _machines(self) -> set[str]:
        """Names, by Ray, of the machines that are there now."""
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def _nodes(self) -> list[dict[str, float]]:
        """Resources of every machine that is there now."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def _n_cores(self) -> int:
        return sum(int(node.get("CPU", 0)) for node in self._nodes())

    def _needs(self, cell: Cell) -> dict[str, int]:
        gpu = False
        if issubclass(MODELS[cell.model.kind], Trained):
            device = cell.start()[1].device
            gpu = device.startswith("cuda") or (device == "auto" and self._ray.cluster_resources().get("GPU", 0) > 0)
        # what the user says there is may be more than Ray counts
        most = self.memory() or 0
        return {"CPU": self._cores, "GPU": int(gpu), "memory": min(most, 0 if gpu else required_memory(cell))}

    def _refuse_too_large(self, cells: Mapping[str, Cell], wanted: Mapping[str, Mapping[str, int]]) -> None:
        nodes = self._nodes()
        for key, cell in cells.items():
            needs = wanted[key]
            if not any(all(node.get(name, 0) >= n for name, n in needs.items()) for node in nodes):
                largest = (f"{int(node.get('CPU', 0))} cores, {int(node.get('GPU', 0))} GPUs" for node in nodes)
                raise InputError(
                    "no machine can run this cell",
                    where=cell_label(cell),
                    found="; ".join(sorted(set(largest))),
                    expected=f"a machine with {needs['CPU']} cores and {needs['GPU']} GPUs",
                )

    def _messages(self) -> dict[str, str]:
        try:
            said: dict[str, str] = self._ray.get(self._board.take.remote(), timeout=ray_worker.WAIT)
        except (self._ray.exceptions.RayError, TimeoutError):  # the board begins anew; results do not depend on it
            return {}
        return said


def _files_of(answer: dict[str, Any]) -> dict[str, bytes]:
    """What a worker answered, if it is a finished cell."""
    if "other" in answer:
        raise InputError(
            "another relrank on a worker",
            where=f"machine {answer['host']}",
            found=answer["other"],
            expected=f"{relrank.__version__}, as here: results of two versions are never mixed",
        )
    raise_failure(answer)
    files: dict[str, bytes] = answer["files"]
    return files


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
