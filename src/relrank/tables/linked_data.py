"""Data sets of LinkedDatasets: published parts, and the DBpedia features of every item."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import polars as pl

from relrank.errors import InputError
from relrank.tables.dataset_formats import read_number_lists, to_interactions
from relrank.tables.files import as_keys, parse, read_text
from relrank.tables.missing import refuse_missing, shown
from relrank.tables.notices import Notice
from relrank.tables.tables import LinkTable, NodeTable, Tables


def linked_data(folder: Path, name: str, item: str) -> Tables:
    """A data set of LinkedDatasets, with its published parts.

    Links: ``features`` (item to feature), the numbers of its DBpedia features; their predicates are not published.
    Node table: the items of ``mappingLinkedData.tsv``, also those without interactions, with the DBpedia resource
    and, as title, its name; of an item with several resources the first is kept, and the features of all.

    Args:
        folder: with ``trainingset.tsv`` and ``testset.tsv`` (user, item, rating), ``map.tsv`` (item, feature, feature
            …) and ``mappingLinkedData.tsv`` (item, resource).
        name: of the data set.
        item: node type of the items.
    """
    files = {"train": "trainingset.tsv", "test": "testset.tsv"}
    given = {part: _ratings(folder / file) for part, file in files.items()}
    interactions = pl.concat(given.values())
    items, notices = _items(folder / "mappingLinkedData.tsv", interactions["item"])
    rows = read_number_lists(folder / "map.tsv", "\t", ("item_id", "feature"))
    features = rows.unique(maintain_order=True)
    if repeated := rows.height - features.height:
        notices.append(Notice("map.tsv", "repeated (item, feature) rows dropped", repeated))
    known = features.join(items, on="item_id", how="semi", maintain_order="left")
    if unknown := features.height - known.height:
        notices.append(Notice("map.tsv", "features of items that mappingLinkedData.tsv lacks dropped", unknown))
    return Tables(
        name=name,
        user="user",
        item=item,
        interactions=interactions,
        nodes={item: NodeTable(item, items, "item_id", "title")},
        links={"features": LinkTable("features", known, item, "item_id", "item_id", "feature", "feature")},
        given=given,
        notices=tuple(notices),
    )


def _ratings(path: Path) -> pl.DataFrame:
    rows = parse(read_text(path), path, "\t", header=["user_id", "item_id", "rating"])
    return to_interactions(rows, path.name)


def _items(path: Path, used: pl.Series) -> tuple[pl.DataFrame, list[Notice]]:
    """Item, title and resource, a row per item.

    Raises:
        InputError: an item with interactions has no resource.
    """
    rows = parse(read_text(path), path, "\t", header=["item_id", "resource"])
    rows = rows.with_columns(as_keys(refuse_missing(rows["item_id"], path.name)))
    first = rows.unique("item_id", keep="first", maintain_order=True)
    missing = used.filter(~used.cast(pl.String).is_in(first["item_id"].cast(pl.String).implode()))
    if len(missing):
        raise InputError(
            "item without a resource",
            where=str(path),
            expected="a line for every item of trainingset.tsv and testset.tsv",
            found=f"none for {shown(missing)}; {missing.n_unique():,} such items",
        )
    names = [unquote(resource.rsplit("/resource/", 1)[-1]).replace("_", " ") for resource in first["resource"]]
    again = rows.height - first.height
    notices = [Notice(path.name, "further resources of an item dropped, the first kept", again)] if again else []
    return first.select("item_id", pl.Series("title", names), "resource"), notices
