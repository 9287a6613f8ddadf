"""What a reader of the results would ask of the graph: does a relation hold what a model is to predict?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

import numpy as np

from relrank.graph.graph import Graph
from relrank.graph.sequences import Sequences
from relrank.tables.audit import Finding, pair_keys
from relrank.tables.split import Split

MEND = "give the table's rows a time or a user (time, by), so that they are cut at the split, or leave it out"
"""What to do about a relation that knows held-out rows."""


def known_rows(graph: Graph, split: Split, timed: Collection[str] = ()) -> Iterator[Finding]:
    """Rows of the split that are edges of a relation between users and items; hidden ones are a leak.

    Edges of ``timed`` relations are earlier than the user's held-out rows: one that is the same pair was known then,
    such as an item that was looked at before it was bought, and is worth a warning only.
    """
    n = graph.n_items
    for name, r in graph.relations.items():
        if {r.source, r.target} != {graph.user, graph.item}:
            continue
        edges = pair_keys(r.src, r.dst, n) if r.source == graph.user else pair_keys(r.dst, r.src, n)
        again = int(np.isin(edges, pair_keys(split.train.user, split.train.item, n)).sum())
        message = f"{again:,} of {len(r):,} edges of relation {name} repeat a training row, so that a model reads in "
        message += "its graph what it is to predict"
        yield Finding("warning" if again else "ok", f"training rows in {name}", message, again, (name,))
        for part, rows in (("validation", split.valid), ("test", split.test)):
            held = int(np.isin(pair_keys(rows.user, rows.item, n), edges).sum())
            message = f"{held:,} of {len(rows):,} {part} rows are edges of relation {name}"
            message += ", each of an earlier time" * (name in timed)
            level: Literal["leak", "warning", "ok"] = "warning" if name in timed else "leak"
            yield Finding(level if held else "ok", f"{part} rows in {name}", message, held, (name,), MEND)


def own_steps(graph: Graph, name: str) -> Finding:
    """Steps of training histories from one item to the next that are an edge of a co-occurrence by themselves.

    A model that learns to take the step reads it in its graph. More than a tenth of all steps is a warning.
    """
    histories, relation = Sequences.of_graph(graph), graph.relations[name]
    inside = np.diff(np.repeat(np.arange(histories.n), histories.lengths())) == 0
    a, b = histories.items[:-1][inside], histories.items[1:][inside]
    once = relation.where(relation.weight == 1)
    edges = pair_keys(once.src, once.dst, graph.n_items)
    n = int(np.isin(pair_keys(np.minimum(a, b), np.maximum(a, b), graph.n_items), edges).sum())
    message = (
        f"{n:,} of {a.size:,} steps from a training item to the next are edges of {name} that no other step makes"
    )
    return Finding("warning" if n > a.size / 10 else "ok", f"own steps in {name}", message, n, (name,))
