"""Which items a question is about: conditions over relations and columns, joined by AND, OR and NOT.

Columns are those of the items, and of the nodes that a relation links items with: ``brand.country``.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from relrank.errors import did_you_mean
from relrank.graph.graph import Graph
from relrank.kernels.csr import Int32
from relrank.runs.fitted_run import NODE_KEY, item_relations
from relrank.serve.limits import Id, RequestError, shortened_repr

Mask = npt.NDArray[np.bool_]
MASKS = 64
"""Conditions whose items are remembered."""
DEPTH = 8
"""Conditions inside conditions, at most."""


@dataclass(frozen=True, slots=True)
class Has:
    """Items with a value: linked with that node by a relation, or with it in a column; a missing value is none.

    Of a column of nodes that items are linked with, one of an item's nodes has to have the value.

    Attributes:
        name: of the relation or the column.
        value: key of the node, or the column's value.
        kind: which of the two; None for a relation of that name, else a column.
    """

    name: str
    value: Id | float | bool
    kind: Literal["relation", "column"] | None = None


@dataclass(frozen=True, slots=True)
class Between:
    """Items whose number in a column lies in [low, high]; a missing one does not."""

    column: str
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class LogicalCondition:
    """Items that fit all of the conditions, any of them, or not the one."""

    how: Literal["all", "any", "not"]
    parts: tuple[Condition, ...]


Condition = Has | Between | LogicalCondition


def parse_conditions(
    every: Sequence[str], any_: Sequence[str], without: Sequence[str], prefix: str
) -> list[Condition]:
    """Conditions from texts NAME:VALUE.

    Args:
        every: all of these have to hold.
        any_: one of these at least.
        without: none of these.
        prefix: of the parameters' names, for messages.

    Raises:
        RequestError: a text has no colon.
    """
    found: list[Condition] = [_has(text, f"{prefix}with") for text in every]
    if any_:
        found.append(LogicalCondition("any", tuple(_has(text, f"{prefix}any") for text in any_)))
    return [*found, *(LogicalCondition("not", (_has(text, f"{prefix}without"),)) for text in without)]


def _has(text: str, where: str) -> Has:
    name, colon, value = text.partition(":")
    if not colon:
        raise RequestError(422, "filter is not readable", where=where, expected="NAME:VALUE", found=repr(text)[:200])
    return Has(name, value)


class Filters:
    """The conditions that items of one run may have to fit.

    Args:
        graph: the model's.
        item_attributes: of every item in row order, beside it: ``column:NAME`` as in its table, ``relation:NAME``
            lists of keys, for relations that the model's graph lacks; None where nothing is known.
        nodes: of other node types, as ``FittedRun.nodes`` has them.
    """

    def __init__(
        self,
        graph: Graph,
        item_attributes: pl.DataFrame | None,
        nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]],
    ) -> None:
        self._graph, self._item_metadata, self._nodes = (
            graph,
            pl.DataFrame() if item_attributes is None else item_attributes,
            nodes,
        )
        self._linked = item_relations(graph)
        self._behind = self._find_linked_columns()
        self._ends: dict[tuple[str, str], tuple[Int32, Int32]] = {}
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._node_rows: dict[str, dict[str, int]] = {}
        self._cache_lock = threading.Lock()

    @property
    def relations(self) -> list[str]:
        """Relations of items with something else than items or users, along chains, too."""
        return sorted({*self._linked, *self._named("relation")})

    @property
    def columns(self) -> list[str]:
        """Columns of the item table, and ``TYPE.COLUMN`` and ``RELATION.COLUMN`` of what relations lead to."""
        return [*self._named("column"), *sorted(self._behind)]

    def mask(self, conditions: Sequence[Condition], most: int) -> Mask | None:
        """Items that fit every condition, bool [n_items]; None without any.

        Raises:
            RequestError: no such relation, column or value, or more than ``most`` conditions.
        """
        if not conditions:
            return None
        n = sum(_size(condition) for condition in conditions)
        if n > most:
            raise RequestError(
                422, "number of filters is out of bounds", where="with", expected=f"0 to {most:,}", found=f"{n:,}"
            )
        return self._of(LogicalCondition("all", tuple(conditions)))

    def values(self, name: str) -> list[tuple[Id, int]]:
        """Values that a condition may name and their items, most items first.

        Raises:
            RequestError: no such relation or column.
        """
        kind = self._kind(name, "relation")
        if kind == "relation" and name in self._linked:
            _, other, node = self._linked[name]
            keys = self._graph.nodes[node].keys
            counts = np.bincount(other, minlength=len(keys))
            order = np.argsort(-counts, kind="stable")
            ids = keys.to_list() if keys.dtype.is_integer() else [str(key) for key in keys]
            return [(ids[row], int(counts[row])) for row in order.tolist() if counts[row]]
        if kind == "relation":
            found = self._item_metadata[f"relation:{name}"].drop_nulls().explode().drop_nulls()
        else:
            values, ends = self._column(name)
            if ends is not None:  # an item counts once for each of its values
                pairs = pl.DataFrame({"item": ends[0], "value": values.cast(pl.String).gather(ends[1])})
                values = pairs.unique()["value"]
            found = values.drop_nulls()
        counted = found.cast(pl.String).alias("value").value_counts(name="items")
        return [*counted.sort(["items", "value"], descending=[True, False]).iter_rows()]

    def _of(self, condition: Condition) -> Mask:
        if not isinstance(condition, LogicalCondition):
            return self._cached_mask(condition)
        masks = [self._of(part) for part in condition.parts]
        if condition.how == "not":
            return ~masks[0]
        joined: Mask = (np.logical_and if condition.how == "all" else np.logical_or).reduce(masks)
        return joined

    def _cached_mask(self, condition: Has | Between) -> Mask:
        key = repr(condition)  # where True is not 1
        with self._cache_lock:
            if key in self._masks:
                self._masks.move_to_end(key)
                return self._masks[key]
        mask = self._has(condition) if isinstance(condition, Has) else self._between(condition)
        with self._cache_lock:
            self._masks[key] = mask
            while len(self._masks) > MASKS:
                self._masks.popitem(last=False)
        return mask

    def _named(self, kind: str) -> list[str]:
        return [c.removeprefix(f"{kind}:") for c in self._item_metadata.columns if c.startswith(f"{kind}:")]

    def _kind(self, name: str, where: str, kind: str | None = None) -> str:
        known = {"relation": self.relations, "column": self.columns}
        for one in ("relation", "column"):
            if kind in (None, one) and name in known[one]:
                return one
        names = sorted({*known["relation"], *known["column"]}) if kind is None else known[kind]
        raise RequestError(
            422,
            "no such filter",
            where=where,
            expected=f"one of {names}",
            found=shortened_repr(name) + did_you_mean(name, names),
        )

    def _find_linked_columns(self) -> dict[str, tuple[tuple[str, ...], str, str]]:
        """Names of columns of other types: the relations of items that lead there, the type, and the column."""
        found: dict[str, tuple[tuple[str, ...], str, str]] = {}
        for node, (relations, frame) in self._nodes.items():
            for column in frame.columns:
                if column == NODE_KEY:
                    continue
                for relation in relations:
                    found[f"{relation}.{column}"] = (relation,), node, column
                found.setdefault(f"{node}.{column}", (relations, node, column))
        own = set(self._named("column"))
        return {name: where for name, where in found.items() if name not in own}

    def _column(self, name: str) -> tuple[pl.Series, tuple[Int32, Int32] | None]:
        """The values of a column; and, where they are of nodes behind items, items and places of their values."""
        if name not in self._behind:
            return self._item_metadata[f"column:{name}"], None
        relations, node, column = self._behind[name]
        ends = [self._ends_of(relation, node) for relation in relations]
        return self._nodes[node][1][column], (
            np.concatenate([items for items, _ in ends]),
            np.concatenate([places for _, places in ends]),
        )

    def _ends_of(self, relation: str, node: str) -> tuple[Int32, Int32]:
        """Items, and the places of the nodes that a relation links them with in the type's table."""
        with self._cache_lock:
            if (relation, node) in self._ends:
                return self._ends[relation, node]
        if relation in self._linked:
            of_item, other, _ = self._linked[relation]
            linked = pl.DataFrame({"item": of_item, "key": self._graph.nodes[node].at(other).cast(pl.String)})
        else:
            lists = pl.DataFrame(
                {
                    "item": np.arange(len(self._item_metadata), dtype=np.int32),
                    "key": self._item_metadata[f"relation:{relation}"],
                }
            )
            linked = lists.explode("key").drop_nulls()
        frame = self._nodes[node][1]
        places = pl.DataFrame({"key": frame[NODE_KEY], "place": np.arange(frame.height, dtype=np.int32)})
        found = linked.join(places, on="key", how="inner", maintain_order="left")  # the nodes that the table has
        ends = found["item"].to_numpy(), found["place"].to_numpy()
        with self._cache_lock:
            self._ends[relation, node] = ends
        return ends

    def _items(self, mask: Mask, ends: tuple[Int32, Int32] | None) -> Mask:
        """Items with one node at least for which it holds; the mask itself where it is of items."""
        if ends is None:
            return mask
        found = np.zeros(self._graph.n_items, np.bool_)
        found[ends[0][mask[ends[1]]]] = True
        return found

    def _has(self, condition: Has) -> Mask:
        name, value = condition.name, condition.value
        kind = self._kind(name, "with", condition.kind)
        if kind == "relation" and name in self._linked:
            return self._linked_with(name, _text(value))
        values, ends = (self._item_metadata[f"relation:{name}"], None) if kind == "relation" else self._column(name)
        if kind == "relation":
            mask = values.list.contains(_text(value))
        elif values.dtype.is_numeric():
            mask = _equal(values, value, f"with, {name}")
        else:
            mask = values.cast(pl.String) == _text(value)
        found = self._items(mask.fill_null(value=False).to_numpy(), ends)
        if not found.any():
            known = self.values(name)
            such = f", such as {known[0][0]!r}" if known else ""
            raise RequestError(
                422,
                f"unknown {name}",
                where=f"with, {name}",
                expected=f"one of {len(known):,}{such}",
                found=shortened_repr(value),
            )
        return found

    def _linked_with(self, name: str, value: str) -> Mask:
        of_item, other, node = self._linked[name]
        keys = self._graph.nodes[node].keys
        if node not in self._node_rows:
            self._node_rows[node] = {str(key): row for row, key in enumerate(keys)}
        row = self._node_rows[node].get(value)
        if row is None:
            such = f", such as {keys[0]!r}" if len(keys) else ""
            raise RequestError(
                422,
                f"unknown {node}",
                where=f"with, {name}",
                expected=f"one of {len(keys):,}{such}",
                found=shortened_repr(value),
            )
        mask = np.zeros(self._graph.n_items, np.bool_)
        mask[of_item[other == row]] = True
        return mask

    def _between(self, condition: Between) -> Mask:
        self._kind(condition.column, "with", "column")
        values, ends = self._column(condition.column)
        dtype = values.dtype
        numbers = values.cast(pl.Float64, strict=False) if dtype.is_numeric() or dtype == pl.String else None
        if numbers is None or numbers.null_count() > values.null_count():
            raise RequestError(
                422,
                "column is not of numbers",
                where=f"with, {condition.column}",
                expected="a value, no bounds",
                found=str(dtype),
            )
        found = numbers.to_numpy()  # a missing one is NaN, which no comparison holds for
        mask: Mask = ~np.isnan(found)
        for bound, holds in ((condition.low, np.greater_equal), (condition.high, np.less_equal)):
            if bound is not None:
                mask &= holds(found, bound)
        return self._items(mask, ends)


def _size(condition: Condition, depth: int = 0) -> int:
    """How many conditions stand in one.

    Raises:
        RequestError: they stand too deep in each other.
    """
    if depth > DEPTH:
        raise RequestError(422, "filters stand too deep", where="with", expected=f"depth of {DEPTH}", found="more")
    return sum(_size(p, depth + 1) for p in condition.parts) if isinstance(condition, LogicalCondition) else 1


def _text(value: Id | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equal(values: pl.Series, value: Id | float | bool, where: str) -> pl.Series:
    """Where a column of numbers holds a value; whole numbers are compared as such, since floats run out of digits."""
    if values.dtype.is_integer() and re.fullmatch(r"[+-]?\d{1,18}", str(value)):
        return values.cast(pl.Int64, strict=False) == int(value)
    return values.cast(pl.Float64) == _number(value, where)


def _number(value: Id | float | bool, where: str) -> float:
    try:
        return float(value)
    except (ValueError, OverflowError):
        raise RequestError(
            422, "not a number", where=where, expected="a number", found=shortened_repr(value)
        ) from None
