"""RecBole's sampler of negatives, with the few attributes of a data set that it reads; its item 0 is a padding."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import torch
from recbole.sampler import Sampler

from speed.peer import Call, run


def negatives(call: Call) -> list[float]:
    """Whole batches, as its training loader asks for them."""
    data, options = call.data, call.options
    user, item = (data[f"train_{side}"].astype(np.int64) for side in ("user", "item"))
    dataset = SimpleNamespace(
        uid_field="user", iid_field="item", user_num=data["n_users"], item_num=data["n_items"] + 1,
        inter_feat={"user": torch.from_numpy(user), "item": torch.from_numpy(item + 1)},
    )  # fmt: skip
    sampler = Sampler("train", dataset, options["kind"], alpha=0.75).set_phase("train")
    np.random.seed(0)  # noqa: NPY002 - the one that it draws from
    batches = 2 if options["n"] == 1 else 1
    picked = [np.random.default_rng(k).permutation(user.size)[: options["batch"]] for k in range(batches)]

    def work() -> None:
        for at in picked:
            sampler.sample_by_user_ids(user[at], item[at] + 1, options["n"])

    drawn = batches * options["batch"] * options["n"]
    return [1e6 * spent / drawn for spent in call.repeat(work, options["rounds"], at_most=8)]


if __name__ == "__main__":
    run("recbole_sampling", "recbole", {"negatives": negatives})
