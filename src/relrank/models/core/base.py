"""What every model is: a configuration, scores for users of the graph, scores for histories never seen."""

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
from relrank.graph.sequences import Sequences, check_ordered, item_rows
from relrank.kernels.csr import Csr, Int32, Int64
from relrank.models.core import estimates
from relrank.models.core.estimates import Estimate
from relrank.models.core.hyperparameters import check_settings, check_weights
from relrank.models.core.space import Choice, Range
from relrank.parallel.memory import is_out_of_memory

Progress = Callable[[str], None]
Shapes = Mapping[str, tuple[str, ...]]
BATCH = 4096
"""Examples of a training step where nothing else is said."""


@dataclass(frozen=True, slots=True)
class GridParameter:
    """One hyper-parameter that tuning may move.

    Attributes:
        name: field of the configuration, or ``"weights.<relation>"`` for the weight of one relation.
        grid_values: the values that may be tried, ascending.
        start: the one that is tried first.
        group: knobs of one group have one ladder and start, and are also moved all at once: each of several relations
            may look worthless as long as the others are left out.
        coarse_steps: whether tuning begins with strides over several values; without, for values of very unequal
            cost.
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
        weighs_interactions: whether ``weights`` of the configuration may name the interactions, too.
        relational: whether relations beside the interactions change the scores.
        featured: whether features of nodes do; with a field ``features`` in its configuration, only where that is
            true. A study keeps features from all other models.
        from_history: whether a user's scores are those of their history folded in. Then what came after training,
            such as the validation rows that precede the test rows in time, can be added to the history.
        scores_from_current_row: whether a known user's scores are made of their row of ``history``, whatever that is
            by then, and of what relations say of them.
        ordered: whether the order of a history counts.
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
    #: users by items: the training interactions
    history: Csr

    @abstractmethod
    def score(self, users: Tensor) -> Tensor:
        """Scores of the whole catalogue: int64 user rows [B] → float32 [B, n_items], higher is better.

        Raises:
            InputError: a user row outside the graph.
        """

    @abstractmethod
    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """Scores for users never seen in training: item rows per user → float32 [len(histories), n_items].

        An empty history gets the model's best guess without one (for most models equal scores).

        Raises:
            InputError: an item row outside the catalogue.
        """

    def submodels(self) -> tuple[Recommender, ...]:
        """The models that its scores come from, each with a configuration of its own: by default itself alone."""
        return (self,)

    @classmethod
    def grid_parameters(cls, graph: Graph) -> tuple[GridParameter, ...]:
        """The hyper-parameters worth tuning on this graph; () for a model without any."""
        del graph
        return ()

    @classmethod
    def starts(cls, graph: Graph) -> tuple[dict[str, float], ...]:
        """Values of knobs, far from their own starts, that a search from the defaults has to beat or goes on from."""
        del graph
        return ()

    @classmethod
    def published_settings(cls, graph: Graph) -> dict[str, float] | None:
        """Values of knobs that make it a published model, which a search from the defaults has to beat clearly."""
        del graph
        return None

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """What ``relrank tune`` may try on this graph: by default the knobs."""
        return cls.grid_parameters(graph)

    @classmethod
    def uses_features(cls, config: Any) -> bool:
        """Whether a model with this configuration reads features of nodes."""
        return cls.featured and bool(getattr(config, "features", True))

    @classmethod
    def used_relations(cls, graph: Graph, config: Any) -> tuple[str, ...]:
        """Names of the relations that can change a score: arms of a study that differ in others are the same.

        By default all of a relational model. One that reads some alone says which; of the others a study says "not
        read". A relation that is reached through others counts only where those are in the graph, too.

        Args:
            graph: that of an arm.
            config: hyper-parameters; the defaults where None.
        """
        del config
        return tuple(graph.relations) if cls.relational else ()

    @classmethod
    def validated_config(cls, graph: Graph, config: Any, where: str) -> Any:
        """A configuration that can be, of this model and on this graph, in plain numbers.

        Args:
            graph: what is fitted on.
            config: an instance of ``Config``.
            where: whose it is, for messages.

        Raises:
            InputError: it is of another model, a field is out of its bounds, or a weight is of no relation.
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
        """Names of the relations that a configuration weighs by name."""
        return frozenset(getattr(config, "weights", ()))

    @classmethod
    def unused_weights(cls, graph: Graph, config: Any) -> frozenset[str]:
        """Names of the graph's relations that a configuration weighs, and the model never reads."""
        named_weights = {name for name, weight in getattr(config, "weights", {}).items() if weight}
        return frozenset(named_weights.intersection(graph.relations).difference(cls.used_relations(graph, config)))

    @classmethod
    def check_config(cls, config: Any, where: str) -> None:
        """Refuse fields each of which could be, and that do not go together: by default none.

        Raises:
            InputError: as the model says.
        """
        del config, where

    @classmethod
    def check(cls, graph: Graph, config: Any) -> None:
        """Refuse a graph that lacks what the model reads, before anything is fitted.

        Raises:
            InputError: histories have no order, or nodes no features.
        """
        if cls.ordered:
            check_ordered(graph, cls.name)
        if cls.uses_features(config) and not graph.features:
            raise InputError(
                "model reads features, and there are none", where=cls.name, expected="a [features.NAME]", found="none"
            )

    @classmethod
    def estimate(cls, graph: Graph, config: Any) -> Estimate:
        """Memory and operations of one fit on this graph, from shapes alone: by default two blocks of scores.

        A rule has to grow with every hyper-parameter that is a number.
        """
        del config
        return Estimate(2 * estimates.score_block(graph.n_items))

    def state(self) -> dict[str, Tensor]:
        """Every tensor that ``score`` needs beside the graph and the configuration."""
        raise NotImplementedError

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what ``state`` gave."""
        raise NotImplementedError


class ClosedForm(Recommender):
    """A model that is solved, not trained.

    Args:
        graph: the interactions (and relations) it is solved on.
        config: hyper-parameters; defaults if None.
    """

    #: attributes that hold the solution, saved as they are, and their shapes in words: those of ``sizes`` are the
    #: graph's, any other is one number throughout; ``indptr`` and ``indices`` are of CSR with a column per item
    solution: ClassVar[Shapes] = {}

    def __init__(self, graph: Graph, config: Any = None) -> None:
        self.graph = graph
        self.history = interaction_rows(graph)
        self.config = self.validated_config(graph, self.Config() if config is None else config, self.name)

    @abstractmethod
    def solve(self) -> Self:
        """Compute the solution from the graph; returns the model itself."""

    def solve_from(self, whole: Graph) -> Self:
        """``solve``, perhaps by way of the same model on a graph with more relations, which is kept for others."""
        del whole
        return self.solve()

    @classmethod
    def estimate_from(cls, graph: Graph, whole: Graph, config: Any) -> Estimate:
        """``estimate`` of ``solve_from``."""
        del whole
        return cls.estimate(graph, config)

    @classmethod
    def clear_cache(cls) -> None:
        """Let go of what the class keeps for further models on the same edges, if it keeps anything."""

    def sizes(self) -> dict[str, int]:
        """What the words of ``solution`` stand for; ``starts`` is the size of ``indptr``."""
        return {"users": self.graph.n_users, "items": self.graph.n_items, "starts": self.graph.n_items + 1, "one": 1}

    def state(self) -> dict[str, Tensor]:
        """The solution's tensors by name."""
        return {name: torch.as_tensor(getattr(self, name)).contiguous() for name in self.solution}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the solution's tensors.

        Raises:
            ValueError: they have other names, types or shapes than a solution on this graph, or cannot be a matrix.
        """
        _check_solution(self.solution, state, self.sizes())
        for name in self.solution:
            setattr(self, name, state[name])


class HistoryScorer(ClosedForm):
    """A closed form whose scores depend on a user's items alone, so known users and new ones are the same thing."""

    from_history = True

    @abstractmethod
    def score_rows(self, rows: Csr) -> Tensor:
        """Scores for histories as CSR rows, float32 [rows.n_rows, n_items]."""

    def score(self, users: Tensor) -> Tensor:
        """The users' training histories, scored."""
        return self.score_rows(self.history.take(user_rows(users, self.graph.n_users)))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """New histories, scored."""
        return self.score_rows(history_rows(histories, self.graph.n_items))


