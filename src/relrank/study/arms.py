"""Arms of a study: which relations a model may use, and which one is rewired."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from relrank.graph.graph import Graph
from relrank.study.config import ARM_KINDS, ArmKind


@dataclass(frozen=True, slots=True)
class Arm:
    """One graph of the study.

    Attributes:
        name: as it is printed.
        relations: names of the relations beside the interactions.
        rewired: the one among them whose links are shuffled, degrees kept; None for none.
    """

    name: str
    relations: tuple[str, ...] = ()
    rewired: str | None = None

    def graph(self, whole: Graph, seed: int) -> Graph:
        """The whole graph cut down to this arm."""
        graph = whole.only(*self.relations)
        return graph if self.rewired is None else graph.rewired(self.rewired, seed)


INTERACTIONS = Arm("interactions")


def all_of(relations: Sequence[str]) -> Arm:
    """Every relation."""
    return Arm("all", tuple(relations))


def drop(relations: Sequence[str], name: str) -> Arm:
    """Every relation but one."""
    return Arm(f"all without {name}", tuple(r for r in relations if r != name))


def alone(name: str) -> Arm:
    """Interactions and one relation."""
    return Arm(f"interactions + {name}", (name,))


def rewired(relations: Sequence[str], name: str) -> Arm:
    """Every relation, one of them shuffled."""
    return Arm(f"all, {name} rewired", tuple(relations), name)


def alone_rewired(name: str) -> Arm:
    """Interactions and one relation, shuffled: what its degrees bring without its links."""
    return Arm(f"interactions + {name}, {name} rewired", (name,), name)


def some(names: Sequence[str]) -> Arm:
    """Interactions and these relations, in whatever order."""
    ordered = tuple(sorted(names))
    return Arm(" + ".join(("interactions", *ordered)), ordered)


def arms(relations: Sequence[str], kinds: Sequence[ArmKind] = ARM_KINDS) -> list[Arm]:
    """The arms of a model, each graph once: with one relation, "all" is "alone" and "drop" is "interactions"."""
    wanted: list[Arm] = []
    if "interactions" in kinds or not relations:
        wanted.append(INTERACTIONS)
    if relations:
        wanted += [all_of(relations)] if "all" in kinds else []
        wanted += [drop(relations, r) for r in relations] if "drop" in kinds else []
        wanted += [alone(r) for r in relations] if "alone" in kinds else []
        wanted += [rewired(relations, r) for r in relations] if "rewired" in kinds else []
    unique: dict[tuple[tuple[str, ...], str | None], Arm] = {}
    for arm in wanted:
        unique.setdefault((tuple(sorted(arm.relations)), arm.rewired), arm)
    return list(unique.values())
