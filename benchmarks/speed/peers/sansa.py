"""SANSA: EASE with a sparse approximate inverse, its incomplete Cholesky factorization."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# sparse_dot_mkl, which multiplies on all cores, does not look for the library where pip puts it
for library in Path(sys.prefix, "lib").glob("libmkl_rt.so*"):
    os.environ.setdefault("MKL_RT", str(library))

# ruff: noqa: E402
import numpy as np
import scipy.sparse
from sansa import SANSA, ICFGramianFactorizerConfig, SANSAConfig, UMRUnitLowerTriangleInverterConfig
from sansa.utils import matmat

from speed.lists import best_of_sparse, blocks, judged
from speed.peer import Call, run

AT_ONCE = 1000
"""Users that are ranked at once."""


def sparse_models(call: Call) -> list[float]:
    """Fit after a fit on few rows, which compiles; the users with test rows by its sparse product."""
    data, options = call.data, call.options
    shape = data["n_users"], data["n_items"]
    ones = np.ones(data["train_user"].size, np.float32)
    train = scipy.sparse.csr_matrix((ones, (data["train_user"], data["train_item"])), shape)

    def fit(matrix: Any) -> SANSA:
        config = SANSAConfig(
            l2=options["l2"],
            weight_matrix_density=options["per_item"] / matrix.shape[1],
            gramian_factorizer_config=ICFGramianFactorizerConfig(),
            lower_triangle_inverter_config=UMRUnitLowerTriangleInverterConfig(
                scans=options["scans"], finetune_steps=options["finetune_steps"]
            ),
        )
        return SANSA(config).fit(matrix)

    def recommend(model: SANSA, users: Any) -> Any:
        call.figures["weights"] = int(sum(weights.nnz for weights in model.weights))
        # its own ``recommend`` fails where a user has fewer than K scores
        return np.concatenate([
            best_of_sparse(model.forward(train[some]).tocsr(), train[some]) for some in blocks(users, AT_ONCE)
        ])  # fmt: skip

    few = train[:500]
    fit(few[:, np.flatnonzero(np.bincount(few.indices, minlength=shape[1]))])
    call.figures["multiplied by"] = matmat.__module__.partition(".")[0]
    return judged(call, lambda: fit(train), recommend)


if __name__ == "__main__":
    run("sansa", "sansa", {"sparse_models": sparse_models})
