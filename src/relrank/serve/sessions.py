"""Scores of a known user together with the items of the current session, for any model."""

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
    """Scores [1, n_items] of a user with additional items, and whether they are the model's own.

    Where scores are computed from the user's items, those of the session are added with weight 1. A trained user
    vector cannot take them into account: there the session shifts the user's scores by the difference that it makes
    to the scores of the user's history folded in, scaled by the standard deviations of both.

    Args:
        model: fitted.
        user: row.
        train_history: item rows of the user's training history, oldest first, as often as each was chosen.
        session: item rows of the session, oldest first.
    """
    users = torch.tensor([user])
    row = model.history.take(np.array([user]))
    new = session[np.sort(np.unique(session, return_index=True)[1])]
    new = new[~np.isin(new, row.indices)]
    if isinstance(model, ADDITIVE_MODELS):
        return model.score(users) + model.fold_in([torch.from_numpy(new)]), True
    if isinstance(model, HistoryScorer):
        return model.score_rows(_extended(row, new)), True
    if model.from_history:
        return model.fold_in([torch.from_numpy(append_session(model, train_history, session))]), True
    if model.scores_from_current_row:
        other: Any = copy(model)
        other.history = _as_row(_extended(row, new), user, model.graph.n_users)
        return other.score(users), True
    scores = model.score(users)
    before, after = model.fold_in(
        [torch.from_numpy(train_history), torch.from_numpy(np.concatenate([train_history, new]))]
    )
    spread = before.std()
    unit = scores.std() / spread if spread > 0 else 1.0
    return scores + unit * (after - before), False


def append_session(model: Recommender, train_history: Int64, session: Int64) -> Int64:
    """A history followed by a session.

    In data with repeated interactions items repeat; else each is kept once, at its last position.
    """
    before = train_history if model.graph.events is not None else train_history[~np.isin(train_history, session)]
    both: Int64 = np.concatenate([before, session])
    return both


def _extended(row: Csr, items: Int64) -> Csr:
    """A row with additional items of weight 1."""
    columns = np.concatenate([row.indices, items])
    weights = np.concatenate([row.data, np.ones(items.size, row.data.dtype)])
    return Csr.from_pairs(np.zeros(columns.size, np.int64), columns, (1, row.n_cols), weights)


def _as_row(row: Csr, user: int, n_users: int) -> Csr:
    """A matrix of all users in which only this one has a nonempty row."""
    indptr = np.zeros(n_users + 1, np.int64)
    indptr[user + 1 :] = row.nnz
    return Csr(indptr, row.indices, row.data, row.n_cols)
