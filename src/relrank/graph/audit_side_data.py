"""Leak checks of side data: do users' own lists, tags or reviews, or a column of readers, contain held-out pairs?

Users are linked with nodes, such as their lists, and these with items. If most of the items reached in this way,
training items aside, are held out, the side rows were made from the interactions. Users are linked with nodes by

- a relation of users,
- equal keys: the nodes are users, as in a column of an item that lists its readers,
- their training items: a node that is linked with most of a user's items and with hardly any other item is this user
  under another name, unless it is as similar to another user.

Legitimate side data reach many items for each held-out one: all items of a favourite author or of a genre. An author
of five books, four of which many readers have read, leads each of them to the fifth; but that author stands for many
readers, not for one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from relrank.graph.graph import Graph
from relrank.graph.relation import NO_TITLES, Relation, Titles
from relrank.kernels.csr import Csr
from relrank.tables.audit import Finding, pair_keys
from relrank.tables.ids import IdMap
from relrank.tables.split import Split

MOST = 0.5
"""It is a leak if more than this share of the reached pairs beyond training rows is held out."""
TIMES_CHANCE = 3.0
"""It must also be this multiple of the share among all pairs beyond training rows, which is large in small data."""
NEAR = (2, 10, 1 << 62)
"""Most items beyond training rows to which a node leads a user; narrow nodes are checked alone first."""
FEWEST = 10
SHARE = 0.01
"""Fewest held-out rows that must be reached, as a number and as a share of all."""
_PAIRS = 5_000_000
"""Most pairs that are checked; nodes with the fewest items come first."""
_USERS = 5_000
"""Most users whose training items are compared with those of the nodes."""
_ALIKE, _COMMON = 0.4, 3
"""Smallest Jaccard similarity of a user's training items and a node's items, and fewest common items."""

CHECK = "held-out rows in side rows"
REPAIR_HINT = "give its table a time or a user (time, by), so that its rows are cut at the split, or leave it out"


@dataclass(frozen=True, slots=True)
class ReachablePairs:
    """Pairs of users and items that side rows lead to, beyond training rows.

    Attributes:
        pairs: their number.
        held: the number of held-out ones.
    """

    pairs: int
    held: int

    @property
    def share(self) -> float:
        """Share of held-out pairs."""
        return self.held / self.pairs if self.pairs else 0.0


def find_side_data_leaks(
    graph: Graph, split: Split, timed: Collection[str] = (), titles: Titles = NO_TITLES
) -> Iterator[Finding]:
    """A finding for each way from users to their own held-out items, or one that says that there is none.

    Args:
        graph: its relations, and sparse features of items, are checked.
        split: of its interactions.
        timed: relations whose rows were cut at the split by their times; their findings are warnings.
        titles: of relations, shown instead of their names.
    """
    worst: dict[tuple[str, ...], Finding] = {}
    checked = 0
    train = split.train.csr(*split.shape)
    for names, how, to_nodes, to_items in _ways(graph, split, train, titles):
        checked += 1
        reached = leaking_pairs(to_nodes, to_items, split, train)
        if reached is None:
            continue
        is_timed = set(names) <= set(timed)
        message = (
            f"{how} leads from users to {reached.pairs:,} items beyond their training rows, and {reached.held:,} of "
            f"these ({reached.share:.0%}) are their held-out rows" + ", each of an earlier time" * is_timed
        )
        check = f"{CHECK}: {' and '.join(titles.get(name, name) for name in names)}"
        # the same relation may be found by its keys and by its items
        if names not in worst or reached.held > worst[names].count:
            level: Literal["warning", "leak"] = "warning" if is_timed else "leak"
            worst[names] = Finding(level, check, message, reached.held, names, REPAIR_HINT)
    if worst:
        yield from worst.values()
    elif checked:
        message = f"none of {checked:,} ways from users over side rows leads mostly to their held-out items"
        yield Finding("ok", CHECK, message, 0)


def leaking_pairs(to_nodes: Csr, to_items: Csr, split: Split, train: Csr) -> ReachablePairs | None:
    """Pairs that users reach over nodes, if too many of them are held out for chance; over the narrowest such nodes.

    Args:
        to_nodes: users by nodes.
        to_items: nodes by items.
        split: of the interactions.
        train: its training rows, users by items.
    """
    user, node = to_nodes.rows(), to_nodes.indices
    cost = to_items.degrees()[node]
    order = np.argsort(cost, kind="stable")
    order = order[: int(np.searchsorted(np.cumsum(cost[order]), _PAIRS, side="right"))]
    user, lists = user[order], to_items.take(node[order])
    way, item = lists.rows(), lists.indices
    beyond = ~train.contains_pairs(user[way], item)
    way, item = way[beyond], item[beyond]
    width = np.bincount(way, minlength=user.size)[way]
    n_items = split.shape[1]
    held_rows = split.valid.then(split.test)
    held = pair_keys(held_rows.user, held_rows.item, n_items)
    chance = held.size / max(split.shape[0] * n_items - len(split.train), 1)
    keys = pair_keys(user[way], item, n_items)
    for most in NEAR:
        pairs = np.unique(keys[width <= most])
        reached = ReachablePairs(pairs.size, int(np.isin(pairs, held).sum()))
        enough = reached.held >= max(FEWEST, SHARE * held.size)
        if enough and reached.share > max(MOST, TIMES_CHANCE * chance):
            return reached
    return None


def _ways(graph: Graph, split: Split, train: Csr, titles: Titles) -> Iterator[tuple[tuple[str, ...], str, Csr, Csr]]:
    """Names of the relations or the feature, a description, users by nodes, and nodes by items."""
    ends = {graph.user, graph.item}
    of_users = [r for r in graph.relations.values() if graph.user in (r.source, r.target) and not _among(r, ends)]
    of_items = [r for r in graph.relations.values() if graph.item in (r.source, r.target) and not _among(r, ends)]
    for items in of_items:
        node, title = _other(items, graph.item), titles.get(items.name, items.name)
        to_items = _csr(items, graph, node, graph.item)
        for users in of_users:
            if _other(users, graph.user) == node:
                how = f"{titles.get(users.name, users.name)} and {title}"
                yield (users.name, items.name), how, _csr(users, graph, graph.user, node), to_items
        same = _same_keys(split.users, graph.nodes[node])
        if same.nnz:
            yield (items.name,), f"{title}, whose keys are those of users,", same, to_items
        yield (items.name,), title, match_nodes_to_users(train, to_items), to_items
    for users in of_users:
        node = _other(users, graph.user)
        same = _same_keys(graph.nodes[node], split.items)
        if same.nnz:
            how = f"{titles.get(users.name, users.name)}, whose keys are those of {graph.item} nodes,"
            yield (users.name,), how, _csr(users, graph, graph.user, node), same
    for feature in graph.features.values():
        if feature.node == graph.item and feature.sparse is not None:
            to_items = feature.sparse.transpose()
            yield (feature.name,), f"feature {feature.name}", match_nodes_to_users(train, to_items), to_items


def match_nodes_to_users(train: Csr, to_items: Csr) -> Csr:
    """Users by nodes: for each user at most one node, whose items are the user's own more than any other user's.

    Args:
        train: users by items.
        to_items: nodes by items.
    """
    from scipy.sparse import csr_array

    n = train.n_rows
    some = np.arange(n) if n <= _USERS else np.linspace(0, n - 1, _USERS).astype(np.int64)
    own, sizes = train.take(some), to_items.degrees()
    own_sizes = own.degrees()
    # a node with far more items than any user has is no user
    plausible = np.flatnonzero((sizes >= _COMMON) & (sizes <= own_sizes.max(initial=0) / _ALIKE))
    nodes = to_items.take(plausible)
    a = csr_array((np.ones(own.nnz, np.float32), own.indices, own.indptr), shape=(some.size, train.n_cols))
    b = csr_array((np.ones(nodes.nnz, np.float32), nodes.indices, nodes.indptr), shape=(plausible.size, train.n_cols))
    common = (a @ b.T).tocoo()
    user, node, both = common.row, common.col, common.data
    alike = both / (own_sizes[user] + sizes[plausible][node] - both)
    keep = (alike >= _ALIKE) & (both >= _COMMON)
    user, node, alike = user[keep], node[keep], alike[keep]
    most = np.zeros(plausible.size)
    np.maximum.at(most, node, alike)
    nearest = alike == most[node]  # a node that several users match equally, such as a short series, is no user
    alone = np.bincount(node[nearest], minlength=plausible.size) == 1
    user, node, alike = (values[nearest & alone[node]] for values in (user, node, alike))
    best = np.lexsort((node, -alike, user))
    user, node = user[best], node[best]
    first = np.ones(user.size, np.bool_)
    np.not_equal(user[1:], user[:-1], out=first[1:])
    return Csr.from_pairs(some[user[first]], plausible[node[first]], (n, to_items.n_rows))


def _same_keys(rows: IdMap, columns: IdMap) -> Csr:
    """Pairs of nodes of two types with the same key as text."""
    one, other = (
        pl.DataFrame({"key": ids.keys.cast(pl.String), side: np.arange(len(ids))})
        for ids, side in ((rows, "row"), (columns, "column"))
    )
    both = one.join(other, on="key")
    return Csr.from_pairs(both["row"].to_numpy(), both["column"].to_numpy(), (len(rows), len(columns)))


def _among(relation: Relation, ends: set[str]) -> bool:
    return {relation.source, relation.target} <= ends


def _other(relation: Relation, end: str) -> str:
    return relation.target if relation.source == end else relation.source


def _csr(relation: Relation, graph: Graph, rows: str, columns: str) -> Csr:
    """The links of a relation without weights."""
    ends = (relation.src, relation.dst) if relation.source == rows else (relation.dst, relation.src)
    return Csr.from_pairs(*ends, (len(graph.nodes[rows]), len(graph.nodes[columns])))
