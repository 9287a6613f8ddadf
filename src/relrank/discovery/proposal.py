"""A proposed study: its configuration, what it rests on, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import polars as pl

from relrank.discovery.study_file import study_file

FindingKind = Literal[
    "interactions", "nodes", "relation", "behaviour", "texts", "protocol", "cleaning", "left out", "leak", "ambiguous"
]


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known about the tables; what is not given is found.

    Attributes:
        interactions: name of the table with the interactions.
        user: its column of users.
        item: its column of items.
        time: its column of times.
        rating: its column of ratings.
        item_node: name of the node type of items, such as "product".
        user_node: likewise of users.
    """

    interactions: str | None = None
    user: str | None = None
    item: str | None = None
    time: str | None = None
    rating: str | None = None
    item_node: str | None = None
    user_node: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was found, or left out.

    Attributes:
        kind: what it is about; "leak" for what seems to be computed from the interactions that are to be predicted.
        where: table, or ``table.column``.
        message: what and why, one sentence.
        count: of rows or values, as the message says; 0 if it counts nothing.
    """

    kind: FindingKind
    where: str
    message: str
    count: int = 0


@dataclass(frozen=True, slots=True)
class Choice:
    """A decision that could have been another one.

    Attributes:
        hint: the field of ``Hints`` that decides it.
        question: for a person.
        options: the possible answers, the chosen one first.
    """

    hint: str
    question: str
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Proposal:
    """A study that fits some tables.

    Attributes:
        config: content of a study file; files are named by the names of the tables.
        findings: in the order of the study file.
        derived: tables that the study needs besides the given ones, by the names that ``config`` uses: joined or
            cleaned rows, which have to be written or passed on.
        comments: by dotted key of ``config``, why it is there.
        choices: decisions that the tables do not settle.
    """

    config: dict[str, Any]
    findings: list[Finding]
    derived: dict[str, pl.DataFrame] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    choices: tuple[Choice, ...] = ()

    def to_toml(self, files: Mapping[str, str], reading: Mapping[str, Mapping[str, Any]] | None = None) -> str:
        """The commented study file.

        Args:
            files: the file of each table that ``config`` names.
            reading: keys that say how a table's file is read, such as ``separator``, by table.

        Raises:
            KeyError: a table has no file.
        """
        left_out = [f"{f.kind}: {f.where}: {f.message}" for f in self.findings if f.kind in ("left out", "leak")]
        return study_file(self.config, self.comments, left_out, files, reading or {})
