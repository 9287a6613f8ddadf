"""From tables to a split: filter, cut, count every dropped row, fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import Field, model_validator

from relrank.arguments import Seed, checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.kernels.counting_sort import stable_argsort, stable_argsort_pairs
from relrank.kernels.csr import Int32, Int64
from relrank.tables import split as cuts
from relrank.tables.config import ConfigSection
from relrank.tables.files import check_column
from relrank.tables.frames import check_rows
from relrank.tables.ids import IdMap
from relrank.tables.k_core import core
from relrank.tables.notices import Notice
from relrank.tables.split import DROPPED, TEST, TRAIN, VALID, Interactions, Parts, Split
from relrank.tables.tables import Tables
from relrank.tables.times import Clock, TimeValue

Bool = npt.NDArray[np.bool_]

PROTOCOLS: dict[str, dict[str, Any]] = {
    "goodbooks-loo": {
        "data": "goodbooks-10k (ratings_v2_users5pct.csv)",
        "min_rating": 4,
        "core": 5,
        "split": "random-leave-one-out",
    },
    "goodbooks-v1-loo": {
        "data": "goodbooks-10k (ratings_v1.csv)",
        "min_rating": 4,
        "core": 5,
        "split": "random-leave-one-out",
    },
    "gowalla": {"data": "gowalla", "split": "given"},
    "ml-1m-loo": {"data": "ml-1m (ml-1m_sasrec.txt)", "split": "last-leave-one-out"},
    "ml-1m-liked-loo": {
        "data": "ml-1m (ratings_uir.csv)",
        "min_rating": 4,
        "split": "last-leave-one-out",
        "without_train": "drop",
    },
    "ml-100k-u1": {"data": "ml-100k (u1)", "split": "given", "truth_min_rating": 4},
    "ml-100k-loo": {"data": "ml-100k", "min_rating": 4, "core": 5, "split": "random-leave-one-out"},
    "beauty-loo": {"data": "amazon-beauty", "split": "last-leave-one-out"},
    "hetrec-lastfm": {"data": "hetrec-lastfm", "split": "random-ratio", "test_share": 0.1},
    "facebook-books": {"data": "facebook-books", "split": "given"},
    "facebook-books-5core": {
        "data": "facebook-books",
        "core": 5,
        "split": "random-ratio",
        "test_share": 0.2,
        "valid_share": 0.08,
        "rounding": "up",
    },
    "yahoo-movies": {"data": "yahoo-movies", "min_rating": 3, "split": "given", "without_train": "drop"},
    "yahoo-movies-5core": {
        "data": "yahoo-movies",
        "min_rating": 3,
        "core": 5,
        "split": "random-ratio",
        "test_share": 0.2,
        "valid_share": 0.08,
        "rounding": "up",
    },
}
"""The named protocols; ``[protocol] name = "…"`` suffices to use one."""
_ONE_SPLIT = {
    "valid_cut": "temporal",
    "truth_min_rating": "given",
    "item_share": "cold-items",
    "test_share": "random-ratio",
    "rounding": "random-ratio",
}
"""Keys that go with one kind of split."""
_BLOCK = 1 << 22
"""Keys hashed per block."""


class Core(ConfigSection):
    """Minimum rows of a user and of an item; minimum different items and users if repeats are kept.

    Attributes:
        user: minimum rows of a user.
        item: minimum rows of an item.
    """

    user: int = Field(0, ge=0)
    item: int = Field(0, ge=0)


class ProtocolConfig(ConfigSection):
    """``[protocol]``: a protocol by name, or one of your own.

    Attributes:
        name: a name in ``PROTOCOLS``, which fixes the other keys, or any other name for your own protocol.
        data: name of the tables that the protocol is defined on; None for any.
        min_rating: minimum rating of the rows to keep.
        core: k-core after that: users and items with fewer rows are dropped until none is left; one number, or
            ``{user = 5, item = 10}``. If repeats are kept, different items of a user and users of an item count.
        split: "random-leave-one-out" or "last-leave-one-out" (per user one test and one validation row),
            "random-ratio" (shares of each user's rows, in a random order), "given" (published parts), "temporal" (one
            cut in time), or "cold-items" (all rows of some items are test, those of as many others validation; only
            items without training rows are candidates).
        cut: temporal: the last moment before the test part, ISO or a number as in the tables.
        valid_cut: temporal: the last moment before the validation part.
        item_share: cold-items: share of the items in the test part, and in the validation part; 0.1 by default.
        test_share: random-ratio: share of each user's rows in the test part; 0.1 by default.
        valid_share: random-ratio: share of each user's rows in the validation part. given, without a published
            validation part: share of each user's training rows to hold out.
        rounding: random-ratio: "down", as RecBole (a part that would get no row takes one from training, if two are
            left), which is the default; or "up", as scikit-learn.
        truth_min_rating: given: minimum rating of relevant items. Test rows below it are dropped; held-out validation
            rows below it stay in training, and so stay masked.
        new_items: items of the node table without interactions: "keep" them in the graph, so that a fitted model can
            recommend them (they are no candidates in the evaluation), or "drop" them. By default they are kept unless
            they outnumber the items with rows; the named protocols drop them.
        without_train: users left without training rows: "error", or "drop" them with all their rows, counted.
    """

    name: str = "custom"
    data: str | None = None
    min_rating: float | None = None
    core: int | Core = 0
    split: Literal["random-leave-one-out", "last-leave-one-out", "random-ratio", "given", "temporal", "cold-items"]
    cut: TimeValue | None = None
    valid_cut: TimeValue | None = None
    item_share: float | None = Field(None, gt=0, lt=0.5)
    test_share: float | None = Field(None, gt=0, lt=1)
    valid_share: float = Field(0.1, gt=0, lt=1)
    rounding: Literal["down", "up"] | None = None
    truth_min_rating: float | None = None
    new_items: Literal["keep", "drop"] | None = None
    without_train: Literal["error", "drop"] = "error"

    @model_validator(mode="before")
    @classmethod
    def _named(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        name, rest = raw.get("name"), {key: value for key, value in raw.items() if key != "name"}
        if isinstance(name, str) and name in PROTOCOLS:
            defaults = {key: field.default for key, field in cls.model_fields.items()}
            if any(value != {**defaults, **PROTOCOLS[name]}.get(key) for key, value in rest.items()):
                raise ValueError(f"{name!r} is a fixed protocol; give a changed one another name")
            return {"name": name, **PROTOCOLS[name]}
        if not rest:
            raise InputError(
                "unknown protocol",
                where="[protocol] name",
                expected=f"{one_of(PROTOCOLS)}, or one of your own, which needs at least split",
                found="nothing" if name is None else repr(name) + did_you_mean(name, PROTOCOLS),
            )
        return raw

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.split == "temporal") != (self.cut is not None):
            raise ValueError('cut goes with split = "temporal", which needs it')
        for name, split in _ONE_SPLIT.items():
            if getattr(self, name) is not None and self.split != split:
                raise ValueError(f'{name} goes with split = "{split}"')
        if self.split == "random-ratio" and self.test_share_or_default + self.valid_share >= 1:
            raise ValueError("test_share and valid_share together must be below 1: the rest is training")
        if isinstance(self.core, int) and self.core < 0:
            raise ValueError("core must not be negative")
        return self

    @property
    def draws_test(self) -> bool:
        """Whether the seed draws the test rows. With published parts it draws at most the validation rows."""
        return self.split in ("random-leave-one-out", "random-ratio", "cold-items")

    @property
    def test_share_or_default(self) -> float:
        """The share of each user's rows in the test part of "random-ratio"."""
        return 0.1 if self.test_share is None else self.test_share

    def moment(self, name: Literal["cut", "valid_cut"], tables: Tables) -> int | None:
        """A cut in ticks; None if there is none, or if the interactions have no times.

        Raises:
            InputError: it is not a time, or it is a date and the times of the tables have no unit.
        """
        value: TimeValue | None = getattr(self, name)
        if value is None or "time" not in tables.interactions.columns:
            return None
        return Clock(tables.ticks, tables.time_unit).moment(value, f"[protocol] {name}")


