"""The heavy head: the best of a product's list, looked at again with the candidate in view.

    z_uc = Σ_j softmax_j(A v_c · k_j / √d) k_j,      s'(u, c) = s(u, c) + MLP([v_c ∘ z_uc ‖ v_c ∘ h_u ‖ z_uc])

The history is read anew for every candidate (target-aware attention: Zhou et al. 2018, DIN), which costs the
history's length for each, so that only the top of a list can have it. What is not looked at again keeps its place
below.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from relrank.models.history_attention import Histories
from relrank.models.layers import Affine


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

    def forward(self, candidates: Tensor, keys: Tensor, users: Tensor, histories: Histories) -> Tensor:
        """What is added, [n, c].

        Args:
            candidates: vectors of each user's candidates, [n, c, dim].
            keys: k of every event of the histories, [n_events, dim].
            users: h, [n, dim].
            histories: of the users.
        """
        n, c, dim = candidates.shape
        lengths = np.diff(histories.indptr)
        real = torch.from_numpy(np.arange(max(int(lengths.max(initial=0)), 1)) < lengths[:, None]).to(keys.device)
        padded = keys.new_zeros(*real.shape, dim)
        padded[real] = keys
        query = self.query(candidates.flatten(0, 1)).view(n, c, dim)
        logits = (query @ padded.mT) * dim**-0.5
        some = real.any(1)[:, None, None]
        shares = logits.masked_fill(~real[:, None] & some, -torch.inf).softmax(2) * some
        read = shares @ padded
        both = (candidates * read, candidates * users[:, None], read)
        hidden = functional.relu(self.hidden(*(x.flatten(0, 1) for x in both)))
        added: Tensor = self.out(hidden).view(n, c)
        return added


def raised(scores: Tensor, columns: Tensor, looked_at: Tensor) -> Tensor:
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
