"""The processes that train one model together, each on its share of every batch; most often there is one.

``torchrun`` starts them and says in the environment who each of them is. ``distributed_group`` connects them; what it
gives is handed down to ``relrank.training.fit``. Alone, every method gives back what it was given, and torch's
package for distributed training is never asked for anything.
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
"""How long one process waits for another, which may be validating. One that ends is noticed by torchrun at once."""


class AllRanksError(InputError):
    """An error that every process of the group raises at the same place, so that one need say it."""


@dataclass(frozen=True, slots=True)
class ProcessGroup:
    """One of ``size`` processes; the first writes, validates and speaks.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        local_rank: its number on its own machine, which is also that of its GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def first(self) -> bool:
        """Whether this process writes, validates and speaks."""
        return self.rank == 0

    def share(self, n: int) -> slice:
        """This process's part of n examples: parts are disjoint, cover all, and differ in size by one at most."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def seed(self, seed: np.random.SeedSequence) -> np.random.SeedSequence:
        """A seed of its own for each process; alone, the one that is given."""
        return seed if self.size == 1 else seed.spawn(self.size)[self.rank]

    def device(self, device: torch.device) -> torch.device:
        """The device this process computes on: of several GPUs that of its local rank.

        Raises:
            InputError: several processes, and the setting names one GPU for all, or there are too few.
        """
        import torch

        if self.size == 1 or device.type == "cpu":
            return device
        if device.index is not None:
            raise InputError(
                "one GPU for several processes",
                where="device",
                found=str(device),
                expected='"auto" or "cuda", and each process takes its own',
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
        """The loss of all processes; every gradient becomes the weighted sum of theirs, the same bits for all.

        Gradients are changed in place, so that a large table needs no second copy. A parameter without a gradient
        anywhere is left without one.

        Args:
            parameters: the same in all processes.
            loss: a mean over this process's share of the batch, or None where the share is empty.
            weight: the share's part of the batch; weights add up to 1.
        """
        if self.size == 1:
            assert loss is not None
            return float(loss.detach())
        import torch
        from torch import distributed

        # with how many processes each parameter has a gradient, and the loss
        head = torch.zeros(len(parameters) + 1, dtype=torch.float64, device=parameters[0].device)
        for at, parameter in enumerate(parameters):
            head[at] = parameter.grad is not None
        if loss is not None:
            head[-1] = loss.detach().double() * weight
        distributed.all_reduce(head)
        *moved, total = head.tolist()
        waiting = []
        for parameter, processes in zip(parameters, moved, strict=True):
            if not processes:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            waiting.append(distributed.all_reduce(parameter.grad.mul_(weight), async_op=True))
        for work in waiting:
            work.wait()
        return float(total)

    def on_all_ranks(self, make: Callable[[], T]) -> T:
        """What ``make`` gives, once it gave something in every process; each has its own.

        Raises:
            AllRanksError: in all processes, where ``make`` raised an InputError or OSError in one: the first one's.
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
            raise _common(self._told(failed, lambda: _described(error)), failed) from error
        return result

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """What ``make`` gives in the first process, where alone it is called; it must be plain JSON.

        Raises:
            AllRanksError: in all processes, where ``make`` raised an InputError or OSError.
        """
        answer = self.on_all_ranks(lambda: make() if self.first else None)
        if self.size == 1:
            return answer  # type: ignore[return-value]
        result: T = self._told(0, lambda: answer)
        return result

    def tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The first process's tensors, by name, on the CPU; those of the others are not looked at."""
        if self.size == 1:
            return dict(tensors)
        import torch
        from torch import distributed

        heads = self._told(0, lambda: [(n, list(t.shape), str(t.dtype).split(".")[1]) for n, t in tensors.items()])
        result = {}
        for name, shape, dtype in heads:
            tensor = tensors[name].cpu() if self.first else torch.empty(shape, dtype=getattr(torch, dtype))
            distributed.broadcast(tensor, 0)
            result[name] = tensor
        return result

    def wait(self) -> None:
        """Until all processes are here."""
        if self.size > 1:
            import torch
            from torch import distributed

            distributed.all_reduce(torch.zeros(1))

    def _told(self, rank: int, value: Callable[[], Any]) -> Any:
        """What one process says, as JSON."""
        import torch
        from torch import distributed

        said = json.dumps(value() if self.rank == rank else None).encode()
        length = torch.tensor(len(said))
        distributed.broadcast(length, rank)
        text = torch.frombuffer(bytearray(said), dtype=torch.uint8)
        if self.rank != rank:
            text = torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(text, rank)
        return json.loads(text.numpy().tobytes())


SINGLE_PROCESS = ProcessGroup()
"""The one process of a program that was started as usual."""


def rank_here() -> int | None:
    """This process's number as ``torchrun`` gives it, or None where there is one process."""
    env = os.environ
    several = {"RANK", "LOCAL_RANK", "WORLD_SIZE"} <= env.keys() and env["WORLD_SIZE"] != "1"
    return int(env["RANK"]) if several else None


@contextmanager
def distributed_group() -> Iterator[ProcessGroup]:
    """The group of processes that ``torchrun`` started this one in, connected for as long as the block lasts.

    Tensors in memory travel by gloo, those on GPUs by NCCL. Without ``torchrun``, or with one process:
    ``SINGLE_PROCESS``.
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
    # not where an error ends this process alone: the others are in the middle of something, and torchrun ends them
    distributed.destroy_process_group()


def _described(error: InputError | OSError | None) -> list[str]:
    said = error if isinstance(error, InputError) or error is None else from_os_error(error)
    assert said is not None
    return [said.what, said.where, said.expected, said.found]


def _common(said: list[str], rank: int) -> AllRanksError:
    what, where, expected, found = said
    return AllRanksError(
        what, where=where if rank == 0 else f"process {rank}: {where}", expected=expected, found=found
    )
