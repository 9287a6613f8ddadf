"""Why a model recommends an item: the strongest paths user → item, each with its counterfactual.

A path runs from the user to an item j of the history and from there to the target i:

- through a relation r: over a node t that both items are linked with, or directly, where r links items with items;
- along a chain, where r touches no item (author → country): over the authors of both, and a country that these share;
- through the interactions: over other users who chose both. These users are not named.

**Deleting a path** removes the user's edge to j (the history without j) and the links of r that join j and i on this
path: j–t and t–i, or j–i; along a chain the links of both authors to the country, which affects all their items; the
links that lead to the authors stay. Links among authors, and relations of users, influence scores but are never
named. For a path through the interactions only the user's edge is removed. Other links between j and i stay. The
model itself computes the target's score and rank without the path; ``relrank.explanation.counterfactuals`` says how,
and when the result is exact. The rank counts the items that are neither in the history nor excluded; j stays excluded
after its edge is removed. Ties count half, as in ``relrank.evaluation.ranking``, so a rank may end in .5.

**Candidates.** The contribution of j is what the target's score loses without j in the history. The paths from j to i
share it in proportion to their weights (``relrank.explanation.item_paths``); this share is a path's strength. The
counterfactuals of the strongest paths decide the order: largest drop in rank first, then in score.

**Deleting a reason must harm the item**, by rank or, at equal rank, by score. A relation is named only if its links
matter by themselves: removing them while the user's edge to j stays must harm the item as well. The interactions are
named if any user chose both items, or if no relation of j is named; j then acts over longer paths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from relrank.arguments import checked
from relrank.errors import InputError
from relrank.evaluation.ranking import SCORE_BYTES
from relrank.explanation.counterfactuals import Counterfactuals, Deletion, ExplainQuery, Listed
from relrank.explanation.item_paths import INTERACTIONS, ItemPath, ItemPaths
from relrank.graph.graph import Graph
from relrank.kernels.csr import Float64, Int64
from relrank.models.core.base import Recommender

MOST_FOLDED = 256
"""Of models whose scores are not sums over items, the number of latest items that are deleted one by one."""
PER_RELATION = 2
"""Paths of an item and a relation that are tried."""
ROUNDING = 1e-5
"""float32 scores with a smaller relative difference are the same."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One path user → via → item, with the item's rank and score without it.

    Attributes:
        via: item row of the history.
        relation: name, or ``"interactions"``.
        through: nodes between ``via`` and the item as (type, row), along a chain the way there and back; () for a
            direct link and for interactions.
        strength: the path's share of the score.
        rank_without: 1-based expected rank of the item without the path.
        score_without: score without the path.
        rank_without_link: rank without the links and with the user's edge to ``via``; None for interactions, whose
            path has no other link.
        score_without_link: score without the links and with that edge; None for interactions.
        exact: whether the model would give these scores, as opposed to an estimate.
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
        score: of the model.
        reasons: largest drop in rank first, then in score; at most one per item of the history and relation. ()
            where no single path matters.
        by_fold_in: whether the effect of a path was estimated by folding in the history, for a user whose vector is
            fixed; rank and score are still those of that user.
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
    """Explains recommendations of one model; prepared data are shared by all calls.

    Args:
        model: fitted.
        graph: the graph it was fitted on.

    Attributes:
        counterfactuals: scores of the model after deletions.
        paths: between items.
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
        """Explain recommended items of one user.

        Args:
            items: rows of the target items.
            user: user row, for a user of the graph.
            history: item rows, oldest first, for a user unseen during training. One of the two.
            exclude_items: item rows that are not candidates, besides those of the history.
            n: most reasons per item.
            max_paths: paths per item whose counterfactual is computed. All models but relational and sparse EASE are
                built again for each path through a relation, twice for users whose vectors come from the graph, which
                takes seconds on a large graph.
            ranked_list: the complete list that was shown, as item rows and scores; ranks are then positions in it.
                None: expected ranks, where ties count half.
            history_is_proxy: whether the history only approximates the user whose list is ``ranked_list``, such as a
                known user with the items of a visit; the effect of a path is then estimated by folding the history
                in, as for a user whose vector is fixed.

        Raises:
            InputError: a row is outside the graph, an item is in the history, both or neither of user and history are
                given, ``n`` or ``max_paths`` is below 1, or scores are not finite.
        """
        for name, value in (("n", n), ("max_paths", max_paths)):
            if value < 1:
                raise InputError(f"{name} is below 1", where="explanation", expected="1 or more", found=str(value))
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
                    "item is in the history", where="item", expected="an item not chosen yet", found=str(item)
                )
        targets = np.array(items, np.int64)
        ranks, scores = self._item_by_item(query, targets)
        return [
            self._explained(query, target, self._candidates(query, target, ranks[:, at], scores[:, at], max_paths), n)
            for at, target in enumerate(targets.tolist())
        ]

    def _item_by_item(self, query: ExplainQuery, targets: Int64) -> tuple[Float64, Float64]:
        """Drops in rank and in score of each target without each item of the history, [n_history, n_targets] each."""
        shape = query.items.size, targets.size
        ranks, scores = np.zeros(shape), np.zeros(shape)
        full = self.counterfactuals.histories(query, [None]).ravel() if query.edits_graph else query.scores
        full_ranks = np.array([query.rank(full, t) for t in targets.tolist()])
        first = 0 if self.counterfactuals.is_additive else max(0, query.items.size - MOST_FOLDED)
        size = max(1, SCORE_BYTES // (8 * max(self.graph.n_items, 1)))
        for start in range(first, query.items.size, size):
            rows = self.counterfactuals.histories(query, query.items[start : start + size].tolist())
            for at, row in enumerate(rows, start):
                ranks[at] = [query.rank(row, t) for t in targets.tolist()] - full_ranks
                scores[at] = full[targets] - row[targets]
        return ranks, scores

    def _candidates(
        self, query: ExplainQuery, target: int, rank_drops: Float64, score_drops: Float64, max_paths: int
    ) -> list[_Candidate]:
        """The ``max_paths`` strongest paths at most, with at least one of each of the items that matter most."""
        by_drop = np.lexsort((np.arange(query.items.size), -score_drops, -rank_drops)).tolist()
        order = [at for at in by_drop if (rank_drops[at], score_drops[at]) > (0, 0)][:max_paths]
        first: list[_Candidate] = []
        rest: list[_Candidate] = []
        for position, at in enumerate(order):
            paths = self.paths.between(int(query.items[at]), target)
            total = sum(weight for _, weight in paths)
            contribution = max(float(score_drops[at]), 0.0)
            of_item = [
                _Candidate(path, weight, contribution * (weight / total if total else path.relation == INTERACTIONS))
                for path, weight in paths
            ]
            count: dict[str, int] = {}
            for number, candidate in enumerate(sorted(of_item, key=lambda c: -c.strength)):
                relation = candidate.path.relation
                count[relation] = count.get(relation, 0) + 1
                if count[relation] <= PER_RELATION:
                    (first if not number and 4 * position < max_paths else rest).append(candidate)
        return [*first, *sorted(rest, key=lambda c: -c.strength)][:max_paths]

    def _explained(self, query: ExplainQuery, target: int, candidates: Sequence[_Candidate], n: int) -> Explanation:
        rank, score = query.rank(query.scores, target), float(query.scores[target])
        paths = [c.path for c in candidates]
        linked = [path for path in paths if path.relation != INTERACTIONS]
        deletions = [Deletion(path.via, path.cut) for path in paths] + [Deletion(None, path.cut) for path in linked]
        scores, exact = self.counterfactuals.without(query, deletions)
        outcomes = [(query.rank(row, target), float(row[target])) for row in scores]

        def harms(outcome: tuple[float, float]) -> bool:
            rounding = ROUNDING * max(abs(score), abs(outcome[1]))
            return outcome[0] > rank or (outcome[0] == rank and outcome[1] < score - rounding)

        without_link = dict(zip(linked, outcomes[len(paths) :], strict=True))
        harmful: list[tuple[_Candidate, Reason]] = []
        for candidate, outcome, is_exact in zip(candidates, outcomes[: len(paths)], exact[: len(paths)], strict=True):
            path = candidate.path
            if harms(outcome) and (path not in without_link or harms(without_link[path])):
                of_path = (path.via, path.relation, path.through, candidate.strength)
                link_rank, link_score = without_link.get(path, (None, None))
                harmful.append((candidate, Reason(*of_path, *outcome, link_rank, link_score, is_exact)))
        by_relation = {reason.via for _, reason in harmful if reason.relation != INTERACTIONS}
        reasons = [r for c, r in harmful if r.relation != INTERACTIONS or c.weight > 0 or r.via not in by_relation]
        reasons.sort(key=lambda r: (-r.rank_without, r.score_without, -r.strength, r.via, r.relation, r.through))
        best: dict[tuple[int, str], Reason] = {}
        for reason in reasons:
            best.setdefault((reason.via, reason.relation), reason)
        return Explanation(target, rank, score, tuple(best.values())[:n], query.by_fold_in)


@checked("rr.explain")
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
    """Explain one recommended item of one user; arguments and errors are those of ``Explainer.explain``."""
    (explanation,) = Explainer(model, graph).explain(
        [item], user=user, history=history, exclude_items=exclude_items, n=n, max_paths=max_paths
    )
    return explanation
