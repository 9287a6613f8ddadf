import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
import torch

from relrank.graph.graph import Graph
from relrank.graph.propagation import Propagation, _Tables, normalise
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.kernels.spmm import spmm, spmm_columns, spmm_rows
from relrank.tables.ids import IdMap


def random_relation(name, source, target, n, m, edges, rng):
    if source == target:
        pairs = np.unique(rng.integers(0, n, (edges, 2)), axis=0)
        pairs = pairs[pairs[:, 0] < pairs[:, 1]]
    else:
        pairs = np.unique(np.stack([rng.integers(0, n, edges), rng.integers(0, m, edges)], 1), axis=0)
    src, dst = pairs.astype(np.int32).T
    return Relation(name, source, target, src.copy(), dst.copy(), rng.uniform(0.5, 3, len(src)).astype(np.float32))


@pytest.fixture
def graph():
    rng = np.random.default_rng(3)
    sizes = {"user": 30, "item": 20, "tag": 7}
    return Graph(
        "user",
        "item",
        {t: IdMap(t, pl.Series(range(n))) for t, n in sizes.items()},
        random_relation("interacts", "user", "item", 30, 20, 150, rng),
        {
            "has_tag": random_relation("has_tag", "item", "tag", 20, 7, 40, rng),
            "similar": random_relation("similar", "item", "item", 20, 20, 60, rng),
        },
        "f",
    )


def dense_blocks(graph):
    """The oracle: full symmetric matrices over all nodes, one per relation, by the definition."""
    first = {"user": 0, "item": 30, "tag": 50}
    blocks = []
    for r in [graph.interactions, graph.relations["has_tag"], graph.relations["similar"]]:
        a = np.zeros((57, 57))
        for s, t, w in zip(r.src, r.dst, r.weight, strict=True):
            a[first[r.source] + s, first[r.target] + t] = a[first[r.target] + t, first[r.source] + s] = w
        d = a.sum(1)
        d[d == 0] = 1
        blocks.append(a / np.sqrt(np.outer(d, d)))
    return blocks


@pytest.mark.parametrize("width", [3, 16, 64, 80])
@pytest.mark.parametrize("with_base", [False, True])
def test_spmm_equals_the_dense_product(width, with_base):
    rng = np.random.default_rng(width)
    dense = rng.random((50, 40)).astype(np.float32) * (rng.random((50, 40)) < 0.2)
    dense[7] = 0  # a row without edges
    csr = Csr.from_pairs(*np.nonzero(dense), dense.shape, dense[np.nonzero(dense)])
    x, base = (rng.standard_normal((n, width)).astype(np.float32) for n in (40, 50))
    out = np.full((50, width), np.nan, np.float32)
    got = spmm(csr, x, out, 0.5, base=base if with_base else None, dot=base)
    np.testing.assert_allclose(out, 0.5 * dense @ x + (base if with_base else 0), atol=1e-5)
    assert got == pytest.approx(float(np.vdot(dense @ x, base)), abs=1e-3)


def test_spmm_refuses_shapes_and_types_that_do_not_fit():
    csr = Csr.from_pairs(np.array([0]), np.array([1]), (2, 3))
    with pytest.raises(ValueError, match="shapes do not fit"):
        spmm(csr, np.zeros((2, 16), np.float32), np.zeros((2, 16), np.float32))
    with pytest.raises(ValueError, match="contiguous float32"):
        spmm(csr, np.zeros((3, 16)), np.zeros((2, 16), np.float32))
    x, out, rows = np.zeros((3, 16), np.float32), np.zeros((2, 16), np.float32), np.array([0, 1])
    for base in (np.zeros((2, 16)), np.zeros((2, 32), np.float32)[:, ::2]):
        with pytest.raises(ValueError, match="contiguous float32"):
            spmm_rows(csr, rows, x, out, base=base)
    with pytest.raises(ValueError, match="shapes do not fit"):
        spmm(csr, x, out, base=np.zeros((20, 8), np.float32), place=np.zeros(2, np.int32))


