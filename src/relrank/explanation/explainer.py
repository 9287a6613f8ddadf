"""Why a model recommends an item: the strongest paths user → item, each with its counterfactual.

A path runs from the user to an item j of the history and from there to the target i:

- through a relation r: over a node t that both items are linked with, or directly, where r links items with items;
- along a chain, where r touches no item (author → country): over the authors of both, and a country that these share;
- through the interactions: over what people who chose j chose, too. These people are not named.

**Deleting a path** takes away the user's own edge to j (the history without j) and those links of r that join j and i
on this path: j–t and t–i, or j–i; along a chain those of both authors to the country, for all their items, while the
chain itself stays. Links among authors, and relations of users, are behind scores but are never named. Of a path
through the interactions only the user's own edge goes. Whatever else links j with i stays. What the target's score
and rank are without the path, the model itself says; how, and when that is exact, is written in
``relrank.explanation.counterfactuals``. The rank is that among the items which are neither in the history nor hidden;
j is no candidate when its edge is gone, either. Equal scores count half, as in ``relrank.evaluation.ranking``, so a
rank may end in .5.

**Candidates.** What j contributes is what the target's score loses without j in the history. The paths from j to i
share j's contribution by weight (``relrank.explanation.item_paths``); that share is a path's strength. The strongest
are tried, and their counterfactuals decide the order: largest drop in rank first, then in score.

**A reason must harm the item when it is deleted**, by rank or, at equal rank, by score. A relation is named only if
its links matter by themselves: cut while the user's edge to j stays, they must harm the item as well. The
interactions are named if anybody chose both items, or if no relation is behind j; then j acts over longer paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relrank.errors import InputError
from relrank.evaluation.ranking import SCORE_BYTES
from relrank.explanation.counterfactuals import Counterfactuals, Deletion, ExplainQuery, Listed
from relrank.explanation.item_paths import INTERACTIONS, ItemPath, ItemPaths
from relrank.graph.graph import Graph
from relrank.kernels.csr import Float64, Int64
from relrank.models.core.base import Recommender

MOST_FOLDED = 256
"""Items of a history, the latest, that are taken out one by one of a model whose scores are not sums over items."""
PER_RELATION = 2
"""Links of an item and a relation that are tried."""
ROUNDING = 1e-5
"""Scores that differ by less, as a share, are the same: they are float32."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One path user → via → item, and what the item's place is without it.

    Attributes:
        via: item row of the history.
        relation: name, or ``"interactions"``.
        through: nodes between ``via`` and the item as (type, row), along a chain the way there and back; () for a
            direct link and for interactions.
        strength: the path's part of the score, in scores.
        rank_without: 1-based expected rank of the item with the path deleted.
        score_without: score then.
        rank_without_link: rank with the links gone and the user's edge to ``via`` kept; None for interactions, whose
            path has no link but that edge.
        score_without_link: score then.
        exact: whether this is what the model would say, not only an estimate by deletion.
    """

    via: int
    relation: str
    through: tuple[tuple[str, int], ...]
    strength: float
    rank_without: float
    score_without: float
    rank_without_link: float | None
    score_without_link: float | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item with its reasons.

    Attributes:
        item: row.
        rank: 1-based expected rank among the candidates.
        score: as the model gives it.
        reasons: largest drop in rank first, then in score; at most one of an item of the history and a relation. ()
            where no single path carries the item.
        by_fold_in: whether what a path carries was found by folding the history in, for a user whose vector is fixed;
            rank and score are those of that user all the same.
    """

    item: int
    rank: float
    score: float
    reasons: tuple[Reason, ...]
    by_fold_in: bool


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A path, its weight between two items, and its strength."""

    path: ItemPath
    weight: float
    strength: float


class Explainer:
    """Explains items of one model; what it prepares is shared by all questions.

    Args:
        model: fitted.
        graph: what it was fitted on.
    """

    def __init__(self, model: Recommender, graph: Graph) -> None:
        self.graph = graph
        self.counterfactuals = Counterfactuals(model, graph)
        self.paths = ItemPaths(model, graph, self.counterfactuals.link_update)

    def explain(
        self,
        items: Sequence[int],
        *,
        user: int | None = None,
        history: Sequence[int] | None = None,
        exclude_items: Sequence[int] = (),
        n: int = 5,
        max_paths: int = 20,
        ranked_list: Listed | None = None,
        history_is_proxy: bool = False,
    ) -> list[Explanation]:
        """Explain items to one user.

        Args:
            items: rows of the targets.
            user: row, for a user of the graph.
            history: item rows, oldest first, for anybody else. One of the two.
            exclude_items: item rows that are no candidates beside those of the history.
            n: most reasons per item.
            max_paths: paths per item whose counterfactual is computed. All but relational and sparse EASE are built
                again for each path through a relation, twice for users whose vectors come from the graph: seconds on
                a large one.
            ranked_list: the list that was shown, whole, as item rows and scores; ranks are places of that list then.
                None: they are expected ranks, where equal scores count half.
            history_is_proxy: whether the history stands for somebody of whom more is known, such as a user with the
                items of a visit: what a path carries is then found by folding it in, as for a user whose vector is
                fixed.

        Raises:
            InputError: a row outside the graph, an item that is in the history, both or neither of user and history,
                ``n`` or ``max_paths`` below 1, scores that are not finite.
        """
        for name, value in (("n", n), ("max_paths", max_paths)):
            if value < 1:
                raise InputError("nothing is asked for", where=name, expected="1 or more", found=str(value))
        query = self.counterfactuals.query(user, history, exclude_items, ranked_list, history_is_proxy)
        for item in items:
            if not 0 <= item < self.graph.n_items:
                raise InputError(
                    "item row outside the catalogue",
                    where="item",
                    expected=f"0 … {self.graph.n_items - 1}",
                    found=str(item),
                )
            if item in query.items:
                raise InputError(
                    "item is in the history", where="item", expected="one that was not chosen yet", found=str(item)
                )
        targets = np.array(items, np.int64)
        ranks, scores = self._item_by_item(query, targets)
        return [
            self._explained(query, target, self._candidates(query, target, ranks[:, at], scores[:, at], max_paths), n)
            for at, target in enumerate(targets.tolist())
        ]

    def _item_by_item(self, query: ExplainQuery, targets: Int64) -> tuple[Float64, Float64]:
        """Drops in rank and score of every target without each item of the history: [history, targets] each."""
        shape = query.items.size, targets.size
        ranks, scores = np.zeros(shape), np.zeros(shape)
        whole = self.counterfactuals.histories(query, [None]).ravel() if query.edits_graph else query.scores
        was = np.array([query.rank(whole, t) for t in targets.tolist()])
        first = 0 if self.counterfactuals.is_additive else max(0, query.items.size - MOST_FOLDED)
        size = max(1, SCORE_BYTES // (8 * max(self.graph.n_items, 1)))
        for start in range(first, query.items.size, size):
            rows = self.counterfactuals.histories(query, query.items[start : start + size].tolist())
            for at, row in enumerate(rows, start):
                ranks[at] = [query.rank(row, t) for t in targets.tolist()] - was
                scores[at] = whole[targets] - row[targets]
        return ranks, scores

    def _candidates(
        self, query: ExplainQuery, target: int, rank_drops: Float64, score_drops: Float64, max_paths: int
    ) -> list[_Candidate]:
        """At most ``max_paths`` paths, the strongest; of the items that matter most at least one."""
        by_drop = np.lexsort((np.arange(query.items.size), -score_drops, -rank_drops)).tolist()
        order = [at for at in by_drop if (rank_drops[at], score_drops[at]) > (0, 0)][:max_paths]
        first: list[_Candidate] = []
        rest: list[_Candidate] = []
        for place, at in enumerate(order):
            ways = self.paths.between(int(query.items[at]), target)
            total = sum(weight for _, weight in ways)
            part = max(float(score_drops[at]), 0.0)
            shares = [weight / total if total else float(path.relation == INTERACTIONS) for path, weight in ways]
            mine = [_Candidate(p, weight, part * s) for (p, weight), s in zip(ways, shares, strict=True)]
            kept: dict[str, int] = {}
            for number, one in enumerate(sorted(mine, key=lambda c: -c.strength)):
                kept[one.path.relation] = kept.get(one.path.relation, 0) + 1
                if kept[one.path.relation] <= PER_RELATION:
                    (first if not number and 4 * place < max_paths else rest).append(one)
        return [*first, *sorted(rest, key=lambda c: -c.strength)][:max_paths]

    def _explained(self, query: ExplainQuery, target: int, candidates: Sequence[_Candidate], n: int) -> Explanation:
        rank, score = query.rank(query.scores, target), float(query.scores[target])
        paths = [c.path for c in candidates]
        linked = [path for path in paths if path.relation != INTERACTIONS]
        deletions = [Deletion(path.via, path.cut) for path in paths] + [Deletion(None, path.cut) for path in linked]
        scores, exact = self.counterfactuals.without(query, deletions)
        places = [(query.rank(row, target), float(row[target])) for row in scores]

        def harms(place: tuple[float, float]) -> bool:
            rounding = ROUNDING * max(abs(score), abs(place[1]))
            return place[0] > rank or (place[0] == rank and place[1] < score - rounding)

        alone = dict(zip(linked, places[len(paths) :], strict=True))

        def kept(path: ItemPath) -> tuple[float | None, float | None]:
            return alone.get(path, (None, None))

        found = [
            (c, Reason(c.path.via, c.path.relation, c.path.through, c.strength, *place, *kept(c.path), is_exact))
            for c, place, is_exact in zip(candidates, places[: len(paths)], exact[: len(paths)], strict=True)
            if harms(place) and (c.path not in alone or harms(alone[c.path]))
        ]
        by_relation = {reason.via for _, reason in found if reason.relation != INTERACTIONS}
        reasons = [r for c, r in found if r.relation != INTERACTIONS or c.weight > 0 or r.via not in by_relation]
        reasons.sort(key=lambda r: (-r.rank_without, r.score_without, -r.strength, r.via, r.relation, r.through))
        first: dict[tuple[int, str], Reason] = {}
        for reason in reasons:
            first.setdefault((reason.via, reason.relation), reason)
        return Explanation(target, rank, score, tuple(first.values())[:n], query.by_fold_in)


def explain(
    model: Recommender,
    graph: Graph,
    item: int,
    *,
    user: int | None = None,
    history: Sequence[int] | None = None,
    exclude_items: Sequence[int] = (),
    n: int = 5,
    max_paths: int = 20,
) -> Explanation:
    """One item to one user; arguments and errors are those of ``Explainer.explain``."""
    found = Explainer(model, graph).explain(
        [item], user=user, history=history, exclude_items=exclude_items, n=n, max_paths=max_paths
    )
    return found[0]
