"""How much of the catalogue a relation covers."""

from __future__ import annotations

from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import described_type


def coverage(graph: Graph) -> dict[str, float]:
    """For each relation, the share of items (of users, where no item is linked) that have at least one edge in it.

    A relation that links neither is judged along the chain that leads there, and without a chain by its source type.
    """
    shares = {}
    for name, relation in graph.relations.items():
        if described_type(graph, relation) is not None:
            relation = compose_relation(graph, relation)
        ends = (relation.source, relation.target)
        judged = next((end for end in (graph.item, graph.user) if end in ends), relation.source)
        shares[name] = float((relation.degrees(judged, len(graph.nodes[judged])) > 0).mean())
    return shares
