"""Reranking: the top candidates are scored again by target attention over the history.

    z_uc = Σ_j softmax_j(A v_c · k_j / √d) k_j,      s'(u, c) = s(u, c) + MLP([v_c ∘ z_uc ‖ v_c ∘ h_u ‖ z_uc])

Attention over the history depends on the candidate (Zhou et al. 2018, DIN), so its cost per candidate grows with the
history, and only the top of the list is reranked. All other items stay below, in their order. The top is that of the
whole catalogue, whatever the candidate items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.kernels.csr import Int64, concat_ranges
from relrank.kernels.dot_attention import Neighbours, dot_attention
from relrank.models.core.layers import Affine
from relrank.models.two_view.history_attention import Histories

EVENTS = 1 << 22
"""Events read at a time when scoring, over all candidates."""


class TargetAttention(nn.Module):
    """The term that is added to the scores of each user's candidates.

    Args:
        dim: length of a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.hidden, self.out = Affine(dim, dim), Affine(3 * dim, dim), Affine(dim, 1)

    def reset(self, generator: torch.Generator) -> None:
        """The added term is initially close to 0."""
        self.query.reset(generator)
        self.hidden.reset(generator, 2**0.5)
        self.out.reset(generator, 0.01)

    def forward(
        self, items: Tensor, candidates: Tensor, owners: Tensor, keys: Tensor, users: Tensor, histories: Histories
    ) -> Tensor:
        """MLP([v_c ∘ z_uc ‖ v_c ∘ h_u ‖ z_uc]) of each candidate, [n].

        Args:
            items: v of the catalogue, [n_items, dim].
            candidates: item rows, int64 [n].
            owners: index of each candidate's user among the histories, int64 [n].
            keys: k of every event of the histories, [n_events, dim].
            users: h, [n_users, dim].
            histories: of the users.
        """
        of_user, v = owners.cpu().numpy(), items.index_select(0, candidates)
        indptr, events = concat_ranges(histories.indptr[of_user], np.diff(histories.indptr)[of_user])
        neighbours = Neighbours(indptr, events.astype(np.int32), np.zeros(events.size, np.int32))
        query, k = self.query(v)[:, None], keys[:, None]
        z = dot_attention(query, k, k, keys.new_ones(1, 1), neighbours, v.shape[1] ** -0.5)[:, 0]
        hidden = functional.relu(self.hidden(v * z, v * users.index_select(0, owners), z))
        added: Tensor = self.out(hidden)[:, 0]
        return added


def users_at_once(histories: Histories, candidates: int) -> Iterator[Int64]:
    """Blocks of users whose candidates read about ``EVENTS`` events."""
    work = np.cumsum((np.diff(histories.indptr) + 1) * candidates)
    cuts = np.unique(np.searchsorted(work, np.arange(EVENTS, work[-1] if work.size else 0, EVENTS)))
    yield from (part for part in np.split(np.arange(histories.n), cuts) if part.size)


@torch.no_grad()
def hard_negatives(
    scores: Tensor, seen: tuple[Tensor, Tensor], top: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Random items from the top of each user's list.

    Args:
        scores: [n_users, n_items]; overwritten.
        seen: (user indices, item rows) that are not negatives.
        top: length of the list.
        n: items drawn from it.
        generator: of the draw.

    Returns:
        Item rows, int64 [n_users, n], and which of them are seen items after all, because the user has too few
        others, bool [n_users, n].
    """
    scores[seen] = -torch.inf
    best = scores.topk(min(top, scores.shape[1]), 1).indices
    # random numbers per item, not per rank, so that two close scores may swap without changing the draw
    order = torch.rand(scores.shape, generator=generator, device=scores.device).gather(1, best)
    drawn = best.gather(1, order.topk(min(n, best.shape[1]), 1).indices)
    return drawn, scores.gather(1, drawn).isinf()


def merge_reranked(scores: Tensor, columns: Tensor, reranked: Tensor) -> Tensor:
    """Replace the scores of some columns; all others keep their order below those.

    Args:
        scores: [n, n_items].
        columns: int64 [n, c], the reranked items.
        reranked: their new scores, [n, c].

    Returns:
        [n, n_items].
    """
    others = scores.scatter(1, columns, -torch.inf)
    margin = reranked.amin(1, keepdim=True) - others.amax(1, keepdim=True)
    drop = (1 - margin).clamp(min=0)
    drop = torch.where(drop.isfinite(), drop, torch.zeros_like(drop))
    return (scores - drop).scatter(1, columns, reranked)
