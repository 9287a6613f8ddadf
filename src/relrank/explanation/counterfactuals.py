"""Counterfactual scores: those of a model without an item of a user's history, and without links of items.

- A closed form is solved again on the graph without the links: relational EASE by a low-rank change of its inverse
  (``relrank.explanation.low_rank_update``), sparse EASE for the items that the links affect
  (``relrank.explanation.local_update``), others from scratch. The solution keeps all training interactions: the
  user's row still counts in ``XᵀX``, so other users' recommendations do not change. Only the scored row
  loses an item.
- A model with gradients is built on the graph without the links, with its parameters; it is not trained again. If the
  user's vector comes from the graph, the user's edge is removed from the graph. If it comes from training alone, no
  edge can be removed from it: then the history is folded in, in full and without the deleted item, and the user's
  scores move by the difference, rescaled by the ratio of their standard deviations over the candidates
  (``ExplainQuery.by_fold_in``).

The result is exact for closed forms, and for users of the graph in propagation that is linear given its parameters.
For other models it is an estimate, because their parameters were trained with the deleted edges. It is also an
estimate where a model cannot be built on the smaller graph, or where all of a large catalogue would have to be solved
again; then only the history is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from relrank.errors import InputError
from relrank.explanation.local_update import LocalUpdate
from relrank.explanation.low_rank_update import LowRankUpdate
from relrank.graph.edge_removal import EdgeRemoval, without_links, without_user_edges
from relrank.graph.graph import Graph
from relrank.kernels.csr import Csr, Float32, Float64, Int32, Int64
from relrank.models.closed_form.chebycf import ChebyCF
from relrank.models.closed_form.ease import EASE
from relrank.models.closed_form.flat_filter import FlatFilter
from relrank.models.closed_form.item_knn import ItemKNN
from relrank.models.closed_form.relational_ease import RelationalEASE
from relrank.models.closed_form.rp3beta import RP3Beta
from relrank.models.closed_form.sparse_ease import SparseEASE
from relrank.models.core.base import ClosedForm, HistoryScorer, Recommender, history_rows, user_rows
from relrank.models.graph.lightgcn import RelationalLightGCN
from relrank.models.graph.xsimgcl import XSimGCL
from relrank.parallel.memory import is_out_of_memory

NO_LINKS = EdgeRemoval(None, ())

ADDITIVE_MODELS = (EASE, RelationalEASE, SparseEASE, ItemKNN, RP3Beta)
"""Models whose scores are sums over the items of a history."""
SOLVED_ON_INTERACTIONS = (ChebyCF, FlatFilter)
"""Closed forms solved on interactions alone; relations act when they score."""
Listed = tuple[Int64, Float32]
LINEAR = (RelationalLightGCN, XSimGCL)
"""Models with gradients whose propagation is linear given the parameters."""


class _DoesNotFitError(Exception):
    """The model's class or its parameters do not fit a smaller graph."""


