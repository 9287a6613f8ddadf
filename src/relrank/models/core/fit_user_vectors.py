"""Vectors of users unseen during training, fitted to their histories with the items fixed.

    min_u  Σ_{i ∈ H} −log( exp(s_i) / (exp(s_i) + Σ_{j ∉ H} exp(s_j)) ),      s = ρ Q u / (‖u‖ τ')

H is the history, Q the item vectors and ρ the length of user vectors: the training loss, minimised over the direction
of the user's vector. In training the items of a user also move towards the user; for a new user, a temperature τ'
below that of training compensates. With half of it, held-out users of goodbooks-10k get the accuracy of training
users (``benchmarks/fold_in.py``; chosen on validation items, flat from .4 to .7).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from relrank.kernels.csr import Csr
from relrank.models.core.base import entries

SHARPER = 0.5
"""τ' divided by the temperature of training."""
STEPS = 60
"""Steps of Adam, whose learning rate falls from ``RATE`` to 0."""
RATE = 0.1
"""Initial learning rate, in lengths of the initial vector."""
BLOCK_BYTES = 16 << 20
"""Scores of the users that are fitted together."""


def fit_to_histories(start: Tensor, rows: Csr, items: Tensor, temperature: float, length: float = 1.0) -> Tensor:
    """Vectors of new users, float32 [rows.n_rows, d]; 0 for an empty history or an initial vector of 0.

    Args:
        start: initial vectors, [rows.n_rows, d].
        rows: histories, [n, n_items].
        items: Q, [n_items, d].
        temperature: of training.
        length: ρ, length of the returned vectors. If it is not finite, neither are they.
    """
    if not math.isfinite(length):  # from vectors that are not: the check of scores says so
        return torch.full_like(start, torch.nan)
    start = length * functional.normalize(start.detach(), dim=1)
    fitted = (torch.from_numpy(rows.degrees()).to(start.device) > 0) & start.any(1)
    users = start * fitted[:, None]
    block_size = max(1, BLOCK_BYTES // (4 * max(rows.n_cols, 1)))
    for block in torch.split(fitted.nonzero()[:, 0], block_size):
        users[block] = _fit_block(start[block], rows.take(block.cpu().numpy()), items.detach(), temperature, length)
    return users


def _fit_block(start: Tensor, rows: Csr, items: Tensor, temperature: float, length: float) -> Tensor:
    """``fit_to_histories`` for one block of non-empty histories, with the gradient by hand.

    With w_i = σ(log Σ_{j ∉ H} exp(s_j) − s_i), ∂/∂s_i = −w_i for i ∈ H, and ∂/∂s_j = Σ_i w_i · softmax_{∉H}(s)_j for
    j ∉ H. Users are independent of each other.
    """
    users, seen = entries(rows, items.device)
    scale = length / (SHARPER * temperature)
    smallest = torch.finfo(items.dtype)
    u = start.clone()
    adam = torch.optim.Adam([u], lr=RATE * length)
    for step in range(STEPS):
        adam.param_groups[0]["lr"] = RATE * length * (1 - step / STEPS)
        norm = u.norm(dim=1, keepdim=True)
        direction = u / norm
        s = (scale * direction) @ items.T
        s_seen = s[users, seen]
        s[users, seen] = -torch.inf
        highest = s.amax(1, keepdim=True).clamp_(min=smallest.min)  # finite even if a history has every item
        s.sub_(highest).exp_()
        total = s.sum(1, keepdim=True)
        w = ((highest + total.log())[users, 0] - s_seen).sigmoid()
        s *= torch.zeros_like(total).index_add_(0, users, w[:, None]) / total.clamp(min=smallest.tiny)
        s[users, seen] = -w
        gradient = scale * (s @ items)
        u.grad = (gradient - (gradient * direction).sum(1, keepdim=True) * direction) / norm
        adam.step()
    return length * functional.normalize(u, dim=1)
