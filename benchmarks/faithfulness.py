"""How much more the paths that explanations name matter than random paths of the same kind.

Counterfactual faithfulness as deletion of what was named, against a random deletion: DeYoung et al. 2020, "ERASER";
for recommendations PRINCE (Ghazimatin et al. 2020), whose deletions are those of a user's own edges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from relrank.errors import InputError
from relrank.evaluation.ranking import top_k
from relrank.explanation.counterfactuals import Deletion
from relrank.explanation.explainer import Explainer
from relrank.explanation.item_paths import INTERACTIONS, ItemPath, ItemPaths
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float64, Int64
from relrank.models.core.base import Recommender


@dataclass(frozen=True, slots=True, eq=False)
class Faithfulness:
    """Rank drops without the named path and without a random one.

    Attributes:
        n: items that were explained.
        strict: share of them whose rank drops further without the first reason's path than without a random path.
        ties: share for which both drop the rank alike.
        unexplained: share without any reason; not among the strict ones nor the ties.
        drop: mean drop in rank without the named path, 0 where there is none.
        random_drop: mean drop without the random one, over the items with a reason.
        drops: float64 [n, 2], both drops of every item; NaN for an item without a reason.
    """

    n: int
    strict: float
    ties: float
    unexplained: float
    drop: float
    random_drop: float
    drops: Float64

    @property
    def share(self) -> float:
        """``strict``, and half of ``ties``."""
        return self.strict + self.ties / 2


def faithfulness(
    model: Recommender, graph: Graph, users: npt.NDArray[np.integer], k: int, seed: int, max_paths: int = 20
) -> Faithfulness:
    """Delete the first reason of recommended items, and for each a random path of the same length.

    A random path (``RandomPaths.draw``) starts at a random item of the history, and need not reach the target. Both
    are deleted in the same way, the edge to the first item and the links.

    Args:
        model: fitted.
        graph: what it was fitted on.
        users: rows; their ``k`` best items that are not in the history are explained.
        k: items per user.
        seed: of the random paths.
        max_paths: as in ``Explainer.explain``.

    Raises:
        InputError: as ``Explainer.explain``, or there is nothing to explain.
    """
    explainer, rng = Explainer(model, graph), np.random.default_rng(seed)
    random_paths = RandomPaths(explainer.paths)
    rows: list[tuple[float, float]] = []
    for user, best in zip(users.tolist(), top_k(model, users, model.history, k).items, strict=True):
        rows += _drops(explainer, random_paths, user, best[best >= 0].tolist(), max_paths, rng)
    if not rows:
        raise InputError("nothing to explain", where="users, k", expected="some of either", found="none")
    drops = np.array(rows)
    named, random = drops.T
    explained = ~np.isnan(named)
    return Faithfulness(
        len(drops),
        float((named > random).mean()),
        float((named == random).mean()),
        float(1 - explained.mean()),
        float(np.nan_to_num(named).mean()),
        float(random[explained].mean()) if explained.any() else 0.0,
        drops,
    )


def _drops(
    explainer: Explainer,
    random_paths: RandomPaths,
    user: int,
    items: Sequence[int],
    max_paths: int,
    rng: np.random.Generator,
) -> list[tuple[float, float]]:
    """Drops in rank of a user's items without the first reason's path, and without a random one of its kind.

    NaN for an item without a reason.
    """
    query = explainer.counterfactuals.query(user, None)
    explanations = explainer.explain(items, user=user, n=1, max_paths=max_paths)
    named = {e.item: ItemPath(r.via, r.relation, r.through, e.item) for e in explanations for r in e.reasons}
    drawn = [random_paths.draw(query.items, path, rng) for path in named.values()]
    scores = explainer.counterfactuals.without(query, [Deletion(path.via, path.cut) for path in drawn])[0]
    row_of = dict(zip(named, scores, strict=True))
    return [
        (e.reasons[0].rank_without - e.rank, query.rank(row_of[e.item], e.item) - e.rank)
        if e.reasons
        else (np.nan, np.nan)
        for e in explanations
    ]


class RandomPaths:
    """Random paths over the relations that a model reads."""

    def __init__(self, paths: ItemPaths) -> None:
        self._links = paths.links
        self._items_of_node: dict[str, Csr] = {}

    def draw(self, items: Int64, like: ItemPath, rng: np.random.Generator) -> ItemPath:
        """A random path as long as another one, from a random item; a different path if there is any.

        Where the given path runs through a relation, so does the random one: a random relation in which its first
        item has neighbours, a random node there, a random other item next to that; or a random neighbour, if there
        is no node in between. An item without neighbours keeps only its own edge.
        """
        for _ in range(100):
            path = self._draw_from(int(rng.choice(items)), like, rng)
            if (path.via, path.relation, path.through) != (like.via, like.relation, like.through):
                break
        return path

    def _draw_from(self, via: int, like: ItemPath, rng: np.random.Generator) -> ItemPath:
        edge_only = ItemPath(via, INTERACTIONS, (), like.end)
        if like.relation == INTERACTIONS:
            return edge_only
        options = []
        for links in self._links:
            nodes = links.of(via)[0]
            if links.within:
                nodes = nodes[nodes != via]
            as_long = links.within if not like.through else max(len(links.steps), 1) == len(like.through) // 2 + 1
            if nodes.size and as_long:
                options.append((links, nodes))
        if not options:
            return edge_only
        links, nodes = options[int(rng.integers(len(options)))]
        node = int(rng.choice(nodes))
        if not like.through:
            return ItemPath(via, links.relation, (), node)
        if links.relation not in self._items_of_node:
            self._items_of_node[links.relation] = links.rows.transpose()
        ends = self._items_of_node[links.relation].take(np.array([node])).indices
        ends = ends[(ends != via) & ((ends != node) | (not links.within))]
        if not ends.size:
            return edge_only
        end = int(rng.choice(ends))
        there, back = (links.ways(item, node)[0][0] if links.steps else () for item in (via, end))
        return ItemPath(via, links.relation, (*there, (links.node, node), *reversed(back)), end)
