"""Knowledge-graph triples ``head predicate tail`` as link tables, one per predicate and pair of node types.

An entity that is an item is the item's node; all others are nodes of one type, "entity" by default. The tables of a
predicate are, in this order,

- ``NAME``: item → entity,
- ``NAME_to_item``: item → item,
- ``NAME_of_entity``: entity → entity,
- ``NAME_of_entity_to_item``: entity → item;

the first of them that has rows is called ``NAME`` alone. A study composes them as chains: item → entity by
``director``, then entity → entity by ``born_in``. ``NAME`` is what follows the last ``.``, ``/`` or ``#`` of the
predicate where no other predicate ends in the same, else the predicate.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import polars as pl

from relrank.errors import InputError
from relrank.tables.files import as_keys, column, parse, read_text
from relrank.tables.missing import refuse_missing, shown
from relrank.tables.notices import Notice
from relrank.tables.tables import LinkTable, NodeTable, Tables
from relrank.tables.times import TimeValue

ENTITY = "entity"
"""Type of the entities that are no items, by default."""

_COLUMNS = ("head", "relation", "tail")
_SUFFIXES = {
    ("item", "entity"): "",
    ("item", "item"): "_to_item",
    ("entity", "entity"): "_of_entity",
    ("entity", "item"): "_of_entity_to_item",
}
"""What follows the name of a predicate, by what head and tail are."""


def with_triples(
    tables: Tables,
    triples: pl.DataFrame,
    entities: pl.DataFrame | None,
    path: Path,
    *,
    entity: str = ENTITY,
    full_names: bool = False,
    complete: bool = True,
    computed: TimeValue | None = None,
) -> Tables:
    """The tables with a link table per predicate and pair of types, and with the node table of the entities.

    An exact repeat of a triple is dropped, as is a second edge of a predicate between the same nodes; both are
    counted. An entity of several items stands for each of them. If the tables have a node table of the entities,
    triples with others are dropped and counted, or the others are added to it. Where entities are named by item keys,
    items without a triple are counted; and if keys are numbers, which those of other things may equal, a notice says
    how many match.

    Args:
        tables: with a node table of the items, and perhaps one of the entities.
        triples: ``head``, ``relation`` and ``tail``, text, no value missing.
        entities: ``item`` (keys of the node table) and ``entity`` (text); None if entities are named by item keys.
        path: the file, for messages.
        entity: node type of the entities that are no items.
        full_names: whether tables have the full names of predicates.
        complete: whether a node table of the entities names all of them; else it is one that other triples made.
        computed: when the triples were made, as for a link table.

    Raises:
        InputError: no triple is about an item, or a table of that name exists.
    """
    node, where = tables.nodes[tables.item], str(path)
    by_key = entities is None
    if entities is None:
        keys = node.frame[node.key]
        entities = pl.DataFrame({"item": keys, "entity": keys.cast(pl.String)})
    once = triples.unique(maintain_order=True)
    notices = [Notice(path.name, "repeated triples dropped", triples.height - once.height)]
    rows = _resolved(once, entities, tables.item, where)
    if by_key:
        notices += _matches(rows, node, path)
    nodes = dict(tables.nodes)
    if complete and entity in nodes:
        rows = _known(rows, nodes[entity], path, notices)
    else:
        plain = [rows.filter(pl.col(f"{end}_item").is_null())[end].rename(entity) for end in ("head", "tail")]
        if entity in nodes:
            plain.append(nodes[entity].frame[entity])
        nodes[entity] = NodeTable(entity, pl.concat(plain).unique().sort().to_frame(), entity)
    names = predicate_names(once["relation"], full_names)
    links = dict(tables.links)
    for name, ends, frame in _by_table(rows, names):
        if name in links:
            expected = "different names of predicates and link tables"
            raise InputError("a link table has this name", where=where, expected=expected, found=repr(name))
        links[name] = _table(name, ends, frame, nodes[tables.item], nodes[entity], computed)
        notices.append(Notice(path.name, f"{name}: repeated edges dropped", frame.height - links[name].frame.height))
    counted = tuple(notice for notice in notices if notice.count)
    return replace(tables, nodes=nodes, links=links, notices=(*tables.notices, *counted))


def _matches(rows: pl.DataFrame, item: NodeTable, path: Path) -> list[Notice]:
    """How many items have a triple, of triples that name items by their keys."""
    items = pl.concat([rows["head_item"], rows["tail_item"]]).drop_nulls().n_unique()
    heads = rows.filter(pl.col("head_item").is_not_null())["head"].n_unique() / rows["head"].n_unique()
    without = Notice(path.name, f"{item.name} nodes without a triple", item.frame.height - items)
    if not item.frame[item.key].dtype.is_integer():
        return [without]
    message = (
        f"numbers equal to a {item.name} key read as that {item.name}, as no items file is given: "
        f"{items / item.frame.height:.0%} of the {item.name} nodes have triples, "
        f"{heads:.0%} of the heads are such keys"
    )
    return [Notice(path.name, message, items), without]


def _known(rows: pl.DataFrame, table: NodeTable, path: Path, notices: list[Notice]) -> pl.DataFrame:
    """The triples whose entities are items or in the node table of the entities.

    Raises:
        InputError: there are none.
    """
    keys = table.frame[table.key].cast(pl.String).implode()
    ends = [pl.col(f"{end}_item").is_not_null() | pl.col(end).is_in(keys) for end in ("head", "tail")]
    known = rows.filter(*ends)
    if known.is_empty():
        expected, found = f"entities such as {shown(table.frame[table.key])}", shown(rows["tail"])
        raise InputError(
            f"no entity is in node table {table.name!r}", where=str(path), expected=expected, found=found
        )
    notices.append(
        Notice(path.name, f"triples with entities not in {table.name} dropped", rows.height - known.height)
    )
    return known


def predicate_names(predicates: pl.Series, full: bool = False) -> dict[str, str]:
    """The name of each predicate: its last part where that is unique, else all of it."""
    unique = predicates.unique(maintain_order=True).to_list()
    last = {predicate: re.split(r"[./#]", predicate.rstrip("./#"))[-1] or predicate for predicate in unique}
    count = Counter(last.values())
    return {
        predicate: last[predicate] if count[last[predicate]] == 1 and not full else predicate for predicate in unique
    }


def _resolved(triples: pl.DataFrame, entities: pl.DataFrame, item: str, where: str) -> pl.DataFrame:
    """The triples with ``head_item`` and ``tail_item``, null where the entity is no item.

    Raises:
        InputError: no triple is about an item.
    """
    for end in ("head", "tail"):
        items = entities.select(pl.col("entity").alias(end), pl.col("item").alias(f"{end}_item")).unique()
        triples = triples.join(items, on=end, how="left", maintain_order="left")
    if triples["head_item"].null_count() == triples["tail_item"].null_count() == triples.height:
        expected = f"heads or tails such as {shown(entities['entity'])}, the entity of a {item}"
        found = ", ".join(shown(triples[end]) for end in _COLUMNS)
        raise InputError("no triple is about an item", where=where, expected=expected, found=found)
    return triples


def _by_table(rows: pl.DataFrame, names: dict[str, str]) -> Iterator[tuple[str, tuple[str, str], pl.DataFrame]]:
    """Name, types of head and tail, and rows of each table; of a predicate in the order of ``_SUFFIXES``."""
    for (predicate,), of_predicate in rows.group_by("relation", maintain_order=True):
        is_first = True
        for ends, suffix in _SUFFIXES.items():
            kinds = zip(("head", "tail"), ends, strict=True)
            part = of_predicate.filter(pl.col(f"{end}_item").is_null() == (kind == "entity") for end, kind in kinds)
            if part.height:
                yield names[str(predicate)] + ("" if is_first else suffix), ends, part
                is_first = False


def _table(
    name: str,
    ends: tuple[str, str],
    rows: pl.DataFrame,
    item: NodeTable,
    entity: NodeTable,
    computed: TimeValue | None,
) -> LinkTable:
    """The link table of triples whose heads are all items or all entities, and so are their tails."""
    source, target = (item if kind == "item" else entity for kind in ends)
    columns = [source.key, target.key] if source.key != target.key else ["head", "tail"]
    values = [f"{end}_item" if kind == "item" else end for end, kind in zip(("head", "tail"), ends, strict=True)]
    keys = [
        pl.col(value).cast(table.frame[table.key].dtype).alias(to)
        for value, table, to in zip(values, (source, target), columns, strict=True)
    ]
    frame = rows.select(keys).unique(maintain_order=True)
    return LinkTable(
        name, frame, source.name, columns[0], source.key, target.name, columns[1], target.key, computed=computed
    )


def read_recbole_triples(kg: Path, link: Path, items: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame, list[Notice]]:
    """Triples and the entities of items, as ``with_triples`` takes them, from RecBole's ``.kg`` and ``.link``."""
    triples = parse(read_text(kg), kg, "\t")
    triples = triples.rename(lambda name: name.split(":")[0].removesuffix("_id"))
    triples = pl.DataFrame([refuse_missing(column(triples, end, kg.name), kg.name) for end in _COLUMNS])
    headers = triples["relation"] == "relation_id:token"  # concatenated files repeat their header
    notices = [Notice(kg.name, "header rows inside the file dropped", int(headers.sum()))]
    links = parse(read_text(link), link, "\t").rename(lambda name: name.split(":")[0].removesuffix("_id"))
    links = pl.DataFrame([refuse_missing(column(links, name, link.name), link.name) for name in ("item", "entity")])
    links = links.with_columns(as_keys(links["item"]))
    known = links.filter(pl.col("item").is_in(items.implode()))
    notices.append(Notice(link.name, "links of items without a row dropped", links.height - known.height))
    return triples.filter(~headers), known, [n for n in notices if n.count]


