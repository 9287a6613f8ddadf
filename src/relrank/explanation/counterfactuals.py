"""What a model says once a few edges are gone: items of a user's history, and links of items.

- A closed form is solved again on the graph without the links: relational EASE by a low-rank change of its inverse
  (``relrank.explanation.low_rank_update``), sparse EASE for the items that the links touch
  (``relrank.explanation.local_update``), others from scratch. Interactions stay in what is solved: a user's training
  row counts on in ``XᵀX`` (other people's recommendations do not change), only the row that is scored loses an item.
- A model with gradients is built on the graph without the links, with the parameters that it has; nothing is trained
  again. Where the user's own vector comes from the graph, their edge leaves that graph. Where it comes from training
  alone, no edge can be taken from it: then the history is folded in, whole and without what is gone, and the user's
  own scores move by the difference, in units of either's spread over the candidates (``ExplainQuery.by_fold_in``).

The answer is exact for closed forms, and for users of the graph in propagation that is linear given its parameters.
Of other models it is not: their parameters have seen what is gone, and a deletion is all that can be said. Nor is it
where a model cannot be built on the smaller graph, or where all of a large catalogue would have to be solved again;
then only the history is cut.
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
"""Closed forms whose solution the relations do not enter: they act when it scores."""
Listed = tuple[Int64, Float32]
LINEAR = (RelationalLightGCN, XSimGCL)
"""Models with gradients whose propagation is linear, given the parameters."""


class _DoesNotFitError(Exception):
    """The class of a model, or its parameters, do not fit a smaller graph."""


@contextmanager
def _fitting() -> Iterator[None]:
    """Errors of making a model on a smaller graph; those of solving it or of its scores are others.

    Raises:
        _DoesNotFitError: the model cannot be made there.
    """
    try:
        yield
    except (RuntimeError, ValueError, KeyError) as error:
        if is_out_of_memory(error):
            raise
        raise _DoesNotFitError(str(error)) from error


class Deletion(NamedTuple):
    """What goes.

    Attributes:
        item: of the history; None if all of it stays.
        cut: links.
    """

    item: int | None
    cut: EdgeRemoval


@dataclass(frozen=True, slots=True, eq=False)
class ExplainQuery:
    """Who asks.

    Attributes:
        user: row; None for a history.
        items: the history, oldest first where there is an order, each once, where it occurs last.
        weights: of its entries.
        heard: the history as the list was made of it, an item as often as it occurs.
        beside: columns and values beside the items in what relational EASE and sparse EASE score.
        candidate_mask: bool [n_items], the candidates: neither in the history nor hidden. They stay the same whatever
            goes.
        edits_graph: whether the user's edges are taken out of the graph, instead of a history.
        by_fold_in: whether a history stands for a user whose vector is fixed.
        scores: float64 [n_items], with everything there: those that lists are made of.
        of_history: float64 [n_items], where ``by_fold_in`` the scores of that history with everything there.
        places: int32 [n_items], of the order that decides between equal scores; None where these count half.
    """

    user: int | None
    items: Int64
    weights: Float64
    heard: Int64
    beside: tuple[Int32, Float32]
    candidate_mask: npt.NDArray[np.bool_]
    edits_graph: bool
    by_fold_in: bool
    scores: Float64
    of_history: Float64
    places: Int32 | None = None

    def moved(self, scores: Float64) -> Float64:
        """Scores of a history that lacks something, float64 [n, n_items], as scores of the user."""
        if not self.by_fold_in:
            return scores
        spread = self.of_history[self.candidate_mask].std() if self.candidate_mask.any() else 0.0
        unit = self.scores[self.candidate_mask].std() / spread if spread > 0 else 1.0
        return self.scores + unit * (scores - self.of_history)

    def rank(self, scores: Float64, target: int) -> float:
        """1-based rank: one, candidates above, and half of the others that score the same, or those before it."""
        others = scores[self.candidate_mask]
        if self.places is not None:
            equal = self.places[self.candidate_mask][others == scores[target]]
            return 1.0 + float((others > scores[target]).sum()) + float((equal < self.places[target]).sum())
        equal = float((others == scores[target]).sum()) - float(self.candidate_mask[target])
        return 1.0 + float((others > scores[target]).sum()) + equal / 2


class Counterfactuals:
    """Scores of one model without edges.

    Args:
        model: fitted.
        graph: what it was fitted on.
    """

    def __init__(self, model: Recommender, graph: Graph) -> None:
        self.model, self.graph = model, graph
        self.link_update = _low_rank(model)
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
        """Who asks, with their scores.

        Args:
            user: row, for a user of the graph.
            history: item rows, oldest first, for anybody else. One of the two. Of an item that occurs twice all
                occurrences go together; it has its place where it occurs last.
            exclude_items: item rows that are no candidates beside those of the history.
            ranked_list: the list that was shown, whole, as item rows and scores: its scores and its order of equal
                ones then stand for the model's, from which they may differ in the last bits.
            history_is_proxy: whether the history stands for somebody of whom more is known, whose list is
                ``ranked_list``.

        Raises:
            InputError: a row outside the graph, both or neither of user and history, scores that are not finite.
        """
        if (user is None) == (history is None):
            raise InputError(
                "nobody, or two, to answer",
                where="user, history",
                expected="one of the two",
                found="neither" if user is None else "both",
            )
        graph = self.graph
        if user is not None:
            user = int(user_rows(torch.tensor([user]), graph.n_users)[0])
            edges = graph.history(user)
            heard = graph.interactions.dst[edges].astype(np.int64)
            edges = _last_of_each(edges)
            items = graph.interactions.dst[edges].astype(np.int64)
            weights = graph.interactions.weight[edges].astype(np.float64)
        else:
            heard = np.array(history, np.int64)
            history_rows([torch.from_numpy(heard)], graph.n_items)  # refuses rows outside
            items = _last_of_each(heard)
            weights = np.ones(items.size)
        open_ = np.ones(graph.n_items, np.bool_)
        open_[history_rows([torch.tensor(list(exclude_items), dtype=torch.int64)], graph.n_items).indices] = False
        open_[items] = False
        beside = np.zeros(0, np.int32), np.zeros(0, np.float32)
        fixed, edits_graph = history_is_proxy and ranked_list is not None, False
        if user is not None and isinstance(self.model, RelationalEASE | SparseEASE):
            beside = self.model.beside(user)
        elif user is not None and not self.model.from_history:
            fixed = bool(items.size) and self._fixed(user)
            edits_graph = not fixed
        query = ExplainQuery(user, items, weights, heard, beside, open_, edits_graph, fixed, np.zeros(0), np.zeros(0))
        own = user is not None and (edits_graph or fixed or self.is_additive)
        scores = of_history = np.zeros(0)
        if own:
            scores = _numbers(self.model.score, torch.tensor([user])).ravel()
        if fixed or not own:
            of_history = self._folded(self.model, query, [None]).ravel()
        scores = scores if own else of_history
        if not (np.isfinite(scores).all() and np.isfinite(of_history).all()):
            raise InputError(
                "scores are not finite", where=f"model {self.model.name}", expected="finite numbers", found="others"
            )
        places = None
        if ranked_list is not None:
            items, values = ranked_list
            places = np.full(graph.n_items, items.size, np.int32)
            places[items] = np.arange(items.size)
            scores = scores.copy()
            scores[items] = values
        return replace(query, scores=scores, of_history=of_history, places=places)

    def _fixed(self, user: int) -> bool:
        """Whether users' scores stay what they are when all their edges leave the graph, or cannot be had then.

        Asked of the first user, it holds for all.
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
        """Scores without one item of the history each (None: with all), by sums or by folding in: [n, n_items].

        Where ``query.edits_graph``, they are near what ``without`` says, and cheaper.
        """
        return query.moved(self._histories(query, items))

    def _histories(self, query: ExplainQuery, items: Sequence[int | None]) -> Float64:
        if not self.is_additive or not items:
            return self._folded(self.model, query, items)
        weight: dict[int | None, float] = dict(zip(query.items.tolist(), query.weights.tolist(), strict=True))
        rows = [torch.tensor([] if item is None else [item], dtype=torch.int64) for item in items]
        whole = query.of_history if query.by_fold_in else query.scores
        return whole - np.array([weight.get(item, 0.0) for item in items])[:, None] * _numbers(
            self.model.fold_in, rows
        )

    def without(self, query: ExplainQuery, deletions: Sequence[Deletion]) -> tuple[Float64, list[bool]]:
        """Scores under each deletion, float64 [n, n_items], and whether they are exact."""
        is_excluded = isinstance(self.model, ClosedForm) and not query.by_fold_in
        is_exact = is_excluded or (query.edits_graph and type(self.model) in LINEAR)
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
        for cut, places in by_cut.items():
            items = [deletions[at].item for at in places]
            try:
                scores[places] = self._built_again(query, cut, items)
            except _DoesNotFitError:
                scores[places] = self._folded(self.model, query, items)
                for at in places:
                    exact[at] = False
        return query.moved(scores), exact

    def _built_again(self, query: ExplainQuery, cut: EdgeRemoval, items: Sequence[int | None]) -> Float64:
        """Scores of the model on the graph without some links, and without one item of the history each."""
        graph, state = without_links(self.graph, cut), self._state(cut)
        if query.edits_graph:
            assert query.user is not None
            graphs = (graph if item is None else without_user_edges(graph, query.user, item) for item in items)
            user = torch.tensor([query.user])
            return np.concatenate([_numbers(self._rebuilt(g, state).score, user) for g in graphs])
        model = self._rebuilt(graph, state)
        if (link_update := _low_rank(model)) is not None:
            return link_update.scores([self._input(query, item) for item in items], [NO_LINKS] * len(items))
        return self._folded(model, query, items)

    def _state(self, cut: EdgeRemoval) -> dict[str, Tensor]:
        """Solution or parameters of the model without some links."""
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
        """Columns and values of what relational EASE and sparse EASE score."""
        kept = query.items != (-1 if item is None else item)
        columns = np.concatenate([query.items[kept], query.beside[0].astype(np.int64) + self.graph.n_items])
        return columns, np.concatenate([query.weights[kept].astype(np.float32), query.beside[1]])

    def _folded(self, model: Recommender, query: ExplainQuery, items: Sequence[int | None]) -> Float64:
        """Scores of the history without one item each, float64 [n, n_items]."""
        gone = [-1 if item is None else item for item in items]
        if not isinstance(model, HistoryScorer):
            return _numbers(model.fold_in, [torch.from_numpy(query.heard[query.heard != item]) for item in gone])
        kept = [query.items != item for item in gone]
        rows = np.repeat(np.arange(len(kept)), [k.sum() for k in kept])
        columns, weights = (np.concatenate([a[k] for k in kept]) for a in (query.items, query.weights))
        return _numbers(model.score_rows, Csr.from_pairs(rows, columns, (len(kept), self.graph.n_items), weights))


def _last_of_each(values: npt.NDArray[np.integer]) -> Int64:
    """Each value once, where it stands for the last time."""
    last = values.size - 1 - np.unique(values[::-1], return_index=True)[1]
    found: Int64 = values[np.sort(last)].astype(np.int64)
    return found


def _low_rank(model: Recommender) -> LowRankUpdate | LocalUpdate | None:
    """What solves the model again without a few links, if anything does."""
    if isinstance(model, RelationalEASE):
        return LowRankUpdate(model)
    return LocalUpdate(model) if isinstance(model, SparseEASE) else None


def _numbers(score: Callable[[Any], Tensor], of: Any) -> Float64:
    """Scores as float64 on the CPU."""
    with torch.no_grad():
        scores: Float64 = score(of).float().numpy(force=True).astype(np.float64)
    return scores
