"""Graphs of a few nodes whose paths and weights can be worked out by hand."""

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import Relation
from relrank.tables.ids import IdMap


def tagged():
    """Items 0 and 1 share tags 0 and 1 and two users; 0 – 1, 0 – 2, 1 – 2 are similar; item 3 has nothing."""
    nodes = {name: IdMap(name, pl.Series(range(n))) for name, n in (("user", 4), ("item", 4), ("tag", 3))}
    return Graph(
        "user",
        "item",
        nodes,
        Relation.of("chose", "user", "item", np.array([0, 0, 1, 1, 2, 3]), np.array([0, 1, 0, 1, 0, 3])),
        {
            "has_tag": Relation.of(
                "has_tag", "item", "tag", np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]), np.array([3.0, 4, 1, 1])
            ),
            "similar": Relation.of(
                "similar", "item", "item", np.array([0, 0, 1]), np.array([1, 2, 2]), np.array([0.5, 0.5, 0.5])
            ),
        },
        "f",
    )
