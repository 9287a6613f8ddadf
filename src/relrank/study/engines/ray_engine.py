"""An engine that runs a study's cells as Ray tasks, on the cores of this machine or of a cluster.

Machines need only Ray and the same relrank. The data of a split are sent as files, once per machine, and the files of
a cell's folder are sent back to the study's process, which alone writes them. A worker that can access the study's
folder writes its checkpoints there, so that a cell whose worker died resumes on any machine; elsewhere it resumes
only on the same machine. Ray pickles code and messages between the processes of a cluster, which trust each other;
relrank passes only plain Python objects to it.
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
from relrank.study.cell import Cell, SplitContext, cell_title
from relrank.study.cell_store import CellResult, load_cell
from relrank.study.engines import engine, ray_worker
from relrank.study.engines.engine import raise_failure, refuse_deadly
from relrank.study.engines.split_files import pack, pack_cell
from relrank.study.memory_limits import graph_bytes, required_memory
from relrank.study.warm_starts import load_warm_start

POLL = 0.3
"""Seconds between two polls of the workers."""
LOCAL = {"127.0.0.1"}
"""Addresses that a local Ray may listen on."""
REACHED = 10.0
"""Timeout in seconds for a cluster's port; Ray would try for minutes."""
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Environment variable; if it is 0, the default on those systems, Ray respects a node address of 127.0.0.1."""
STORE = 256 << 20
"""Shared memory of a local Ray, in bytes; few enough for small containers. Larger data are spilled to disk."""


def load_ray(own: bool = False) -> Any:
    """The ray module.

    Args:
        own: whether this process will start a local Ray. It listens on the loopback interface only if this call is
            the first to import ray.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read on import; disables telemetry
    if own:
        os.environ[LOOPBACK] = "0"  # also read on import, and by the processes that Ray starts
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "ray is not installed", where="--engine ray", expected='pip install "relrank[ray]"', found=str(error)
        ) from None
    return ray


