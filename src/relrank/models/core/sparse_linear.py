"""Linear models with sparse weights: scores are ``inputs @ W`` with W in CSR, one row per item and pseudo-item.

Rankings and expected ranks are computed from the sparse product (``relrank.kernels.sparse_ranking``), exactly and in
memory that does not grow with users × items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from relrank.kernels.csr import Csr
from relrank.kernels.dense_solve import products_by_row
from relrank.models.core.base import HistoryScorer, Shapes, history_rows, user_rows


class SparseLinear(HistoryScorer):
    """A closed form whose solution is a sparse matrix W, inputs by items.

    The inputs of a user are their training items; a model with further inputs overrides ``inputs``. ``solve`` calls
    ``set_weights``.
    """

    is_sparse_product: ClassVar[bool] = True
    solution: ClassVar[Shapes] = {"indptr": ("starts",), "indices": ("entries",), "weights": ("entries",)}

    #: CSR of W, [n_inputs, n_items]
    indptr: Tensor
    indices: Tensor
    weights: Tensor

    def set_weights(self, weights: Csr) -> None:
        """Set W, [n_inputs, n_items]."""
        self.indptr, self.indices, self.weights = map(
            torch.from_numpy, (weights.indptr, weights.indices, weights.data)
        )

    def item_weights(self) -> Csr:
        """W, [n_inputs, n_items]."""
        return Csr(self.indptr.numpy(), self.indices.numpy(), self.weights.numpy(), self.graph.n_items)

    def inputs(self, users: Tensor) -> Csr:
        """Left factor of the scores for user rows int64 [B]: CSR [B, n_inputs].

        Raises:
            InputError: a user row outside the graph.
        """
        return self.history.take(user_rows(users, self.graph.n_users))

    def history_inputs(self, histories: Sequence[Tensor]) -> Csr:
        """``inputs`` of users unseen during training: item rows per user → CSR [len(histories), n_items].

        Raises:
            InputError: an item row outside the catalogue.
        """
        return history_rows(histories, self.graph.n_items)

    def score_rows(self, rows: Csr) -> Tensor:
        """``rows @ W``, dense: float32 [rows.n_rows, n_items]."""
        return torch.from_numpy(products_by_row(rows, self.item_weights()))

    def score(self, users: Tensor) -> Tensor:
        """The users' inputs times W."""
        return self.score_rows(self.inputs(users))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Histories times W."""
        return self.score_rows(self.history_inputs(histories))
