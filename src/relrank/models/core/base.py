"""Base classes of all models: configuration, scores for known users, and scores for new histories."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from relrank.errors import InputError, did_you_mean, one_of
from relrank.graph.graph import Graph
from relrank.graph.histories import Sequences, check_ordered, item_rows
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.models.core import estimates
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import check_settings, check_weights
from relrank.models.core.search_dimensions import Choice, Range
from relrank.parallel.memory import is_out_of_memory

Progress = Callable[[str], None]
Shapes = Mapping[str, tuple[str, ...]]
BATCH = 4096
"""Default number of examples per training step."""


@dataclass(frozen=True, slots=True)
class GridParameter:
    """One hyper-parameter with a grid of values.

    Attributes:
        name: field of the configuration, or ``"weights.<relation>"`` for the weight of one relation.
        grid_values: values to try, ascending.
        start: the first value to try.
        group: parameters of one group have the same grid and start, and are also changed together: each of several
            relations may look useless while the others are excluded.
        coarse_steps: whether tuning starts with large steps over the grid; False if costs differ widely.
    """

    name: str
    grid_values: tuple[float, ...]
    start: float
    group: str | None = None
    coarse_steps: bool = True


class Recommender(ABC):
    """Scores items. Concrete models are ``ClosedForm`` or ``Trained``.

    Attributes:
        name: key in ``MODELS``.
        Config: the frozen dataclass of hyper-parameters, written beside the model.
        weighs_interactions: whether ``weights`` of the configuration may also name the interactions.
        relational: whether the scores depend on relations other than the interactions.
        featured: whether the scores depend on node features; with a field ``features`` in the configuration, only if
            that is true. Studies remove features for all other models.
        from_history: whether a user's scores equal those of their history folded in. If so, later interactions, such
            as validation rows before the test rows, can be added to the history.
        scores_from_current_row: whether a known user's scores follow from their current row of ``history`` and from
            the user's relations.
        ordered: whether the order of a history matters.
    """

    name: ClassVar[str]
    Config: ClassVar[type]
    relational: ClassVar[bool] = False
    featured: ClassVar[bool] = False
    from_history: bool = False
    scores_from_current_row: ClassVar[bool] = False
    ordered: bool = False
    weighs_interactions: ClassVar[bool] = False

    graph: Graph
    config: Any
    #: training interactions, users by items
    history: Csr

    @abstractmethod
    def score(self, users: Tensor) -> Tensor:
        """Scores of the whole catalogue: int64 user rows [B] → float32 [B, n_items], higher is better.

        Raises:
            InputError: a user row outside the graph.
        """

    @abstractmethod
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores for users unseen during training: item rows per user → float32 [len(histories), n_items].

        An empty history gets the model's unpersonalised scores (for most models equal scores).

        Raises:
            InputError: an item row outside the catalogue.
        """

    def submodels(self) -> tuple[Recommender, ...]:
        """The models whose scores are combined, each with its own configuration: by default the model itself."""
        return (self,)

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """Hyper-parameters to tune on this graph by coordinate search."""
        del graph
        return ()

    @classmethod
    def starts(cls, graph: Graph) -> tuple[dict[str, float], ...]:
        """Alternative starting points of the search; it continues from the best of these and the defaults."""
        del graph
        return ()

    @classmethod
    def published_settings(cls, graph: Graph) -> dict[str, float] | None:
        """Hyper-parameters that reduce the model to a published one, which tuning has to beat clearly; or None."""
        del graph
        return None

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Search space of ``relrank tune`` on this graph: by default ``grid_parameters``."""
        return cls.grid_parameters(graph)

    @classmethod
    def uses_features(cls, config: Any) -> bool:
        """Whether a model with this configuration uses node features."""
        return cls.featured and bool(getattr(config, "features", True))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Names of the relations that can change a score; arms of a study that differ only in others are equal.

        By default all relations of a relational model, none of others. Studies report other relations as "not read".
        A relation that is reached through others counts only if these are in the graph, too.

        Args:
            graph: of an arm.
            config: hyper-parameters; None for the defaults.
        """
        del config
        return tuple(graph.relations) if cls.relational else ()

    @classmethod
    def validated_config(cls, graph: Graph, config: Any, where: str) -> Any:
        """The configuration, validated for this model and graph, with plain Python numbers.

        Args:
            graph: to fit on.
            config: an instance of ``Config``.
            where: its origin, for messages.

        Raises:
            InputError: it belongs to another model, a field is out of bounds, or a weight names an unknown relation.
        """
        config = check_settings(config, cls.Config, where)
        known = {
            *graph.relations,
            *graph.excluded_relations,
            *([graph.interactions.name] if cls.weighs_interactions else []),
        }
        check_weights(getattr(config, "weights", {}), known, f"{where}, weights")
        cls.check_config(config, where)
        return config

    @classmethod
    def named_weights(cls, config: Any) -> frozenset[str]:
        """Names of the relations that have a weight in the configuration."""
        return frozenset(getattr(config, "weights", ()))

    @classmethod
    def unused_weights(cls, graph: Graph, config: Any) -> frozenset[str]:
        """Names of the graph's relations that have a weight above 0 in the configuration but are not used."""
        named_weights = {name for name, weight in getattr(config, "weights", {}).items() if weight}
        return frozenset(named_weights.intersection(graph.relations).difference(cls.used_relations(graph, config)))

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Check constraints between fields: by default none.

        Raises:
            InputError: a constraint is violated.
        """
        del config, where

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Check before fitting that the graph has what the model needs.

        Raises:
            InputError: interactions have no order, or the graph no features, although the model needs them.
        """
        if cls.ordered:
            check_ordered(graph, cls.name)
        if cls.uses_features(config) and not graph.features:
            raise InputError("model needs node features", where=cls.name, expected="a [features.NAME]", found="none")

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """Memory and operations of one fit on this graph, from shapes alone: by default two blocks of scores.

        An override must grow with every numeric hyper-parameter.
        """
        del config
        return Estimate(2 * estimates.score_block(graph.n_items))

    def state(self) -> dict[str, Tensor]:
        """All tensors that ``score`` needs in addition to graph and configuration."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore the tensors from ``state``."""
        raise NotImplementedError


