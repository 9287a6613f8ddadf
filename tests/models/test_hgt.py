import math
from dataclasses import replace

import torch
from layer_truth import LayerTruth, refuses
from torch.nn import functional
from torch_geometric.nn import HGTConv

from relrank.graph.sampling.blocks import full_block
from relrank.models.core.layers import rows_by_type, type_of
from relrank.models.graph.hgt import HGT, HGTConfig
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig

BUDGET = TrainConfig(epochs=6, batch=512, lr=0.04, every=2, device="cpu")


class TestWholeGraph(TrainedContract):
    kind = HGT
    config = HGTConfig(dim=16, heads=2, temperature=0.3)
    train = BUDGET
    embedding_tables = ("table",)
    propagates = True


class TestSampled(TrainedContract):
    kind = HGT
    config = HGTConfig(dim=16, heads=2, temperature=0.3, fanout=4)
    train = replace(BUDGET, epochs=8)
    embedding_tables = ("table",)
    propagates = True

    def graph(self):
        return planted_graph(96, 80, 8)


class TestLayer(LayerTruth):
    kind = HGT
    config = HGTConfig(dim=8, heads=2)
    moved = "key_maps", (0, 2, 1, 3)

    def test_layer_is_the_formula(self):
        """Node by node: one softmax over the neighbours of all relations."""
        layer, x, adjacency = self.layer()
        block, heads = full_block(adjacency), 2
        types = [t for t, rows in enumerate(adjacency.types.values()) for _ in range(rows.start, rows.stop)]
        incoming = [[] for _ in types]
        for k in range(len(adjacency.edge_types)):
            for j, i in block.edge_index(k).T.tolist():
                incoming[i].append((k, j))
        with torch.no_grad():
            kqv = torch.stack([layer.projections[t](x[i]).view(3, heads, 4) for i, t in enumerate(types)], 1)
            key, q, v = kqv
            expected = torch.empty_like(x)
            for i, t in enumerate(types):
                heard = []
                for h in range(heads):
                    scores = [
                        layer.prior[k, h] * (q[i, h] @ (key[j, h] @ layer.key_maps[h, k])) for k, j in incoming[i]
                    ]
                    share = torch.stack(scores).div(math.sqrt(4)).softmax(0) if scores else torch.zeros(0)
                    values = [v[j, h] @ layer.value_maps[h, k] for k, j in incoming[i]]
                    heard.append(sum((a * w for a, w in zip(share, values, strict=True)), 0 * x[i, :4]))
                alpha = layer.skip[t].sigmoid()
                expected[i] = alpha * layer.outputs[t](functional.gelu(torch.cat(heard))) + (1 - alpha) * x[i]
            torch.testing.assert_close(layer(x, block), expected, rtol=1e-4, atol=1e-5)

    def test_layer_is_that_of_torch_geometric(self):
        """With the same parameters: the output and the gradient of the input."""
        layer, x, adjacency = self.layer()
        names = list(adjacency.types)
        keys = [
            (type_of(e.source, adjacency), e.name, type_of(e.destination, adjacency)) for e in adjacency.edge_types
        ]
        conv = HGTConv(8, 8, (names, keys), 2)
        with torch.no_grad():
            for t, name in enumerate(names):
                for theirs, mine in ((conv.kqv_lin, layer.projections[t]), (conv.out_lin, layer.outputs[t])):
                    theirs.lins[name].weight.copy_(mine.weight)
                    theirs.lins[name].bias.copy_(mine.bias)
                conv.skip[name].fill_(layer.skip[t])
            conv.k_rel.weight.copy_(layer.key_maps.flatten(0, 1))
            conv.v_rel.weight.copy_(layer.value_maps.flatten(0, 1))
            for k, edge_type in enumerate(keys):
                conv.p_rel["__".join(edge_type)].copy_(layer.prior[k][None])
        block = full_block(adjacency)
        starts = {name: rows.start for name, rows in adjacency.types.items()}
        edges = {}
        for k, (source, name, target) in enumerate(keys):
            shift = torch.tensor([[starts[source]], [starts[target]]])
            edges[source, name, target] = block.edge_index(k) - shift
        found = []
        for call in (
            lambda z: layer(z, block),
            lambda z: torch.cat(list(conv({t: z[rows] for t, rows in adjacency.types.items()}, edges).values())),
        ):
            z = x.clone().requires_grad_()
            out = call(z)
            found.append((out.detach(), torch.autograd.grad(out.square().sum(), z)[0]))
        for mine, theirs in zip(*found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_rows_by_type_are_local_numbers():
    rows, place = rows_by_type(
        torch.tensor([7, 0, 3, 1, 4]),
        {"user": slice(0, 3), "item": slice(3, 5), "none": slice(5, 5), "tag": slice(5, 9)},
    )
    assert {t: r.tolist() for t, r in rows.items()} == {"user": [1, 3], "item": [2, 4], "none": [], "tag": [0]}
    assert place.tolist() == [0, 0, 0, 1, 1]


def test_heads_that_do_not_divide_are_refused():
    refuses(HGT, HGTConfig(dim=16, heads=3), "heads")
    refuses(HGT, HGTConfig(dim=16, heads=0), "heads")
