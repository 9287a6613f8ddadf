"""What holds for the layer of every graph neural network, on the planted graph and its three relations."""

import numpy as np
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.sampling.blocks import Block, Edges, full_block
from relrank.graph.sampling.neighbour_sampling import NeighbourSampler
from relrank.testing import planted_graph


def without(block: Block, k: int) -> Block:
    """The block without the edges of edge type ``k``."""
    indptr, indices, weight = block.edges[k]
    edges = list(block.edges)
    edges[k] = Edges(torch.zeros_like(indptr), indices[:0], weight[:0])
    return Block(block.nodes, block.n_dst, tuple(edges))


class LayerTruth:
    """Subclass it with ``kind``, ``config`` and ``moved``: a parameter of the layer, and a place in it."""

    def model(self):
        model = self.kind(planted_graph(30, 24, 5), self.config)
        model.init_weights(0)
        return model

    def layer(self):
        """A layer with parameters far from their initial values, input vectors, and the full graph."""
        model = self.model()
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in model.convs[0].parameters():
                p.add_(torch.randn(p.shape, generator=generator) * 0.3)
        x = torch.randn(model.adjacency.n_nodes, model.config.dim, generator=generator)
        return model.convs[0], x, model.adjacency

    def test_sampled_block_with_all_neighbours_is_the_whole_graph(self):
        """Local numbers used on the global table, or the other way round, would show here."""
        layer, x, adjacency = self.layer()
        seeds = np.random.default_rng(0).permutation(adjacency.n_nodes)[:20]
        (block,) = NeighbourSampler(adjacency, [-1]).sample(seeds, np.random.SeedSequence(0))
        assert block.n_src > block.n_dst
        with torch.no_grad():
            found, expected = layer(x[block.nodes], block), layer(x, full_block(adjacency))[torch.from_numpy(seeds)]
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)

    def test_relation_switched_off_changes_the_nodes_that_it_reaches_and_no_other(self):
        layer, x, adjacency = self.layer()
        block = full_block(adjacency)
        with torch.no_grad():
            full = layer(x, block)
            for k in range(len(adjacency.edge_types)):
                changed = ~torch.isclose(layer(x, without(block, k)), full, rtol=1e-5, atol=1e-6).all(1)
                assert torch.equal(changed, block.edges[k].indptr.diff() > 0), adjacency.edge_types[k].name

    def test_propagation_is_not_the_identity(self):
        """An untrained layer depends on the neighbours' vectors; without edges only on the node's own."""
        model = self.model()
        layer, block = model.convs[0], full_block(model.adjacency)
        x = torch.randn(block.n_src, model.config.dim, generator=torch.Generator().manual_seed(0))
        other = x.clone()
        item = model.graph.n_users
        other[item] += 1
        with torch.no_grad():
            changed = (layer(other, block) - layer(x, block)).abs().amax(1) > 1e-4
            linked = torch.zeros(block.n_src, dtype=torch.bool)
            for k in range(len(block.edges)):
                sources, destinations = block.edge_index(k)
                linked[destinations[sources == item]] = True
            linked[item] = True
            assert torch.equal(changed, linked)
            for k in range(len(block.edges)):
                block = without(block, k)
            alone = (layer(other, block) - layer(x, block)).abs().amax(1) > 1e-4
        assert alone.nonzero()[:, 0].tolist() == [item]

    def test_gradient_is_the_finite_difference(self):
        layer, x, adjacency = self.layer()
        layer, x, block = layer.double(), x.double().requires_grad_(), full_block(adjacency)
        toward = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        parameter, place = layer.get_parameter(self.moved[0]), self.moved[1]
        (layer(x, block) * toward).sum().backward()
        for tensor, at in ((parameter, place), (x, (40, 3))):
            values = []
            with torch.no_grad():
                for step in (1e-5, -2e-5):
                    tensor[at] += step
                    values.append(float((layer(x, block) * toward).sum()))
                tensor[at] += 1e-5
            assert float(tensor.grad[at]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)
            assert abs(float(tensor.grad[at])) > 1e-4

    def test_sweep_in_small_chunks_is_one_pass_over_the_whole_graph(self, monkeypatch):
        model = self.model()
        block = full_block(model.adjacency)
        with torch.no_grad():
            x = model.input(block.nodes)
            for number in range(model.config.layers):
                x = model._apply_layer(number, x, block)
            monkeypatch.setattr(self.kind, "sweep_edges", 20)
            users, items = model.encode_all()
        n = model.graph.n_users
        torch.testing.assert_close(users, x[:n], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(items, x[n : n + model.graph.n_items], rtol=1e-4, atol=1e-5)

    def test_fresh_weights_come_from_the_seed_and_leave_the_global_generator_alone(self):
        states = []
        for word in (1, 2):
            torch.manual_seed(word)
            before = torch.get_rng_state()
            states.append(self.model().state())
            assert torch.equal(torch.get_rng_state(), before)
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
        other = self.kind(planted_graph(30, 24, 5), self.config)
        other.init_weights(1)
        fixed = (".bias", ".skip", ".prior")
        for name, value in other.state().items():
            assert torch.equal(value, states[0][name]) == any(part in name for part in fixed), name

    def test_threads_do_not_change_the_gradient(self):
        layer, x, adjacency = self.layer()
        block, found, threads = full_block(adjacency), [], torch.get_num_threads()
        try:
            for n in (1, 2):
                torch.set_num_threads(n)
                layer.zero_grad()
                layer(x, block).square().sum().backward()
                found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
        finally:
            torch.set_num_threads(threads)
        assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def refuses(kind, config, field):
    with pytest.raises(InputError, match=field):
        kind(planted_graph(30, 24, 5), config)
