from dataclasses import replace

import torch
from layer_truth import LayerTruth, refuses
from torch.nn import functional

from relrank.graph.sampling.blocks import full_block
from relrank.models.graph.gatv2 import GATv2, GATv2Config
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig

BUDGET = TrainConfig(epochs=6, batch=512, lr=0.04, every=2, device="cpu")


class TestWholeGraph(TrainedContract):
    kind = GATv2
    config = GATv2Config(dim=16, heads=2, temperature=0.3)
    train = BUDGET
    embedding_tables = ("table",)
    propagates = True


class TestSampled(TrainedContract):
    kind = GATv2
    config = GATv2Config(dim=16, heads=2, temperature=0.3, fanout=4)
    train = replace(BUDGET, epochs=8)
    embedding_tables = ("table",)
    propagates = True

    def graph(self):
        return planted_graph(96, 80, 8)


class TestLayer(LayerTruth):
    kind = GATv2
    config = GATv2Config(dim=8, heads=2)
    moved = "edge_types.1.vector", (1, 2)

    def test_layer_is_the_formula(self):
        """Node by node: a softmax inside every relation, with its edges' weights; a mean of those that reach."""
        layer, x, adjacency = self.layer()
        block = full_block(adjacency)
        assert [own.along is not None for own in layer.edge_types] == [not e.unweighted for e in adjacency.edge_types]
        with torch.no_grad():
            expected = layer.own(x)
            for i in range(block.n_dst):
                found = []
                for (indptr, indices, weight), own in zip(block.edges, layer.edge_types, strict=True):
                    mine = slice(int(indptr[i]), int(indptr[i + 1]))
                    if mine.start == mine.stop:
                        continue
                    values = x[indices[mine].long()] @ own.left.T
                    inner = values + own.right @ x[i]
                    if own.along is not None:
                        inner = inner + weight[mine].log1p()[:, None] * own.along.flatten()
                    scores = (functional.leaky_relu(inner, 0.2).view(-1, 2, 4) * own.vector).sum(2)
                    found.append((values.view(-1, 2, 4) * scores.softmax(0)[:, :, None]).sum(0).flatten())
                if found:
                    expected[i] += torch.stack(found).mean(0)
            torch.testing.assert_close(layer(x, block), expected, rtol=1e-4, atol=1e-5)

    def test_autocast_leaves_the_attention_in_float32(self):
        """The linear maps run in bfloat16, so the result is near but not equal; its type is that of the input."""
        layer, x, adjacency = self.layer()
        block = full_block(adjacency)
        with torch.no_grad():
            full = layer(x, block)
            with torch.autocast("cpu", torch.bfloat16):
                half = layer(x, block)
        assert half.dtype == torch.float32
        assert not half.equal(full)
        torch.testing.assert_close(half, full, rtol=0.1, atol=0.1)


def test_heads_that_do_not_divide_are_refused():
    refuses(GATv2, GATv2Config(dim=16, heads=3), "heads")