class ClosedForm(Recommender):
    """A model that is solved in closed form, not trained by gradients.

    Args:
        graph: interactions and relations.
        config: hyper-parameters; None for the defaults.
    """

    #: attributes that hold the solution and are saved, with their symbolic shapes: words in ``sizes`` are sizes of
    #: the graph, any other word is the same number throughout; ``indptr`` and ``indices`` are CSR with a column per
    #: item
    solution: ClassVar[Shapes] = {}

    def __init__(self, graph: Graph, config: Any = None) -> None:
        self.graph = graph
        self.history = interaction_rows(graph)
        self.config = self.validated_config(graph, self.Config() if config is None else config, self.name)

    @abstractmethod
    def solve(self) -> Self:
        """Compute the solution from the graph, and return the model."""

    def solve_from(self, whole: Graph) -> Self:
        """``solve``, or derive the solution from a cached one on a graph with more relations."""
        del whole
        return self.solve()

    @classmethod
    def estimate_from(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """``estimate``, for ``solve_from``."""
        del whole
        return cls.estimate(graph, config)

    @classmethod
    def clear_cache(cls) -> None:
        """Free what the class caches for further models on the same edges, if anything."""

    def sizes(self) -> dict[str, int]:
        """Values of the words in ``solution``; ``starts`` is the size of ``indptr``."""
        return {"users": self.graph.n_users, "items": self.graph.n_items, "starts": self.graph.n_items + 1, "one": 1}

    def state(self) -> dict[str, Tensor]:
        """The tensors of the solution by name."""
        return {name: torch.as_tensor(getattr(self, name)).contiguous() for name in self.solution}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the solution's tensors.

        Raises:
            ValueError: names, types or shapes do not match the graph, or a sparse matrix is invalid.
        """
        _check_solution(self.solution, state, self.sizes())
        for name in self.solution:
            setattr(self, name, state[name])


class HistoryScorer(ClosedForm):
    """A closed form whose scores depend on the user's items alone, for known and new users alike."""

    from_history = True

    @abstractmethod
    def score_rows(self, rows: Csr) -> Tensor:
        """Scores for histories as CSR rows, float32 [rows.n_rows, n_items]."""

    def score(self, users: Tensor) -> Tensor:
        """Scores of the users' training histories."""
        return self.score_rows(self.history.take(user_rows(users, self.graph.n_users)))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores of new histories."""
        return self.score_rows(history_rows(histories, self.graph.n_items))


class SequenceScorer(Recommender):
    """Mixin for a model whose scores depend on the user's items and their order in time alone."""

    from_history = True
    ordered = True

    #: the training histories of all users
    sequences: Sequences

    @abstractmethod
    def score_sequences(self, histories: Sequences) -> Tensor:
        """Scores for histories, float32 [histories.n, n_items]."""

    def score(self, users: Tensor) -> Tensor:
        """Scores of the users' training histories."""
        return self.score_sequences(self.sequences.take(user_rows(users, self.graph.n_users)))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores of new histories."""
        return self.score_sequences(Sequences.from_histories(histories, self.graph.n_items))


class Trained(nn.Module, Recommender):
    """A model that is trained by gradients; see ``relrank.training.fit``.

    Attributes:
        max_batch_fraction: largest share of the training edges in one batch. A model that removes the batch's edges
            from its input needs some that remain.
        parallel: whether kernels may start threads.
    """

    max_batch_fraction: ClassVar[float] = 1.0

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__()
        self.graph = graph
        self.history = interaction_rows(graph)
        self.config = self.validated_config(graph, self.Config() if config is None else config, self.name)
        self.parallel = True

    @classmethod
    def training_defaults(cls, graph: Graph) -> dict[str, Any]:
        """Training settings of this model that differ from ``TrainConfig``'s, for the size of a graph."""
        del graph
        return {}

    def examples(self) -> tuple[Int32, Int32]:
        """Training examples of an epoch, as (user rows [n], item rows [n]): by default the training edges."""
        return self.graph.interactions.src, self.graph.interactions.dst

    @abstractmethod
    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Any:
        """Inputs of ``loss`` for one batch of ``examples`` (user rows [B], item rows [B]), on the CPU.

        Negatives and sampled neighbours are drawn from ``seed``. It must not read parameters: it may run ahead of the
        steps in another thread, with ``self.parallel`` False, where kernels must not start threads. The result has a
        method ``to(device)``.
        """

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of one prepared batch."""

    @classmethod
    def estimate(cls, graph: Graph, config: Any, batch: int = BATCH) -> Estimate:
        """Memory, and operations of one epoch, on a CPU: one rule for all models, good to a factor of 2.

        The parameters are one vector of ``config.dim`` numbers per node, held eight times: themselves, gradient,
        Adam's two moments, and four copies of the best and latest state for checkpoints. Models with
        ``config.layers`` hold two more tables per layer, unless they sample neighbours. Every edge takes 16 bytes. A
        batch holds its vectors four times and its scores twice: of every example against its negatives, or of every
        user against the catalogue. Sequence models hold 16 vectors per layer and position instead of four per edge;
        repeated interactions are further positions.

        Args:
            graph: to fit on.
            config: hyper-parameters.
            batch: examples per training step.
        """
        dim, layers = int(getattr(config, "dim", 64)), int(getattr(config, "layers", 0))
        nodes = sum(len(ids) for ids in graph.nodes.values()) if cls.relational else graph.n_users + graph.n_items
        examples = graph.n_events if cls.ordered else len(graph.interactions)
        edges = examples + (sum(len(r) for r in graph.relations.values()) if cls.relational else 0)
        full = getattr(config, "loss", "") == "full-softmax"
        negatives = int(getattr(config, "negatives", 1))
        shared = bool(getattr(config, "shared", True))
        full_graph = not cls.ordered and int(getattr(config, "fanout", 0)) == 0
        tables = 8 + (2 * (layers + 1) if full_graph else 0)
        if cls.ordered:
            users = min(batch, graph.n_users)
            scored = users * min(int(getattr(config, "window", 1 << 30)), -(-examples // max(graph.n_users, 1)))
            vectors = estimates.table(16 * max(layers, 1) * scored, dim)
        else:
            scored = min(batch, examples)
            vectors = estimates.table(4 * scored * (2 + (0 if shared or full else negatives)), dim)
        # sequence models score the catalogue a block at a time
        columns = (0 if cls.ordered else graph.n_items) if full else negatives
        scores = 2 * estimates.table(min(scored, graph.n_users) if full else scored, columns)
        bytes_ = tables * estimates.table(nodes, dim) + 16 * edges + vectors + scores
        steps = -(-examples // max(min(batch, examples), 1))
        propagation = 0 if cls.ordered else 4 * layers * edges * dim * steps
        products = 3.0 * examples * dim * (graph.n_items if full else negatives)
        updates = 12 * nodes * dim * steps
        return Estimate(bytes_ + estimates.score_block(graph.n_items), products, propagation / 4 + updates)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """Search space of ``relrank tune``: by default ``grid_parameters`` and the learning rate."""
        return *cls.grid_parameters(graph), Range("train.lr", 1e-3, 1e-1, log=True)

    @abstractmethod
    def init_weights(self, seed: int) -> None:
        """Initialise the parameters."""

    def refresh(self) -> None:
        """Recompute what ``score`` reads from the parameters; called after they change."""

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters."""
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters."""
        self.load_state_dict(dict(state))
        self.refresh()


def override_config(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """A configuration with some fields replaced; ``"weights.has_tag"`` names one entry of a mapping.

    Raises:
        InputError: an unknown field, or a value of the wrong type.
    """
    assert is_dataclass(config)
    assert not isinstance(config, type)
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        field, _, entry = name.partition(".")
        value = value.item() if isinstance(value, np.generic) else value
        if field not in known or (entry and not isinstance(known[field], dict)):
            raise InputError(
                "unknown hyper-parameter",
                where=where,
                expected=one_of(known),
                found=repr(name) + did_you_mean(name, known),
            )
        if entry and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise InputError(
                "hyper-parameter has the wrong type", where=f"{where}, {name}", expected="a number", found=repr(value)
            )
        if entry:
            changed[field] = {**changed.get(field, known[field]), entry: value}
            continue
        current = known[field]
        if isinstance(value, int) and abs(value) > 2**63:
            raise InputError(
                "hyper-parameter is out of range",
                where=f"{where}, {name}",
                expected="a 64-bit number",
                found=f"{str(value)[:30]}…" if len(str(value)) > 30 else str(value),
            )
        if isinstance(current, bool) or not isinstance(current, int | float):
            fits = type(value) is type(current)
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            fits = fits and (isinstance(current, float) or float(value).is_integer())
            value = type(current)(value) if fits else value
        if not fits:
            raise InputError(
                "hyper-parameter has the wrong type",
                where=f"{where}, {name}",
                expected=f"{type(current).__name__}, such as {current!r}",
                found=repr(value),
            )
        changed[field] = dict(value) if isinstance(value, dict) else value
    result: Any = replace(config, **changed)
    return result


def restore(model: Recommender, state: Mapping[str, Tensor], where: str) -> None:
    """Load saved parameters into a model after checking that they match.

    Args:
        model: newly constructed.
        state: from ``Recommender.state``.
        where: their origin, for messages.

    Raises:
        InputError: a number is not finite, or names or shapes do not match the model.
    """
    try:
        for name, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} contains numbers that are not finite")
        model.load_state(state)
    except InputError:
        raise
    except (ValueError, LookupError, TypeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise InputError(
            "parameters do not fit the model",
            where=where,
            found=" ".join(str(error).split()),
            expected=f"those of {model.name} on {model.graph.n_users:,} users and {model.graph.n_items:,} items",
        ) from None


_KINDS = {"indptr": torch.int64, "indices": torch.int32}
"""Types of tensors by name; all others are float32."""


def _check_solution(shapes: Shapes, state: Mapping[str, Tensor], sizes: Mapping[str, int]) -> None:
    """Reject tensors that would make compiled code read out of bounds.

    Args:
        shapes: see ``ClosedForm.solution``.
        state: tensors by name.
        sizes: see ``ClosedForm.sizes``.

    Raises:
        ValueError: names, types or shapes do not match, or a CSR matrix is invalid.
    """
    if state.keys() != shapes.keys():
        raise ValueError(f"tensors {', '.join(state)} instead of {', '.join(shapes)}")
    known = dict(sizes)
    for name, shape in shapes.items():
        tensor = state[name]
        fits = tensor.dtype == _KINDS.get(name, torch.float32) and tensor.dim() == len(shape)
        if not fits or any(known.setdefault(word, n) != n for word, n in zip(shape, tensor.shape, strict=True)):
            expected = " × ".join(f"{known[word]:,}" if word in known else word for word in shape)
            raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)} instead of {expected}")
    if "indptr" in shapes:
        starts, columns = state["indptr"], state["indices"]
        valid = bool(starts[0] == 0) and bool(starts[-1] == columns.numel()) and bool((starts.diff() >= 0).all())
        if not valid or (columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < sizes["items"]):
            raise ValueError("indptr and indices are not a sparse matrix with a column per item")


def interaction_rows(graph: Graph) -> Csr:
    """Training interactions, users by items."""
    return graph.interactions.csr(graph.n_users, graph.n_items)


def entries(rows: Csr, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Rows and columns of all entries, int64 [nnz] each."""
    row, column = (torch.from_numpy(a.astype(np.int64)).to(device) for a in (rows.rows(), rows.indices))
    return row, column


def user_rows(users: Tensor, n_users: int) -> Int64:
    """User rows as a NumPy array.

    Raises:
        InputError: a row outside the graph.
    """
    rows: Int64 = users.cpu().numpy().astype(np.int64)
    outside = (rows < 0) | (rows >= n_users)
    if outside.any():
        raise InputError(
            "user row outside the graph",
            where=f"position {int(outside.argmax())} of {rows.size}",
            expected=f"0 … {n_users - 1}",
            found=str(rows[outside][0]),
        )
    return rows


def history_rows(histories: Sequence[Tensor], n_items: int) -> Csr:
    """Histories as CSR rows; an item that occurs twice counts once.

    Raises:
        InputError: an item row outside the catalogue.
    """
    rows = [np.unique(row) for row in item_rows(histories, n_items)]
    lengths = np.array([r.size for r in rows], np.int64)
    flat = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    return Csr.from_pairs(np.repeat(np.arange(len(rows)), lengths), flat, (len(rows), n_items))