@checked("rr.make_split")
def make_split(tables: Tables, protocol: ProtocolConfig, seed: Seed) -> Split:
    """Filter, cut and fingerprint.

    Rows of a part are sorted by user, then by time (ties and tables without times: file order). The catalogue is
    every item with a kept row in any part; in a temporal split, every item with training rows.

    Args:
        tables: as read.
        protocol: filters and cut.
        seed: of the random cuts.

    Raises:
        InputError: the tables do not fit the protocol, nothing is left, a row is in two parts, or a user is left
            without training rows and the policy is "error".
    """
    notices: list[Notice] = []
    users, items, rows, published = _kept(tables, protocol, notices)
    train_until = protocol.moment("cut" if protocol.valid_cut is None else "valid_cut", tables)
    rows, parts, repeats = _cut_once(rows, published, tables, protocol, seed, notices, len(items), train_until)
    all_ids = users, items
    parts = _reachable(rows, parts, users, protocol, notices)
    if protocol.split == "temporal":
        items, rows, parts = _known_items(rows, parts, items, notices)
    users, rows, parts = _compact(users, rows, parts)
    repeats = None if repeats is None else _renumbered_rows(repeats, all_ids, (users, items))
    unseen = _unseen(tables, items, protocol, notices)
    train, valid, test = (rows.take(parts == part) for part in (TRAIN, VALID, TEST))
    if not len(test):
        raise InputError(
            "no test rows", where="[protocol]", expected=_remedy(protocol), found=_summary(users, train, valid)
        )
    new_items_only = protocol.split == "cold-items"
    if (cold := int((~_occurring(train.item, len(items))).sum())) and not new_items_only:
        message = "items without training rows stay candidates, reachable only through relations"
        notices.append(Notice("split", message, cold))
    ordered = tables.ordered or rows.time is not None
    all_rows = (train, valid, test) if repeats is None else (train, valid, test, repeats)
    return Split(
        users,
        IdMap(items.name, pl.concat([items.keys, unseen.rename("key")])) if len(unseen) else items,
        train,
        valid,
        test,
        protocol=f"{protocol.name}, seed {seed}",
        fingerprint=fingerprint(users, items, all_rows, ordered=ordered, new_items_only=new_items_only),
        notices=tuple(notices),
        ordered=ordered,
        successive=ordered and protocol.split in ("last-leave-one-out", "temporal"),
        new_items_only=new_items_only,
        unseen=len(unseen),
        train_until=train_until,
        valid_until=None if protocol.valid_cut is None else protocol.moment("cut", tables),
        random=protocol.draws_test,
        repeats=repeats,
    )