@contextmanager
def _fitting() -> Iterator[None]:
    """Marks errors of building a model on a smaller graph, as opposed to errors of solving or scoring.

    Raises:
        _DoesNotFitError: the model cannot be built there.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise _DoesNotFitError(str(error)) from error


class Deletion(NamedTuple):
    """What is deleted.

    Attributes:
        item: item row of the history; None deletes no item.
        cut: the links.
    """

    item: int | None
    cut: EdgeRemoval


@dataclass(frozen=True, slots=True, eq=False)
class ExplainQuery:
    """A user or a history whose recommendations are explained, with the scores before any deletion.

    Attributes:
        user: user row; None for a history.
        items: item rows of the history, oldest first where there is an order, each once, where it occurs last.
        weights: interaction weights of ``items``.
        events: item rows of the history with repetitions.
        pseudo_items: columns and values besides the items in the input rows of relational EASE and sparse EASE.
        candidate_mask: bool [n_items], True for candidate items: neither in the history nor excluded. A deletion does
            not change it.
        edits_graph: whether a deleted item is an edge removed from the graph, instead of an item of a history.
        by_fold_in: whether deletions are estimated by folding in the history of a user whose vector is fixed.
        scores: float64 [n_items], the scores that recommendations are made of.
        of_history: float64 [n_items], the scores of the folded-in history where ``by_fold_in``.
        positions: int32 [n_items], positions in a shown list, which break ties; None where ties count half.
    """

    user: int | None
    items: Int64
    weights: Float64
    events: Int64
    pseudo_items: tuple[Int32, Float32]
    candidate_mask: npt.NDArray[np.bool_]
    edits_graph: bool
    by_fold_in: bool
    scores: Float64
    of_history: Float64
    positions: Int32 | None = None

    def moved(self, scores: Float64) -> Float64:
        """Scores of histories after deletions, float64 [n, n_items], rescaled to those of the user."""
        if not self.by_fold_in:
            return scores
        spread = self.of_history[self.candidate_mask].std() if self.candidate_mask.any() else 0.0
        unit = self.scores[self.candidate_mask].std() / spread if spread > 0 else 1.0
        return self.scores + unit * (scores - self.of_history)

    def rank(self, scores: Float64, target: int) -> float:
        """1-based rank among the candidates; of equal scores half count, or those before it in the shown list."""
        others = scores[self.candidate_mask]
        if self.positions is not None:
            equal = self.positions[self.candidate_mask][others == scores[target]]
            return 1.0 + float((others > scores[target]).sum()) + float((equal < self.positions[target]).sum())
        equal = float((others == scores[target]).sum()) - float(self.candidate_mask[target])
        return 1.0 + float((others > scores[target]).sum()) + equal / 2


class Counterfactuals:
    """Scores of one model after deletions.

    Args:
        model: fitted.
        graph: the graph it was fitted on.
    """

    def __init__(self, model: Recommender, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.link_update = _link_update(model)
        self.is_additive = isinstance(model, ADDITIVE_MODELS)
        self._saved: dict[str, Tensor] | None = None
        self._are_fixed: bool | None = None

    def query(
        self,
        user: int | None,
        history: Sequence[int] | None,
        exclude_items: Sequence[int] = (),
        ranked_list: Listed | None = None,
        history_is_proxy: bool = False,
    ) -> ExplainQuery:
        """A user or a history, with the model's scores.

        Args:
            user: user row, for a user of the graph.
            history: item rows, oldest first, for a user unseen during training. One of the two. All occurrences of an
                item are deleted together; it has its place where it occurs last.
            exclude_items: item rows that are not candidates, besides those of the history.
            ranked_list: the complete list that was shown, as item rows and scores. Its scores and its order of ties
                replace the model's, from which they may differ in the last bits.
            history_is_proxy: whether the history only approximates the user whose list is ``ranked_list``.

        Raises:
            InputError: a row outside the graph, both or neither of user and history, scores that are not finite.
        """
        if (user is None) == (history is None):
            raise InputError(
                "need either a user or a history",
                where="user, history",
                expected="one of the two",
                found="neither" if user is None else "both",
            )
        n_items = self.graph.n_items
        if user is not None:
            user = int(user_rows(torch.tensor([user]), self.graph.n_users)[0])
            events, items, weights = self._training_history(user)
        else:
            events = np.array(history, np.int64)
            history_rows([torch.from_numpy(events)], n_items)  # refuses rows outside the catalogue
            items = _last_of_each(events)
            weights = np.ones(items.size)
        candidates = np.ones(n_items, np.bool_)
        candidates[history_rows([torch.tensor(list(exclude_items), dtype=torch.int64)], n_items).indices] = False
        candidates[items] = False
        pseudo_items = np.zeros(0, np.int32), np.zeros(0, np.float32)
        by_fold_in, edits_graph = history_is_proxy and ranked_list is not None, False
        if user is not None and isinstance(self.model, RelationalEASE | SparseEASE):
            pseudo_items = self.model.user_pseudo_items(user)
        elif user is not None and not self.model.from_history:
            by_fold_in = bool(items.size) and self._fixed(user)
            edits_graph = not by_fold_in
        unscored = np.zeros(0), np.zeros(0)
        query = ExplainQuery(
            user, items, weights, events, pseudo_items, candidates, edits_graph, by_fold_in, *unscored
        )
        return self._with_scores(query, ranked_list)

    def _training_history(self, user: int) -> tuple[Int64, Int64, Float64]:
        """Item rows of a user's events; each item once, where it occurs last; and the weights of these."""
        interactions = self.graph.interactions
        numbers = self.graph.history(user)
        last = _last_of_each(numbers)
        events, items = (interactions.dst[at].astype(np.int64) for at in (numbers, last))
        return events, items, interactions.weight[last].astype(np.float64)

    def _with_scores(self, query: ExplainQuery, ranked_list: Listed | None) -> ExplainQuery:
        """The query with the model's scores; those of the items of a list, and their order, are the list's."""
        by_user = query.user is not None and (query.edits_graph or query.by_fold_in or self.is_additive)
        scores = of_history = np.zeros(0)
        if by_user:
            scores = _numbers(self.model.score, torch.tensor([query.user])).ravel()
        if query.by_fold_in or not by_user:
            of_history = self._folded(self.model, query, [None]).ravel()
        scores = scores if by_user else of_history
        if not (np.isfinite(scores).all() and np.isfinite(of_history).all()):
            raise InputError(
                "scores are not finite", where=f"model {self.model.name}", expected="finite numbers", found="others"
            )
        positions = None
        if ranked_list is not None:
            items, values = ranked_list
            positions = np.full(self.graph.n_items, items.size, np.int32)
            positions[items] = np.arange(items.size)
            scores = scores.copy()
            scores[items] = values
        return replace(query, scores=scores, of_history=of_history, positions=positions)

    def _fixed(self, user: int) -> bool:
        """Whether a user's scores stay the same, or cannot be computed, when all their edges leave the graph.

        Computed for the first user, it holds for all.
        """
        if self._are_fixed is None:
            rows = torch.tensor([user])
            try:
                other = self._rebuilt(without_user_edges(self.graph, user), self._state(NO_LINKS))
                self._are_fixed = bool(np.array_equal(_numbers(other.score, rows), _numbers(self.model.score, rows)))
            except _DoesNotFitError:
                self._are_fixed = True
        return self._are_fixed

    def histories(self, query: ExplainQuery, items: Sequence[int | None]) -> Float64:
        """Scores without one item of the history each (None: with all), float64 [n, n_items].

        They are computed by sums or by folding in. Where ``query.edits_graph``, they approximate ``without`` at a
        lower cost.
        """
        return query.moved(self._histories(query, items))

    def _histories(self, query: ExplainQuery, items: Sequence[int | None]) -> Float64:
        if not self.is_additive or not items:
            return self._folded(self.model, query, items)
        weight: dict[int | None, float] = dict(zip(query.items.tolist(), query.weights.tolist(), strict=True))
        rows = [torch.tensor([] if item is None else [item], dtype=torch.int64) for item in items]
        full = query.of_history if query.by_fold_in else query.scores
        return full - np.array([weight.get(item, 0.0) for item in items])[:, None] * _numbers(
            self.model.fold_in, rows
        )

    def without(self, query: ExplainQuery, deletions: Sequence[Deletion]) -> tuple[Float64, list[bool]]:
        """Scores after each deletion, float64 [n, n_items], and whether they are exact."""
        is_solved = isinstance(self.model, ClosedForm) and not query.by_fold_in
        is_exact = is_solved or (query.edits_graph and type(self.model) in LINEAR)
        scores, exact = np.empty((len(deletions), self.graph.n_items)), [is_exact] * len(deletions)
        at_once, by_fold_in, rebuilt = list[int](), list[int](), list[int]()
        for at, deletion in enumerate(deletions):
            if self.link_update is not None and self.link_update.supports(deletion.cut):
                at_once.append(at)
            elif deletion.cut.relation is None and not query.edits_graph:
                by_fold_in.append(at)
            elif isinstance(self.link_update, LocalUpdate) and self.link_update.is_large:
                by_fold_in.append(at)
                exact[at] = False
            else:
                rebuilt.append(at)
        if self.link_update is not None and at_once:
            inputs = [self._input(query, deletions[at].item) for at in at_once]
            scores[at_once] = self.link_update.scores(inputs, [deletions[at].cut for at in at_once])
        if by_fold_in:
            scores[by_fold_in] = self._histories(query, [deletions[at].item for at in by_fold_in])
        by_cut: dict[EdgeRemoval, list[int]] = {}
        for at in rebuilt:
            by_cut.setdefault(deletions[at].cut, []).append(at)
        for cut, numbers in by_cut.items():
            items = [deletions[at].item for at in numbers]
            try:
                scores[numbers] = self._scores_rebuilt(query, cut, items)
            except _DoesNotFitError:
                scores[numbers] = self._folded(self.model, query, items)
                for at in numbers:
                    exact[at] = False
        return query.moved(scores), exact

    def _scores_rebuilt(self, query: ExplainQuery, cut: EdgeRemoval, items: Sequence[int | None]) -> Float64:
        """Scores of the model on the graph without some links, and without one item of the history each."""
        graph, state = without_links(self.graph, cut), self._state(cut)
        if query.edits_graph:
            assert query.user is not None
            graphs = (graph if item is None else without_user_edges(graph, query.user, item) for item in items)
            user = torch.tensor([query.user])
            return np.concatenate([_numbers(self._rebuilt(g, state).score, user) for g in graphs])
        model = self._rebuilt(graph, state)
        if (link_update := _link_update(model)) is not None:
            return link_update.scores([self._input(query, item) for item in items], [NO_LINKS] * len(items))
        return self._folded(model, query, items)

    def _state(self, cut: EdgeRemoval) -> dict[str, Tensor]:
        """State of the model without some links: a closed form's new solution, or the same parameters."""
        kind: Any = type(self.model)
        if cut.relation is not None and issubclass(kind, ClosedForm) and not issubclass(kind, SOLVED_ON_INTERACTIONS):
            with _fitting():
                solver: ClosedForm = kind(without_links(self.graph, cut), self.model.config)
            return solver.solve().state()
        if self._saved is None:
            self._saved = self.model.state()
        return self._saved

    def _rebuilt(self, graph: Graph, state: dict[str, Tensor]) -> Recommender:
        """The model's class on another graph."""
        kind: Any = type(self.model)
        with _fitting():
            model: Recommender = kind(graph, self.model.config)
            model.load_state(state)
        if isinstance(model, nn.Module) and isinstance(self.model, nn.Module):
            model.to(next((p.device for p in self.model.parameters()), torch.device("cpu")))
        return model

    def _input(self, query: ExplainQuery, item: int | None) -> tuple[Int64, Float32]:
        """Columns and values of the input row of relational EASE and sparse EASE, without one item."""
        remaining = query.items != (-1 if item is None else item)
        pseudo_items, values = query.pseudo_items
        columns = np.concatenate([query.items[remaining], pseudo_items.astype(np.int64) + self.graph.n_items])
        return columns, np.concatenate([query.weights[remaining].astype(np.float32), values])

    def _folded(self, model: Recommender, query: ExplainQuery, items: Sequence[int | None]) -> Float64:
        """Scores of the history without one item each, float64 [n, n_items]."""
        deleted = [-1 if item is None else item for item in items]
        if not isinstance(model, HistoryScorer):
            return _numbers(model.fold_in, [torch.from_numpy(query.events[query.events != item]) for item in deleted])
        masks = [query.items != item for item in deleted]
        rows = np.repeat(np.arange(len(masks)), [mask.sum() for mask in masks])
        columns, weights = (np.concatenate([a[mask] for mask in masks]) for a in (query.items, query.weights))
        return _numbers(model.score_rows, Csr.from_pairs(rows, columns, (len(masks), self.graph.n_items), weights))


def _last_of_each(values: npt.NDArray[np.integer]) -> Int64:
    """Each value once, at its last occurrence."""
    last = values.size - 1 - np.unique(values[::-1], return_index=True)[1]
    result: Int64 = values[np.sort(last)].astype(np.int64)
    return result


def _link_update(model: Recommender) -> LowRankUpdate | LocalUpdate | None:
    """A way to solve the model again without a few links, if there is one."""
    if isinstance(model, RelationalEASE):
        return LowRankUpdate(model)
    return LocalUpdate(model) if isinstance(model, SparseEASE) else None


def _numbers(score: Callable[[Any], Tensor], of: Any) -> Float64:
    """Scores as float64 on the CPU."""
    with torch.no_grad():
        scores: Float64 = score(of).float().numpy(force=True).astype(np.float64)
    return scores
