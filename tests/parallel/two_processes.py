"""What torchrun starts for ``test_process_group.py``: every process writes down what it saw as JSON."""

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

import relrank
from relrank.errors import InputError
from relrank.io.tensors import save_tensors
from relrank.models.core.vector_model import BatchItems
from relrank.models.graph.lightgcn import RelationalLightGCN, RelationalLightGCNConfig
from relrank.parallel.process_group import SINGLE_PROCESS, AllRanksError, ProcessGroup, distributed_group
from relrank.testing import planted_auc, planted_graph
from relrank.training import TrainConfig, fit

ONE_EPOCH = TrainConfig(epochs=1, batch=533, every=1, device="cpu")
"""1,600 edges: three batches of 533, and one of a single edge, which one of two processes has no share of."""
LEARNS = TrainConfig(epochs=20, batch=512, every=2, lr=0.02, device="cpu")
KILLED = TrainConfig(epochs=6, batch=512, every=2, device="cpu")


class Seen(RelationalLightGCN):
    """BPR against one own negative per edge, which depends on the edge alone; every batch is written down."""

    def __init__(self, graph):
        c = RelationalLightGCNConfig(
            dim=16,
            layers=2,
            loss="bpr",
            similarity="dot",
            temperature=1.0,
            negatives=1,
            shared=False,
            l2=1e-3,
            ridge=0.0,
        )
        super().__init__(graph, c)
        self.edges, self.seeds = [], []

    def prepare(self, users, positives, seed):
        self.edges.append(list(zip(users.tolist(), positives.tolist(), strict=True)))
        self.seeds.append(int(np.random.SeedSequence(seed.entropy, spawn_key=seed.spawn_key).generate_state(1)[0]))
        return super().prepare(users, positives, seed)

    def draw(self, users, positives, seed):
        negatives = (7 * positives + 3 * users + 1) % self.graph.n_items
        items, at = np.unique(np.concatenate([positives, negatives]), return_inverse=True)
        return BatchItems(items, at[: users.size], at[users.size :, None], None, None)


class Steps(ProcessGroup):
    """Keeps the averaged gradients of every step."""

    def reduce_gradients(self, parameters, loss, weight):
        mean = super().reduce_gradients(parameters, loss, weight)
        self.gradients.append([p.grad.clone() for p in parameters])
        return mean


class Elsewhere(ProcessGroup):
    """Each process has another kind of device, as where only one machine has a GPU."""

    def device(self, device):
        return torch.device("cpu" if self.first else "meta")


class Exploding(Seen):
    """Its loss is no number in one process, in the second epoch."""

    def loss(self, batch):
        bad = int(os.environ.get("RANK", "0")) == 1 and len(self.edges) > 4
        return super().loss(batch) * (float("nan") if bad else 1.0)


class Dying(RelationalLightGCN):
    """One process is gone in the middle of the fifth epoch."""

    how = "no way"

    def prepare(self, users, positives, seed):
        self.made = getattr(self, "made", 0) + 1
        if os.environ.get("RANK") == "1" and self.made == 4 * 4 + 2:
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.how == "refuses":
                raise InputError("nothing goes", where="here", expected="something", found="nothing")
        return super().prepare(users, positives, seed)


def dying(how):
    model = Dying(
        planted_graph(),
        RelationalLightGCNConfig(dim=16, layers=2, negatives=1024, similarity="cosine", temperature=0.3, ridge=0.0),
    )
    model.how = how
    return model


def falling():
    """A metric whose first validation is the best, and which only the first process may ask for."""
    assert os.environ.get("RANK", "0") == "0"
    return iter(np.linspace(1, 0, 50).tolist()).__next__


def never():
    raise AssertionError("the first process alone validates")


def one_epoch(group):
    """Model, gradients of every step and the loss, of one epoch with the same negatives whatever the group."""
    model = Seen(planted_graph())
    steps = Steps(group.rank, group.size, group.local_rank)
    Steps.gradients = []  # of the class, since a group is frozen
    fitted = fit(model, ONE_EPOCH, lambda: 1.0, 0, group=steps)
    return model, Steps.gradients, fitted.history["loss"][0]


