from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from relrank.errors import InputError
from relrank.graph.feature import Feature
from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.kernels.csr import Csr
from relrank.models.core.layers import FeatureEncoder, apply_dropout
from relrank.tables.ids import IdMap


@pytest.fixture
def graph() -> Graph:
    """2 users without features; 4 items with a vector (item 2 unknown) and weighted values (item 3 unknown)."""
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", 2), ("item", 4), ("tag", 3))}
    x = np.array([[1, 2], [-1, 0.5], [0, 0], [0, -3]], np.float32)
    values = Csr.from_pairs(np.array([0, 0, 1, 2]), np.array([0, 2, 2, 1]), (4, 3), np.array([1, 3, 5, 0.5]))
    features = (
        Feature("a.vector", "item", np.array([True, True, False, True]), dense=x),
        Feature("other", "tag", np.array([True, True, True]), dense=x[:3, :1]),
        Feature("values", "item", np.array([True, True, True, False]), sparse=values),
    )
    interactions = Relation.of("interactions", "user", "item", np.array([0]), np.array([1]))
    return Graph("user", "item", nodes, interactions, {}, "f", features={f.name: f for f in features})


def encoder(graph: Graph, dim: int = 3, seed: int = 0) -> FeatureEncoder:
    layer = FeatureEncoder(graph, "item", dim).double()
    layer.init_weights(torch.Generator().manual_seed(seed), scale=1.0)
    return layer


def by_hand(layer: FeatureEncoder) -> Tensor:
    """The formula, node by node."""
    (w, t), m = layer.weights, layer.missing
    return torch.stack(
        [
            1 * w[0] + 2 * w[1] + (1 * t[0] + 3 * t[2]) / 4,
            -1 * w[0] + 0.5 * w[1] + t[2],
            m[0] + t[1],
            -3 * w[1] + m[1],
        ]
    )


def test_vectors_are_those_of_the_formula(graph: Graph) -> None:
    layer = encoder(graph)
    assert layer.names == ("a.vector", "values")
    rows = torch.tensor([3, 0, 2, 1, 0])  # any order, repeated
    torch.testing.assert_close(layer(rows), by_hand(layer)[rows], rtol=0, atol=1e-12)


def test_missing_is_neither_the_mean_nor_a_category(graph: Graph) -> None:
    layer = encoder(graph)
    before = layer(torch.arange(4))
    with torch.no_grad():
        layer.missing += 1
    assert ((layer(torch.arange(4)) - before)[:, 0] != 0).tolist() == [False, False, True, True]


def test_any_subset_is_the_same_as_all_and_none_is_none(graph: Graph) -> None:
    layer = encoder(graph)
    whole = layer(torch.arange(4))
    rng = np.random.default_rng(0)
    for size in (1, 2, 3, 7):
        rows = torch.from_numpy(rng.integers(0, 4, size))
        torch.testing.assert_close(layer(rows), whole[rows], rtol=0, atol=1e-12)
    assert layer(torch.empty(0, dtype=torch.int64)).shape == (0, 3)


@pytest.mark.parametrize("row", [-1, 4])
def test_row_outside_the_type_is_no_other_node(graph: Graph, row: int) -> None:
    with pytest.raises((IndexError, RuntimeError)):
        encoder(graph)(torch.tensor([0, row]))


def test_gradient_agrees_with_finite_differences(graph: Graph) -> None:
    layer = encoder(graph)
    rows = torch.tensor([0, 2, 3, 0])
    parameters = list(layer.parameters())
    names = [name for name, _ in layer.named_parameters()]

    def run(*values: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (rows,))
        return result.square()

    assert torch.autograd.gradcheck(run, tuple(p.detach().clone().requires_grad_() for p in parameters))
    layer(rows).sum().backward()
    # item 1 was not asked for: column 2 is reached through item 0 alone, twice, with a share of 3/4
    gradient = layer.weights[1].grad
    assert gradient is not None
    torch.testing.assert_close(gradient[:, 0], torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64))


def test_a_mini_batch_reads_its_own_rows_only(graph: Graph) -> None:
    layer = encoder(graph)
    rows = torch.tensor([0, 3])
    before = layer(rows)
    with torch.no_grad():
        for buffer in layer.buffers():
            if buffer.is_floating_point() and buffer.ndim == 2:
                buffer[1:3] = torch.nan
    torch.testing.assert_close(layer(rows), before, rtol=0, atol=0)


