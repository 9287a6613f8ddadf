from __future__ import annotations

import sys

import numpy as np
import polars as pl
import pytest
import torch

from relrank.errors import InputError
from relrank.graph.graph import Graph
from relrank.graph.pyg import to_pyg
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap
from relrank.testing import planted_graph


def test_to_pyg_has_every_edge_in_both_directions() -> None:
    pytest.importorskip("torch_geometric", reason="needs the extra pyg")
    tags = Relation.of("has_tag", "book", "tag", np.array([2, 0]), np.array([0, 1]), np.array([3.0, 2.0]))
    alike = Relation.of("alike", "book", "book", np.array([0]), np.array([2]), np.array([0.5]))
    graph = Graph(
        "user",
        "book",
        {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", 2), ("book", 4), ("tag", 2))},
        Relation.of("interactions", "user", "book", np.array([0, 1]), np.array([1, 0])),
        {"has_tag": tags, "alike": alike},
        "f",
    )
    data = to_pyg(graph)
    data.validate()
    assert {t: data[t].num_nodes for t in data.node_types} == {"user": 2, "book": 4, "tag": 2}
    assert set(data.edge_types) == {
        ("user", "interactions", "book"),
        ("book", "rev_interactions", "user"),
        ("book", "has_tag", "tag"),
        ("tag", "rev_has_tag", "book"),
        ("book", "alike", "book"),
    }
    there, back = data["book", "has_tag", "tag"], data["tag", "rev_has_tag", "book"]
    assert there.edge_index.tolist() == [[0, 2], [1, 0]]
    assert back.edge_index.tolist() == [[1, 0], [0, 2]]
    assert there.edge_weight.tolist() == back.edge_weight.tolist() == [2.0, 3.0]
    assert data["book", "alike", "book"].edge_index.tolist() == [[0, 2], [2, 0]]
    assert data["book", "alike", "book"].edge_weight.tolist() == [0.5, 0.5]
    assert data["book", "rev_interactions", "user"].edge_index.tolist() == [[1, 0], [0, 1]]
    assert all(e.edge_index.dtype == torch.int64 and e.edge_weight.dtype == torch.float32 for e in data.edge_stores)
    there.edge_weight[0] = 9  # what PyG code does to its tensors does not reach the graph
    assert tags.weight.tolist() == [2.0, 3.0]
    assert back.edge_weight.tolist() == [2.0, 3.0]


def test_without_torch_geometric_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(InputError, match=r'not installed[\s\S]*pip install "relrank\[pyg\]"'):
        to_pyg(planted_graph())
