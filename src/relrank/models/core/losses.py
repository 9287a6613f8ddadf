"""Ranking losses, as functions of scores or vectors.

Shapes: B training edges, n negatives each. ``excluded`` is True where a "negative" is an item of that edge's user:
the entry has neither loss nor gradient. Half-precision scores are first converted to float32. Every loss is a mean
over edges, computed from logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

Pairs = tuple[Tensor, Tensor]
_BLOCK = 1 << 20
"""Scores that a softmax handles at a time on a CPU."""
_DEVICE_BLOCK = 1 << 26
"""Likewise on other devices."""


def bpr(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking, ``−log σ(s⁺ − s⁻)`` (Rendle et al. 2009), mean over negatives, then edges.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each.
        excluded: bool, shaped like ``negative``; an edge without negatives costs 0.
    """
    pos, neg, excluded = _wide_pairs(positive, negative, excluded)
    loss = functional.softplus(neg - pos[:, None])
    if excluded is None:
        return loss.mean(1).mean()
    n_negatives = (~excluded).sum(1).clamp(min=1)
    return (loss.masked_fill(excluded, 0).sum(1) / n_negatives).mean()


def bce(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, ``−log σ(s⁺) − Σ log(1 − σ(s⁻))``; SASRec's with one negative (Kang & McAuley 2018).

    A sum over the negatives, not a mean: the calibration of ``gbce`` is derived for the sum, and excluding one
    negative does not reweight the others. The gradient grows with n.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each.
        excluded: bool, shaped like ``negative``.
    """
    return _binary(positive, negative, excluded, 1.0)


def gbce(positive: Tensor, negative: Tensor, excluded: Tensor | None, n_items: int, t: float) -> Tensor:
    """Generalised binary cross-entropy, ``−log σ(s⁺)^β − Σ log(1 − σ(s⁻))`` (Petrov & Macdonald 2023, gSASRec).

    β = α (t (1 − 1/α) + 1/α) = 1 − t (1 − α), where α = n / (n_items − 1) is the sampling rate of negatives. t = 0 is
    ``bce``, which overestimates σ(s) because it sees all positives but few negatives; at t = 1, σ(s) is the
    probability of the item. Summed over the negatives.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each, drawn uniformly.
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

    With ``log_q``, each negative is weighted by 1/q (logQ correction; Bengio & Senécal 2008). If q is the expected
    number of times that the item is among the negatives, their sum is that of the full softmax in expectation. The
    positive is always included, so it is corrected only if log_q_positive is given (as in Yi et al. 2019).

    Args:
        positive: scores of the observed items [B].
        negative: scores of the negatives [B, n].
        excluded: bool [B, n]; an edge without negatives costs 0.
        temperature: scores are divided by it, before the correction.
        log_q: natural logarithms [n] or [B, n].
        log_q_positive: natural logarithms [B].
    """
    pos, neg, excluded = _wide_pairs(positive, negative, excluded)
    pos, neg = pos / temperature, neg / temperature
    if log_q is not None:
        neg = neg - log_q
    if log_q_positive is not None:
        pos = pos - log_q_positive
    if excluded is not None:
        neg = neg.masked_fill(excluded, -torch.inf)
    return (torch.logsumexp(torch.cat([pos[:, None], neg], 1), 1) - pos).mean()


def shared_softmax(
    users: Tensor,
    positive: Tensor,
    negatives: Tensor,
    excluded: Tensor | None,
    temperature: float,
    log_q: Tensor | None = None,
) -> Tensor:
    """``sampled_softmax`` with negatives that all edges share, computed from vectors, a block of scores at a time.

    A block's scores are computed, masked and exponentiated while they are in cache; the exponentials are saved for
    the backward pass. Not twice differentiable.

    Args:
        users: vector of every edge's user [B, d], float32.
        positive: scores of the observed items [B].
        negatives: vectors of the shared negatives [n, d].
        excluded: bool [B, n].
        temperature: scores are divided by it, before the correction.
        log_q: natural logarithms [n], as for ``sampled_softmax``.
    """
    loss: Tensor = _SharedSoftmax.apply(users, positive, negatives, excluded, temperature, log_q)  # type: ignore[no-untyped-call]
    return loss


def full_softmax(
    scores: Tensor, users: Tensor, items: Tensor, seen: Pairs | Tensor | None, temperature: float
) -> Tensor:
    """Cross-entropy of the observed item against all items but the user's others, mean over edges.

    ``softplus(L_u − s⁺/τ)`` with ``L_u = log Σ exp(s/τ)`` over the items that user u does not have, so exponentials
    are computed once per user. In addition to the scores, the forward pass holds a block of rows and the backward
    pass the gradient. Not twice differentiable.

    Args:
        scores: [U, I], one row per distinct user of the batch.
        users: row of ``scores`` of every edge [B].
        items: item of every edge [B].
        seen: items of each user, as (rows [nnz], columns [nnz]), fastest with ascending rows, or bool [U, I]; the
            batch's own edges always count as seen. None excludes nothing: the plain cross-entropy.
        temperature: scores are divided by it.
    """
    loss: Tensor = _FullSoftmax.apply(scores, users, items, seen, temperature)  # type: ignore[no-untyped-call]
    return loss


def catalogue_softmax(left: Tensor, items: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each row's target against the whole catalogue, computed from vectors, mean over rows.

    ``log Σ_i exp(l · q_i / τ) − l · q_target / τ``. The forward pass also computes both gradients, a block of rows at
    a time, so that the scores of all rows are never in memory together. Under autocast the products use bfloat16, the
    target's score and the sums float32; a loss near 0 then has the precision of bfloat16 and may be negative. Not
    twice differentiable.

    Args:
        left: vectors [n, d].
        items: vectors of all items [n_items, d].
        targets: item rows, int64 [n].
        temperature: scores are divided by it.
    """
    half = torch.is_autocast_enabled(left.device.type)
    with torch.autocast(left.device.type, enabled=False):
        loss: Tensor = _CatalogueSoftmax.apply(_wide(left), _wide(items), targets, temperature, half)  # type: ignore[no-untyped-call]
    return loss


def info_nce(
    a: Tensor, b: Tensor, temperature: float, symmetric: bool = False, excluded: Tensor | None = None
) -> Tensor:
    """InfoNCE of two views over cosines: row i of a against all rows of b (van den Oord et al. 2018).

    One-sided as in XSimGCL (Yu et al. 2023), mean over rows; ``symmetric`` averages both directions.

    Args:
        a: vectors [m, d].
        b: vectors of the same m nodes [m, d].
        temperature: cosines are divided by it.
        symmetric: whether to add b's rows against a's.
        excluded: bool [m, m], symmetric: pairs that are not negatives of each other; the diagonal is ignored.
    """
    logits = functional.normalize(_wide(a), dim=1) @ functional.normalize(_wide(b), dim=1).T / temperature
    same = torch.arange(len(logits), device=logits.device)
    if excluded is not None:
        logits = logits.masked_fill(excluded & (same[:, None] != same), -torch.inf)
    loss = functional.cross_entropy(logits, same)
    return (loss + functional.cross_entropy(logits.T, same)) / 2 if symmetric else loss


@torch.no_grad()
def keep_hardest(scores: Tensor, excluded: Tensor | None, n: int) -> Tensor:
    """Columns of each edge's n highest-scored negatives, highest first, int64 [B, min(n, pool)]; without gradient.

    If an edge has fewer than n others, excluded entries come last: gather ``excluded`` by the columns, too.

    Args:
        scores: of the pool [B, pool].
        excluded: bool [B, pool].
        n: number of negatives to keep.
    """
    if excluded is not None:
        scores = scores.masked_fill(excluded, -torch.inf)
    return scores.topk(min(n, scores.shape[1]), 1).indices


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _rows_at_once(device: torch.device, columns: int) -> int:
    """Rows of scores in a block, at least one."""
    return max(1, (_BLOCK if device.type == "cpu" else _DEVICE_BLOCK) // max(columns, 1))


def _wide_pairs(positive: Tensor, negative: Tensor, excluded: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scores in float32 or float64, with a column per negative."""
    if negative.ndim == 1:
        negative, excluded = negative[:, None], None if excluded is None else excluded[:, None]
    return _wide(positive), _wide(negative), excluded


def _binary(positive: Tensor, negative: Tensor, excluded: Tensor | None, beta: float) -> Tensor:
    pos, neg, excluded = _wide_pairs(positive, negative, excluded)
    against = functional.softplus(neg)
    if excluded is not None:
        against = against.masked_fill(excluded, 0)
    return (beta * functional.softplus(-pos) + against.sum(1)).mean()


class _SharedSoftmax(torch.autograd.Function):
    """With p the softmax over positive and negatives: du = Σ_k p_k n_k / τ, dn_k = Σ p_k u / τ, ds⁺ = (p⁺ − 1)/τ."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        positive: Tensor,
        negatives: Tensor,
        excluded: Tensor | None,
        temperature: float,
        log_q: Tensor | None,
    ) -> Tensor:
        shares = users.new_empty(len(users), len(negatives))
        pos, total = positive / temperature, torch.empty_like(positive)
        step = _rows_at_once(users.device, len(negatives))
        scaled = negatives.T / temperature
        for first in range(0, len(users), step):
            here = slice(first, first + step)
            block = torch.mm(users[here], scaled, out=shares[here])
            if log_q is not None:
                block.sub_(log_q)
            if excluded is not None:
                block.masked_fill_(excluded[here], -torch.inf)
            # an edge without negatives still has its positive
            highest = torch.maximum(block.amax(1), pos[here]) if block.shape[1] else pos[here]
            block.sub_(highest[:, None]).exp_()
            pos[here] -= highest
            total[here] = block.sum(1)
        ratio = pos.exp()
        total += ratio
        ctx.save_for_backward(users, negatives, shares, total, ratio / total)
        ctx.temperature = temperature
        return (total.log() - pos).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        users, negatives, shares, total, positive = ctx.saved_tensors
        scale = upstream / (len(users) * ctx.temperature)
        shares.mul_((scale / total)[:, None])
        return shares @ negatives, (positive - 1) * scale, shares.T @ users, None, None, None


class _CatalogueSoftmax(torch.autograd.Function):
    """With p the softmax: dl = (Σ_i p_i q_i − q_target) / τ, dq_i = Σ_rows (p_i − [i is the target]) l / τ."""

    @staticmethod
    def forward(ctx: Any, left: Tensor, items: Tensor, targets: Tensor, temperature: float, half: bool) -> Tensor:
        kind = torch.bfloat16 if half else left.dtype
        left = left / temperature
        narrow, narrow_left = items.to(kind), left.to(kind)
        d_left, d_items = torch.empty_like(left), torch.zeros_like(items)
        pos = (left * items.index_select(0, targets)).sum(1)
        total = torch.empty_like(pos)
        # each block costs a pass over the items' gradient, so it has at least as many rows as that has columns
        step = max(left.shape[1], _rows_at_once(left.device, len(items)))
        for first in range(0, len(left), step):
            here = slice(first, first + step)
            block = (narrow_left[here] @ narrow.T).to(left.dtype)
            highest = block.amax(1, keepdim=True)
            block.sub_(highest).exp_()
            sums = block.sum(1, keepdim=True)
            total[here] = (sums.log() + highest)[:, 0]
            shares = block.to(kind)
            d_left[here] = (shares @ narrow).to(left.dtype) / sums
            d_items += (shares.T @ (left[here] / sums).to(kind)).to(items.dtype)
        d_left -= items.index_select(0, targets)
        d_items.index_add_(0, targets, left, alpha=-1)
        ctx.save_for_backward(d_left, d_items)
        ctx.temperature = temperature
        return (total - pos).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_left, d_items = ctx.saved_tensors
        share = upstream / len(d_left)
        return d_left * (share / ctx.temperature), d_items * share, None, None, None


class _FullSoftmax(torch.autograd.Function):
    """With w = σ(L_u − s⁺/τ) per edge, ds = Σ_u w · softmax over the items u does not have, and −w at s⁺; over τ."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, users: Tensor, items: Tensor, seen: Pairs | Tensor | None, temperature: float
    ) -> Tensor:
        rows = _Rows(scores, users, items, seen, temperature)
        free = _wide(scores.new_empty(len(scores)))
        for first, last, block in rows.logits(scores, torch.zeros_like(free)):
            highest = block.amax(1, keepdim=True)
            highest.clamp_(min=torch.finfo(block.dtype).min)  # for rows of −∞
            torch.add(block.sub_(highest).exp_().sum(1).log_(), highest[:, 0], out=free[first:last])
        gap = free[users] - _wide(scores[users, items]) / temperature
        ctx.save_for_backward(scores, users, items, free, gap)
        ctx.rows = rows
        # if nothing is excluded, the sum includes the positive
        return (gap if seen is None else functional.softplus(gap)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scores, users, items, free, gap = ctx.saved_tensors
        rows: _Rows = ctx.rows
        w = (gap.sigmoid() if rows.excluded else torch.ones_like(gap)) * (upstream / (len(users) * rows.temperature))
        per_user = torch.zeros_like(free).index_add_(0, users, w)
        free = free.clamp(min=torch.finfo(free.dtype).min)  # for users who have every item
        gradient = torch.empty_like(scores)
        for first, last, block in rows.logits(scores, -free):
            torch.mul(block.exp_(), per_user[first:last, None], out=gradient[first:last])
        gradient.index_put_((users, items), -w.to(gradient.dtype), accumulate=True)
        return gradient, None, None, None, None


class _Rows:
    """Logits by blocks of rows, −∞ at excluded items."""

    def __init__(
        self, scores: Tensor, users: Tensor, items: Tensor, seen: Pairs | Tensor | None, temperature: float
    ) -> None:
        self.step = _rows_at_once(scores.device, scores.shape[1])
        self.temperature = temperature
        self.mask = seen if isinstance(seen, Tensor) else None
        pairs = [] if seen is None else [(users, items)]
        if isinstance(seen, tuple):
            pairs.append(seen)
        bounds = torch.arange(0, len(scores) + self.step, self.step, device=scores.device)
        self.excluded = []
        for rows, columns in pairs:
            if (rows[1:] < rows[:-1]).any():
                rows, order = rows.sort()
                columns = columns[order]
            starts = torch.searchsorted(rows.contiguous(), bounds.to(rows.dtype)).tolist()
            self.excluded.append((rows, columns, starts))

    def logits(self, scores: Tensor, shift: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """(first row, end row, scores/τ + shift of the row [end − first, I]); the memory is reused."""
        buffer = _wide(scores.new_empty(min(self.step, len(scores)), scores.shape[1]))
        for at, first in enumerate(range(0, len(scores), self.step)):
            last = min(first + self.step, len(scores))
            block = buffer[: last - first]
            torch.add(shift[first:last, None], scores[first:last], alpha=1 / self.temperature, out=block)
            if self.mask is not None:
                block.masked_fill_(self.mask[first:last], -torch.inf)
            for rows, columns, starts in self.excluded:
                here = slice(starts[at], starts[at + 1])
                block[rows[here] - first, columns[here]] = -torch.inf
            yield first, last, block