def split_without_test(tables: Tables) -> Split:
    """All rows as training rows, to fit a model whose settings are known; nothing can be evaluated on it.

    Raises:
        InputError: the tables have no rows, or a user has an item twice against the policy.
    """
    notices: list[Notice] = []
    protocol = ProtocolConfig(name="all rows", split="random-leave-one-out")
    users, items, events, _ = _kept(tables, protocol, notices)
    train, repeats = events, None
    if tables.repeats:
        first, of = cuts.first_of_pairs(events)
        unique = events.take(first)
        parts = np.full(len(unique), TRAIN, np.int8)
        train, counted = _counted(unique, events, first, of, parts, protocol, None, notices)
        repeats = counted if len(counted) > len(train) else None
    unseen, ordered = _unseen(tables, items, protocol, notices), tables.ordered or train.time is not None
    nothing = train.take(np.zeros(0, np.int64))
    all_rows = (train, nothing, nothing) if repeats is None else (train, nothing, nothing, repeats)
    return Split(
        users,
        IdMap(items.name, pl.concat([items.keys, unseen.rename("key")])) if len(unseen) else items,
        train,
        nothing,
        nothing,
        protocol=protocol.name,
        fingerprint=fingerprint(users, items, all_rows, ordered=ordered),
        notices=tuple(notices),
        ordered=ordered,
        unseen=len(unseen),
        repeats=repeats,
    )


