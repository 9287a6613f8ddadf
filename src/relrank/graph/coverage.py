"""How much of the catalogue a relation covers."""

from __future__ import annotations

from relrank.graph.composition import compose_relation
from relrank.graph.graph import Graph
from relrank.graph.relation_chains import described_type


def coverage(graph: Graph) -> dict[str, float]:
    """For each relation, the share of items with at least one edge; of users, if the relation links no items.

    A relation that links neither is composed along the chain that leads there; without one, its source type counts.
    """
    shares = {}
    for name, relation in graph.relations.items():
        if described_type(graph, relation) is not None:
            relation = compose_relation(graph, relation)
        ends = (relation.source, relation.target)
        end = next((end for end in (graph.item, graph.user) if end in ends), relation.source)
        shares[name] = float((relation.degrees(end, len(graph.nodes[end])) > 0).mean())
    return shares
