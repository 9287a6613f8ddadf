"""Ranking losses on scores: each takes scores, none knows a model.

Shapes: B training edges, n negatives each. ``excluded`` is True where a "negative" is an item of that edge's user: the
entry has no share in the loss and no gradient. Half-precision scores are widened to float32 first. Every loss is a mean
over edges, in logits throughout: nothing takes the logarithm of a sigmoid.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional


def bpr(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking, ``−log σ(s⁺ − s⁻)``: mean over an edge's pairs, then over edges (Rendle et al. 2009).

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each.
        excluded: bool, shaped like ``negative``; an edge with nothing left costs 0.
    """
    pos, neg, excluded = _pairs(positive, negative, excluded)
    each = functional.softplus(neg - pos[:, None])
    if excluded is None:
        return each.mean(1).mean()
    left = (~excluded).sum(1).clamp(min=1)
    return (each.masked_fill(excluded, 0).sum(1) / left).mean()


def bce(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, ``−log σ(s⁺) − Σ log(1 − σ(s⁻))`` over an edge's negatives (Kang & McAuley 2018, eq. 6: n = 1).

    A sum over the negatives, so that the scores have the minimum that the theory of ``gbce`` speaks of and an excluded
    entry changes no other's share; divide by n + 1 to compare values across n.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B].
        excluded: bool, shaped like ``negative``.
    """
    return _binary(positive, negative, excluded, 1.0)


def gbce(positive: Tensor, negative: Tensor, excluded: Tensor | None, n_items: int, t: float) -> Tensor:
    """Generalised binary cross-entropy, ``−log σ(s⁺)^β − Σ log(1 − σ(s⁻))`` (Petrov & Macdonald 2023, gSASRec).

    β = α (t (1 − 1/α) + 1/α) = 1 − t (1 − α) with the sampling rate α = n / (n_items − 1). At t = 0 it is ``bce``, whose
    probabilities are too high because positives are all there and negatives only sampled; at t = 1 the loss's minimum
    is at the true ones. Summed over negatives (published: divided by n + 1).

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B], drawn uniformly.
        excluded: bool, shaped like ``negative``; α counts an edge's negatives before exclusion.
        n_items: size of the catalogue.
        t: calibration, 0 to 1.
    """
    n = negative.shape[1] if negative.ndim == 2 else 1
    alpha = min(n / max(n_items - 1, 1), 1.0)
    return _binary(positive, negative, excluded, 1 - t * (1 - alpha))


def sampled_softmax(
    positive: Tensor,
    negative: Tensor,
    excluded: Tensor | None,
    temperature: float,
    log_q: Tensor | None = None,
    log_q_positive: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of the observed item against negatives, mean over edges (Wu et al. 2024, SL/SSM).

    With ``log_q`` every negative counts 1/q times (logQ correction, Bengio & Senécal 2008; Yi et al. 2019): if q is the
    expected number of times that the item is drawn, the sum over the drawn is the full softmax's in expectation. The
    positive is there with certainty, so it is corrected only on request (as Yi et al. do).

    Args:
        positive: scores of the observed items [B].
        negative: scores of the negatives [B, n].
        excluded: bool [B, n].
        temperature: scores are divided by it, before any correction.
        log_q: [n] or [B, n], logarithms.
        log_q_positive: [B], logarithms.
    """
    pos, neg, excluded = _pairs(positive, negative, excluded)
    pos, neg = pos / temperature, neg / temperature
    if log_q is not None:
        neg = neg - log_q
    if log_q_positive is not None:
        pos = pos - log_q_positive
    if excluded is not None:
        neg = neg.masked_fill(excluded, -torch.inf)
    return (torch.logsumexp(torch.cat([pos[:, None], neg], 1), 1) - pos).mean()


def full_softmax(
    scores: Tensor,
    users: Tensor,
    items: Tensor,
    known: tuple[Tensor, Tensor] | Tensor | None,
    temperature: float,
) -> Tensor:
    """Cross-entropy of the observed item against the whole catalogue without the user's other items, mean over edges.

    ``softplus(L_u − s⁺/τ)`` with ``L_u = log Σ exp(s/τ)`` over what user u does not have: one pass over the scores per
    user, whatever the number of edges. Forward needs one block of rows beside the scores, backward the gradient alone.

    Args:
        scores: [U, I], one row per distinct user of the batch.
        users: row of ``scores`` of every edge [B].
        items: item of every edge [B].
        known: what each of the users has: (rows, columns) of the pairs, or bool [U, I]; the batch's own edges are among
            it, named or not. None: nothing is left out, the plain cross-entropy.
        temperature: scores are divided by it.
    """
    loss: Tensor = _FullSoftmax.apply(scores, users, items, known, temperature)  # type: ignore[no-untyped-call]
    return loss