def _kept(
    tables: Tables, protocol: ProtocolConfig, notices: list[Notice]
) -> tuple[IdMap, IdMap, Interactions, Parts | None]:
    """Users, items, the filtered rows, and their published parts, in the order of ``make_split``."""
    if protocol.data is not None and protocol.data != tables.name:
        raise InputError(
            "protocol is defined on other data",
            where=f"[protocol] name = {protocol.name!r}",
            expected=protocol.data,
            found=tables.name,
        )
    if (not tables.checked or tables.given) and protocol.split != "given":
        check_rows(tables.interactions, f"{tables.name}, interactions", tables.repeats)
    frame = _parts_joined(tables, notices) if protocol.split == "given" else tables.interactions
    frame = _filtered(frame, protocol, notices, tables.repeats)
    users, items = IdMap.of(tables.user, frame["user"]), IdMap.of(tables.item, frame["item"])
    rows = _indexed(frame, users, items, tables.ticks)
    order = rows.by_user()
    return users, items, rows.take(order), frame["part"].to_numpy()[order] if "part" in frame.columns else None


def _indexed(frame: pl.DataFrame, users: IdMap, items: IdMap, ticks: int) -> Interactions:
    """The rows of a frame under row indices."""
    return Interactions(
        users.find(frame["user"]),
        items.find(frame["item"]),
        _ratings(frame["rating"]) if "rating" in frame.columns else None,
        frame["time"].to_numpy().astype(np.int64) if "time" in frame.columns else None,
        ticks,
    )


def _ratings(values: pl.Series) -> npt.NDArray[np.float32]:
    """Ratings as float32.

    Raises:
        InputError: one is too large for float32.
    """
    numbers = values.to_numpy()
    large = np.abs(numbers) > np.finfo(np.float32).max
    if large.any():
        raise InputError(
            "rating is too large",
            where="interactions, column 'rating'",
            expected="numbers below 3.4e38",
            found=f"{numbers[large][0]:g}; {int(large.sum()):,} such rows",
        )
    return numbers.astype(np.float32)


def _cut_once(
    rows: Interactions,
    published: Parts | None,
    tables: Tables,
    protocol: ProtocolConfig,
    seed: int,
    notices: list[Notice],
    n_items: int,
    train_until: int | None,
) -> tuple[Interactions, Parts, Interactions | None]:
    """Each (user, item) once, with its count if repeats are kept; the part of every row; ``Split.repeats``."""
    if not tables.repeats:
        return rows, _cut(rows, published, tables, protocol, seed, notices, n_items), None
    first, of = cuts.first_of_pairs(rows)
    unique, published = rows.take(first), None if published is None else published[first]
    parts = _cut(unique, published, tables, protocol, seed, notices, n_items)
    counted, events = _counted(unique, rows, first, of, parts, protocol, train_until, notices)
    return counted, parts, events if len(events) > (parts == TRAIN).sum() else None


def _counted(
    rows: Interactions,
    events: Interactions,
    first: Bool,
    of: Int64,
    parts: Parts,
    protocol: ProtocolConfig,
    train_until: int | None,
    notices: list[Notice],
) -> tuple[Interactions, Interactions]:
    """The rows with how often each occurred before the held-out rows of its user, or before the end of training.

    Also returns the training events that are counted.

    Args:
        rows: the first row of every (user, item).
        events: all rows, each user's in time order.
        first: which of them are ``rows``, bool [n].
        of: the number among ``rows`` of the row that each repeats, int64 [n].
        parts: of ``rows``.
        protocol: of the split.
        train_until: the moment at which training ends for everybody, if there is one.
        notices: how many repeats are counted, and how many are not, is added here.
    """
    position = np.flatnonzero(first)
    held = (parts == VALID) | (parts == TEST)
    early = np.ones(len(events), np.bool_)
    if protocol.split == "last-leave-one-out":
        bound = np.full(int(events.user.max(initial=-1)) + 1, len(events))
        np.minimum.at(bound, rows.user[held], position[held])
        early = np.arange(len(events)) < bound[events.user]
    elif train_until is not None and events.time is not None:
        early = events.time <= train_until
    repeats = ~first & early & (parts == TRAIN)[of]
    count = np.ones(len(rows), np.int32)
    np.add.at(count, of[repeats], 1)
    late = int((~first).sum() - repeats.sum())
    counted = (
        "repeats of training rows: counted, and part of histories that have an order; the first is the interaction"
    )
    not_counted = "repeats of held-out rows, or later than them: not counted, and no test rows"
    for message, number in ((counted, int(repeats.sum())), (not_counted, late)):
        notices += [Notice("split", message, number)] if number else []
    return replace(rows, count=count), events.take(repeats | (first & (parts == TRAIN)[of]))


