import math
from dataclasses import replace

import torch
from layer_truth import LayerTruth, refuses
from torch.nn import functional

from relrank.graph.blocks import whole_block
from relrank.models.hgt import HGT, HGTConfig
from relrank.models.layers import rows_by_type
from relrank.testing import TrainedContract, planted_graph
from relrank.training import TrainConfig

BUDGET = TrainConfig(epochs=6, batch=512, lr=0.04, every=2, device="cpu")


class TestWholeGraph(TrainedContract):
    kind = HGT
    config = HGTConfig(dim=16, heads=2, temperature=0.3)
    train = BUDGET
    node_tables = ("table",)
    propagates = True


class TestSampled(TrainedContract):
    kind = HGT
    config = HGTConfig(dim=16, heads=2, temperature=0.3, fanout=4)
    train = replace(BUDGET, epochs=8)
    node_tables = ("table",)
    propagates = True

    def graph(self):
        return planted_graph(96, 80, 8)


class TestLayer(LayerTruth):
    kind = HGT
    config = HGTConfig(dim=8, heads=2)
    moved = "conv.k_rel.weight", (2, 1, 3)

    def test_layer_is_the_formula(self):
        """Node by node: one softmax over the neighbours of all relations."""
        layer, x, adjacency = self.layer()
        conv, block, heads, kinds = layer.conv, whole_block(adjacency), 2, len(adjacency.edge_types)
        types = [t for t, rows in adjacency.types.items() for _ in range(rows.start, rows.stop)]
        incoming = [[] for _ in types]
        for k in range(kinds):
            for j, i in block.edge_index(k).T.tolist():
                incoming[i].append((k, j))
        with torch.no_grad():
            q, key, v = torch.stack([conv.kqv_lin.lins[t](x[i]).view(3, heads, 4) for i, t in enumerate(types)], 1)[
                [1, 0, 2]
            ]
            expected = torch.empty_like(x)
            for i, t in enumerate(types):
                heard = []
                for h in range(heads):
                    at = [(k, h * kinds + k, j) for k, j in incoming[i]]
                    prior = [conv.p_rel["__".join(layer._keys[k])][0, h] for k, _, _ in at]
                    scores = [
                        p * (q[i, h] @ (key[j, h] @ conv.k_rel.weight[r]))
                        for p, (_, r, j) in zip(prior, at, strict=True)
                    ]
                    share = torch.stack(scores).div(math.sqrt(4)).softmax(0) if at else torch.zeros(0)
                    heard.append(
                        sum(
                            (a * (v[j, h] @ conv.v_rel.weight[r]) for a, (_, r, j) in zip(share, at, strict=True)),
                            0 * x[i, :4],
                        )
                    )
                alpha = conv.skip[t].sigmoid()
                expected[i] = alpha * conv.out_lin.lins[t](functional.gelu(torch.cat(heard))) + (1 - alpha) * x[i]
            torch.testing.assert_close(layer(x, block), expected, rtol=1e-4, atol=1e-5)


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
