import pytest
import torch
from layer_truth import LayerTruth, refuses

from relrank.graph.sampling.blocks import Adjacency, full_block
from relrank.models.graph.rgcn import RGCN, RGCNConfig
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig

BUDGET = TrainConfig(epochs=6, batch=512, lr=0.04, every=2, device="cpu")


class TestWholeGraph(TrainedContract):
    kind = RGCN
    config = RGCNConfig(dim=16, temperature=0.3)
    train = BUDGET
    embedding_tables = ("table",)
    propagates = True


class TestSampledWithBases(TrainedContract):
    kind = RGCN
    config = RGCNConfig(dim=16, temperature=0.3, fanout=4, bases=3)
    train = BUDGET
    embedding_tables = ("table",)
    propagates = True


class TestLayer(LayerTruth):
    kind = RGCN
    config = RGCNConfig(dim=8)
    moved = "matrices", (2, 3, 4)


class TestLayerWithBases(LayerTruth):
    kind = RGCN
    config = RGCNConfig(dim=8, bases=2)
    moved = "shares", (3, 1)


@pytest.mark.parametrize("bases", [0, 2])
def test_layer_is_the_formula(bases):
    """Edge by edge, with the weights of ``similar``."""
    model = RGCN(planted_graph(30, 24, 5), RGCNConfig(dim=8, bases=bases))
    model.init_weights(3)
    layer, block = model.convs[0], full_block(model.adjacency)
    x = torch.randn(block.n_src, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = x @ layer.own.weight.T + layer.own.bias
        for k, edges in enumerate(block.edges):
            matrix = (
                layer.matrices[k] if not bases else sum(layer.shares[k, b] * layer.matrices[b] for b in range(bases))
            )
            for i in range(block.n_dst):
                mine = slice(int(edges.indptr[i]), int(edges.indptr[i + 1]))
                if mine.start < mine.stop:
                    w = edges.weight[mine]
                    messages = torch.stack([x[j] @ matrix for j in edges.indices[mine].tolist()])
                    expected[i] += (w[:, None] * messages).sum(0) / w.sum()
        torch.testing.assert_close(layer(x, block), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bases", [0, 2])
def test_layer_is_that_of_torch_geometric(bases):
    """It does not support edge weights, hence without ``similar``."""
    from torch_geometric.nn import RGCNConv

    model = RGCN(planted_graph(30, 24, 5).without("similar"), RGCNConfig(dim=8, bases=bases))
    model.init_weights(3)
    layer, block = model.convs[0], full_block(model.adjacency)
    x = torch.randn(block.n_src, 8, generator=torch.Generator().manual_seed(0))
    edges = [block.edge_index(k) for k in range(len(block.edges))]
    kinds = torch.cat([torch.full((e.shape[1],), k) for k, e in enumerate(edges)])
    theirs = RGCNConv(8, 8, len(edges), bases or None)
    with torch.no_grad():
        theirs.weight.copy_(layer.matrices)
        if bases:
            theirs.comp.copy_(layer.shares)
        theirs.root.copy_(layer.own.weight.T)
        theirs.bias.copy_(layer.own.bias)
        torch.testing.assert_close(layer(x, block), theirs(x, torch.cat(edges, 1), kinds), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bases", [0, 2])
def test_fresh_layer_averages_the_relations_that_may_arrive(bases):
    """Equal vectors stay what they are, once for the node and once for its relations, whatever their number."""
    model = RGCN(planted_graph(400, 240), RGCNConfig(dim=64, bases=bases))
    model.init_weights(0)
    adjacency: Adjacency = model.adjacency
    with torch.no_grad():
        out = model.convs[0](torch.ones(adjacency.n_nodes, 64), full_block(adjacency))
    for rows in adjacency.types.values():
        assert float(out[rows].mean()) == pytest.approx(2, abs=0.15)


def test_negative_bases_are_refused():
    refuses(RGCN, RGCNConfig(bases=-1), "bases")
