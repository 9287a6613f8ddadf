"""A fitted run that answers requests from any thread: ranked lists, similar items, filters, relation weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, cast

import numpy as np
import torch
from torch.nn import functional

from relrank.errors import InputError
from relrank.evaluation.ranking import tie_break_order
from relrank.explanation.explainer import Explainer
from relrank.kernels.csr import Csr, Float32, Int64
from relrank.kernels.sparse_ranking import SparsePaginator
from relrank.models import Recommender
from relrank.models.core.sparse_linear import SparseLinear
from relrank.models.core.vector_model import ProductModel, VectorModel, is_dot_product_model
from relrank.runs.fallback import is_constant, popularity, user_relations_read
from relrank.runs.fitted_run import FittedRun
from relrank.serve.ann_index import FROM_ITEMS, SAMPLE, ItemIndex
from relrank.serve.candidate_filters import Condition, Filters
from relrank.serve.catalogue import Catalogue, JsonObject, normalized
from relrank.serve.example_history import example_history
from relrank.serve.item_attributes import ItemAttributes, names_of
from relrank.serve.kernel_threads import one_thread, parallel_kernels, run_in_turn
from relrank.serve.limits import Id, Limits, RequestError, shortened_repr
from relrank.serve.paging import Mask, Page, Paginator, Rows
from relrank.serve.reweighting import ReweightedModels, WeightUnit, adjustable, get_relation_weights, weight_unit
from relrank.serve.sessions import session_scores

FAST_SECONDS = 0.002
"""Lists that take longer are computed in a thread."""
INDEXED_ITEMS = 200
"""Items at the start of a list that an index finds; those behind them are ranked by exact products."""


@dataclass(frozen=True, slots=True, eq=False)
class _ListQuery:
    """Whose list is ranked, and which page of it.

    Attributes:
        user: row; None for a history alone.
        history: item rows that tell the model something; with a user those of the session; None without.
        interacted: item rows of the user and the history.
        excluded: item rows to leave out; None for none.
        candidates: bool [n_items], the only candidate items; None for all.
        offset: items before the page.
        k: length of the page.
        model: the fitted model, or the one under other relation weights.
    """

    user: int | None
    history: Int64 | None
    interacted: Rows
    excluded: Rows | None
    candidates: Mask | None
    offset: int
    k: int
    model: Recommender

    @property
    def has_session(self) -> bool:
        """Whether a known user has a session."""
        return self.user is not None and self.history is not None and self.history.size > 0

    @property
    def is_empty(self) -> bool:
        """Whether there is neither a user nor a history."""
        return self.user is None and (self.history is None or not self.history.size)


class ServedModel:
    """One fitted run, ready to answer. It does not change, apart from caches.

    Args:
        name: of the run in requests.
        run: the fitted run.
        limits: bounds of a request.
        index_from: smallest catalogue that is searched through an index, where scores are dot products.

    Attributes:
        catalogue: ids, rows and titles.
        filters: conditions on items.
        attributes: short attributes of items.
        node_names: names of other nodes by type and key, where their tables have them.
        example: a typical user's row and some of their item rows; None without training interactions.
        weights: fitted relation weights.
        reweighted: models under other relation weights.
        index: of the item vectors; None where lists are exact.
        seconds: median time of a list, measured at the start.
    """

    def __init__(self, name: str, run: FittedRun, limits: Limits | None = None, index_from: int = FROM_ITEMS) -> None:
        self.name, self.run, self.limits = name, run, limits or Limits()
        self.model: Recommender = run.model
        self.graph = run.graph
        self.n_users, self.n_items = run.split.shape
        self.catalogue = Catalogue(name, run, self.limits)
        self.filters = Filters(self.graph, run.item_attributes, run.nodes)
        self.attributes = ItemAttributes(
            self.graph, self.catalogue.titles, self.filters.linked, run.item_attributes, run.nodes
        )
        self.node_names = {node: names_of(frame) for node, (_, frame) in run.nodes.items()}
        self.example = example_history(run, self.catalogue.titles)
        self.n_cold_items = run.split.unseen - run.unscorable_items.size
        self._listable: Mask | None = None
        if run.unscorable_items.size:
            self._listable = np.ones(self.n_items, np.bool_)
            self._listable[run.unscorable_items] = False
        self.user_relations_read = user_relations_read(self.model)
        self._popularity: Float32 = popularity(self.graph).counts.numpy()
        self.weights, self.weights_adjustable = get_relation_weights(self.model), adjustable(self.model)
        self.reweighted = ReweightedModels(self.model, self.limits)
        self._model_lock = threading.Lock()  # some models derive tensors at their first scores
        self._explainer: Explainer | None = None
        self._explainer_lock = threading.Lock()
        self._paginator = Paginator(self.n_items)
        self._sparse: SparsePaginator | None = None
        if isinstance(self.model, SparseLinear):
            self._sparse = SparsePaginator(tie_break_order(self.n_items))
        self.index: ItemIndex | None = None
        self._warm_up()
        if self.n_items >= index_from and is_dot_product_model(self.model):
            self.index = self._make_index(self.model)
        self.seconds = self._time_lists()

    def __repr__(self) -> str:
        return f"Served({self.name!r}, {self.run.note['model']}, {self.n_users:,} users, {self.n_items:,} items)"

    @property
    def is_fast(self) -> bool:
        """Whether a list takes less time than a thread is worth."""
        # a list that waits for parallel kernels may wait for a whole solve; sparse products use none
        return self.seconds <= FAST_SECONDS and (self._sparse is not None or not run_in_turn())

    def _warm_up(self) -> None:
        """Compile kernels and derive tensors before the first request."""
        history = self.run.full_history(0) if self.n_users else np.zeros(0, np.int64)
        if self._sparse is not None:
            self.ranked_list(None, history, 0, 10)
            return
        self.history_scores(history)
        if self.n_users:
            self.user_scores(0)

    def _time_lists(self, n: int = 5) -> float:
        """Median seconds of a list of 10, of known users and of their histories."""
        seconds = []
        for row in np.linspace(0, self.n_users - 1, min(n, self.n_users)).astype(np.int64).tolist():
            for user, history in ((row, None), (None, self.run.full_history(row))):
                started = time.perf_counter()
                self.ranked_list(user, history, 0, 10)
                seconds.append(time.perf_counter() - started)
        return float(np.median(seconds)) if seconds else 0.0

    def _make_index(self, model: VectorModel) -> ItemIndex:
        """An index of the item vectors; its recall is measured on a random sample of users."""
        sample = np.random.default_rng(0).choice(self.n_users, min(SAMPLE, self.n_users), replace=False)
        users, items = model.encoded()
        queries = users[torch.from_numpy(np.sort(sample))]
        return ItemIndex(items.float().numpy(force=True), queries.float().numpy(force=True))

    def describe(self) -> JsonObject:
        """What clients need to know of the run."""
        note, graph = self.run.note, self.graph
        unit: WeightUnit | None = weight_unit(self.model) if self.weights_adjustable else None
        return {
            "name": self.name,
            **{key: note[key] for key in ("model", "arm", "protocol")},
            "n_users": self.n_users,
            "n_items": self.n_items,
            "n_cold_items": self.n_cold_items,
            "user": graph.user,
            "item": graph.item,
            "relations": [
                {
                    "name": r.name,
                    "source": r.source,
                    "target": r.target,
                    "edges": len(r),
                    "weight": self.weights.get(r.name),
                }
                for r in graph.relations.values()
            ],
            "weights_adjustable": self.weights_adjustable,
            "weight_unit": unit and unit.name,
            "weight_meaning": unit and unit.meaning,
            "attributes": self.attributes.names,
            "example": self._describe_example(),
            "filters": self.filters.relations,
            "columns": self.filters.columns,
        }

    def named(self, row: int, with_attributes: bool = True) -> JsonObject:
        """Id, title and short attributes of an item; without attributes these are empty."""
        return {**self.catalogue.named(row), "attributes": self.attributes.of(row) if with_attributes else {}}

    def _describe_example(self) -> JsonObject | None:
        if self.example is None:
            return None
        user, items = self.example
        return {"user": self.catalogue.user_ids[user], "items": [self.catalogue.named(row) for row in items]}

    # scores

    def user_scores(self, row: int, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a known user, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        if self.run.lists_from_full_history:
            return self.history_scores(self.run.full_history(row), model)
        return self._scores((model or self.model).score, torch.tensor([row]))

    def history_scores(self, rows: Int64, model: Recommender | None = None) -> Float32:
        """Scores of the catalogue for a history, float32 [n_items].

        Raises:
            InputError: a score is not finite.
        """
        return self._scores((model or self.model).fold_in, [torch.from_numpy(rows)])

    def _session_scores(self, user: int, session: Int64, model: Recommender) -> tuple[Float32, bool]:
        """Scores of a user with the items of a session, and whether they are the model's own."""
        if self.run.lists_from_full_history:
            return self.history_scores(np.concatenate([self.run.full_history(user), session]), model), True
        history, exact = self.run.train_history(user), True

        def score(rows: Int64) -> torch.Tensor:
            nonlocal exact
            scores, exact = session_scores(model, user, history, rows)
            return scores

        return self._scores(score, session), exact

    def _scores(self, score: Callable[[Any], torch.Tensor], argument: Any) -> Float32:
        with self._model_lock, torch.no_grad(), parallel_kernels(), one_thread():
            result = score(argument)
        scores: Float32 = np.ascontiguousarray(result[0].float().numpy(force=True))
        if not np.isfinite(scores).all():
            raise InputError(
                "scores are not finite",
                where=self._where,
                expected="finite numbers",
                found=f"{int((~np.isfinite(scores)).sum()):,} that are not",
            )
        return scores

    @property
    def _where(self) -> str:
        return f"model {self.run.note['model']} of {self.name}"

    # ranked lists

    def ranked_list(
        self,
        user: int | None,
        history: Int64 | None,
        offset: int,
        k: int,
        exclude_seen: bool = True,
        candidates: Mask | None = None,
        model: Recommender | None = None,
    ) -> Page:
        """A page of the list of a known user, of a history, or of a user with the items of a session.

        Args:
            user: row; None for a history.
            history: item rows, oldest first; with a user those of the session.
            offset: items before the page.
            k: length of the page.
            exclude_seen: leave out the user's interactions of any part of the split, or the items of the history.
            candidates: bool [n_items], the only candidate items; None for all.
            model: the model under other relation weights; None for the fitted one.
        """
        if self._listable is not None:
            candidates = self._listable if candidates is None else candidates & self._listable
        interacted = self.interacted_items(user, history)
        informative = None if history is None else self.run.informative_history(history)
        excluded = interacted if exclude_seen else None
        query = _ListQuery(user, informative, interacted, excluded, candidates, offset, k, model or self.model)
        page: Page | None
        if query.is_empty:
            page = None
        elif self.index is not None and candidates is self._listable and model is None and not query.has_session:
            page = self._page_from_index(query, self.index)
        elif self._sparse is not None and not query.has_session:
            page = self._page_of_sparse_product(query, self._sparse)
        else:
            page = self._page_of_scores(query)
        if page is not None:
            return page
        return self._paginator.page(self._popularity, excluded, candidates, offset, k)._replace(fallback=True)

    def _page_from_index(self, query: _ListQuery, index: ItemIndex) -> Page | None:
        """The page, found through the index; None if all scores are 0."""
        vector = self._query_vector(query)
        if not vector.any():
            return None
        excluded = np.zeros(0, np.int64) if query.excluded is None else query.excluded
        excluded = np.union1d(excluded, self.run.unscorable_items)
        return self._paginator.page_from_index(index, vector, excluded, query.offset, query.k, INDEXED_ITEMS)

    def _query_vector(self, query: _ListQuery) -> Float32:
        """The vector whose products with the item vectors are the scores, float32 [d]."""
        model, user, history = cast("VectorModel", query.model), query.user, query.history
        if user is not None and self.run.lists_from_full_history:
            history = self.run.full_history(user)
            user = None
        with self._model_lock, torch.no_grad(), parallel_kernels(), one_thread():
            if user is not None:
                vector = model.user_vectors(torch.tensor([user]))[0]
            else:
                vector = model.history_vectors([torch.from_numpy(cast("Int64", history))])[0]
        result: Float32 = np.ascontiguousarray(vector.float().numpy(force=True))
        return result

    def _page_of_sparse_product(self, query: _ListQuery, paginator: SparsePaginator) -> Page | None:
        """The page, from a sparse product without a row of all scores; None if the scores are constant."""
        model = cast("SparseLinear", query.model)
        inputs, weights = self._sparse_inputs(query), model.item_weights()
        if (weights.indptr[inputs.indices] == weights.indptr[inputs.indices + 1]).all():
            return None
        page = Page(
            *paginator.page(inputs, weights, query.excluded, query.candidates, query.offset, query.k, self._where)
        )
        may_be_constant = not page.items.size or page.scores[0] == page.scores[-1]
        if may_be_constant:
            everything = inputs, weights, query.interacted, self._listable
            _, first, total = paginator.page(*everything, 0, 1, self._where)
            if total and first[0] == paginator.page(*everything, total - 1, 1, self._where)[1][0]:
                return None
        return page

    def _sparse_inputs(self, query: _ListQuery) -> Csr:
        """The row that the item weights are multiplied with: CSR [1, n_inputs]."""
        model, user = cast("SparseLinear", query.model), query.user
        if user is not None and not self.run.lists_from_full_history:
            return model.inputs(torch.tensor([user]))
        rows = cast("Int64", query.history) if user is None else self.run.full_history(user)
        return model.history_inputs([torch.from_numpy(rows)])

    def _page_of_scores(self, query: _ListQuery) -> Page | None:
        """The page, from the scores of the catalogue; None if these are constant."""
        exact = True
        if query.user is None:
            scores = self.history_scores(cast("Int64", query.history), query.model)
        elif query.has_session:
            scores, exact = self._session_scores(query.user, cast("Int64", query.history), query.model)
        else:
            scores = self.user_scores(query.user, query.model)
        page = self._paginator.page(scores, query.excluded, query.candidates, query.offset, query.k)
        may_be_constant = not page.items.size or page.scores[0] == page.scores[-1]
        unlisted = self.run.unscorable_items
        if may_be_constant and is_constant(scores, np.union1d(query.interacted, unlisted)):
            return None
        return page._replace(exact=exact)

    def interacted_items(self, user: int | None, history: Int64 | None) -> Rows:
        """Item rows of a user's interactions in any part of the split, and of a history; each once, ascending."""
        if user is None:
            return np.unique(cast("Int64", history))
        interactions = self.run.interacted_items
        seen = interactions.indices[interactions.indptr[user] : interactions.indptr[user + 1]]
        return seen if history is None or not history.size else np.union1d(seen, history)

    # similar items

    def similar(self, row: int, k: int) -> tuple[Int64, Float32]:
        """Rows of the k items most similar to one, itself left out, and their similarities; see ``similar_scores``.

        Empty where all items are equally similar, as they are to an item of which the model has no information.
        """
        nothing = np.zeros(0, np.int64), np.zeros(0, np.float32)
        if row in self.run.uninformative_items:
            return nothing
        if self._sparse is not None:
            page = self.ranked_list(None, np.array([row], np.int64), 0, k)
            return nothing if page.fallback else page[:2]
        scores = self.similar_scores(row)
        if is_constant(scores, np.union1d(row, self.run.unscorable_items)):
            return nothing
        return self._paginator.page(scores, np.array([row]), self._listable, 0, k)[:2]

    def similar_scores(self, row: int) -> Float32:
        """Similarity of every item to one, float32 [n_items].

        For models with vectors the cosine of the item vectors; for others the scores of a history of this item alone,
        which for closed forms are its row of item weights.
        """
        if isinstance(self.model, ProductModel) and self.model.encoded_items.numel():
            vectors = self.model.encoded_items
            with self._model_lock, torch.no_grad():
                similarity = functional.cosine_similarity(vectors, vectors[row : row + 1])
            result: Float32 = similarity.float().numpy(force=True)
            return result
        return self.history_scores(np.array([row], np.int64))

    # filters

    def candidates(self, filters: Sequence[Condition], exclude: Int64 | None = None) -> Mask | None:
        """Items that match every condition and are not excluded, bool [n_items]; None without either.

        Raises:
            RequestError: no such relation, column or value, or too many conditions.
        """
        mask = self.filters.mask(filters, self.limits.filters)
        if exclude is not None and exclude.size:
            mask = np.ones(self.n_items, np.bool_) if mask is None else mask.copy()
            mask[exclude] = False
        return mask

    def search_values(self, name: str, text: str, limit: int) -> list[tuple[Id, int]]:
        """Values of a filter that contain a text, with their numbers of items, most items first.

        Raises:
            RequestError: no such relation or column.
        """
        matches = (pair for pair in self.filters.values(name) if normalized(text) in normalized(str(pair[0])))
        return list(islice(matches, limit))

    # relation weights

    def with_weights(self, weights: Mapping[str, float] | None) -> Recommender | None:
        """The model under these relation weights, the others as fitted; None for the fitted model.

        Raises:
            RequestError: the weights of the model are fixed, a relation is unknown, a weight is out of range, or too
                many requests wait.
        """
        if not weights:
            return None
        if not self.weights_adjustable:
            raise RequestError(
                422,
                "relation weights cannot be moved",
                where="weights",
                found=shortened_repr(", ".join(weights)),
                expected=f"none: {self.run.note['model']} of {self.name} has them fixed",
            )
        for name, weight in weights.items():
            if name not in self.weights:
                raise RequestError(
                    422,
                    "unknown relation",
                    where="weights",
                    expected=f"of {sorted(self.weights)}",
                    found=shortened_repr(name),
                )
            if not 0 <= weight <= self.limits.weight:
                raise RequestError(
                    422,
                    "relation weight is out of range",
                    where=f"weights.{name}",
                    expected=f"0 to {self.limits.weight:,.0f}",
                    found=str(weight),
                )
        all_weights = self.weights | {name: float(weight) for name, weight in weights.items()}
        if all_weights == self.weights:
            return None
        with parallel_kernels():
            return self.reweighted.get(all_weights)

    # explanations

    def explainer(self, model: Recommender | None) -> Explainer:
        """The explainer of the fitted model, made at its first use; that of a reweighted model, made anew."""
        if model is not None:
            return Explainer(model, self.graph)
        with self._explainer_lock:
            if self._explainer is None:
                self._explainer = Explainer(self.model, self.graph)
            return self._explainer
