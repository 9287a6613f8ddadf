"""Exchange with PyTorch Geometric."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from relrank.errors import InputError
from relrank.graph.graph import Graph

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData


def to_pyg(graph: Graph) -> HeteroData:
    """The graph as ``HeteroData``: interactions and relations, each with its edges in both directions.

    ``data[type].num_nodes`` is set for every node type. A relation between two types becomes two edge types,
    ``(source, name, target)`` and ``(target, "rev_" + name, source)``; one within a type becomes one edge type that
    holds both directions. Each has ``edge_index`` (int64 [2, n_edges]) and ``edge_weight`` (float32 [n_edges]).

    Raises:
        InputError: torch-geometric is not installed.
    """
    try:
        from torch_geometric.data import HeteroData
    except ImportError as error:
        raise InputError(
            "torch-geometric is not installed",
            where="export to PyTorch Geometric",
            expected='pip install "relrank[pyg]"',
            found=str(error),
        ) from None
    data = HeteroData()
    for node_type, ids in graph.nodes.items():
        data[node_type].num_nodes = len(ids)
    for r in (graph.interactions, *graph.relations.values()):
        forward = torch.from_numpy(np.stack([r.src, r.dst]).astype(np.int64))
        backward, weight = forward.flip(0), torch.from_numpy(r.weight.copy())
        edges = data[r.source, r.name, r.target]
        if r.undirected:
            edges.edge_index, edges.edge_weight = torch.cat([forward, backward], dim=1), weight.repeat(2)
        else:
            edges.edge_index, edges.edge_weight = forward, weight
            reverse = data[r.target, f"rev_{r.name}", r.source]
            reverse.edge_index, reverse.edge_weight = backward.contiguous(), weight.clone()
    return data