def test_same_generator_same_weights_and_parts_of_the_stated_size() -> None:
    n, d = 4000, 50
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, d)).astype(np.float32)
    x -= x.mean(0)
    one = Csr.from_pairs(np.arange(n), rng.integers(0, 900, n), (n, 900))
    known = np.ones(n, bool)
    nodes = {"user": IdMap("user", pl.Series([0])), "item": IdMap("item", pl.Series(range(n)))}
    edges = Relation.of("interactions", "user", "item", np.array([0]), np.array([1]))
    for feature in (Feature("x", "item", known, dense=x), Feature("c", "item", known, sparse=one)):
        graph = Graph("user", "item", nodes, edges, {}, "f", features={feature.name: feature})
        a, b = encoder(graph, 16, 5), encoder(graph, 16, 5)
        with torch.no_grad():
            assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
            assert float(a(torch.arange(n)).std()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("dims", [1, 2, 6, 10, 17])
def test_same_bits_on_any_number_of_threads(dims: int) -> None:
    rng = np.random.default_rng(0)
    n = 3000
    unknown = rng.random((n, 6)) < 0.3  # a gradient of 6 rows, which one matrix product sums by threads
    x = rng.standard_normal((n, dims)).astype(np.float32)
    nodes = {"user": IdMap("user", pl.Series([0])), "item": IdMap("item", pl.Series(range(n)))}
    edges = Relation.of("interactions", "user", "item", np.array([0]), np.array([1]))
    ones = Csr.from_pairs(np.flatnonzero(~unknown[:, 0]), rng.integers(0, 9, n)[~unknown[:, 0]], (n, 9))
    features = [Feature("0", "item", ~unknown[:, 0], sparse=ones)]
    features += [Feature(str(i), "item", ~unknown[:, i], dense=x * ~unknown[:, i, None]) for i in range(1, 6)]
    layer = FeatureEncoder(
        Graph("user", "item", nodes, edges, {}, "f", features={f.name: f for f in features}), "item", 64
    )
    layer.init_weights(torch.Generator().manual_seed(0))
    rows = torch.from_numpy(rng.integers(0, n, 2048))
    threads, seen = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            layer.zero_grad()
            layer(rows).square().sum().backward()
            seen.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in seen[1:] for a, b in zip(seen[0], other, strict=True))


def test_features_are_not_saved_with_the_weights(graph: Graph) -> None:
    layer = encoder(graph)
    assert set(layer.state_dict()) == {"missing", "weights.0", "weights.1"}
    other = FeatureEncoder(graph, "item", 3).double()
    other.load_state_dict(layer.state_dict())
    rows = torch.arange(4)
    assert torch.equal(other(rows), layer(rows))


def test_type_without_features_is_refused(graph: Graph) -> None:
    with pytest.raises(InputError, match="no features") as error:
        FeatureEncoder(graph, "user", 3)
    assert "a.vector of item" in error.value.found
    with pytest.raises(InputError, match="no features"):
        FeatureEncoder(replace(graph, features={}), "item", 3)


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    x = torch.full((400, 500), 3.0)
    for share in (0.1, 0.5, 0.8):
        found = apply_dropout(x, share, torch.Generator().manual_seed(1))
        zero = found == 0
        n = x.numel()
        assert float(zero.float().mean()) == pytest.approx(share, abs=4 * (share * (1 - share) / n) ** 0.5)
        torch.testing.assert_close(found[~zero], torch.full_like(found[~zero], 3 / (1 - share)))
        assert float(found.mean()) == pytest.approx(3, rel=0.02)
        assert not torch.equal(zero[:200], zero[200:])


def test_dropout_is_its_generators_alone() -> None:
    x = torch.randn(50, 40, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    state = torch.get_rng_state()
    generator = torch.Generator().manual_seed(1)
    first, second = (apply_dropout(x, 0.5, generator) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(apply_dropout(x, 0.5, torch.Generator().manual_seed(1)), first)
    assert not torch.equal(second, first)
    # the same entries in every precision
    halved = apply_dropout(x.bfloat16(), 0.5, torch.Generator().manual_seed(1))
    assert halved.dtype == torch.bfloat16
    assert torch.equal(halved == 0, first == 0)


def test_nothing_is_dropped_without_a_generator_or_a_share() -> None:
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    assert apply_dropout(x, 0.5, None) is x
    assert apply_dropout(x, 0.0, generator) is x
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(1).get_state())


def test_what_was_dropped_gets_no_gradient() -> None:
    x = torch.ones(30, requires_grad=True)
    found = apply_dropout(x, 0.4, torch.Generator().manual_seed(1))
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, found.detach())
