"""Ranking losses on scores: each takes scores, none knows a model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def bpr(positive: Tensor, negative: Tensor) -> Tensor:
    """Bayesian personalised ranking, ``−log σ(s⁺ − s⁻)``, mean over the batch (Rendle et al. 2009, eq. 6).

    Args:
        positive: scores of the observed items [B].
        negative: scores of one unobserved item each [B].
    """
    return functional.softplus(negative - positive).mean()


def sampled_softmax(positive: Tensor, negative: Tensor, is_positive: Tensor | None, temperature: float) -> Tensor:
    """Cross-entropy of the observed item against shared negatives, mean over the batch (Wu et al. 2024, SL/SSM).

    Args:
        positive: scores of the observed items [B].
        negative: scores of the shared negatives [B, n].
        is_positive: bool [B, n], True where a shared "negative" is an item of that row's user: left out of the sum.
        temperature: scores are divided by it.
    """
    logits = negative / temperature
    if is_positive is not None:
        logits = logits.masked_fill(is_positive, -torch.inf)
    everything = torch.cat([(positive / temperature)[:, None], logits], 1)
    return (torch.logsumexp(everything.float(), 1) - positive / temperature).mean()
