"""Users and items of a run under their outside ids: rows, titles, search."""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np
import polars as pl

from relrank.kernels.csr import Int64
from relrank.runs.fitted_run import FittedRun
from relrank.serve.limits import Id, Limits, RequestError, shortened_repr

JsonObject = dict[str, Any]


class Catalogue:
    """Users and items of one run.

    Args:
        name: of the run, for messages.
        run: the fitted run.
        limits: bounds of a request.
    """

    def __init__(self, name: str, run: FittedRun, limits: Limits) -> None:
        self._name, self._limits = name, limits
        users, items = run.split.users.keys, run.split.items.keys
        self.user_ids, self.item_ids = plain_ids(users), plain_ids(items)
        self.user_rows = {str(key): row for row, key in enumerate(self.user_ids)}
        self.item_rows = {str(key): row for row, key in enumerate(self.item_ids)}
        titles = items.to_frame("key").join(run.titles, on="key", how="left", maintain_order="left")
        self.titles: list[str | None] = titles["title"].to_list()
        counts = np.bincount(run.graph.interactions.dst, minlength=len(items))
        self._by_popularity = np.argsort(-counts, kind="stable")
        texts = (self.titles[row] or str(self.item_ids[row]) for row in self._by_popularity.tolist())
        self._search_texts = pl.Series([normalized(text) for text in texts], dtype=pl.String)
        self._sorted_users = sorted((str(key), row) for row, key in enumerate(self.user_ids))

    def user_row(self, user: Id) -> int:
        """The row of a user.

        Raises:
            RequestError: the user is unknown.
        """
        return self._row("user", user, self.user_rows, self.user_ids, 404)

    def item_row(self, item: Id, status: int = 404) -> int:
        """The row of an item.

        Raises:
            RequestError: the item is unknown; ``status`` is its HTTP status.
        """
        return self._row("item", item, self.item_rows, self.item_ids, status)

    def _row(self, kind: str, key: Id, rows: dict[str, int], ids: list[Id], status: int) -> int:
        row = rows.get(str(key))
        if row is None:
            raise RequestError(
                status,
                f"unknown {kind}",
                where=kind,
                found=shortened_repr(key),
                expected=f"one of {len(ids):,} {kind}s of {self._name}{such_as(ids)}",
            )
        return row

    def rows_of(
        self, items: Sequence[Id], where: str = "history", skip_unknown: bool = False
    ) -> tuple[Int64, list[Id]]:
        """Rows of the known items, and the unknown items.

        Raises:
            RequestError: there are too many items, or one is unknown and ``skip_unknown`` is False.
        """
        self._limits.check(f"length of {where}", len(items), 0, self._limits.history)
        rows = [self.item_rows.get(str(item), -1) for item in items]
        unknown = [item for item, row in zip(items, rows, strict=True) if row < 0]
        if unknown and not skip_unknown:
            few = ", ".join(shortened_repr(item) for item in unknown[:5]) + (", …" if len(unknown) > 5 else "")
            raise RequestError(
                422,
                "unknown item",
                where=where,
                expected=f"items of {self._name}{such_as(self.item_ids)}; or skip_unknown, to leave them out",
                found=f"{few}; {len(unknown):,} unknown in all",
            )
        return np.array([row for row in rows if row >= 0], np.int64), unknown

    def named(self, row: int) -> JsonObject:
        """Id and title of an item."""
        return {"item": self.item_ids[row], "title": self.titles[row]}

    def search_items(self, text: str, limit: int) -> list[int]:
        """Rows of the items whose title contains every word of the text, ignoring case and accents.

        The item with this id comes first, then titles that begin with the text, then the others, each by popularity.
        An empty text finds the most popular items.
        """
        found = [self.item_rows[text.strip()]] if text.strip() in self.item_rows else []
        matches = pl.Series(np.ones(len(self._search_texts), np.bool_))
        for word in normalized(text).split():
            matches &= self._search_texts.str.contains(word, literal=True)
        is_prefix = matches & self._search_texts.str.starts_with(normalized(text))
        for positions in (is_prefix, matches & ~is_prefix):
            rows = self._by_popularity[positions.arg_true().head(limit + 1).to_numpy()].tolist()
            found += [row for row in rows if row not in found[:1]]
        return found[:limit]

    def search_users(self, prefix: str, limit: int) -> list[int]:
        """Rows of the users whose id begins with a prefix, in the order of the ids as text."""
        start = bisect_left(self._sorted_users, (prefix,))
        return [row for key, row in islice(self._sorted_users, start, start + limit) if key.startswith(prefix)]


def plain_ids(keys: pl.Series) -> list[Id]:
    """Keys as whole numbers or text."""
    return keys.to_list() if keys.dtype.is_integer() else [str(key) for key in keys]


def such_as(ids: Sequence[Id] | pl.Series) -> str:
    """An example for an error message."""
    return f", such as {ids[0]!r}" if len(ids) else ""


def normalized(text: str) -> str:
    """Text without case and accents, with one blank between words."""
    plain = text
    if not text.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())