class RayEngine:
    """An engine (``engine.Engine``) that runs as many cells at once as there are cores; a context manager.

    Args:
        address: of a cluster, IP:PORT of its head, or "auto"; this process must run on one of its machines. None
            starts a local Ray while the engine is open. If this process is already connected to a Ray, that one is
            used.
        cores: per cell; libraries get as many threads. A trained model that can use a GPU gets one, if the cluster
            has any.

    Raises:
        InputError: ray is not installed; no cluster at the address, or one of another version; a local Ray would not
            be restricted to the loopback interface, since this process imported ray before.
    """

    def __init__(self, address: str | None = None, cores: int = 1) -> None:
        scheme, separator, _ = (address or "").partition("://")
        if separator:
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
                raise self._no_ray(error) from None
        self._split_contexts: dict[int, tuple[SplitContext, Any]] = {}
        self._board: Any = None
        self._is_local = False

    def __enter__(self) -> Self:
        ray = self._ray
        if not ray.is_initialized():
            self._connect()
            self._is_local = True
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
        """Errors in here do not hide the error that ended the study."""
        self._split_contexts.clear()
        try:
            with suppress(Exception):
                self._ray.kill(self._board)
            with suppress(ValueError):  # it was not registered
                self._ray.cloudpickle.unregister_pickle_by_value(ray_worker)
        finally:
            if self._is_local:
                self._ray.shutdown()
                self._is_local = False

    def _connect(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR"}
        try:
            if self._address is None:
                # only on the loopback interface, since anyone who reaches a Ray can run code; see LOOPBACK
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
            raise self._no_ray(error) from None
        if self._address is None and (open_to := {node["NodeManagerAddress"] for node in self._ray.nodes()} - LOCAL):
            self._ray.shutdown()
            raise InputError(
                "Ray would listen on more than the loopback",
                where="--engine ray",
                found=", ".join(sorted(open_to)),
                expected=f"a process that has not imported ray yet, or {LOOPBACK}=0 before it does",
            )

    def _no_ray(self, error: Exception) -> InputError:
        if self._address is None:
            where, expected = "--engine ray", "a Ray that starts on this machine"
        else:
            where = f"--address {self._address}"
            expected = 'IP:PORT of a cluster\'s head, or "auto" on one of its machines, with the same ray and Python'
        return InputError("no Ray to run on", where=where, expected=expected, found=" ".join(str(error).split()))

    def machine(self) -> dict[str, Any]:
        """Machines and cores, for the study's card."""
        n = len(self._machines())
        machines = f"{n} machine{'s' if n > 1 else ''}, {self._n_cores()} cores, {self._cores} per cell"
        return {"engine": f"Ray {self._ray.__version__}: {machines}"}

    def memory(self) -> int | None:
        """Memory for tasks on the largest machine; Ray schedules by what each cell needs."""
        return max((int(node.get("memory", 0)) for node in self._machines().values()), default=0) or None

    def run(
        self, cells: Mapping[str, Cell], folder: Path, callback: StudyCallback
    ) -> Iterator[tuple[str, CellResult | None]]:
        """See ``engine.Engine``. A cell whose worker dies starts again, if necessary on another machine.

        A cell whose worker Ray killed ``engine.TRIES`` times for lack of memory is skipped.

        Raises:
            InputError: from a cell; another relrank on a machine; no machine is large enough, or no longer; the
                workers of a cell died ``engine.TRIES`` times.
            OSError: a worker could not write.
        """
        folder = folder.resolve()
        # once, since it depends on the machines: a cell that waits for a GPU keeps waiting for it
        needs = {key: self._needs(cell) for key, cell in cells.items()}
        machines = self._machines()
        self._refuse_too_large(cells, needs)
        state = _Progress(cells, callback)
        mark = f".{uuid.uuid4().hex}"
        (folder / mark).touch()
        try:
            while state.queue or state.running:
                before, machines = machines, self._machines()
                if not before.keys() <= machines.keys():  # one is gone, and Ray would wait for a replacement forever
                    self._refuse_too_large(state.left, needs)
                # in order, so that baselines finish early; some wait in Ray, where an autoscaler sees them
                while len(state.running) < 2 * max(1, self._n_cores() // self._cores) and (key := state.next()):
                    cell = load_warm_start(cells[key], folder)
                    state.running[self._submit(key, cell, folder, mark, needs[key])] = key
                ready, _ = self._ray.wait(list(state.running), timeout=POLL)
                state.report(self._messages())
                for task in ready:
                    key = state.running.pop(task)
                    answer = self._answer(task, key, state)
                    if answer is None:
                        continue
                    del state.left[key]
                    if "memory" in answer:
                        yield key, None
                        continue
                    with atomic_folder(folder / key) as part:
                        for name, content in _files_of(answer).items():
                            (part / name).write_bytes(content)
                    shutil.rmtree(folder / f"{key}.part", ignore_errors=True)
                    yield key, load_cell(folder / key)
        finally:
            for task in state.running:
                self._ray.cancel(task, force=True)
            (folder / mark).unlink(missing_ok=True)

    def _answer(self, task: Any, key: str, state: _Progress) -> dict[str, Any] | None:
        """A finished task's answer; None if its worker died and the cell starts again.

        Raises:
            InputError: workers of this cell have died too often.
        """
        exceptions = self._ray.exceptions
        try:
            answer: dict[str, Any] = self._ray.get(task)
        except (
            exceptions.WorkerCrashedError,
            exceptions.NodeDiedError,
            exceptions.OutOfMemoryError,
            exceptions.ObjectLostError,
        ) as error:
            state.deaths[key] += 1
            if state.deaths[key] == engine.TRIES and isinstance(error, exceptions.OutOfMemoryError):
                return {"memory": str(error)}
            refuse_deadly(state.cells[key], state.deaths[key], _first_sentence(error))
            state.restart(key, _first_sentence(error))
            return None
        state.start(key)
        return answer

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
        if id(cell.split_context) not in self._split_contexts:
            self._split_contexts[id(cell.split_context)] = cell.split_context, self._ray.put(pack(cell.split_context))
        task = self._ray.remote(
            num_cpus=needs["CPU"],
            num_gpus=needs["GPU"],
            memory=needs["memory"],
            max_retries=0,
            scheduling_strategy="SPREAD",
        )
        return task(ray_worker.work).remote(order, self._split_contexts[id(cell.split_context)][1], self._board)

    def _machines(self) -> dict[str, dict[str, float]]:
        """Resources of the machines that are alive, by Ray's id."""
        return {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}

    def _n_cores(self) -> int:
        return sum(int(node.get("CPU", 0)) for node in self._machines().values())

    def _needs(self, cell: Cell) -> dict[str, int]:
        gpu = False
        if issubclass(MODELS[cell.model.kind], Trained):
            device = cell.initial_config()[1].device
            gpu = device.startswith("cuda") or (device == "auto" and self._ray.cluster_resources().get("GPU", 0) > 0)
        available = self.memory() or 0  # a limit set by the user may be higher
        needed = graph_bytes(cell.split_context) + (0 if gpu else required_memory(cell))
        return {"CPU": self._cores, "GPU": int(gpu), "memory": min(available, needed)}

    def _refuse_too_large(self, cells: Mapping[str, Cell], wanted: Mapping[str, Mapping[str, int]]) -> None:
        machines = self._machines().values()
        for key, cell in cells.items():
            needs = wanted[key]
            if not any(all(node.get(name, 0) >= n for name, n in needs.items()) for node in machines):
                largest = (f"{int(node.get('CPU', 0))} cores, {int(node.get('GPU', 0))} GPUs" for node in machines)
                raise InputError(
                    "no machine can run this cell",
                    where=cell_title(cell),
                    found="; ".join(sorted(set(largest))),
                    expected=f"a machine with {needs['CPU']} cores and {needs['GPU']} GPUs",
                )

    def _messages(self) -> dict[str, str]:
        try:
            messages: dict[str, str] = self._ray.get(self._board.take.remote(), timeout=ray_worker.WAIT)
        except (self._ray.exceptions.RayError, TimeoutError):  # the board restarts; results do not depend on it
            return {}
        return messages


class _Progress:
    """Cells that wait, run, or are left.

    Attributes:
        cells: all, by key.
        left: those without a result.
        queue: keys of those that were not submitted, in order.
        running: keys by task.
        deaths: number of dead workers, by key.
    """

    def __init__(self, cells: Mapping[str, Cell], callback: StudyCallback) -> None:
        self.cells, self._callback = cells, callback
        self.left, self.queue = dict(cells), list(cells)
        self.running: dict[Any, str] = {}
        self.deaths = dict.fromkeys(cells, 0)
        self._started: set[str] = set()

    def next(self) -> str | None:
        """Take the first cell from the queue whose prerequisites have finished; None if there is none."""
        key = next((k for k in self.queue if not self.left.keys() & set(self.cells[k].prerequisites)), None)
        if key is not None:
            self.queue.remove(key)
        return key

    def start(self, key: str) -> None:
        """Report a start, once."""
        if key not in self._started:
            self._started.add(key)
            self._callback.start(self.cells[key])

    def restart(self, key: str, why: str) -> None:
        """Put a cell whose worker died at the front of the queue."""
        self._callback.worker_lost(self.cells[key], why)
        self._started.discard(key)
        self.queue.insert(0, key)

    def report(self, messages: Mapping[str, str]) -> None:
        """Report the messages of running cells."""
        for key, message in messages.items():
            if key in self.running.values():
                self.start(key)
                self._callback.on_status(self.cells[key], message)


def _files_of(answer: dict[str, Any]) -> dict[str, bytes]:
    """The files of a finished cell in a worker's answer."""
    if "other" in answer:
        raise InputError(
            "another relrank on a worker",
            where=f"machine {answer['host']}",
            found=answer["other"],
            expected=f"{relrank.__version__}, as in this process: results of two versions are never mixed",
        )
    raise_failure(answer)
    files: dict[str, bytes] = answer["files"]
    return files


def _first_sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(".") if lines else type(error).__name__