def learned(group, seed):
    """The planted truth after 20 epochs, and the model."""
    model = RelationalLightGCN(
        planted_graph(),
        RelationalLightGCNConfig(dim=16, layers=2, negatives=1024, similarity="cosine", temperature=0.3, ridge=0.0),
    )
    fit(model, LEARNS, lambda: planted_auc(model), seed, group=group)
    return planted_auc(model), model


def goes_wrong(make):
    """The message of the error that all processes raise."""
    try:
        make()
    except AllRanksError as error:
        return str(error)
    return "nothing"


def refuse(rank, group):
    if group.rank == rank:
        raise InputError("nothing goes", where="here", expected="something", found=f"rank {rank}")
    return group.rank


def everything(group, out):
    """All that two processes can say before one of them is killed."""
    said = {"threads": torch.get_num_threads()}
    said["together"] = group.on_all_ranks(lambda: group.rank)
    said["decided"] = group.broadcast_from_rank0(lambda: [group.rank, 0.1 + 0.2])
    said["refused by 1"] = goes_wrong(lambda: group.on_all_ranks(lambda: refuse(1, group)))
    said["refused by 0"] = goes_wrong(lambda: group.broadcast_from_rank0(lambda: refuse(0, group)))
    said["no file"] = goes_wrong(lambda: group.broadcast_from_rank0(lambda: (out / "not" / "there").read_text()))
    own = {"a": torch.full((3,), 1.0 + group.rank), "none": torch.zeros(0, dtype=torch.int64)}
    said["tensors"] = {k: [t.tolist(), str(t.dtype)] for k, t in group.tensors(own).items()}

    model, gradients, loss = one_epoch(group)
    said |= {"edges": model.edges, "seeds": model.seeds, "loss": loss}
    steps = {f"{n} {k}": g for n, step in enumerate(gradients) for k, g in enumerate(step)}
    save_tensors(out / f"steps-{group.rank}", steps, {})

    auc, model = learned(group, 0)
    said["auc"] = auc
    save_tensors(out / f"learned-{group.rank}", model.state(), {})

    exploding = Exploding(planted_graph())
    said["not a number"] = goes_wrong(
        lambda: fit(exploding, replace(ONE_EPOCH, epochs=2), lambda: 1.0, 0, group=group)
    )
    other = Seen(planted_graph(seed=group.rank))
    said["other data"] = goes_wrong(lambda: fit(other, ONE_EPOCH, lambda: 1.0, 0, group=group))

    elsewhere = Elsewhere(group.rank, group.size, group.local_rank)
    said["other device"] = goes_wrong(lambda: fit(Seen(planted_graph()), ONE_EPOCH, lambda: 1.0, 0, group=elsewhere))
    with mock.patch("relrank.__version__", relrank.__version__ if group.first else "9.9"):
        said["other relrank"] = goes_wrong(lambda: fit(Seen(planted_graph()), ONE_EPOCH, lambda: 1.0, 0, group=group))

    folder = out / f"whole-{group.rank}"  # a disk of its own for each
    fitted = fit(dying("no way"), KILLED, falling() if group.first else never, 3, folder, group=group)
    said |= {"metrics": fitted.history["metric"].to_list(), "best epoch": fitted.best_epoch}
    said["wrote"] = folder.exists()
    return said


def main():
    out, part = Path(sys.argv[1]), sys.argv[2]
    with distributed_group() as group:
        if part == "everything":
            said = everything(group, out)
            (out / f"said-{group.rank}.json").write_text(json.dumps(said))
            group.wait()
            fit(dying("killed"), KILLED, falling() if group.first else never, 3, out / "killed", group=group)
            return
        metric = never
        if group.first:
            metric = falling()
            metric(), metric()  # two validations were kept
        fit(dying("no way"), KILLED, metric, 3, out / "killed" if group.first else None, group=group)
        assert group is not SINGLE_PROCESS
        group.wait()
        fit(dying("refuses"), KILLED, falling() if group.first else never, 3, out / "refused", group=group)


if __name__ == "__main__":
    main()