def test_every_relation_is_normalised_by_its_own_weighted_degrees(graph):
    for r in (graph.interactions, *graph.relations.values()):
        n, m = len(graph.nodes[r.source]), len(graph.nodes[r.target])
        c = normalise(r.csr(n, m))
        dense = np.zeros((n, m))
        dense[c.rows(), c.indices] = c.data
        # spectral radius 1, not 17: raw counts in unweighted degrees would exceed it
        assert np.linalg.norm(dense, 2) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_normalised_values_are_those_of_the_formula_in_double_precision_bit_for_bit(seed):
    """Sums of degrees go edge by edge; empty rows and columns stay empty."""
    rng = np.random.default_rng(seed)
    shape = (50, 30)
    keys = rng.permutation(shape[0] * shape[1])[: [0, 1, 200, 700, 1500][seed]]
    csr = Csr.from_pairs(keys // shape[1], keys % shape[1], shape, rng.lognormal(0, 3, keys.size))
    rows, cols = (np.bincount(at, csr.data, n) for at, n in ((csr.rows(), 50), (csr.indices, 30)))
    expected = (csr.data / np.sqrt(rows[csr.rows()] * cols[csr.indices])).astype(np.float32)
    found = normalise(csr)
    assert found.data.dtype == np.float32
    assert (found.data == expected).all()
    assert found.indptr is csr.indptr
    assert found.indices is csr.indices


def test_layer_mean_equals_the_dense_polynomial(graph):
    blocks = dense_blocks(graph)
    alpha = torch.tensor([1.0, 0.7, 0.3])
    a = sum(w * b for w, b in zip(alpha.tolist(), blocks, strict=True))
    e = torch.randn(57, 16, generator=torch.Generator().manual_seed(0))
    expected = sum(np.linalg.matrix_power(a, k) @ e.numpy() for k in range(4)) / 4
    for grad in (False, True):
        got = Propagation(graph).layer_mean(e, alpha.clone().requires_grad_(grad), 3)
        np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-5)
    # both directions of the bipartite block are there: the result is not the identity over (layers + 1)
    assert not np.allclose(expected, e.numpy() / 4, atol=1e-2)


