"""Why a model recommends an item: the strongest paths user → item, each with its counterfactual.

A path runs from the user to an item j of the history and from there to the target i:

- through a relation r: over a node t that both items are linked with, or directly, where r links items with items;
- through the interactions: over what people who chose j chose, too. These people are not named.

**Deleting a path** takes away the user's own edge to j (the history without j) and those links of r that join j and i
on this path: j–t and t–i, or j–i. Of a path through the interactions only the user's own edge goes. Whatever else
links j with i stays. Of every path the model itself says what the target's score and rank are without it:

- A closed form is solved again on the graph without the links: relational EASE by a low-rank change of its inverse
  (``relrank.models.fewer_links``), others from scratch. Interactions stay in what is solved: a user's training row
  counts on in ``XᵀX`` (other people's recommendations do not change), only the row that is scored loses j.
- A model with gradients is built on the graph without the links, with the parameters that it has; nothing is trained
  again. Where the user's own vector comes from the graph, their edge to j leaves that graph. Where it comes from
  training alone, no edge can be taken from it: then the history is folded in, for the score with the path as for the
  score without (``Explanation.folded``).

``Reason.exact`` is true of closed forms and of propagation that is linear given its parameters. Of other models it is
false: their parameters have seen the path, and a deletion is all that can be said. It is also false where a model
cannot be built on the smaller graph, and the history alone is cut.

The rank is that among the items which are neither in the history nor hidden; j is no candidate when its edge is gone,
either. Equal scores count half, as in ``relrank.ranking``, so a rank may end in .5.

**Candidates.** What j contributes is what the target's score loses without j in the history. The paths from j to i
share j's contribution by weight (``relrank.models.item_paths``); that share is a path's strength. The strongest are
tried, and their counterfactuals decide the order: largest drop in rank first, then in score. A path whose deletion
does not harm the item is no reason.

Counterfactual faithfulness as deletion of what was named, against a random deletion: DeYoung et al. 2020, "ERASER";
for recommendations PRINCE (Ghazimatin et al. 2020), whose deletions are those of a user's own edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from relrank.csr import Csr, Float32, Float64, Int32, Int64
from relrank.errors import InputError
from relrank.graph.cuts import Cut, without_links, without_user_edges
from relrank.graph.graph import Graph
from relrank.models.base import ClosedForm, FromHistory, Recommender, history_rows, user_rows
from relrank.models.ease import EASE
from relrank.models.fewer_links import FewerLinks
from relrank.models.flat_filter import FlatFilter
from relrank.models.item_knn import ItemKNN
from relrank.models.item_paths import INTERACTIONS, ItemPaths, Path
from relrank.models.lightgcn import RelationalLightGCN
from relrank.models.relational_ease import RelationalEASE
from relrank.models.xsimgcl import XSimGCL
from relrank.ranking import SCORE_BYTES, top_k

MOST_FOLDED = 256
"""Items of a history, the latest, that are taken out one by one of a model whose scores are not sums over items."""
PER_RELATION = 2
"""Links of an item and a relation that are tried."""

ADDS_UP = (EASE, RelationalEASE, ItemKNN)
"""Models whose scores are sums over the items of a history."""
SOLVED_ON_INTERACTIONS = (FlatFilter,)
"""Closed forms whose solution the relations do not enter: they act when it scores."""
LINEAR = (RelationalLightGCN, XSimGCL)
"""Models with gradients whose propagation is linear, given the parameters."""


@dataclass(frozen=True, slots=True)
class Reason:
    """One path user → via → item, and what the item's place is without it.

    Attributes:
        via: item row of the history.
        relation: name, or ``"interactions"``.
        through: nodes between ``via`` and the item as (type, row); () for a direct link and for interactions.
        strength: the path's part of the score, in scores.
        rank_without: 1-based expected rank of the item with the path deleted.
        score_without: score then.
        exact: see above.
    """

    via: int
    relation: str
    through: tuple[tuple[str, int], ...]
    strength: float
    rank_without: float
    score_without: float
    exact: bool


@dataclass(frozen=True, slots=True)
class Explanation:
    """An item with its reasons.

    Attributes:
        item: row.
        rank: 1-based expected rank among the candidates.
        score: as the model gives it.
        reasons: largest drop in rank first, then in score; each item and relation once.
        folded: whether rank and score are those of the history folded in, although a user of the graph was asked for.
    """

    item: int
    rank: float
    score: float
    reasons: tuple[Reason, ...]
    folded: bool


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks.

    Attributes:
        user: row; None for a history.
        items: the history, oldest first where there is an order, each once.
        weights: of its entries.
        beside: columns and values beside the items in what relational EASE scores.
        open: bool [n_items], the candidates.
        from_graph: whether the user's edges are taken out of the graph, instead of a history.
        folded: whether a history stands for a user whose vector is fixed.
        scores: float64 [n_items], with everything there.
    """

    user: int | None
    items: Int64
    weights: Float64
    beside: tuple[Int32, Float32]
    open: npt.NDArray[np.bool_]
    from_graph: bool
    folded: bool
    scores: Float64