def _renumbered_rows(rows: Interactions, old: tuple[IdMap, IdMap], new: tuple[IdMap, IdMap]) -> Interactions:
    """Rows under new row indices of users and items; those of users and items that are gone are dropped."""
    user, item = (now.find(was.keys)[at] for was, now, at in zip(old, new, (rows.user, rows.item), strict=True))
    return replace(rows, user=user, item=item).take((user >= 0) & (item >= 0))


def _remedy(protocol: ProtocolConfig) -> str:
    """What a split needs to have test rows."""
    match protocol.split:
        case "temporal":
            return "rows after cut, of users and items with rows before it: a cut between the first and the last time"
        case "cold-items":
            return "rows of held-out items: a larger item_share, or a lower core"
        case "given":
            return "test rows with users and items of the training part, and ratings from truth_min_rating"
        case _:
            return "users with at least 3 rows each: a lower min_rating or core, or more data"


def _summary(users: IdMap, train: Interactions, valid: Interactions) -> str:
    """Numbers of users and rows, and their range of times."""
    rows = train.then(valid)
    if not len(rows):
        return "no training and no validation rows"
    found = f"{len(users):,} users, {len(train):,} training rows, {len(valid):,} validation rows"
    return found if rows.time is None else f"{found}, {span(rows)}"