class SequenceScorer(Recommender):
    """A model whose scores depend on a user's items and their order in time alone; mixed into either kind."""

    from_history = True
    ordered = True

    #: the training histories of all users
    sequences: Sequences

    @abstractmethod
    def score_sequences(self, histories: Sequences) -> Tensor:
        """Scores for histories, float32 [histories.n, n_items]."""

    def score(self, users: Tensor) -> Tensor:
        """The users' training histories, scored."""
        return self.score_sequences(self.sequences.take(user_rows(users, self.graph.n_users)))

    def fold_in(self, histories: Sequence[Tensor]) -> Tensor:
        """New histories, scored."""
        return self.score_sequences(Sequences.from_histories(histories, self.graph.n_items))


class Trained(nn.Module, Recommender):
    """A model whose parameters are found by gradients; ``relrank.training.fit`` moves them.

    Attributes:
        max_batch_fraction: largest share of the training edges that one batch may hold. A model that cuts a batch's
            edges out of what it reads needs some that are left.
        parallel: whether kernels may start threads of their own.
    """

    max_batch_fraction: ClassVar[float] = 1.0

    def __init__(self, graph: Graph, config: Any = None) -> None:
        super().__init__()
        self.graph = graph
        self.history = interaction_rows(graph)
        self.config = self.validated_config(graph, self.Config() if config is None else config, self.name)
        self.parallel = True

    def examples(self) -> tuple[Int32, Int32]:
        """What an epoch passes over once, as (user rows [n], item rows [n]): by default the training edges."""
        return self.graph.interactions.src, self.graph.interactions.dst

    @abstractmethod
    def prepare(self, users: Int64, positives: Int64, seed: np.random.SeedSequence) -> Any:
        """What ``loss`` needs of one batch of ``examples`` (user rows [B], item rows [B]), on the CPU.

        Negatives and sampled neighbours come from ``seed``. It reads no parameter, so that it may run ahead of the
        steps in another thread; then ``self.parallel`` is False and kernels must not start threads of their own.
        What it returns has a method ``to(device)``.
        """

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """The loss of one prepared batch."""

    @classmethod
    def estimate(cls, graph: Graph, config: Any, batch: int = BATCH) -> Estimate:
        """Memory, and operations of one epoch, on a CPU: a rule for all, good to a factor of 2.

        One vector of ``config.dim`` numbers per node counts as the parameters: once as they are, as a gradient, in
        Adam's two moments, and four times in copies of the best and the latest state when a checkpoint is written.
        Models with ``config.layers`` hold two more tables per layer, unless they sample neighbours. Every edge has 16
        bytes. A batch holds its vectors four times, and twice its scores: of every example against its negatives, or
        of every user against the catalogue. A model of sequences holds 16 vectors per layer and place instead of the
        edges' four; what was chosen again is another place.

        Args:
            graph: what it is fitted on.
            config: hyper-parameters.
            batch: examples per training step.
        """
        dim, layers = int(getattr(config, "dim", 64)), int(getattr(config, "layers", 0))
        nodes = sum(len(ids) for ids in graph.nodes.values()) if cls.relational else graph.n_users + graph.n_items
        read = graph.relations.values() if cls.relational else ()
        examples = graph.n_events if cls.ordered else len(graph.interactions)
        edges = examples + sum(len(r) for r in read)
        full = getattr(config, "loss", "") == "full-softmax"
        negatives = int(getattr(config, "negatives", 1))
        shared = bool(getattr(config, "shared", True))
        sweeping = not cls.ordered and int(getattr(config, "fanout", 0)) == 0
        tables = 8 + (2 * (layers + 1) if sweeping else 0)
        if cls.ordered:
            users = min(batch, graph.n_users)
            places = users * min(int(getattr(config, "window", 1 << 30)), -(-examples // max(graph.n_users, 1)))
            vectors = estimates.table(16 * max(layers, 1) * places, dim)
            scored = places
        else:
            scored = min(batch, examples)
            vectors = estimates.table(4 * scored * (2 + (0 if shared or full else negatives)), dim)
        # scores of sequences against the catalogue are made a block at a time
        columns = (0 if cls.ordered else graph.n_items) if full else negatives
        scores = 2 * estimates.table(min(scored, graph.n_users) if full else scored, columns)
        bytes_ = tables * estimates.table(nodes, dim) + 16 * edges + vectors + scores
        steps = -(-examples // max(min(batch, examples), 1))
        sweeps = 0 if cls.ordered else 4 * layers * edges * dim * steps
        products = 3.0 * examples * dim * (graph.n_items if full else negatives)
        moved = 12 * nodes * dim * steps
        return Estimate(bytes_ + estimates.score_block(graph.n_items), products, sweeps / 4 + moved)

    @classmethod
    def space(cls, graph: Graph) -> tuple[GridParameter | Range | Choice, ...]:
        """What ``relrank tune`` may try on this graph: by default the knobs and the learning rate."""
        return *cls.grid_parameters(graph), Range("train.lr", 1e-3, 1e-1, log=True)

    @abstractmethod
    def init_weights(self, seed: int) -> None:
        """Fresh parameters."""

    def refresh(self) -> None:
        """Bring whatever ``score`` reads up to date with the parameters; called after they moved."""

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters, never references to them."""
        return {name: value.detach().cpu().clone() for name, value in self.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the parameters."""
        self.load_state_dict(dict(state))
        self.refresh()


def override_config(config: Any, values: Mapping[str, Any], where: str) -> Any:
    """A configuration with some fields replaced; ``"weights.has_tag"`` names one entry of a mapping.

    Raises:
        InputError: an unknown field, or a value of another type.
    """
    assert is_dataclass(config)
    assert not isinstance(config, type)
    known = {f.name: getattr(config, f.name) for f in fields(config)}
    changed: dict[str, Any] = {}
    for name, value in values.items():
        field, _, entry = name.partition(".")
        if field not in known or (entry and not isinstance(known[field], dict)):
            raise InputError(
                "unknown hyper-parameter",
                where=where,
                expected=one_of(known),
                found=repr(name) + did_you_mean(name, known),
            )
        if entry and (not isinstance(value, int | float) or isinstance(value, bool)):
            raise InputError(
                "hyper-parameter has another type", where=f"{where}, {name}", expected="a number", found=repr(value)
            )
        if entry:
            changed[field] = {**changed.get(field, known[field]), entry: value}
            continue
        present = known[field]
        if isinstance(value, int) and abs(value) > 2**63:
            raise InputError(
                "hyper-parameter is out of range",
                where=f"{where}, {name}",
                expected="a number of 64 bits",
                found=f"{str(value)[:30]}…" if len(str(value)) > 30 else str(value),
            )
        if isinstance(present, bool) or not isinstance(present, int | float):
            fits = type(value) is type(present)
        else:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
            fits = fits and (isinstance(present, float) or float(value).is_integer())
            value = type(present)(value) if fits else value
        if not fits:
            raise InputError(
                "hyper-parameter has another type",
                where=f"{where}, {name}",
                expected=f"{type(present).__name__}, such as {present!r}",
                found=repr(value),
            )
        changed[field] = dict(value) if isinstance(value, dict) else value
    result: Any = replace(config, **changed)
    return result


def restore(model: Recommender, state: Mapping[str, Tensor], where: str) -> None:
    """Give a model on its graph the parameters that were kept, once it is known that they can be its own.

    Args:
        model: as it is made of graph and configuration.
        state: what ``Recommender.state`` gave.
        where: they come from, for messages.

    Raises:
        InputError: a number is not finite, or names and shapes are not those of the model.
    """
    try:
        for name, tensor in state.items():
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise ValueError(f"{name} holds numbers that are not finite")
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
    """Refuse tensors that compiled code would read out of bounds.

    Args:
        shapes: see ``ClosedForm.solution``.
        state: tensors by name.
        sizes: see ``ClosedForm.sizes``.

    Raises:
        ValueError: names, types or shapes are others, or a CSR matrix leads out of itself.
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
        whole = bool(starts[0] == 0) and bool(starts[-1] == columns.numel()) and bool((starts.diff() >= 0).all())
        if not whole or (columns.numel() and not 0 <= int(columns.min()) <= int(columns.max()) < sizes["items"]):
            raise ValueError("indptr and indices are no sparse matrix of these items")


def interaction_rows(graph: Graph) -> Csr:
    """Users by items: the training interactions."""
    return graph.interactions.csr(graph.n_users, graph.n_items)


def user_rows(users: Tensor, n_users: int) -> Int64:
    """User rows as a NumPy array.

    Raises:
        InputError: a row outside the graph; a negative one would silently be another user.
    """
    rows: Int64 = users.cpu().numpy().astype(np.int64)
    outside = (rows < 0) | (rows >= n_users)
    if outside.any():
        raise InputError(
            "user row outside the graph",
            where=f"place {int(outside.argmax())} of {rows.size}",
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
