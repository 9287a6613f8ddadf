"""Numbers, keywords and texts of The Movie Database for the films of another data set.

Votes, popularity and revenue are of 2017, long after MovieLens' ratings; the audit reports such columns if they are
used. Descriptions were written by people who knew how a film was received.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl

from relrank.errors import InputError
from relrank.tables.files import column, read_table
from relrank.tables.notices import Notice
from relrank.tables.tables import Tables, TextTable

NUMBERS = ("budget", "revenue", "runtime", "vote_count", "vote_average", "popularity")
"""Columns added to the item's node table; a budget, revenue or runtime of 0 is unknown."""

KINDS = ("overview", "tagline")
"""Columns added as texts."""


def with_tmdb(tables: Tables, folder: Path, join: str) -> Tables:
    """Add TMDB's columns to the films, and the texts of ``KINDS``.

    Columns: ``NUMBERS`` and ``keywords`` (a list). A film without a row in TMDB has no values and texts. A film that
    the data set lists twice has them twice.

    Args:
        tables: whose item has a node table with whole-number keys.
        folder: with ``tmdb_5000_movies.csv`` and the join file.
        join: file with columns ``movie_id`` and ``tmdb_id``, which is empty for films that are not in TMDB.

    Raises:
        InputError: a file or column is missing, or no film matches.
    """
    films = tables.nodes[tables.item]
    path = folder / "tmdb_5000_movies.csv"
    rows = read_table(path, as_text=("keywords", *KINDS))
    for name in ("id", "keywords", *NUMBERS, *KINDS):
        column(rows, name, str(path))
    pairs = read_table(folder / join, as_text=())
    ids = [column(pairs, name, str(folder / join)) for name in ("movie_id", "tmdb_id")]
    pairs = pl.DataFrame(ids).drop_nulls().unique(maintain_order=True)
    own = pairs.filter(pl.col("movie_id").is_in(films.frame[films.key].implode()))
    joined = own.join(rows.select("id", "keywords", *NUMBERS, *KINDS), left_on="tmdb_id", right_on="id")
    if joined.is_empty() or not joined["movie_id"].is_unique().all():
        raise InputError(
            "TMDB does not fit the films",
            where=f"{folder / join} with {path.name}",
            expected="every movie_id once, some with a tmdb_id that is an id there",
            found=f"{len(joined):,} films found, {joined['movie_id'].n_unique():,} different",
        )
    counted = {
        "films that are no row of the data set dropped": len(pairs) - len(own),
        "films whose tmdb_id is no id there: without values": len(own) - len(joined),
        "films that share a row of TMDB with another, as the same film listed twice: both have its values": int(
            joined["tmdb_id"].is_duplicated().sum()
        ),
        f"films without a row of TMDB, of {len(films.frame):,}: without values": len(films.frame) - len(joined),
    }
    notices = tuple(Notice(join, message, n) for message, n in counted.items() if n)
    values = joined.select(
        "movie_id",
        *(pl.when(pl.col(name) != 0).then(pl.col(name)).alias(name) for name in NUMBERS[:3]),
        "vote_count",
        pl.when(pl.col("vote_count") > 0).then(pl.col("vote_average")).alias("vote_average"),
        "popularity",
        _names(joined["keywords"], path),
    )
    frame = films.frame.join(values, left_on=films.key, right_on="movie_id", how="left", maintain_order="left")
    texts = [
        joined.select(key="movie_id", kind=pl.lit(kind), text=pl.col(kind).str.strip_chars().replace("", None))
        for kind in KINDS
    ]
    sorted_texts = pl.concat(texts).drop_nulls().sort("key", "kind", maintain_order=True)
    nodes = {**tables.nodes, tables.item: replace(films, frame=frame)}
    return replace(
        tables, nodes=nodes, texts=TextTable(tables.item, sorted_texts), notices=(*tables.notices, *notices)
    )


def _names(cells: pl.Series, path: Path) -> pl.Series:
    """Names in cells such as ``[{"id": 1463, "name": "culture clash"}]``, as lists; an empty list is missing."""
    try:
        entries = cells.str.json_decode(pl.List(pl.Struct({"id": pl.Int64, "name": pl.String})))
    except pl.exceptions.PolarsError as error:
        found = str(error).splitlines()[0][:200]
        where = f"{path}, column {cells.name!r}"
        raise InputError("not readable as JSON", where=where, expected="lists of names", found=found) from None
    names = entries.list.eval(pl.element().struct.field("name"))
    return (
        names.to_frame().select(pl.when(names.list.len() > 0).then(pl.col(cells.name)).alias(cells.name)).to_series()
    )