def info_nce(a: Tensor, b: Tensor, temperature: float, symmetric: bool = False) -> Tensor:
    """Contrast of two views: row i of ``a`` is to be nearest row i of ``b`` by cosine, mean over rows (van den Oord et al. 2018).

    One-sided, the rows of ``b`` competing for each of ``a``, as XSimGCL does (Yu et al. 2023); symmetric adds the other
    side and halves the sum.

    Args:
        a: vectors [m, d].
        b: vectors of the same m things [m, d].
        temperature: cosines are divided by it.
        symmetric: both sides.
    """
    logits = functional.normalize(_wide(a), dim=1) @ functional.normalize(_wide(b), dim=1).T / temperature
    at = torch.arange(len(logits), device=logits.device)
    loss = functional.cross_entropy(logits, at)
    return (loss + functional.cross_entropy(logits.T, at)) / 2 if symmetric else loss


@torch.no_grad()
def keep_hardest(scores: Tensor, excluded: Tensor | None, n: int) -> Tensor:
    """Columns of the n highest-scored negatives of each edge's pool, highest first, int64 [B, min(n, pool)]; no gradient.

    Excluded entries come last: gather ``excluded`` by the result as well.

    Args:
        scores: [B, pool].
        excluded: bool [B, pool].
        n: how many to keep.
    """
    if excluded is not None:
        scores = scores.masked_fill(excluded, -torch.inf)
    return scores.topk(min(n, scores.shape[1]), 1).indices


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _pairs(positive: Tensor, negative: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Widened, and with a column per negative."""
    if negative.ndim == 1:
        negative, excluded = negative[:, None], None if excluded is None else excluded[:, None]
    return _wide(positive), _wide(negative), excluded


def _binary(positive: Tensor, negative: Tensor, excluded: Tensor | None, beta: float) -> Tensor:
    pos, neg, excluded = _pairs(positive, negative, excluded)
    against = functional.softplus(neg)
    if excluded is not None:
        against = against.masked_fill(excluded, 0)
    return (beta * functional.softplus(-pos) + against.sum(1)).mean()


class _FullSoftmax(torch.autograd.Function):
    """The gradient by hand: ``softmax over what u does not have × Σ_edges w``, less ``w`` at every edge, w = σ(L_u − s⁺)."""

    @staticmethod
    def forward(
        ctx: Any,
        scores: Tensor,
        users: Tensor,
        items: Tensor,
        known: tuple[Tensor, Tensor] | Tensor | None,
        temperature: float,
    ) -> Tensor:
        if isinstance(known, tuple):
            # the batch's own edges too; sorted by row, so that a block of rows is a slice
            rows, order = torch.cat([known[0].long(), users]).sort(stable=True)
            known = (rows, torch.cat([known[1].long(), items])[order])
        elif known is not None:
            known = known.clone()
            known[users, items] = True
        free = _wide(scores.new_empty(len(scores)))
        for first, last in _blocks(scores):
            block = _logits(scores, known, first, last, temperature)
            torch.logsumexp(block, 1, out=free[first:last])
        pos = _wide(scores[users, items]) / temperature
        gap = free[users] - pos
        ctx.save_for_backward(scores, users, items, free, gap)
        ctx.known, ctx.temperature = known, temperature
        # without a mask the positive is already in the sum
        return (gap if known is None else functional.softplus(gap)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scores, users, items, free, gap = ctx.saved_tensors
        scale = upstream / (len(users) * ctx.temperature)
        w = (torch.ones_like(gap) if ctx.known is None else gap.sigmoid()) * scale
        per_user = torch.zeros_like(free).index_add_(0, users, w)
        gradient = torch.empty_like(scores)
        # a user without a free item has L = −∞, and nothing to push down
        shift = free.clamp(min=torch.finfo(free.dtype).min)
        for first, last in _blocks(scores):
            block = _logits(scores, ctx.known, first, last, ctx.temperature)
            block.sub_(shift[first:last, None]).exp_().mul_(per_user[first:last, None])
            gradient[first:last] = block
        gradient.index_put_((users, items), -w.to(gradient.dtype), accumulate=True)
        return gradient, None, None, None, None


def _blocks(scores: Tensor) -> list[tuple[int, int]]:
    """Ranges of rows whose logits fit a core's cache (CPU) or a small part of the memory (GPU)."""
    size = 1 << (18 if scores.device.type == "cpu" else 26)
    step = max(1, size // max(scores.shape[1], 1))
    return [(first, min(first + step, len(scores))) for first in range(0, len(scores), step)]


def _logits(
    scores: Tensor, known: tuple[Tensor, Tensor] | Tensor | None, first: int, last: int, temperature: float
) -> Tensor:
    """Scores of some rows over the temperature, −∞ at what the user has."""
    block = _wide(scores[first:last]) / temperature
    if isinstance(known, tuple):
        rows, columns = known
        start, stop = torch.searchsorted(rows, rows.new_tensor([first, last])).tolist()
        block[rows[start:stop] - first, columns[start:stop]] = -torch.inf
    elif known is not None:
        block.masked_fill_(known[first:last], -torch.inf)
    return block
