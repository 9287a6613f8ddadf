"""The processes that train one model together, each on its share of every batch; usually there is one.

``torchrun`` starts them and sets their ranks in the environment. ``distributed_group`` connects them and yields the
group to pass to ``relrank.training.fit``. In a single process every method returns its input, without
``torch.distributed``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from relrank.errors import InputError, from_os_error

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn

T = TypeVar("T")

GROUP_TIMEOUT = timedelta(hours=3)
"""How long a process waits for another one, which may be validating; torchrun notices at once if one ends."""


class AllRanksError(InputError):
    """An error that all processes of the group raise together, so that one of them needs to report it."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One of ``size`` processes; rank 0 validates, writes checkpoints and prints.

    Attributes:
        rank: of this process, from 0.
        size: number of processes.
        local_rank: rank on its machine, also the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's share of n examples; shares are disjoint, cover all, and differ in size by at most one."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def seed(self, seed: np.random.SeedSequence) -> np.random.SeedSequence:
        """A different seed for each process; for a single process, the given one."""
        return seed if self.size == 1 else seed.spawn(self.size)[self.rank]

    def device(self, device: torch.device) -> torch.device:
        """The device of this process: with several GPUs, that of its local rank.

        Raises:
            InputError: there are several processes, and the device is one GPU for all, or there are too few GPUs.
        """
        import torch

        if self.size == 1 or device.type == "cpu":
            return device
        if device.index is not None:
            raise InputError(
                "one GPU for several processes",
                where="device",
                found=str(device),
                expected='"auto" or "cuda", so that each process uses its own',
            )
        if self.local_rank >= torch.cuda.device_count():
            raise InputError(
                "more processes than GPUs",
                where="device",
                expected=f"{torch.cuda.device_count()} processes at most",
                found=f"local rank {self.local_rank}",
            )
        return torch.device(device.type, self.local_rank)

    def reduce_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor | None, weight: float) -> float:
        """Sum gradients and loss over all processes, weighted, with the same bits in each; returns the loss.

        Gradients are changed in place, so that a large table needs no copy. A parameter that has no gradient in any
        process is left without one.

        Args:
            parameters: the same in all processes.
            loss: the mean over this process's share of the batch; None if the share is empty.
            weight: fraction of the batch in this share.
        """
        if self.size == 1:
            assert loss is not None
            return float(loss.detach())
        import torch
        from torch import distributed

        # for each parameter the number of processes with a gradient, then the loss
        head = torch.zeros(len(parameters) + 1, dtype=torch.float64, device=parameters[0].device)
        for at, parameter in enumerate(parameters):
            head[at] = parameter.grad is not None
        if loss is not None:
            head[-1] = loss.detach().double() * weight
        distributed.all_reduce(head)
        *with_gradient, total = head.tolist()
        pending = []
        for parameter, processes in zip(parameters, with_gradient, strict=True):
            if not processes:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            pending.append(distributed.all_reduce(parameter.grad.mul_(weight), async_op=True))
        for work in pending:
            work.wait()
        return float(total)

    def on_all_ranks(self, make: Callable[[], T]) -> T:
        """The result of ``make`` in this process, once it succeeded in all.

        Raises:
            AllRanksError: ``make`` raised an InputError or OSError in a process; all raise that of the lowest rank.
        """
        if self.size == 1:
            return make()
        import torch
        from torch import distributed

        error: InputError | OSError | None = None
        try:
            result = make()
        except (InputError, OSError) as caught:
            error = caught
        lowest = torch.tensor(self.size if error is None else self.rank)
        distributed.all_reduce(lowest, distributed.ReduceOp.MIN)
        if (failed := int(lowest)) < self.size:
            raise _common(self._broadcast(failed, lambda: _described(error)), failed) from error
        return result

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """The result of ``make`` in rank 0, the only process that calls it; it must be plain JSON.

        Raises:
            AllRanksError: in all processes, if ``make`` raised an InputError or OSError.
        """
        answer = self.on_all_ranks(lambda: make() if self.first else None)
        if self.size == 1:
            return answer  # type: ignore[return-value]
        result: T = self._broadcast(0, lambda: answer)
        return result

    def tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rank 0's tensors by name, on the CPU; those of the other processes are ignored."""
        if self.size == 1:
            return dict(tensors)
        import torch
        from torch import distributed

        types = [(name, list(t.shape), str(t.dtype).split(".")[1]) for name, t in tensors.items()]
        result = {}
        for name, shape, dtype in self._broadcast(0, lambda: types):
            tensor = tensors[name].cpu() if self.first else torch.empty(shape, dtype=getattr(torch, dtype))
            distributed.broadcast(tensor, 0)
            result[name] = tensor
        return result

    def wait(self) -> None:
        """Wait until all processes call this."""
        if self.size > 1:
            import torch
            from torch import distributed

            distributed.all_reduce(torch.zeros(1))

    def _broadcast(self, rank: int, value: Callable[[], Any]) -> Any:
        """A value of one process, by way of JSON."""
        import torch
        from torch import distributed

        encoded = json.dumps(value() if self.rank == rank else None).encode()
        length = torch.tensor(len(encoded))
        distributed.broadcast(length, rank)
        text = torch.frombuffer(bytearray(encoded), dtype=torch.uint8)
        if self.rank != rank:
            text = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(text, rank)
        return json.loads(text.numpy().tobytes())


SINGLE_PROCESS = ProcessGroup()
"""The group of a program that was not started by ``torchrun``."""


def rank_here() -> int | None:
    """This process's rank as set by ``torchrun``; None for a single process."""
    env = os.environ
    several = {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= env.keys() and env["WORLD_SIZE"] != "1"
    return int(env["RANK"]) if several else None


@contextmanager
def distributed_group() -> Iterator[ProcessGroup]:
    """The group of processes that ``torchrun`` started, connected until the block ends.

    CPU tensors use gloo, GPU tensors NCCL. Without ``torchrun``, or with one process: ``SINGLE_PROCESS``.
    """
    rank = rank_here()
    if rank is None:
        yield SINGLE_PROCESS
        return
    import torch
    from torch import distributed

    group = ProcessGroup(rank, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"]))
    backend = "gloo"
    if group.local_rank < torch.cuda.device_count():
        torch.cuda.set_device(group.local_rank)
        backend = "cpu:gloo,cuda:nccl"
    distributed.init_process_group(backend, timeout=GROUP_TIMEOUT)
    try:
        yield group
    except AllRanksError:
        distributed.destroy_process_group()
        raise
    # not after an error of this process alone: the others are still busy, and torchrun ends them
    distributed.destroy_process_group()


def _described(error: InputError | OSError | None) -> list[str]:
    described = error if isinstance(error, InputError) or error is None else from_os_error(error)
    assert described is not None
    return [described.what, described.where, described.expected, described.found]


def _common(parts: list[str], rank: int) -> AllRanksError:
    what, where, expected, found = parts
    return AllRanksError(
        what, where=where if rank == 0 else f"process {rank}: {where}", expected=expected, found=found
    )
