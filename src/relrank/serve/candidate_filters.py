"""Filters of candidate items: conditions on relations and columns, joined by AND, OR and NOT.

Columns are those of the items, and of the nodes that a relation links with items: ``brand.country``.
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
from relrank.serve.catalogue import plain_ids, such_as
from relrank.serve.limits import Id, RequestError, shortened_repr

Mask = npt.NDArray[np.bool_]
MASKS = 64
"""Conditions whose masks are cached."""
DEPTH = 8
"""Maximum nesting of conditions."""


@dataclass(frozen=True, slots=True)
class Has:
    """Items that a relation links with a node, or whose column has a value; a missing value never matches.

    In a column of linked nodes, at least one of an item's nodes has to have the value.

    Attributes:
        name: of the relation or the column.
        value: key of the node, or value of the column.
        kind: relation or column; None for the relation of that name, else the column.
    """

    name: str
    value: Id | float | bool
    kind: Literal["relation", "column"] | None = None


@dataclass(frozen=True, slots=True)
class Between:
    """Items whose number in a column lies in [low, high]; a missing number never matches."""

    column: str
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class LogicalCondition:
    """Items that match all of the conditions, any of them, or not the only one."""

    how: Literal["all", "any", "not"]
    parts: tuple[Condition, ...]


Condition = Has | Between | LogicalCondition


def parse_conditions(
    every: Sequence[str], any_: Sequence[str], without: Sequence[str], prefix: str
) -> list[Condition]:
    """Conditions from texts of the form NAME:VALUE.

    Args:
        every: items match all of these.
        any_: items match at least one of these.
        without: items match none of these.
        prefix: of the parameters' names, for messages.

    Raises:
        RequestError: a text has no colon.
    """
    conditions: list[Condition] = [_has(text, f"{prefix}with") for text in every]
    if any_:
        conditions.append(LogicalCondition("any", tuple(_has(text, f"{prefix}any") for text in any_)))
    return [*conditions, *(LogicalCondition("not", (_has(text, f"{prefix}without"),)) for text in without)]


def _has(text: str, where: str) -> Has:
    name, colon, value = text.partition(":")
    if not colon:
        raise RequestError(422, "filter is not readable", where=where, expected="NAME:VALUE", found=repr(text)[:200])
    return Has(name, value)


class Filters:
    """Evaluates conditions on the items of one run.

    Args:
        graph: of the model.
        item_attributes: one row per item: ``column:NAME`` of the item table, and ``relation:NAME`` lists of keys of
            relations that the model's graph does not have; None without any.
        nodes: attributes of other node types, as in ``FittedRun.nodes``.

    Attributes:
        linked: relations of the graph between items and other types, as ``item_relations`` finds them.
    """

    def __init__(
        self,
        graph: Graph,
        item_attributes: pl.DataFrame | None,
        nodes: Mapping[str, tuple[tuple[str, ...], pl.DataFrame]],
    ) -> None:
        self._graph, self._nodes = graph, nodes
        self._item_attributes = pl.DataFrame() if item_attributes is None else item_attributes
        self.linked = item_relations(graph)
        self._linked_columns = self._find_linked_columns()
        self._ends: dict[tuple[str, str], tuple[Int32, Int32]] = {}
        self._masks: OrderedDict[str, Mask] = OrderedDict()
        self._node_rows: dict[str, dict[str, int]] = {}
        self._cache_lock = threading.Lock()

    @property
    def relations(self) -> list[str]:
        """Relations of items with nodes other than items and users, including those along chains."""
        return sorted({*self.linked, *self._named("relation")})

    @property
    def columns(self) -> list[str]:
        """Columns of the item table, and ``TYPE.COLUMN`` and ``RELATION.COLUMN`` of linked nodes."""
        return [*self._named("column"), *sorted(self._linked_columns)]

    def mask(self, conditions: Sequence[Condition], most: int) -> Mask | None:
        """Items that match every condition, bool [n_items]; None without conditions.

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
        return self._evaluate(LogicalCondition("all", tuple(conditions)))

    def values(self, name: str) -> list[tuple[Id, int]]:
        """Values of a relation or column and their numbers of items, most items first.

        Raises:
            RequestError: no such relation or column.
        """
        kind = self._kind(name, "relation")
        if kind == "relation" and name in self.linked:
            _, other, node = self.linked[name]
            keys = self._graph.nodes[node].keys
            counts = np.bincount(other, minlength=len(keys))
            order = np.argsort(-counts, kind="stable")
            ids = plain_ids(keys)
            return [(ids[row], int(counts[row])) for row in order.tolist() if counts[row]]
        if kind == "relation":
            found = self._item_attributes[f"relation:{name}"].drop_nulls().explode().drop_nulls()
        else:
            values, ends = self._column(name)
            if ends is not None:  # an item counts once per value
                pairs = pl.DataFrame({"item": ends[0], "value": values.cast(pl.String).gather(ends[1])})
                values = pairs.unique()["value"]
            found = values.drop_nulls()
        counted = found.cast(pl.String).alias("value").value_counts(name="items")
        return [*counted.sort(["items", "value"], descending=[True, False]).iter_rows()]

    def _evaluate(self, condition: Condition) -> Mask:
        if not isinstance(condition, LogicalCondition):
            return self._cached_mask(condition)
        masks = [self._evaluate(part) for part in condition.parts]
        if condition.how == "not":
            return ~masks[0]
        combine = np.logical_and if condition.how == "all" else np.logical_or
        mask: Mask = combine.reduce(masks)
        return mask

    def _cached_mask(self, condition: Has | Between) -> Mask:
        key = repr(condition)  # the repr tells True from 1
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
        return [c.removeprefix(f"{kind}:") for c in self._item_attributes.columns if c.startswith(f"{kind}:")]

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
        """Columns of linked nodes by name: the relations that lead to the nodes, their type, and the column."""
        found: dict[str, tuple[tuple[str, ...], str, str]] = {}
        for node, (relations, frame) in self._nodes.items():
            for column in frame.columns:
                if column == NODE_KEY:
                    continue
                for relation in relations:
                    found[f"{relation}.{column}"] = (relation,), node, column
                found.setdefault(f"{node}.{column}", (relations, node, column))
        item_columns = set(self._named("column"))
        return {name: where for name, where in found.items() if name not in item_columns}

    def _column(self, name: str) -> tuple[pl.Series, tuple[Int32, Int32] | None]:
        """The values of a column; for one of linked nodes also pairs of item rows and positions in the values."""
        if name not in self._linked_columns:
            return self._item_attributes[f"column:{name}"], None
        relations, node, column = self._linked_columns[name]
        ends = [self._ends_of(relation, node) for relation in relations]
        return self._nodes[node][1][column], (
            np.concatenate([items for items, _ in ends]),
            np.concatenate([positions for _, positions in ends]),
        )

    def _ends_of(self, relation: str, node: str) -> tuple[Int32, Int32]:
        """Pairs of item rows and positions of their linked nodes in the table of that node type."""
        with self._cache_lock:
            if (relation, node) in self._ends:
                return self._ends[relation, node]
        if relation in self.linked:
            of_item, other, _ = self.linked[relation]
            linked = pl.DataFrame({"item": of_item, "key": self._graph.nodes[node].at(other).cast(pl.String)})
        else:
            lists = pl.DataFrame(
                {
                    "item": np.arange(len(self._item_attributes), dtype=np.int32),
                    "key": self._item_attributes[f"relation:{relation}"],
                }
            )
            linked = lists.explode("key").drop_nulls()
        frame = self._nodes[node][1]
        positions = pl.DataFrame({"key": frame[NODE_KEY], "position": np.arange(frame.height, dtype=np.int32)})
        found = linked.join(positions, on="key", how="inner", maintain_order="left")  # nodes may lack a row
        ends = found["item"].to_numpy(), found["position"].to_numpy()
        with self._cache_lock:
            self._ends[relation, node] = ends
        return ends

    def _items(self, mask: Mask, ends: tuple[Int32, Int32] | None) -> Mask:
        """The mask of items with at least one matching node; without ``ends`` the mask is one of items already."""
        if ends is None:
            return mask
        found = np.zeros(self._graph.n_items, np.bool_)
        found[ends[0][mask[ends[1]]]] = True
        return found

    def _has(self, condition: Has) -> Mask:
        name, value = condition.name, condition.value
        kind = self._kind(name, "with", condition.kind)
        if kind == "relation" and name in self.linked:
            return self._linked_with(name, _text(value))
        values, ends = (self._item_attributes[f"relation:{name}"], None) if kind == "relation" else self._column(name)
        if kind == "relation":
            mask = values.list.contains(_text(value))
        elif values.dtype.is_numeric():
            mask = _equal(values, value, f"with, {name}")
        else:
            mask = values.cast(pl.String) == _text(value)
        found = self._items(mask.fill_null(value=False).to_numpy(), ends)
        if not found.any():
            raise _unknown_value(name, name, [known for known, _ in self.values(name)], value)
        return found

    def _linked_with(self, name: str, value: str) -> Mask:
        of_item, other, node = self.linked[name]
        keys = self._graph.nodes[node].keys
        if node not in self._node_rows:
            self._node_rows[node] = {str(key): row for row, key in enumerate(keys)}
        row = self._node_rows[node].get(value)
        if row is None:
            raise _unknown_value(node, name, keys, value)
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
        array = numbers.to_numpy()  # a missing number is NaN, which fails every comparison
        mask: Mask = ~np.isnan(array)
        for bound, compare in ((condition.low, np.greater_equal), (condition.high, np.less_equal)):
            if bound is not None:
                mask &= compare(array, bound)
        return self._items(mask, ends)


def _size(condition: Condition, depth: int = 0) -> int:
    """Number of simple conditions in a condition.

    Raises:
        RequestError: they are nested too deeply.
    """
    if depth > DEPTH:
        raise RequestError(422, "filters stand too deep", where="with", expected=f"depth of {DEPTH}", found="more")
    return sum(_size(p, depth + 1) for p in condition.parts) if isinstance(condition, LogicalCondition) else 1


def _unknown_value(what: str, name: str, known: Sequence[Id] | pl.Series, value: Id | float | bool) -> RequestError:
    return RequestError(
        422,
        f"unknown {what}",
        where=f"with, {name}",
        expected=f"one of {len(known):,}{such_as(known)}",
        found=shortened_repr(value),
    )


def _text(value: Id | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equal(values: pl.Series, value: Id | float | bool, where: str) -> pl.Series:
    """Where a column of numbers equals a value; integers are compared as such, since floats have fewer digits."""
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
