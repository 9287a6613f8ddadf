"""Products of edges' ends against plain indexing, forward and backward."""

import numpy as np
import pytest
import torch

from relrank.graph.sampling.negatives import distinct
from relrank.kernels.edge_products import edge_products


@pytest.mark.parametrize("width", [3, 16, 48])
@pytest.mark.parametrize("n", [1, 4])
def test_products_and_gradients_are_those_of_indexing(width, n):
    """Users and items that occur often, once, and never."""
    g = torch.Generator().manual_seed(width + n)
    users, items = (torch.randn(k, width, generator=g) for k in (9, 13))
    user_index = torch.tensor([3, 0, 3, 8, 3, 0])
    columns = torch.randint(0, 12, (6, n), generator=g)
    columns[0] = columns[2]  # the same pair twice
    target = torch.randn(6, n, generator=g)
    found = []
    for kind in (torch.float32, torch.float64):  # float64 goes by torch's own operations
        u, i = (x.detach().to(kind, copy=True).requires_grad_() for x in (users, items))
        scores = edge_products(u, i, user_index, columns)
        (scores * target.to(kind)).sum().backward()
        found.append([x.detach().float() for x in (scores, u.grad, i.grad)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    pairs = [(users[a], items[c]) for a, row in zip(user_index, columns, strict=True) for c in row]
    expected = torch.stack([(u * i).sum() for u, i in pairs])
    torch.testing.assert_close(found[0][0].reshape(-1), expected, atol=1e-5, rtol=1e-5)
    assert not found[0][1][1].any()  # no edge, no gradient
    assert not found[0][2][12].any()
    if n == 1:
        edges = [b for b in range(6) if user_index[b] == 8]
        torch.testing.assert_close(found[0][1][8], sum(target[b, 0] * items[columns[b, 0]] for b in edges))


def test_distinct_rows_are_numpys():
    rng = np.random.default_rng(0)
    for n, size in ((5, 40), (1000, 40), (10, 0), (100_000, 3)):
        rows = rng.integers(0, n, size)
        for one, other in zip(distinct(rows, n), np.unique(rows, return_inverse=True), strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == np.int64
