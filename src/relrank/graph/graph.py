"""The heterogeneous graph: node types, relations, each stored once, and features of nodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import copy
from dataclasses import dataclass, field

import numpy as np

from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.feature import Feature
from relrank.graph.relation import Relation, Titles
from relrank.graph.relation_chains import chain_node_types, hops
from relrank.graph.rewiring import rewire
from relrank.kernels.csr import Int32, Int64
from relrank.tables.ids import IdMap
from relrank.tables.notices import Notice


@dataclass(frozen=True, slots=True, eq=False)
class Graph:
    """Node types, the interactions, the relations beside them, and features of nodes.

    Attributes:
        user: node type that chooses.
        item: node type that is chosen.
        nodes: keys of every node type, in row order.
        interactions: the relation user → item built from training rows only.
        relations: every other relation by name.
        fingerprint: of the split the interactions came from.
        notices: what building dropped by stated policy, and which nodes a relation does not reach.
        features: what is known of nodes, by name; every arm keeps them all.
        places: place of each interaction in its user's history, 0 first, int32 [n_interactions]; None where the data
            has no order in time.
        events: numbers of interactions as they happened, user by user, each user's oldest first, int32 [n_events];
            None where each happened once, as ``places`` says.
        excluded_relations: names of relations that this graph was made without, which a configuration may still
            weigh.

    Raises:
        ValueError: a relation links a type without keys, or holds rows beyond the keys of a type; a feature has
            not one row per node; the places of a user are not 0 … n − 1; events do not begin with them.
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
        if self.events is not None and not self._begin_as_placed(self.events):
            raise ValueError("events must be int32, user by user, each interaction for the first time as placed")
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

    def _begin_as_placed(self, events: Int32) -> bool:
        """Whether each interaction is among the events of its user, and comes up in the order of places."""
        n, users = len(self.interactions), self.interactions.src
        if self.places is None or events.dtype != np.int32 or ((events < 0) | (events >= n)).any():
            return False
        first = np.sort(np.unique(events, return_index=True)[1])
        in_turn = np.array_equal(events[first], np.lexsort((self.places, users)))
        return bool(in_turn and (np.diff(users[events]) >= 0).all())

    def chronological_order(self) -> Int32 | None:
        """Numbers of interactions as they happened, user by user, oldest first; None without an order in time."""
        if self.places is None or self.events is not None:
            return self.events
        return np.lexsort((self.places, self.interactions.src)).astype(np.int32)

    @property
    def n_events(self) -> int:
        """How often anything was chosen: the number of interactions, and of what is among ``events`` beside them."""
        return len(self.interactions) if self.events is None else self.events.size

    def history(self, user: int) -> Int64:
        """Numbers of one user's interactions, int64: as they happened, or ascending without an order in time."""
        users = self.interactions.src  # ascends
        if self.events is not None:
            again: Int64 = self.events[users[self.events] == user].astype(np.int64)
            return again
        own: Int64 = np.arange(*np.searchsorted(users, [user, user + 1]))
        return own if self.places is None else own[np.argsort(self.places[own])]

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.nodes[self.user])

    @property
    def n_items(self) -> int:
        """Number of items: the full catalogue."""
        return len(self.nodes[self.item])

    def relation(self, name: str) -> Relation:
        """The relation of that name.

        Raises:
            InputError: there is none.
        """
        if name not in self.relations:
            raise InputError(
                "unknown relation",
                where="graph",
                expected=one_of(self.relations),
                found=repr(name) + did_you_mean(name, self.relations),
            )
        return self.relations[name]

    def without(self, *names: str) -> Graph:
        """The same graph less these relations."""
        for name in names:
            self.relation(name)
        return self.only(*(name for name in self.relations if name not in names))

    def only(self, *names: str) -> Graph:
        """The interactions and these relations alone; ``only()`` is interactions alone."""
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

    def rewired(self, name: str, seed: int) -> Graph:
        """The same graph with one relation's edges shuffled, every node keeping its degree."""
        return self.with_relations({**self.relations, name: rewire(self.relation(name), seed)})

    def features_of(self, node_type: str) -> tuple[Feature, ...]:
        """The features of a type."""
        return tuple(f for f in self.features.values() if f.node == node_type)

    def relations_of(self, node_type: str) -> tuple[Relation, ...]:
        """The relations that link a type, interactions included."""
        return tuple(r for r in (self.interactions, *self.relations.values()) if node_type in (r.source, r.target))

    def __repr__(self) -> str:
        return self.described({})

    def described(self, titles: Titles) -> str:
        """Nodes, relations and features in figures, with titles of relations in place of their names."""
        nodes = "".join(f"\n  {name}: {len(ids):,} nodes" for name, ids in self.nodes.items())
        passed = hops(self)
        edges = "".join(
            f"\n  {titles.get(r.name, r.name)}: {r.source} {'—' if r.undirected else '→'} {r.target}, "
            + f"{len(r):,} edges"
            + (f", read as {' → '.join(chain_node_types(self, r))}" if passed.get(r.name) else "")
            for r in (self.interactions, *self.relations.values())
        )
        features = "".join(
            f"\n  {titles.get(f.name, f.name)}: {f.dims:,} features of {f.node}, known of {f.known.mean():.1%}"
            for f in self.features.values()
        )
        return f"Graph{nodes}{edges}{features}"
