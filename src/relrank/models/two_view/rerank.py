"""The heavy head: the best of a product's list, looked at again with the candidate in view.

    z_uc = Σ_j softmax_j(A v_c · k_j / √d) k_j,      s'(u, c) = s(u, c) + MLP([v_c ∘ z_uc ‖ v_c ∘ h_u ‖ z_uc])

The history is read anew for every candidate (target-aware attention: Zhou et al. 2018, DIN), which costs the
history's length for each, so that only the top of a list can have it. What is not looked at again keeps its place
below. The top is that of the whole catalogue, whoever may be a candidate.
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
"""Events that scoring reads at a time, over all candidates."""


class TargetAttention(nn.Module):
    """What is added to the scores of a few candidates of each user.

    Args:
        dim: length of a vector.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query, self.hidden, self.out = Affine(dim, dim), Affine(3 * dim, dim), Affine(dim, 1)

    def reset(self, generator: torch.Generator) -> None:
        """Nearly nothing is added."""
        self.query.reset(generator)
        self.hidden.reset(generator, 2**0.5)
        self.out.reset(generator, 0.01)

    def forward(
        self, items: Tensor, candidates: Tensor, owners: Tensor, keys: Tensor, users: Tensor, histories: Histories
    ) -> Tensor:
        """What is added, [n].

        Args:
            items: vectors of the catalogue, [n_items, dim].
            candidates: item rows, int64 [n].
            owners: place of each candidate's user among the histories, int64 [n].
            keys: k of every event of the histories, [n_events, dim].
            users: h, [n_users, dim].
            histories: of the users.
        """
        whose, v = owners.cpu().numpy(), items.index_select(0, candidates)
        indptr, events = concat_ranges(histories.indptr[whose], np.diff(histories.indptr)[whose])
        neighbours = Neighbours(indptr, events.astype(np.int32), np.zeros(events.size, np.int32))
        query, read = self.query(v)[:, None], keys[:, None]
        z = dot_attention(query, read, read, keys.new_ones(1, 1), neighbours, v.shape[1] ** -0.5)[:, 0]
        hidden = functional.relu(self.hidden(v * z, v * users.index_select(0, owners), z))
        added: Tensor = self.out(hidden)[:, 0]
        return added


def users_at_once(histories: Histories, candidates: int) -> Iterator[Int64]:
    """Users in parts whose candidates read about ``EVENTS`` events."""
    work = np.cumsum((np.diff(histories.indptr) + 1) * candidates)
    cuts = np.unique(np.searchsorted(work, np.arange(EVENTS, work[-1] if work.size else 0, EVENTS)))
    yield from (part for part in np.split(np.arange(histories.n), cuts) if part.size)


@torch.no_grad()
def hard_negatives(
    scores: Tensor, seen: tuple[Tensor, Tensor], top: int, n: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Some of the items at the top of each user's list, drawn at random.

    Args:
        scores: [n_users, n_items]; is written into.
        seen: (places of users, item rows) that are no negatives.
        top: length of the list.
        n: how many are drawn from it.
        generator: of the draw.

    Returns:
        Item rows, int64 [n_users, n], and which of them are the user's own after all, bool [n_users, n]: those of a
        user whose list is shorter.
    """
    scores[seen] = -torch.inf
    best = scores.topk(min(top, scores.shape[1]), 1).indices
    # by item and not by place in the list, so that two near scores that swap places change nothing
    chance = torch.rand(scores.shape, generator=generator, device=scores.device).gather(1, best)
    drawn = best.gather(1, chance.topk(min(n, best.shape[1]), 1).indices)
    return drawn, scores.gather(1, drawn).isinf()


def merge_reranked(scores: Tensor, columns: Tensor, looked_at: Tensor) -> Tensor:
    """Scores in which some columns have new values, and all others keep their order below those.

    Args:
        scores: [n, n_items].
        columns: int64 [n, c], what was looked at again.
        looked_at: new values of these, [n, c].

    Returns:
        [n, n_items].
    """
    others = scores.scatter(1, columns, -torch.inf)
    above = looked_at.amin(1, keepdim=True) - others.amax(1, keepdim=True)
    drop = (1 - above).clamp(min=0)
    drop = torch.where(drop.isfinite(), drop, torch.zeros_like(drop))
    return (scores - drop).scatter(1, columns, looked_at)
