"""Ranking losses on scores: each takes scores, none knows a model.

Shapes: B training edges, n negatives each. ``excluded`` is True where a "negative" is an item of that edge's user:
the entry has no share in the loss and no gradient. Scores in half precision are widened to float32 first. Every loss
is a mean over edges and computed from logits: nothing takes the logarithm of a sigmoid.
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
"""Scores that a softmax takes at a time on a CPU: few beside the matrix, many beside the cost of an operation."""
_DEVICE_BLOCK = 1 << 26
"""The same elsewhere."""


def bpr(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking, ``−log σ(s⁺ − s⁻)`` (Rendle et al. 2009): mean over an edge's pairs, then edges.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each.
        excluded: bool, shaped like ``negative``; an edge with no pair left costs 0.
    """
    pos, neg, excluded = _wide_pairs(positive, negative, excluded)
    each = functional.softplus(neg - pos[:, None])
    if excluded is None:
        return each.mean(1).mean()
    left = (~excluded).sum(1).clamp(min=1)
    return (each.masked_fill(excluded, 0).sum(1) / left).mean()


def bce(positive: Tensor, negative: Tensor, excluded: Tensor | None = None) -> Tensor:
    """Binary cross-entropy, ``−log σ(s⁺) − Σ log(1 − σ(s⁻))``; with one negative SASRec's (Kang & McAuley 2018).

    A sum over the negatives, not a mean: the calibration of ``gbce`` is derived for it, and an exclusion changes no
    other entry's share. The gradient's size grows with n.

    Args:
        positive: scores of the observed items [B].
        negative: scores of unobserved items [B, n], or [B] for one each.
        excluded: bool, shaped like ``negative``.
    """
    return _binary(positive, negative, excluded, 1.0)


def gbce(positive: Tensor, negative: Tensor, excluded: Tensor | None, n_items: int, t: float) -> Tensor:
    """Generalised binary cross-entropy, ``−log σ(s⁺)^β − Σ log(1 − σ(s⁻))`` (Petrov & Macdonald 2023, gSASRec).

    β = α (t (1 − 1/α) + 1/α) = 1 − t (1 − α), where α = n / (n_items − 1) is the share of the negatives that is
    drawn. t = 0 is ``bce``, whose σ(s) is too high, since all positives but few negatives are seen; at t = 1 σ(s) is
    the probability of the item. Summed over the negatives.

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

    With ``log_q`` every negative counts 1/q times (logQ correction; Bengio & Senécal 2008). If q is the number of
    times that the item is expected among the negatives, their sum is the full softmax's in expectation. The positive
    is there with certainty, so that it is corrected only where log_q_positive is given (as in Yi et al. 2019).

    Args:
        positive: scores of the observed items [B].
        negative: scores of the negatives [B, n].
        excluded: bool [B, n]; an edge with no negative left costs 0.
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
    """``sampled_softmax`` of negatives that all edges share, from their vectors: a block of scores at a time.

    The scores of an edge are made, masked and turned into exponentials while they are in a core's cache; what is kept
    for the backward pass is the exponentials. It cannot be differentiated twice.

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

    ``softplus(L_u − s⁺/τ)`` with ``L_u = log Σ exp(s/τ)`` over what user u does not have: exponentials are taken once
    per user, whatever the number of edges. Beside the scores, the forward pass holds a block of rows and the backward
    pass the gradient. It cannot be differentiated twice.

    Args:
        scores: [U, I], one row per distinct user of the batch.
        users: row of ``scores`` of every edge [B].
        items: item of every edge [B].
        seen: what each user has, as (rows [nnz], columns [nnz]) — quickest with rows ascending — or bool [U, I]; the
            batch's own edges count as known, named or not. None: nothing is left out, the plain cross-entropy.
        temperature: scores are divided by it.
    """
    loss: Tensor = _FullSoftmax.apply(scores, users, items, seen, temperature)  # type: ignore[no-untyped-call]
    return loss


def catalogue_softmax(left: Tensor, items: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Plain cross-entropy of each row's target against the whole catalogue, from the vectors, mean over rows.

    ``log Σ_i exp(l · q_i / τ) − l · q_target / τ``. Scores are made a block of rows at a time, turned into
    exponentials once, and give both gradients before the next block, so that the scores of all rows are never there
    together. Under autocast the products run in bfloat16, the target's score and the sums in float32; a loss near 0
    is then only as exact as bfloat16, and may fall below it. It cannot be differentiated twice.

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
    """Contrast of two views: a's row i is to find b's row i among all of b, by cosine (van den Oord et al. 2018).

    One-sided as in XSimGCL (Yu et al. 2023), mean over rows; symmetric is the mean of both sides.

    Args:
        a: vectors [m, d].
        b: vectors of the same m nodes [m, d].
        temperature: cosines are divided by it.
        symmetric: also a's rows against b's.
        excluded: bool [m, m], symmetric: pairs that are no negatives of each other. A node always has to find itself.
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

    Excluded entries come last, where an edge has fewer than n others: gather ``excluded`` by the columns, too.

    Args:
        scores: of the pool [B, pool].
        excluded: bool [B, pool].
        n: how many to keep.
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
    """Widened, with a column per negative."""
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
        own, total = positive / temperature, torch.empty_like(positive)
        step = _rows_at_once(users.device, len(negatives))
        scaled = negatives.T / temperature
        for first in range(0, len(users), step):
            here = slice(first, first + step)
            block = torch.mm(users[here], scaled, out=shares[here])
            if log_q is not None:
                block.sub_(log_q)
            if excluded is not None:
                block.masked_fill_(excluded[here], -torch.inf)
            # an edge without a negative left still has its positive
            highest = torch.maximum(block.amax(1), own[here]) if block.shape[1] else own[here]
            block.sub_(highest[:, None]).exp_()
            own[here] -= highest
            total[here] = block.sum(1)
        ratio = own.exp()
        total += ratio
        ctx.save_for_backward(users, negatives, shares, total, ratio / total)
        ctx.temperature = temperature
        return (total.log() - own).mean()

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
        own = (left * items.index_select(0, targets)).sum(1)
        total = torch.empty_like(own)
        # a block costs a pass over the items' gradient, so it is no smaller than that is wide
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
        return (total - own).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        d_left, d_items = ctx.saved_tensors
        share = upstream / len(d_left)
        return d_left * (share / ctx.temperature), d_items * share, None, None, None


