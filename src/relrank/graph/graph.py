"""The heterogeneous graph: node types, relations, each stored once, and features of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from relrank.arguments import Seed, checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.feature import Feature
from relrank.graph.relation import Relation, Titles
from relrank.graph.relation_chains import chain_node_types, hops
from relrank.graph.rewiring import rewire
from relrank.io import html
from relrank.kernels.csr import Int32, Int64
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Node types, interactions, other relations, and features of nodes.

    Attributes:
        user: node type of the users.
        item: node type of the items.
        nodes: keys of every node type, in row order.
        interactions: the relation user → item, from training rows only.
        relations: all other relations by name.
        fingerprint: of the split that the interactions come from.
        notices: what building dropped by policy, and how many nodes a relation does not reach.
        features: of nodes, by name; every arm has all of them.
        places: position of each interaction in its user's history, from 0, int32 [n_interactions]; None for data
            without an order in time.
        events: interaction numbers in order of time, user by user, int32 [n_events]; an interaction that was repeated
            occurs several times. None where each happened once, in the order of ``places``.
        excluded_relations: names of relations that this graph was built without; a configuration may still give them
            a weight.

    Raises:
        ValueError: a relation links a type without keys or has rows beyond the keys of a type; a feature does not
            have one row per node; the places of a user are not 0 … n − 1; first occurrences in events are not in the
            order of places.
    """

    user: str
    item: str
    nodes: dict[str, IdMap]
    interactions: Relation
    relations: dict[str, Relation]
    fingerprint: str
    notices: tuple[Notice, ...] = ()
    features: dict[str, Feature] = field(default_factory=dict)
    places: Int32 | None = None
    excluded_relations: frozenset[str] = frozenset()
    events: Int32 | None = None

    def __post_init__(self) -> None:
        if self.places is not None:
            users = self.interactions.src
            expected = np.arange(users.size) - np.searchsorted(users, users, "left")
            fits = self.places.dtype == np.int32 and self.places.shape == users.shape
            if not fits or (self.places[np.lexsort((self.places, users))] != expected).any():
                raise ValueError("places must be int32 [n_interactions], 0 … n − 1 for every user")
        if self.events is not None and not self._are_ordered(self.events):
            raise ValueError("events must be int32, user by user, first occurrences in the order of places")
        self._check_features()
        self._check_relations((self.interactions, *self.relations.values()))

    def _check_features(self) -> None:
        for name, feature in self.features.items():
            if name != feature.name or feature.node not in self.nodes:
                raise ValueError(f"feature {feature.name!r} under {name!r}, of type {feature.node!r}")
            if len(feature) != len(self.nodes[feature.node]):
                raise ValueError(f"feature {name!r}: {len(feature)} rows, {len(self.nodes[feature.node])} nodes")

    def _check_relations(self, relations: Iterable[Relation]) -> None:
        for relation in relations:
            for end, rows in ((relation.source, relation.src), (relation.target, relation.dst)):
                if end not in self.nodes:
                    raise ValueError(f"relation {relation.name!r} links type {end!r}, which has no keys")
                if rows.size and rows.max() >= len(self.nodes[end]):
                    raise ValueError(f"relation {relation.name!r}: {end} row {rows.max()} of {len(self.nodes[end])}")

    def _are_ordered(self, events: Int32) -> bool:
        """Whether events are grouped by user, with first occurrences in the order of places."""
        n, users = len(self.interactions), self.interactions.src
        if self.places is None or events.dtype != np.int32 or ((events < 0) | (events >= n)).any():
            return False
        first = np.sort(np.unique(events, return_index=True)[1])
        is_ordered = np.array_equal(events[first], np.lexsort((self.places, users)))
        return bool(is_ordered and (np.diff(users[events]) >= 0).all())

    def chronological_order(self) -> Int32 | None:
        """Interaction numbers in order of time, user by user, int32 [n_events]; None without an order in time."""
        if self.places is None or self.events is not None:
            return self.events
        return np.lexsort((self.places, self.interactions.src)).astype(np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, edges, features and orders."""
        features = self.features.values()
        parts = (
            *((r.src, r.dst, r.weight) for r in (self.interactions, *self.relations.values())),
            *((f.known, f.dense) for f in features),
            *((f.sparse.indptr, f.sparse.indices, f.sparse.data) for f in features if f.sparse is not None),
            (self.places, self.events),
        )
        arrays = sum(array.nbytes for part in parts for array in part if array is not None)
        return arrays + sum(int(ids.keys.estimated_size()) for ids in self.nodes.values())

    @property
    def n_events(self) -> int:
        """Number of events: interactions, counting repetitions."""
        return len(self.interactions) if self.events is None else self.events.size

    @checked("Graph.history")
    def history(self, user: int) -> Int64:
        """Numbers of one user's interactions, int64: in order of time, or ascending where there is none."""
        users = self.interactions.src  # ascends
        if self.events is not None:
            events: Int64 = self.events[users[self.events] == user].astype(np.int64)
            return events
        numbers: Int64 = np.arange(*np.searchsorted(users, [user, user + 1]))
        return numbers if self.places is None else numbers[np.argsort(self.places[numbers])]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.nodes[self.user])

    @property
    def n_items(self) -> int:
        """Number of items in the catalogue."""
        return len(self.nodes[self.item])

    @checked("Graph.relation")
    def relation(self, name: str) -> Relation:
        """The relation of that name.

        Raises:
            InputError: no relation has it.
        """
        if name not in self.relations:
            raise InputError(
                "unknown relation",
                where="graph",
                expected=one_of(self.relations),
                found=repr(name) + did_you_mean(name, self.relations),
            )
        return self.relations[name]

    @checked("Graph.without")
    def without(self, *names: str) -> Graph:
        """The same graph without these relations."""
        for name in names:
            self.relation(name)
        return self.only(*(name for name in self.relations if name not in names))

    @checked("Graph.only")
    def only(self, *names: str) -> Graph:
        """The same graph with these relations only; ``only()`` keeps the interactions alone."""
        selected = {n: self.relation(n) for n in names}
        return self.with_relations(selected, self.excluded_relations | (self.relations.keys() - selected.keys()))

    def with_relations(
        self, relations: Mapping[str, Relation], excluded_relations: frozenset[str] | None = None
    ) -> Graph:
        """The same graph with other relations, of which only those new to the graph are checked.

        Args:
            relations: by name, in place of those of this graph.
            excluded_relations: as in ``Graph``; those of this graph when None.

        Raises:
            ValueError: a new relation does not fit the graph's nodes.
        """
        current = {id(relation) for relation in self.relations.values()}
        self._check_relations(relation for relation in relations.values() if id(relation) not in current)
        graph = copy(self)  # unlike ``replace`` runs no checks, some of which sort all interactions
        object.__setattr__(graph, "relations", dict(relations))
        if excluded_relations is not None:
            object.__setattr__(graph, "excluded_relations", excluded_relations)
        return graph

    @checked("Graph.rewired")
    def rewired(self, name: str, seed: Seed) -> Graph:
        """The same graph with one relation's edges shuffled; every node keeps its degree."""
        return self.with_relations({**self.relations, name: rewire(self.relation(name), seed)})

    @checked("Graph.features_of")
    def features_of(self, node_type: str) -> tuple[Feature, ...]:
        """The features of a node type."""
        return tuple(f for f in self.features.values() if f.node == node_type)

    @checked("Graph.relations_of")
    def relations_of(self, node_type: str) -> tuple[Relation, ...]:
        """The relations that link a node type, interactions included."""
        return tuple(r for r in (self.interactions, *self.relations.values()) if node_type in (r.source, r.target))

    def ordered_relations(self) -> list[Relation]:
        """The interactions, then the other relations in the order of their names."""
        return [self.interactions, *(self.relations[name] for name in sorted(self.relations))]

    def node_slices(self) -> dict[str, slice]:
        """By node type its rows in one table of all nodes: users, items, then the other types with a relation."""
        others = (t for t in self.nodes if t not in (self.user, self.item) and self.relations_of(t))
        slices, stop = dict[str, slice](), 0
        for node_type in (self.user, self.item, *others):
            start, stop = stop, stop + len(self.nodes[node_type])
            slices[node_type] = slice(start, stop)
        return slices

    def __repr__(self) -> str:
        return self.described({})

    def _repr_html_(self) -> str:
        """Nodes and relations as tables, for notebooks."""
        relations = [
            (r.name, f"{r.source} {'—' if r.undirected else '→'} {r.target}", f"{len(r):,}")
            for r in (self.interactions, *self.relations.values())
        ]
        features = [(f.name, f.node, f"{f.dims:,}", f"{f.known.mean():.1%}") for f in self.features.values()]
        parts = [
            html.table(("node type", "nodes"), [(name, f"{len(ids):,}") for name, ids in self.nodes.items()], 1),
            html.table(("relation", "links", "edges"), relations, 1),
        ]
        parts += [html.table(("feature", "of", "dimensions", "known for"), features, 2)] if features else []
        return html.block("Graph", *parts)

    def described(self, titles: Titles) -> str:
        """A summary of nodes, relations and features, with titles of relations in place of their names."""
        nodes = "".join(f"\n  {name}: {len(ids):,} nodes" for name, ids in self.nodes.items())
        passed = hops(self)
        edges = "".join(
            f"\n  {titles.get(r.name, r.name)}: {r.source} {'—' if r.undirected else '→'} {r.target}, "
            + f"{len(r):,} edges"
            + (f", read as {' → '.join(chain_node_types(self, r))}" if passed.get(r.name) else "")
            for r in (self.interactions, *self.relations.values())
        )
        features = "".join(
            f"\n  {titles.get(f.name, f.name)}: {f.dims:,} features of {f.node}, known for {f.known.mean():.1%}"
            for f in self.features.values()
        )
        return f"Graph{nodes}{edges}{features}"
