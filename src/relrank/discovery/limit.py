"""How many relations are proposed at most, and which ones stay."""

from __future__ import annotations

from typing import Any

import polars as pl

from relrank.discovery.draft import Draft

MOST_RELATIONS = 40
"""Relations of a proposal, at most, unless keys and links alone are more.

It is twice as many as init proposes for the largest of the shops and public sets that it is measured on, and a study
fits three arms for each relation: without it, with it alone, and with its links shuffled.
"""


def limit_relations(draft: Draft) -> None:
    """Leave out the values of columns that say least, so that few enough relations are left.

    Keys, links and texts stay. Columns are ranked by the number of values that a node has in common with others,
    times the share of pairs of such values that differ: columns that are nearly empty, nearly constant, or different
    in each row come last. A column of nodes behind users and items counts for less with each step.
    """
    relations = draft.config["relations"]
    of_values = [
        n for n, r in relations.items() if r["kind"] in ("attribute", "bins") and r["target"] not in draft.nodes
    ]
    room = max(0, MOST_RELATIONS - (len(relations) - len(of_values)))
    worth = {name: _worth(draft, relations[name]) for name in of_values}
    for name in sorted(of_values, key=lambda name: -worth[name][0])[room:]:
        _, shared, differ = worth[name]
        found = next(f for f in draft.findings if f.kind == "relation" and f.message.startswith(f"{name}: "))
        draft.findings.remove(found)
        message = (
            f"not among the {MOST_RELATIONS} relations that say most: a node shares {shared:.2g} values with others, "
            f"{differ:.0%} of pairs of them differ"
        )
        draft.find("left out", found.where, message)
        del relations[name]
        del draft.comments[f"relations.{name}"]


def _worth(draft: Draft, relation: dict[str, Any]) -> tuple[float, float, float]:
    """By what a column is ranked, its shared values per node, and the share of their pairs that differ."""
    node = draft.nodes[relation["node"]]
    column = draft.tables[node.table or ""].columns.get(relation["column"])
    changed = draft.changed.get(node.table or "", {}).get(relation["column"])
    values = changed if changed is not None or column is None else column.values
    assert values is not None
    cells = pl.DataFrame({"value": values})
    if relation["kind"] == "bins":
        known = cells["value"].drop_nulls()
        n = min(int(relation["quantiles"]), known.n_unique())
        shared, differ = len(known) / max(1, cells.height), 1 - 1 / max(1, n)
    else:
        if "separator" in relation:
            cells = cells.with_columns(pl.col("value").str.split(relation["separator"]))
        if isinstance(cells["value"].dtype, pl.List):
            cells = cells.explode("value", empty_as_null=True, keep_nulls=True)
        counts = cells["value"].drop_nulls().value_counts(name="n")["n"].cast(pl.Float64)
        counts = counts.filter(counts > 1)
        shared = float(counts.sum()) / max(1, len(values))
        differ = 1 - float((counts * counts).sum()) / max(1.0, float(counts.sum()) ** 2)
    return shared * differ / (1 + node.hops), shared, differ