class _FullSoftmax(torch.autograd.Function):
    """Gradient: w = σ(L_u − s⁺/τ) per edge; Σ w of the user, as a softmax over what u does not have, less w at s⁺."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, users: Tensor, items: Tensor, seen: Pairs | Tensor | None, temperature: float
    ) -> Tensor:
        rows = _Rows(scores, users, items, seen, temperature)
        free = _wide(scores.new_empty(len(scores)))
        for first, last, block in rows.logits(scores, torch.zeros_like(free)):
            highest = block.amax(1, keepdim=True)
            highest.clamp_(min=torch.finfo(block.dtype).min)  # a row of −∞ alone
            torch.add(block.sub_(highest).exp_().sum(1).log_(), highest[:, 0], out=free[first:last])
        gap = free[users] - _wide(scores[users, items]) / temperature
        ctx.save_for_backward(scores, users, items, free, gap)
        ctx.rows = rows
        # with nothing left out the positive is in the sum already
        return (gap if seen is None else functional.softplus(gap)).mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        scores, users, items, free, gap = ctx.saved_tensors
        rows: _Rows = ctx.rows
        w = (gap.sigmoid() if rows.left_out else torch.ones_like(gap)) * (upstream / (len(users) * rows.temperature))
        per_user = torch.zeros_like(free).index_add_(0, users, w)
        free = free.clamp(min=torch.finfo(free.dtype).min)  # a user who has everything: nothing to spread
        gradient = torch.empty_like(scores)
        for first, last, block in rows.logits(scores, -free):
            torch.mul(block.exp_(), per_user[first:last, None], out=gradient[first:last])
        gradient.index_put_((users, items), -w.to(gradient.dtype), accumulate=True)
        return gradient, None, None, None, None


class _Rows:
    """Logits by blocks of rows, −∞ at what is left out."""

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
        self.left_out = []
        for rows, columns in pairs:
            if (rows[1:] < rows[:-1]).any():
                rows, order = rows.sort()
                columns = columns[order]
            starts = torch.searchsorted(rows.contiguous(), bounds.to(rows.dtype)).tolist()
            self.left_out.append((rows, columns, starts))

    def logits(self, scores: Tensor, shift: Tensor) -> Iterator[tuple[int, int, Tensor]]:
        """(first row, last row, scores/τ + shift of the row [last − first, I]); the same memory every time."""
        buffer = _wide(scores.new_empty(min(self.step, len(scores)), scores.shape[1]))
        for at, first in enumerate(range(0, len(scores), self.step)):
            last = min(first + self.step, len(scores))
            block = buffer[: last - first]
            torch.add(shift[first:last, None], scores[first:last], alpha=1 / self.temperature, out=block)
            if self.mask is not None:
                block.masked_fill_(self.mask[first:last], -torch.inf)
            for rows, columns, starts in self.left_out:
                here = slice(starts[at], starts[at + 1])
                block[rows[here] - first, columns[here]] = -torch.inf
            yield first, last, block
