"""A known user together with the items of a current visit, whatever the model."""

from __future__ import annotations

from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor

from relrank.explanation.counterfactuals import ADDITIVE_MODELS
from relrank.kernels.csr import Csr, Int64
from relrank.models import Recommender
from relrank.models.core.base import HistoryScorer


def session_scores(model: Recommender, user: int, train_history: Int64, session: Int64) -> tuple[Tensor, bool]:
    """Scores [1, n_items] of a user who chose these items, too, and whether the model gives them exactly.

    Where scores come from the user's items, with what is said of the user beside them, the visit's items join these
    with weight 1. A user's vector that was trained cannot hear of a visit: then the user's scores move by the
    difference that the visit makes to the own history folded in, in units of either's spread.

    Args:
        model: fitted.
        user: row.
        train_history: item rows of the user's training history, oldest first, as often as each was chosen.
        session: item rows of the visit, oldest first.
    """
    who = torch.tensor([user])
    row = model.history.take(np.array([user]))
    new = session[np.sort(np.unique(session, return_index=True)[1])]
    new = new[~np.isin(new, row.indices)]
    if isinstance(model, ADDITIVE_MODELS):
        return model.score(who) + model.fold_in([torch.from_numpy(new)]), True
    if isinstance(model, HistoryScorer):
        return model.score_rows(_longer(row, new)), True
    if model.from_history:
        return model.fold_in([torch.from_numpy(append_session(model, train_history, session))]), True
    if model.scores_from_current_row:
        other: Any = copy(model)
        other.history = _as_row(_longer(row, new), user, model.graph.n_users)
        return other.score(who), True
    scores = model.score(who)
    before, after = model.fold_in(
        [torch.from_numpy(train_history), torch.from_numpy(np.concatenate([train_history, new]))]
    )
    spread = before.std()
    unit = scores.std() / spread if spread > 0 else 1.0
    return scores + unit * (after - before), False


def append_session(model: Recommender, train_history: Int64, session: Int64) -> Int64:
    """A history with a visit behind it.

    Where a history holds what was chosen again, the visit is more of that; else an item is there once, where it was
    chosen last.
    """
    before = train_history if model.graph.events is not None else train_history[~np.isin(train_history, session)]
    both: Int64 = np.concatenate([before, session])
    return both


def _longer(row: Csr, items: Int64) -> Csr:
    """A row with more items of weight 1."""
    columns = np.concatenate([row.indices, items])
    weights = np.concatenate([row.data, np.ones(items.size, row.data.dtype)])
    return Csr.from_pairs(np.zeros(columns.size, np.int64), columns, (1, row.n_cols), weights)


def _as_row(row: Csr, user: int, n_users: int) -> Csr:
    """The matrix of all users where only this one has a row."""
    indptr = np.zeros(n_users + 1, np.int64)
    indptr[user + 1 :] = row.nnz
    return Csr(indptr, row.indices, row.data, row.n_cols)
