"""Arms of a study: which relations a model may use, and which one is rewired.

A relation may be read through others: author → country through item → author. No arm contains such a relation without
its chain. Leaving out item → author also leaves out author → country, and author → country "alone" comes with
item → author and is compared with the arm of item → author.
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
        name: as printed and stored.
        relations: names of the relations besides the interactions.
        rewired: the placebo relation, whose links are shuffled with degrees kept; None for none.
    """

    name: str
    relations: tuple[str, ...] = ()
    rewired: str | None = None

    def graph(self, full_graph: Graph, seed: int) -> Graph:
        """The full graph restricted to this arm."""
        graph = full_graph.only(*self.relations)
        return graph if self.rewired is None else graph.rewired(self.rewired, seed)

    def titled(self, titles: Titles) -> str:
        """The name for people: with titles of relations in place of their names."""
        if not titles:
            return self.name
        if self.name.startswith(ALL_WITHOUT):
            name = self.name.removeprefix(ALL_WITHOUT)
            return ALL_WITHOUT + titles.get(name, name)
        placebo = "" if self.rewired is None else f", {titles.get(self.rewired, self.rewired)} rewired"
        if self.name.startswith("all"):
            return "all" + placebo
        return " + ".join(("interactions", *(titles.get(name, name) for name in self.relations))) + placebo


INTERACTIONS = Arm("interactions")
Hops = Mapping[str, tuple[str, ...]]
"""By relation, the relations of its chain (``relation_chains.hops``); relations read directly may be missing."""
NO_HOPS: Hops = MappingProxyType({})


def with_chain(hops: Hops, *names: str) -> tuple[str, ...]:
    """Relations and those of their chains, sorted: what a graph needs so that these can be read."""
    return tuple(sorted({*names, *(hop for name in names for hop in hops.get(name, ()))}))


def all_of(relations: Sequence[str]) -> Arm:
    """Every relation."""
    return Arm("all", tuple(relations))


def all_without(relations: Sequence[str], name: str, hops: Hops = NO_HOPS) -> Arm:
    """Every relation except one and those that are read through it."""
    return Arm(ALL_WITHOUT + name, tuple(r for r in relations if name not in with_chain(hops, r)))


def rewired(relations: Sequence[str], name: str) -> Arm:
    """Every relation, one of them shuffled, and with it what is composed over its links."""
    return Arm(f"all, {name} rewired", tuple(relations), name)


def with_relations(names: Sequence[str], hops: Hops = NO_HOPS) -> Arm:
    """Interactions and these relations, in any order, with their chains."""
    return _with(with_chain(hops, *names))


def with_relations_rewired(names: Sequence[str], name: str, hops: Hops = NO_HOPS) -> Arm:
    """``with_relations`` with one of them shuffled."""
    linked = with_relations(names, hops)
    return Arm(f"{linked.name}, {name} rewired", linked.relations, name)


def alone(name: str, hops: Hops = NO_HOPS) -> Arm:
    """Interactions and one relation, with its chain."""
    return with_relations((name,), hops)


def alone_rewired(name: str, hops: Hops = NO_HOPS) -> Arm:
    """``alone`` with the relation shuffled: the effect of its degrees without its links."""
    return with_relations_rewired((name,), name, hops)


def alone_baseline(name: str, hops: Hops = NO_HOPS) -> Arm:
    """What ``alone`` is compared with: interactions and the relation's chain."""
    return _with(tuple(sorted(hops.get(name, ()))))


def pair_without(other: str, name: str, hops: Hops = NO_HOPS) -> Arm:
    """The arm of two relations without ``name``, which must not be in the chain of ``other``."""
    return _with(tuple(sorted({*with_chain(hops, other), *hops.get(name, ())})))


def _with(relations: tuple[str, ...]) -> Arm:
    return Arm(" + ".join(("interactions", *relations)), relations)


def arms(relations: Sequence[str], kinds: Sequence[ArmKind] = ARM_KINDS, hops: Hops = NO_HOPS) -> list[Arm]:
    """The arms of a model, each graph once: with one relation, "all" is "alone" and "drop" is "interactions"."""
    wanted: list[Arm] = []
    if "interactions" in kinds or not relations:
        wanted.append(INTERACTIONS)
    if relations:
        wanted += [all_of(relations)] if "all" in kinds else []
        wanted += [all_without(relations, r, hops) for r in relations] if "drop" in kinds else []
        if "alone" in kinds:
            wanted += [arm for r in relations for arm in (alone(r, hops), alone_baseline(r, hops))]
        wanted += [rewired(relations, r) for r in relations] if "rewired" in kinds else []
    unique: dict[tuple[tuple[str, ...], str | None], Arm] = {}
    for arm in wanted:
        unique.setdefault((tuple(sorted(arm.relations)), arm.rewired), arm)
    return list(unique.values())
