"""The search space of a cell: its dimensions as Optuna samples them, and configurations from sampled values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from relrank.graph.graph import Graph
from relrank.models import MODELS, GridParameter
from relrank.models.core.base import override_config
from relrank.models.core.search_dimensions import Choice, Range, Value
from relrank.study.cell import Cell
from relrank.training import TrainConfig

if TYPE_CHECKING:
    import optuna

Dimension = GridParameter | Range | Choice
Values = dict[str, Value]


def dimensions(cell: Cell, graph: Graph) -> list[Dimension]:
    """The model's search space without what the study file fixes; relation weights last.

    Dimensions that all arms share come first, so that all arms get the same random values for them.
    """
    free = [d for d in MODELS[cell.model.kind].space(graph) if not cell.is_fixed(d.name)]
    return sorted(free, key=lambda d: d.name.startswith("weights."))


def default_of(config: Any, train: TrainConfig, name: str) -> Any:
    """The value that a configuration has for a dimension."""
    field, _, entry = name.partition(".")
    if field == "train":
        return getattr(train, entry)
    value = getattr(config, field)
    return value.get(entry, config.weight) if entry else value


def applied(config: Any, train: TrainConfig, values: Values, where: str) -> tuple[Any, TrainConfig]:
    """Both configurations with the values of a trial."""
    of_config = {name: v for name, v in values.items() if not name.startswith("train.")}
    of_train = {name.removeprefix("train."): v for name, v in values.items() if name not in of_config}
    return override_config(config, of_config, where), override_config(train, of_train, f"{where}, train")


@dataclass(frozen=True, slots=True)
class Axis:
    """A dimension as Optuna samples it; a grid by index, so that Optuna knows the order of its values."""

    of: Dimension
    default: Any

    @property
    def name(self) -> str:
        """Optuna's name of the parameter."""
        return f"{self.of.name}, place" if isinstance(self.of, GridParameter) else self.of.name

    @property
    def values(self) -> list[Any]:
        """The values of a grid or a choice, with the default."""
        if isinstance(self.of, GridParameter):
            return sorted({*self.of.grid_values, self.default})
        return list(dict.fromkeys([*getattr(self.of, "values", ()), self.default]))

    @property
    def identity(self) -> str:
        """Text for the hash in stored names, where no name of a class or field in this code may occur.

        Its words are those of format 2; another text would hide the trials of earlier searches.
        """
        d = self.of
        text = repr(d)
        if isinstance(d, GridParameter):
            text = (
                f"Knob(name={d.name!r}, ladder={d.grid_values!r}, start={d.start!r}, group={d.group!r}, "
                f"strides={d.coarse_steps!r})"
            )
        return f"_Axis(of={text}, default={self.default!r})"

    def encoded(self, value: Any) -> Any:
        """A value as Optuna stores it."""
        return self.values.index(value) if isinstance(self.of, GridParameter) else value

    def suggest(self, trial: optuna.Trial) -> Any:
        """A value sampled by Optuna."""
        d = self.of
        if isinstance(d, GridParameter):
            return self.values[trial.suggest_int(self.name, 0, len(self.values) - 1)]
        if isinstance(d, Choice):
            return trial.suggest_categorical(d.name, self.values)
        low, high = min(d.low, self.default), max(d.high, self.default)
        if isinstance(d.low, int) and isinstance(d.high, int):
            return trial.suggest_int(d.name, int(low), int(high), step=int(d.step or 1), log=d.log)
        return trial.suggest_float(d.name, low, high, step=d.step, log=d.log)


def axes_of(cell: Cell, graph: Graph) -> list[Axis]:
    """The axes of a cell's search space."""
    config, train = cell.initial_config()
    return [Axis(d, default_of(config, train, d.name)) for d in dimensions(cell, graph)]


def suggest_values(trial: optuna.Trial, axes: Sequence[Axis], config: Any, train: TrainConfig) -> Values:
    """Values of a trial; without dimensions that have no effect at the other values."""
    values: Values = {}
    for axis in axes:
        when = None if isinstance(axis.of, GridParameter) else axis.of.when
        if when is None or values.get(when[0], default_of(config, train, when[0])) in when[1]:
            values[axis.of.name] = axis.suggest(trial)
    return values


def start_points(axes: Sequence[Axis]) -> list[dict[str, Any]]:
    """The defaults; then the start values of grids if they differ, such as relation weights of 0."""
    defaults = {a.name: a.encoded(a.default) for a in axes}
    starts = defaults | {a.name: a.encoded(a.of.start) for a in axes if isinstance(a.of, GridParameter)}
    return [defaults] if starts == defaults else [defaults, starts]