def test_hand_written_gradient_equals_autograd_through_dense_matrices(graph):
    blocks = [torch.from_numpy(b).float() for b in dense_blocks(graph)]
    generator = torch.Generator().manual_seed(1)
    e = torch.randn(57, 32, generator=generator, requires_grad=True)
    alpha = torch.tensor([1.0, 0.4, 0.2], requires_grad=True)
    target = torch.randn(57, 32, generator=generator)
    z, power = e, e
    for _ in range(3):
        power = sum(w * (b @ power) for w, b in zip(alpha, blocks, strict=True))
        z = z + power
    (z / 4 * target).sum().backward()
    expected = e.grad.clone(), alpha.grad.clone()
    e.grad = alpha.grad = None
    (Propagation(graph).layer_mean(e, alpha, 3) * target).sum().backward()
    torch.testing.assert_close(e.grad, expected[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alpha.grad, expected[1], atol=1e-3, rtol=1e-4)
    # without a gradient for the weights the backward pass keeps no layer, and must agree
    e.grad = None
    (Propagation(graph).layer_mean(e, alpha.detach(), 3) * target).sum().backward()
    torch.testing.assert_close(e.grad, expected[0], atol=1e-5, rtol=1e-4)


def test_torch_path_agrees_and_passes_finite_differences(graph):
    """float64 takes torch's CSR product, the path of other devices: gradcheck holds it to finite differences."""
    blocks = Propagation(graph)
    e = torch.randn(57, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([1.0, 0.4, 0.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t, a: blocks.layer_mean(t, a, 2), (e, alpha), atol=1e-6)
    wide = torch.randn(57, 16, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(
        blocks.layer_mean(wide.double(), alpha, 2).float(),
        blocks.layer_mean(wide, alpha.float(), 2),
        atol=1e-5,
        rtol=0,
    )


def test_same_bits_on_one_thread_and_on_two(graph):
    import numba

    rng = np.random.default_rng(0)
    r = random_relation("big", "user", "item", 3000, 500, 60_000, rng)
    csr = normalise(r.csr(3000, 500))
    x = rng.standard_normal((500, 64)).astype(np.float32)
    outs = []
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        out = np.empty((3000, 64), np.float32)
        spmm(csr, x, out)
        numba.set_num_threads(before)
        outs.append(out)
    assert (outs[0] == outs[1]).all()


@pytest.mark.parametrize("width", [3, 16, 80])
def test_products_of_some_rows_and_of_some_columns_are_those_of_the_dense_product(width):
    """Rows picked here and there, also rows without edges and of many; columns that are not there count as zeros."""
    rng = np.random.default_rng(width)
    dense = rng.random((300, 90)).astype(np.float32) * (rng.random((300, 90)) < 0.2)
    dense[7] = 0
    dense[11] = 1
    csr = Csr.from_pairs(*np.nonzero(dense), dense.shape, dense[np.nonzero(dense)])
    x, base = (rng.standard_normal((n, width)).astype(np.float32) for n in (90, 300))
    rows = np.flatnonzero(rng.random(300) < 0.5)
    rows = np.union1d(rows, [7, 11, 299])
    out = rng.standard_normal((rows.size, width)).astype(np.float32)
    before = out.copy()
    spmm_rows(csr, rows, x, out, 0.5)
    np.testing.assert_allclose(out, before + 0.5 * (dense @ x)[rows], atol=1e-4)
    spmm_rows(csr, rows, x, out, 0.5, base=base)
    np.testing.assert_allclose(out, (base + 0.5 * dense @ x)[rows], atol=1e-4)

    there = np.sort(rng.permutation(90)[:40])
    columns = np.full(90, -1, np.int32)
    columns[there] = np.arange(40)
    place = np.full(300, -1, np.int32)
    place[rows] = np.arange(rows.size)
    added = np.zeros((300, width), np.float32)
    added[rows] = before
    sparse = np.zeros_like(x)
    sparse[there] = x[there]
    out = np.full((300, width), np.nan, np.float32)
    got = spmm_columns(csr, columns, x[there], out, 0.5, base=before, place=place, dot=base)
    np.testing.assert_allclose(out, added + 0.5 * dense @ sparse, atol=1e-4)
    assert got == pytest.approx(float(np.vdot(dense @ sparse, base)), rel=1e-4, abs=1e-2)
    spmm(csr, x, out, 0.5, base=before, place=place, beta=2.0)
    np.testing.assert_allclose(out, 2 * added + 0.5 * dense @ x, atol=1e-4)


def test_more_edges_and_rows_than_are_listed_at_a_time():
    """Chunks of some thousand edges and rows, a row longer than a list among them."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 4, 300_000)
    lengths[[5, 150_000]] = 9_000
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    within = np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    indices = (np.repeat(rng.integers(0, 500, lengths.size), lengths) + within).astype(np.int32)
    csr = Csr(indptr, indices, rng.random(indices.size).astype(np.float32), 9_500)
    columns = np.where(rng.random(9_500) < 0.5, np.arange(9_500), -1).astype(np.int32)
    x = rng.standard_normal((9_500, 16)).astype(np.float32)
    got, expected = (np.empty((300_000, 16), np.float32) for _ in range(2))
    spmm_columns(csr, columns, x, got)
    spmm(csr, x * (columns >= 0)[:, None], expected)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize(("width", "own"), [(16, True), (3, True), (16, False)])
def test_rows_of_the_layer_mean_and_their_gradient_are_those_of_the_whole(graph, layers, learned, width, own):
    blocks, generator = Propagation(graph), torch.Generator().manual_seed(3)
    table = torch.randn(57, width, generator=generator)
    parts = torch.tensor([0, 4, 5, 29]), torch.tensor([30, 31, 49])
    targets = [torch.randn(len(p), width, generator=generator) for p in parts]
    alpha = torch.tensor([1.0, 0.0, 0.6])
    found = []
    for whole in (True, False):
        e, a = table.clone().requires_grad_(), alpha.clone().requires_grad_(learned)
        if whole:
            z = blocks.layer_mean(e, a, layers)
            rows = tuple(t.index_select(0, p) for t in ((z, e) if own else (z,)) for p in parts)
        else:
            rows = blocks.rows_of_layer_mean(e, a, layers, *parts, own=own)
        assert len(rows) == (4 if own else 2)
        loss = sum((r**k * t).sum() for r, t, k in zip(rows, (*targets, *targets), (1, 1, 2, 3), strict=False))
        loss.backward()
        found.append((*(r.detach() for r in rows), e.grad, *([a.grad] if learned and layers else [])))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert found[0][len(parts) * (1 + own)].abs().sum() > 0  # there is a gradient


def test_memory_of_a_table_is_used_again_only_when_nobody_refers_to_it(graph):
    blocks = Propagation(graph)
    x = torch.randn(57, 16, generator=torch.Generator().manual_seed(4))
    first = blocks.multiply(x, [1.0, 0.5, 0.5])
    kept, view = first.clone(), first[3:5]
    second = blocks.multiply(x * 2, [1.0, 0.5, 0.5])
    torch.testing.assert_close(first, kept, atol=0, rtol=0)
    torch.testing.assert_close(second, 2 * kept)
    where = first.data_ptr()
    del first
    assert blocks.multiply(x * 3, [1.0, 0.5, 0.5]).data_ptr() != where  # a view of it is still there
    torch.testing.assert_close(view, kept[3:5], atol=0, rtol=0)
    del view
    assert blocks.multiply(x * 3, [1.0, 0.5, 0.5]).data_ptr() == where
    # gradients of two backward passes add up, although both were made in such memory
    e = x.clone().requires_grad_()
    for _ in range(2):
        (blocks.layer_mean(e, torch.tensor([1.0, 0.5, 0.5]), 2) * kept).sum().backward()
    twice = e.grad.clone()
    e.grad = None
    (blocks.layer_mean(e, torch.tensor([1.0, 0.5, 0.5]), 2) * kept).sum().backward()
    torch.testing.assert_close(twice, 2 * e.grad)


def test_threads_never_share_the_memory_of_a_table():
    tables, before = _Tables(), sys.getswitchinterval()

    def work(number):
        mine = []
        for _ in range(3000):
            table = tables.take(2, 16)
            table.fill_(number)
            mine.append(bool((table == number).all()))
            del table
        return all(mine)

    sys.setswitchinterval(1e-7)
    try:
        with ThreadPoolExecutor(4) as pool:
            assert all(pool.map(work, range(4)))
    finally:
        sys.setswitchinterval(before)
    assert 1 < len(tables._memory) <= 1 + 4
    tables.release()
    assert len(tables._memory) == 1


def test_inner_products_have_the_same_bits_on_any_number_of_threads(graph):
    import numba

    rng = np.random.default_rng(1)
    r = random_relation("big", "user", "item", 3000, 500, 60_000, rng)
    csr = normalise(r.csr(3000, 500))
    x, dot = (rng.standard_normal((n, 16)).astype(np.float32) for n in (500, 3000))
    out, found = np.empty((3000, 16), np.float32), []
    for threads in (1, min(2, numba.config.NUMBA_NUM_THREADS)):
        before = numba.get_num_threads()
        numba.set_num_threads(threads)
        try:
            found.append(spmm(csr, x, out, dot=dot))
        finally:
            numba.set_num_threads(before)
    assert found[0] == found[1]