def span(rows: Interactions) -> str:
    """The first and the last time of rows, as dates if times have a unit."""
    assert rows.time is not None
    ends = [int(rows.time.min()), int(rows.time.max())]
    seconds = [end // max(rows.ticks, 1) for end in ends]
    if not rows.ticks or not all(0 <= end < 2**33 for end in seconds):
        return f"times from {ends[0]} to {ends[1]}"
    shown = [datetime.fromtimestamp(end, UTC).strftime("%Y-%m-%d") for end in seconds]
    return f"times from {shown[0]} to {shown[1]} ({ends[0]} to {ends[1]})"


def fingerprint(
    users: IdMap, items: IdMap, parts: tuple[Interactions, ...], *, ordered: bool, new_items_only: bool = False
) -> str:
    """sha256 of users and items, of the rows of each part by their keys, and of which items are candidates.

    It does not depend on the order of rows inside a part, but for ordered data on the order inside a user.
    """
    digest = hashlib.sha256(b"relrank split 1" + b", only new items" * new_items_only)
    for ids in (users, items):
        _feed(digest, ids.keys)
    for rows in parts:
        order = (
            stable_argsort(rows.user, len(users))
            if ordered
            else stable_argsort_pairs(rows.user, rows.item, (len(users), len(items)))
        )
        _feed(digest, users.keys, rows.user[order])
        _feed(digest, items.keys, rows.item[order])
        for values in (rows.rating, rows.time, *(() if rows.count is None else (rows.count,))):
            if values is None:
                digest.update(b"-")
            else:
                digest.update(values[order].astype(values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()


def _feed(digest: Any, keys: pl.Series, rows: Int32 | None = None) -> None:
    """Digest the length, type and content of a column of keys, or of some of its rows, block by block."""
    size = len(keys) if rows is None else rows.size
    digest.update(f"{size} {keys.dtype};".encode())

    def blocks() -> Iterator[pl.Series]:
        for start in range(0, size, _BLOCK):
            block = slice(start, start + _BLOCK)
            yield keys[block] if rows is None else keys.gather(rows[block])

    if keys.dtype == pl.Int64:
        for block in blocks():
            digest.update(block.to_numpy().astype("<i8"))
        return
    for block in blocks():
        digest.update(block.str.len_bytes().to_numpy().astype("<i8"))
    for block in blocks():
        digest.update("".join(block.to_list()).encode())


def _parts_joined(tables: Tables, notices: list[Notice]) -> pl.DataFrame:
    """The published parts as one table with a column ``part``."""
    if "train" not in tables.given or "test" not in tables.given:
        raise InputError(
            "the data has no published parts",
            where='[protocol] split = "given"',
            expected='a data set with published parts, or test = "…" (and valid) in [data.interactions]',
            found=f"{tables.name} with parts {sorted(tables.given) or 'none'}",
        )
    label = {"train": TRAIN, "valid": VALID, "test": TEST}
    if unknown := sorted(set(tables.given) - set(label)):
        raise InputError(
            "unknown part", where=f"{tables.name}, published parts", expected=one_of(label), found=", ".join(unknown)
        )
    for part, rows in tables.given.items():
        for name in ("user", "item"):
            check_column(rows.columns, name, f"{tables.name}, part {part!r}")
    types = {(f.schema["user"], f.schema["item"]) for f in tables.given.values()}
    if len(types) > 1:
        found = "; ".join(f"{p} {f.schema['user']}, {f.schema['item']}" for p, f in tables.given.items())
        raise InputError(
            "parts have keys of different types",
            where=f"{tables.name}, published parts",
            expected="the same types of user and item keys in every part",
            found=found,
        )
    columns = {p: set(f.columns) & {"user", "item", "rating", "time"} for p, f in tables.given.items()}
    if len(set(map(frozenset, columns.values()))) > 1:
        found = "; ".join(f"{p} {', '.join(sorted(names))}" for p, names in columns.items())
        raise InputError(
            "parts have different columns",
            where=f"{tables.name}, published parts",
            found=found,
            expected="rating and time in every part, or in none",
        )
    frames = [f.with_columns(part=pl.lit(label[p], pl.Int8)) for p, f in tables.given.items()]
    kept_columns = [c for c in frames[0].columns if all(c in f.columns for f in frames)]
    frame = pl.concat([f.select(kept_columns) for f in frames])
    if tables.repeats:
        kept = frame.filter(pl.col("part") == pl.col("part").min().over("user", "item"))
        if dropped := frame.height - kept.height:
            notices.append(Notice("split", "held-out rows that repeat a row of an earlier part dropped", dropped))
        return kept
    again = frame.filter(pl.struct("user", "item").is_duplicated())
    if again.height:
        user, item = again.select("user", "item").row(0)
        raise InputError(
            "row in two parts",
            where=f"{tables.name}, published parts",
            expected="every (user, item) in one part",
            found=f"({user!r}, {item!r}); {again.height:,} such rows",
        )
    return frame


def _in_core(user: Int32, item: Int32, least: Core, repeats: bool) -> Bool:
    """Which rows are in the core; a (user, item) that is repeated counts once."""
    if not repeats:
        return core(user, item, least.user, least.item)
    _, first, of = np.unique(
        user.astype(np.int64) * (int(item.max(initial=-1)) + 1) + item, return_index=True, return_inverse=True
    )
    return core(user[first], item[first], least.user, least.item)[of]


def _filtered(
    frame: pl.DataFrame, protocol: ProtocolConfig, notices: list[Notice], repeats: bool = False
) -> pl.DataFrame:
    """Rows with the minimum rating, then their k-core."""
    rated = protocol.min_rating is not None or protocol.truth_min_rating is not None
    if rated and "rating" not in frame.columns:
        raise InputError("protocol needs ratings", where="[protocol]", expected="a rating column", found="none")
    if protocol.min_rating is not None:
        kept = frame.filter(pl.col("rating") >= protocol.min_rating)
        notices.append(
            Notice("filter", f"rows rated below {protocol.min_rating:g} dropped", frame.height - kept.height)
        )
        frame = kept
    least = Core(user=protocol.core, item=protocol.core) if isinstance(protocol.core, int) else protocol.core
    if least.user or least.item:
        codes = [frame[c].rank("dense").to_numpy().astype(np.int32) for c in ("user", "item")]
        kept = frame.filter(pl.Series(_in_core(codes[0], codes[1], least, repeats)))
        what = "different partners" if repeats else "rows"
        message = f"rows outside the core dropped (users {least.user}, items {least.item} {what} at least)"
        notices.append(Notice("filter", message, frame.height - kept.height))
        frame = kept
    notices[:] = [n for n in notices if n.count]
    if frame.is_empty():
        raise InputError(
            "the filters leave no rows",
            where="[protocol]",
            expected="some rows: a lower min_rating or core",
            found="; ".join(str(n) for n in notices) or "a table without rows",
        )
    return frame


def _cut(
    rows: Interactions,
    published: Parts | None,
    tables: Tables,
    protocol: ProtocolConfig,
    seed: int,
    notices: list[Notice],
    n_items: int,
) -> Parts:
    """The part of every row, before rows of users without training rows are dropped."""
    rng = np.random.default_rng(seed)
    if published is not None:
        return _cut_published(rows, published, protocol, rng, notices)
    if protocol.split == "random-leave-one-out":
        return cuts.random_leave_one_out(rows, rng)
    if protocol.split == "random-ratio":
        share, up = protocol.test_share_or_default, protocol.rounding == "up"
        return cuts.random_ratio(rows, share, protocol.valid_share, rng, round_up=up)
    if protocol.split == "cold-items":
        share = 0.1 if protocol.item_share is None else protocol.item_share
        if share * n_items + 1e-9 < 1:  # as ``cold_items`` rounds
            raise InputError(
                "no item to hold out",
                where="[protocol] item_share",
                expected=f"at least one item: a share of 1/{n_items} or more",
                found=f"{share:g}",
            )
        return cuts.cold_items(rows, n_items, share, rng)
    if rows.time is None and not (protocol.split == "last-leave-one-out" and tables.ordered):
        raise InputError(
            "split needs an order in time",
            where=f"[protocol] split = {protocol.split!r}",
            expected="interactions with a time column",
            found=f"{tables.name} without times",
        )
    if protocol.split == "last-leave-one-out":
        if tied := cuts.tied_last(rows):
            message = "users whose last two times are equal: which row is the last is file order"
            notices.append(Notice("split", message, tied))
        return cuts.last_leave_one_out(rows)
    return _cut_in_time(rows, tables, protocol)


def _cut_published(
    rows: Interactions, parts: Parts, protocol: ProtocolConfig, rng: np.random.Generator, notices: list[Notice]
) -> Parts:
    """Published parts without rows below ``truth_min_rating``, and with validation rows."""
    low = np.zeros(len(rows), bool)
    if protocol.truth_min_rating is not None and rows.rating is not None:
        low = rows.rating < protocol.truth_min_rating
    if dropped := int((low & (parts == TEST)).sum()):
        message = f"test rows rated below {protocol.truth_min_rating:g} are no truth and dropped"
        notices.append(Notice("split", message, dropped))
    parts = np.where(low & (parts == TEST), DROPPED, parts).astype(np.int8)
    if not (parts == VALID).any():
        parts = cuts.hold_out(rows, parts, protocol.valid_share, rng)
    return np.where(low & (parts == VALID), TRAIN, parts).astype(np.int8)


def _cut_in_time(rows: Interactions, tables: Tables, protocol: ProtocolConfig) -> Parts:
    """A temporal split whose cuts lie inside the data."""
    cut, valid_cut, times = protocol.moment("cut", tables), protocol.moment("valid_cut", tables), rows.time
    assert cut is not None
    assert times is not None
    for name, value in (("cut", cut), ("valid_cut", valid_cut)):
        if value is not None and not times.min() <= value < times.max():
            raise InputError(
                f"{name} is outside the data",
                where=f"[protocol] {name}",
                found=str(getattr(protocol, name)),
                expected=f"a moment between the first and the last of {len(rows):,} rows: {span(rows)}",
            )
    if valid_cut is not None and valid_cut >= cut:
        raise InputError(
            "valid_cut is not before cut", where="[protocol]", expected=f"before {protocol.cut}", found=f"{valid_cut}"
        )
    return cuts.temporal(rows, cut, valid_cut)


def _reachable(
    rows: Interactions, parts: Parts, users: IdMap, protocol: ProtocolConfig, notices: list[Notice]
) -> Parts:
    """Drop rows of users without training rows, or refuse them; a temporal split always drops them."""
    trained = _occurring(rows.user[parts == TRAIN], len(users))
    lost = ~trained[rows.user] & (parts != DROPPED)
    if not lost.any():
        return parts
    lost_users = np.unique(rows.user[lost])
    if protocol.split != "temporal" and protocol.without_train == "error":
        raise InputError(
            "split leaves a user without training rows",
            where=f"[protocol] split = {protocol.split!r}",
            expected='training rows for every user: raise core, or set without_train = "drop"',
            found=f"{users.name} {users.keys[int(lost_users[0])]!r}; {lost_users.size:,} such users",
        )
    notices.append(Notice("split", "users without training rows dropped", int(lost_users.size)))
    notices.append(
        Notice("split", "validation and test rows of users without training rows dropped", int(lost.sum()))
    )
    return np.where(lost, DROPPED, parts).astype(np.int8)


def _known_items(
    rows: Interactions, parts: Parts, items: IdMap, notices: list[Notice]
) -> tuple[IdMap, Interactions, Parts]:
    """Only items with training rows: others are unknown at the cut."""
    trained = _occurring(rows.item[parts == TRAIN], len(items))
    lost = ~trained[rows.item] & (parts != DROPPED)
    if lost.any():
        message = "validation and test rows of items without training rows dropped"
        notices.append(Notice("split", message, int(lost.sum())))
    rows = replace(rows, item=_renumbered(trained)[rows.item])
    items = IdMap(items.name, items.keys.filter(pl.Series(trained)))
    return items, rows, np.where(lost, DROPPED, parts).astype(np.int8)


def _unseen(tables: Tables, items: IdMap, protocol: ProtocolConfig, notices: list[Notice]) -> pl.Series:
    """Ascending keys of the items without interactions that are kept."""
    none, table = pl.Series([], dtype=items.keys.dtype), tables.nodes.get(tables.item)
    is_named = protocol.name in PROTOCOLS
    if table is None or table.frame[table.key].dtype != items.keys.dtype or (is_named and protocol.new_items is None):
        return none
    keys = table.frame[table.key].drop_nulls()
    interacted = pl.concat([f["item"] for f in (tables.interactions, *tables.given.values())])
    new = keys.filter(~keys.is_in(interacted.unique().implode())).unique().sort()
    if not len(new) or protocol.new_items == "drop":
        return none
    too_many = protocol.new_items is None and len(new) > len(items)
    rest = ": candidates of fitted models that can score them, not of the test"
    if too_many:
        rest = ' left out, more than those with: new_items = "keep" keeps them'
    notices.append(Notice("split", f"{items.name} nodes without interactions{rest}", len(new)))
    return none if too_many else new


def _compact(users: IdMap, rows: Interactions, parts: Parts) -> tuple[IdMap, Interactions, Parts]:
    """Without dropped rows, and without users who have no training rows."""
    trained = _occurring(rows.user[parts == TRAIN], len(users))
    kept = parts != DROPPED
    if not kept.all():
        rows, parts = rows.take(kept), parts[kept]
    if not trained.all():
        users = IdMap(users.name, users.keys.filter(pl.Series(trained)))
        rows = replace(rows, user=_renumbered(trained)[rows.user])
    return users, rows, parts


def _occurring(rows: Int32, n: int) -> Bool:
    """Which of the rows 0 … n − 1 are among these, bool [n]."""
    occurs = np.zeros(n, np.bool_)
    occurs[rows] = True
    return occurs


def _renumbered(kept: Bool) -> Int32:
    """The new index of each kept row, int32 [n]."""
    return np.cumsum(kept, dtype=np.int32) - np.int32(1)
