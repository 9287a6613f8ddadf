"""Arms of a study: which relations a model may use, and which one is rewired.

A relation that is read through others (author → country through item → author) hangs on them. No arm has it without
them: leaving out item → author leaves out author → country, and author → country "alone" is beside item → author, and
compared with that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from relrank.graph.graph import Graph
from relrank.graph.relation import Titles
from relrank.study.config import ARM_KINDS, ArmKind

ALL_WITHOUT = "all without "


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

    def titled(self, titles: Titles) -> str:
        """The name with titles of relations in place of their names, for people."""
        if not titles:
            return self.name
        if self.name.startswith(ALL_WITHOUT):
            name = self.name.removeprefix(ALL_WITHOUT)
            return ALL_WITHOUT + titles.get(name, name)
        shuffled = "" if self.rewired is None else f", {titles.get(self.rewired, self.rewired)} rewired"
        if self.name.startswith("all"):
            return "all" + shuffled
        return " + ".join(("interactions", *(titles.get(name, name) for name in self.relations))) + shuffled


INTERACTIONS = Arm("interactions")
Hops = Mapping[str, tuple[str, ...]]
"""By relation those that its chain passes before it (``graph.chains.hops``); those that are not named are direct."""
NO_HOPS: Hops = MappingProxyType({})


def all_of(relations: Sequence[str]) -> Arm:
    """Every relation."""
    return Arm("all", tuple(relations))


def over(hops: Hops, *names: str) -> tuple[str, ...]:
    """Relations and those that lead to them, by name: what has to be in a graph for these to be read."""
    return tuple(sorted({*names, *(hop for name in names for hop in hops.get(name, ()))}))


def drop(relations: Sequence[str], name: str, hops: Hops = NO_HOPS) -> Arm:
    """Every relation but one, and but those that it leads to."""
    return Arm(ALL_WITHOUT + name, tuple(r for r in relations if name not in over(hops, r)))


def alone(name: str, hops: Hops = NO_HOPS) -> Arm:
    """Interactions and one relation, with those that lead to it."""
    return _with(over(hops, name))


def before(name: str, hops: Hops = NO_HOPS) -> Arm:
    """What ``alone`` is compared with: interactions, and the relations that lead to this one."""
    return _with(tuple(sorted(hops.get(name, ()))))


def rewired(relations: Sequence[str], name: str) -> Arm:
    """Every relation, one of them shuffled; what is composed over it is composed over the shuffled links."""
    return Arm(f"all, {name} rewired", tuple(relations), name)


def alone_rewired(name: str, hops: Hops = NO_HOPS) -> Arm:
    """``alone`` with the relation shuffled: what its degrees bring without its links."""
    return some_rewired((name,), name, hops)


def some(names: Sequence[str], hops: Hops = NO_HOPS) -> Arm:
    """Interactions and these relations, in whatever order, with those that lead to them."""
    return _with(over(hops, *names))


def some_rewired(names: Sequence[str], name: str, hops: Hops = NO_HOPS) -> Arm:
    """``some`` with one of them shuffled."""
    linked = some(names, hops)
    return Arm(f"{linked.name}, {name} rewired", linked.relations, name)


def without_beside(other: str, name: str, hops: Hops = NO_HOPS) -> Arm:
    """The two of them without ``name``, which must not lead to ``other``."""
    return _with(tuple(sorted({*over(hops, other), *hops.get(name, ())})))


def _with(relations: tuple[str, ...]) -> Arm:
    return Arm(" + ".join(("interactions", *relations)), relations)


def arms(relations: Sequence[str], kinds: Sequence[ArmKind] = ARM_KINDS, hops: Hops = NO_HOPS) -> list[Arm]:
    """The arms of a model, each graph once: with one relation, "all" is "alone" and "drop" is "interactions"."""
    wanted: list[Arm] = []
    if "interactions" in kinds or not relations:
        wanted.append(INTERACTIONS)
    if relations:
        wanted += [all_of(relations)] if "all" in kinds else []
        wanted += [drop(relations, r, hops) for r in relations] if "drop" in kinds else []
        wanted += [arm for r in relations for arm in (alone(r, hops), before(r, hops))] if "alone" in kinds else []
        wanted += [rewired(relations, r) for r in relations] if "rewired" in kinds else []
    unique: dict[tuple[tuple[str, ...], str | None], Arm] = {}
    for arm in wanted:
        unique.setdefault((tuple(sorted(arm.relations)), arm.rewired), arm)
    return list(unique.values())
