"""Vectors of people who were not there in training: fitted to their histories while the items stand still.

    min_u  Σ_{i ∈ H} −log( exp(s_i) / (exp(s_i) + Σ_{j ∉ H} exp(s_j)) ),      s = ρ Q u / (‖u‖ τ')

with H the history, Q the items' vectors and ρ the length that users have: the loss that a trained user's own vector
has followed, on that vector's direction alone. A trained user's items have also moved towards the user, which those
of a new user have not; a temperature τ' below the one of training makes up for it. At half of it, held-out users of
goodbooks-10k get what trained users get (``benchmarks/fold_in.py``; chosen on validation items, flat from .4 to .7).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from relrank.kernels.csr import Csr

SHARPER = 0.5
"""τ' as a share of the temperature of training."""
STEPS = 60
"""Steps of Adam, whose rate falls from ``RATE`` to 0."""
RATE = 0.1
"""In lengths of the starting vector."""
BLOCK_BYTES = 16 << 20
"""Scores of the users that are fitted side by side."""


def fit_to_histories(start: Tensor, rows: Csr, items: Tensor, temperature: float, length: float = 1.0) -> Tensor:
    """Vectors of new users, float32 [rows.n_rows, d]; whoever starts at 0, or has nothing, stays there.

    Args:
        start: where the search begins, [rows.n_rows, d].
        rows: histories, [n, n_items].
        items: the right side of the product, [n_items, d].
        temperature: of training.
        length: ρ, the length of the vectors returned.
    """
    start = length * functional.normalize(start.detach(), dim=1)
    some = (torch.from_numpy(rows.degrees()).to(start.device) > 0) & start.any(1)
    found = start * some[:, None]
    at_once = max(1, BLOCK_BYTES // (4 * max(rows.n_cols, 1)))
    for block in torch.split(some.nonzero()[:, 0], at_once):
        found[block] = _fitted(start[block], rows.take(block.cpu().numpy()), items.detach(), temperature, length)
    return found


def _fitted(start: Tensor, rows: Csr, items: Tensor, temperature: float, length: float) -> Tensor:
    """The same for users who fit into memory, each with a history; the gradient is written by hand.

    With w_i = σ(log Σ_{j ∉ H} exp(s_j) − s_i) it is −w_i at an item of the history, and Σ_i w_i, spread as a softmax,
    over the items that are not in it. Nobody's steps depend on who else is there.
    """
    users, known = (torch.from_numpy(a).long().to(items.device) for a in (rows.rows(), rows.indices))
    scale = length / (SHARPER * temperature)
    smallest = torch.finfo(items.dtype)
    u = start.clone()
    adam = torch.optim.Adam([u], lr=RATE * length)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * length * (1 - step / STEPS)
        norm = u.norm(dim=1, keepdim=True)
        direction = u / norm
        s = (scale * direction) @ items.T
        own = s[users, known]
        s[users, known] = -torch.inf
        highest = s.amax(1, keepdim=True).clamp_(min=smallest.min)  # of who has everything: nothing to spread
        s.sub_(highest).exp_()
        total = s.sum(1, keepdim=True)
        w = ((highest + total.log())[users, 0] - own).sigmoid()
        s *= torch.zeros_like(total).index_add_(0, users, w[:, None]) / total.clamp(min=smallest.tiny)
        s[users, known] = -w
        gradient = scale * (s @ items)
        u.grad = (gradient - (gradient * direction).sum(1, keepdim=True) * direction) / norm
        adam.step()
    return length * functional.normalize(u, dim=1)