class Explainer:
    """Explains items of one model; what it prepares is shared by all questions.

    Args:
        model: fitted.
        graph: what it was fitted on.
    """

    def __init__(self, model: Recommender, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self._low_rank = FewerLinks(model) if isinstance(model, RelationalEASE) else None
        self._exact = isinstance(model, ClosedForm) or type(model) in LINEAR
        self._paths = ItemPaths(model, graph, self._low_rank)
        self._saved: dict[str, Tensor] | None = None

    def explain(
        self,
        items: Sequence[int],
        *,
        user: int | None = None,
        history: Sequence[int] | None = None,
        hidden: Sequence[int] = (),
        n: int = 5,
        tried: int = 20,
    ) -> list[Explanation]:
        """Explain items to one user.

        Args:
            items: rows of the targets.
            user: row, for a user of the graph.
            history: item rows, oldest first, for anybody else. One of the two.
            hidden: item rows that are no candidates beside those of the history.
            n: most reasons per item.
            tried: paths per item whose counterfactual is computed.

        Raises:
            InputError: a row outside the graph, an item that is in the history, both or neither of user and history,
                ``n`` or ``tried`` below 1, scores that are not finite.
        """
        for name, value in (("n", n), ("tried", tried)):
            if value < 1:
                raise InputError("nothing is asked for", where=name, expected="1 or more", found=str(value))
        asked = self._who(user, history, hidden)
        targets = np.array(items, np.int64)
        for target in targets.tolist():
            if not 0 <= target < self.graph.n_items:
                raise InputError(
                    "item row outside the catalogue", where="item",
                    expected=f"0 … {self.graph.n_items - 1}", found=str(target),
                )  # fmt: skip
            if target in asked.items:
                raise InputError(
                    "item is in the history", where="item", expected="one that was not chosen yet", found=str(target)
                )
        ranks, scores = self._item_by_item(asked, targets)
        return [
            self._explained(asked, target, ranks[:, at], scores[:, at], n, tried)
            for at, target in enumerate(targets.tolist())
        ]

    def _explained(
        self, asked: _Asked, target: int, rank_drops: Float64, score_drops: Float64, n: int, tried: int
    ) -> Explanation:
        rank, score = rank_of(asked.scores, target, asked.open), float(asked.scores[target])
        paths = self._candidates(asked, target, rank_drops, score_drops, tried)
        scores, exact = self._without(asked, [path for path, _ in paths])
        reasons = [
            Reason(
                path.via, path.relation, path.through, strength,
                rank_of(row, target, asked.open), float(row[target]), is_exact,
            )
            for (path, strength), row, is_exact in zip(paths, scores, exact, strict=True)
        ]  # fmt: skip
        harmed = [r for r in reasons if (r.rank_without, -r.score_without) > (rank, -score)]
        harmed.sort(key=lambda r: (-r.rank_without, r.score_without, -r.strength, r.via, r.relation, r.through))
        first: dict[tuple[int, str], Reason] = {}
        for reason in harmed:
            first.setdefault((reason.via, reason.relation), reason)
        return Explanation(target, rank, score, tuple(first.values())[:n], asked.folded)

    # -- who asks ------------------------------------------------------------------------------------------------

    def _who(self, user: int | None, history: Sequence[int] | None, hidden: Sequence[int]) -> _Asked:
        if (user is None) == (history is None):
            raise InputError(
                "nobody, or two, to explain to", where="user, history", expected="one of the two",
                found="neither" if user is None else "both",
            )  # fmt: skip
        graph, none = self.graph, (np.zeros(0, np.int32), np.zeros(0, np.float32))
        open_ = np.ones(graph.n_items, np.bool_)
        open_[history_rows([torch.tensor(list(hidden), dtype=torch.int64)], graph.n_items).indices] = False
        if user is not None:
            user = int(user_rows(torch.tensor([user]), graph.n_users)[0])
            edges = np.flatnonzero(graph.interactions.src == user)
            if graph.places is not None:
                edges = edges[np.argsort(graph.places[edges])]
            items = graph.interactions.dst[edges].astype(np.int64)
            weights = graph.interactions.weight[edges].astype(np.float64)
        else:
            assert history is not None
            rows = np.array(list(history), np.int64)
            history_rows([torch.from_numpy(rows)], graph.n_items)  # rows outside are refused
            latest = rows.size - 1 - np.unique(rows[::-1], return_index=True)[1]
            items = rows[np.sort(latest)]
            weights = np.ones(items.size)
        open_[items] = False
        asked = _Asked(user, items, weights, none, open_, False, False, np.zeros(0))
        if user is not None and isinstance(self.model, RelationalEASE):
            asked = replace(asked, beside=self.model.beside(user))
        elif user is not None and not self.model.from_history:
            fixed = self._fixed(user)
            asked = replace(asked, from_graph=not fixed, folded=fixed)
        scores = self._scores(asked)
        if not np.isfinite(scores).all():
            raise InputError(
                "scores are not finite", where=f"model {self.model.name}", expected="finite numbers", found="others"
            )
        return replace(asked, scores=scores)

    def _fixed(self, user: int) -> bool:
        """Whether a user's scores stay what they are when all their edges leave the graph, or cannot be had then."""
        try:
            other = self._rebuilt(without_user_edges(self.graph, user))
        except (RuntimeError, ValueError, KeyError):
            return True
        rows = torch.tensor([user])
        return bool(np.array_equal(_numbers(other.score, rows), _numbers(self.model.score, rows)))

    def _scores(self, asked: _Asked) -> Float64:
        """Scores with everything there, float64 [n_items]."""
        if asked.from_graph or (asked.user is not None and isinstance(self.model, ADDS_UP)):
            return _numbers(self.model.score, torch.tensor([asked.user])).ravel()
        return self._folded(self.model, asked, [None]).ravel()

    def _folded(self, model: Recommender, asked: _Asked, vias: Sequence[int | None]) -> Float64:
        """Scores of the history without one item each, float64 [n, n_items]."""
        kept = [asked.items != (-1 if via is None else via) for via in vias]
        if isinstance(model, FromHistory):
            rows = np.repeat(np.arange(len(kept)), [k.sum() for k in kept])
            items, weights = (np.concatenate([a[k] for k in kept]) for a in (asked.items, asked.weights))
            csr = Csr.from_pairs(rows, items, (len(kept), self.graph.n_items), weights)
            return _numbers(model.score_rows, csr)
        return _numbers(model.fold_in, [torch.from_numpy(asked.items[k]) for k in kept])

    # -- what each item of the history does ----------------------------------------------------------------------

    def _item_by_item(self, asked: _Asked, targets: Int64) -> tuple[Float64, Float64]:
        """Drops in rank and score of every target without each item of the history: [history, targets] each."""
        shape = asked.items.size, targets.size
        ranks, scores = np.zeros(shape), np.zeros(shape)
        whole = self._folded(self.model, asked, [None])[0] if asked.from_graph else asked.scores
        was = np.array([rank_of(whole, t, asked.open) for t in targets.tolist()])
        first = 0 if isinstance(self.model, ADDS_UP) else max(0, asked.items.size - MOST_FOLDED)
        size = max(1, SCORE_BYTES // (8 * max(self.graph.n_items, 1)))
        for start in range(first, asked.items.size, size):
            part = asked.items[start : start + size]
            for at, row in enumerate(self._one_less(asked, part), start):
                ranks[at] = [rank_of(row, t, asked.open) for t in targets.tolist()] - was
                scores[at] = whole[targets] - row[targets]
        return ranks, scores

    def _one_less(self, asked: _Asked, vias: Int64) -> Float64:
        """Scores without each of these items, float64 [n, n_items]."""
        if not isinstance(self.model, ADDS_UP):
            return self._folded(self.model, asked, vias.tolist())
        alone = _numbers(self.model.fold_in, [torch.tensor([via]) for via in vias.tolist()])
        weight = dict(zip(asked.items.tolist(), asked.weights.tolist(), strict=True))
        return asked.scores - np.array([weight[via] for via in vias.tolist()])[:, None] * alone

    # -- paths ---------------------------------------------------------------------------------------------------

    def _candidates(
        self, asked: _Asked, target: int, rank_drops: Float64, score_drops: Float64, tried: int
    ) -> list[tuple[Path, float]]:
        """At most ``tried`` paths with their strengths, the strongest; of the items that matter most at least one."""
        by_drop = np.lexsort((np.arange(asked.items.size), -score_drops, -rank_drops)).tolist()
        order = [at for at in by_drop if (rank_drops[at], score_drops[at]) > (0, 0)][:tried]
        first: list[tuple[Path, float]] = []
        rest: list[tuple[Path, float]] = []
        for place, at in enumerate(order):
            ways = self._paths.between(int(asked.items[at]), target)
            total = sum(weight for _, weight in ways)
            shares = [w / total for _, w in ways] if total else [0.0] * (len(ways) - 1) + [1.0]
            part = max(float(score_drops[at]), 0.0)
            mine = sorted(zip((p for p, _ in ways), shares, strict=True), key=lambda pair: -pair[1])
            kept: dict[str, int] = {}
            for number, (path, share) in enumerate(mine):
                kept[path.relation] = kept.get(path.relation, 0) + 1
                if kept[path.relation] <= PER_RELATION:
                    (first if not number and 4 * place < tried else rest).append((path, part * share))
        rest.sort(key=lambda pair: -pair[1])
        return [*first, *rest][:tried]

    def drops(
        self, user: int, items: Sequence[int], tried: int, rng: np.random.Generator
    ) -> list[tuple[float, float]]:
        """Drops in rank of a user's items without the first reason's path, and without a random one of its kind.

        NaN for an item without a reason; see ``faithfulness``.
        """
        asked = self._who(user, None, ())
        found = self.explain(items, user=user, n=1, tried=tried)
        named = {e.item: Path(r.via, r.relation, r.through, e.item) for e in found for r in e.reasons}
        drawn = [self._paths.random(asked.items, path, rng) for path in named.values()]
        scores = dict(zip(named, self._without(asked, drawn)[0], strict=True))
        return [
            (e.reasons[0].rank_without - e.rank, rank_of(scores[e.item], e.item, asked.open) - e.rank)
            if e.reasons
            else (np.nan, np.nan)
            for e in found
        ]

    # -- counterfactuals -----------------------------------------------------------------------------------------

    def _without(self, asked: _Asked, paths: Sequence[Path]) -> tuple[Float64, list[bool]]:
        """Scores without each path, float64 [n, n_items], and whether they are exact."""
        scores, exact = np.empty((len(paths), self.graph.n_items)), [self._exact] * len(paths)
        at_once, folded = [], []
        for at, path in enumerate(paths):
            if self._low_rank is not None and self._low_rank.fits(path.cut):
                at_once.append(at)
            elif path.relation == INTERACTIONS and not asked.from_graph:
                folded.append(at)
            else:
                scores[at], exact[at] = self._deleted(asked, path)
        if self._low_rank is not None and at_once:
            inputs = [self._input(asked, paths[at].via) for at in at_once]
            scores[at_once] = self._low_rank.scores(inputs, [paths[at].cut for at in at_once])
        if folded:
            scores[folded] = self._one_less(asked, np.array([paths[at].via for at in folded]))
        return scores, exact

    def _input(self, asked: _Asked, via: int) -> tuple[Int64, Float32]:
        """Columns and values of what relational EASE scores, without one item."""
        kept = asked.items != via
        columns = np.concatenate([asked.items[kept], asked.beside[0].astype(np.int64) + self.graph.n_items])
        return columns, np.concatenate([asked.weights[kept].astype(np.float32), asked.beside[1]])

    def _deleted(self, asked: _Asked, path: Path) -> tuple[Float64, bool]:
        """The model on the graph without a path."""
        graph = without_links(self.graph, path.cut)
        try:
            if asked.from_graph:
                assert asked.user is not None
                model = self._rebuilt(without_user_edges(graph, asked.user, path.via), self._state(graph))
                return _numbers(model.score, torch.tensor([asked.user]))[0], self._exact
            model = self._rebuilt(graph, self._state(graph))
            if isinstance(model, RelationalEASE):
                return FewerLinks(model).scores([self._input(asked, path.via)], [Cut(None, ())])[0], True
            return self._folded(model, asked, [path.via])[0], self._exact
        except (RuntimeError, ValueError, KeyError):  # the class, or its parameters, do not fit the smaller graph
            return self._folded(self.model, asked, [path.via])[0], False

    def _state(self, graph: Graph) -> dict[str, Tensor]:
        """Solution or parameters of the model on a graph with other relations."""
        model = self.model
        if (
            isinstance(model, ClosedForm)
            and not isinstance(model, SOLVED_ON_INTERACTIONS)
            and graph is not self.graph
        ):
            return type(model)(graph, model.config).solve().state()
        if self._saved is None:
            self._saved = model.state()
        return self._saved

    def _rebuilt(self, graph: Graph, state: dict[str, Tensor] | None = None) -> Recommender:
        """The model's class on another graph, with the same parameters."""
        kind: Any = type(self.model)
        model: Recommender = kind(graph, self.model.config)
        model.load_state(self._state(self.graph) if state is None else state)
        if isinstance(model, nn.Module) and isinstance(self.model, nn.Module):
            device = next((p.device for p in self.model.parameters()), torch.device("cpu"))
            model.to(device)
        return model


def explain(
    model: Recommender,
    graph: Graph,
    item: int,
    *,
    user: int | None = None,
    history: Sequence[int] | None = None,
    hidden: Sequence[int] = (),
    n: int = 5,
    tried: int = 20,
) -> Explanation:
    """One item to one user; arguments and errors are those of ``Explainer.explain``."""
    found = Explainer(model, graph).explain([item], user=user, history=history, hidden=hidden, n=n, tried=tried)
    return found[0]


def rank_of(scores: Float64, target: int, candidates: npt.NDArray[np.bool_]) -> float:
    """1-based expected rank: one, and the other candidates above, and half of those beside the target."""
    others = scores[candidates]
    equal = float((others == scores[target]).sum()) - float(candidates[target])
    return 1.0 + float((others > scores[target]).sum()) + equal / 2


def _numbers(score: Callable[[Any], Tensor], of: Any) -> Float64:
    """Scores as float64 on the CPU."""
    with torch.no_grad():
        scores: Float64 = score(of).float().numpy(force=True).astype(np.float64)
    return scores


# -- faithfulness ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Faithfulness:
    """How much more the named paths matter than random ones.

    Attributes:
        n: items that were explained.
        strict: share of them whose rank drops further without the first reason's path than without a random path.
        ties: share for which both drop the rank alike.
        unexplained: share without any reason; not among the strict ones nor the ties.
        drop: mean drop in rank without the named path (0 where there is none).
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
    model: Recommender, graph: Graph, users: npt.NDArray[np.integer], k: int, seed: int, tried: int = 20
) -> Faithfulness:
    """Delete the first reason of recommended items, and for each a random path of the same length.

    A random path (``ItemPaths.random``) starts at a random item of the history, and need not reach the target. Both
    are deleted in the same way, the edge to the first item and the links.

    Args:
        model: fitted.
        graph: what it was fitted on.
        users: rows; their ``k`` best items that are not in the history are explained.
        k: items per user.
        seed: of the random paths.
        tried: as in ``Explainer.explain``.

    Raises:
        InputError: as ``Explainer.explain``, or there is nothing to explain.
    """
    explainer, rng = Explainer(model, graph), np.random.default_rng(seed)
    drops: list[tuple[float, float]] = []
    for user, best in zip(users.tolist(), top_k(model, users, model.history, k).items, strict=True):
        drops += explainer.drops(user, best[best >= 0].tolist(), tried, rng)
    if not drops:
        raise InputError("nothing to explain", where="users", expected="users with a history", found="none")
    named, random = np.array(drops).T
    there = ~np.isnan(named)
    return Faithfulness(
        len(drops), float((named > random).mean()), float((named == random).mean()), float(1 - there.mean()),
        float(np.nan_to_num(named).mean()), float(random[there].mean()) if there.any() else 0.0, np.array(drops),
    )  # fmt: skip