def with_mkr_triples(tables: Tables, folder: Path) -> Tables:
    """The tables with the film triples of the MKR repository.

    Links, movie → entity: ``genre``, ``writer``, ``language``, ``director``, ``country``, ``star``, ``rating``; and
    the same ``_of_entity`` for the films that no row of the id file names.

    Args:
        tables: of MovieLens 1M, with its original movie ids.
        folder: with ``kg.txt`` (head, predicate, tail) and ``item_index2entity_id.txt`` (movie, entity).
    """
    path, ids = folder / "kg.txt", folder / "item_index2entity_id.txt"
    triples = parse(read_text(path), path, "\t", header=_COLUMNS)
    entities = parse(read_text(ids), ids, "\t", header=["item", "entity"])
    for frame, file in ((triples, path), (entities, ids)):
        for name in frame.columns:
            refuse_missing(frame[name], str(file))
    movies = tables.nodes[tables.item]
    item = as_keys(entities["item"], str(ids))
    known = item.cast(pl.String).is_in(movies.frame[movies.key].cast(pl.String).implode())
    if not known.all():
        found = f"{shown(item.filter(~known))}; {(~known).sum():,} rows in all"
        raise InputError("unknown movie", where=str(ids), expected="movie ids of movies.dat", found=found)
    return with_triples(tables, triples, entities.with_columns(item), path)
