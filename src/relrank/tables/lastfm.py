"""Last.FM as published for HetRec 2011: listened artists, tags that users gave, friends."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from relrank.tables.dataset_formats import to_interactions
from relrank.tables.files import as_keys, column, parse, read_text
from relrank.tables.missing import refuse_missing
from relrank.tables.notices import Notice
from relrank.tables.tables import MAYBE_BY, LinkTable, NodeTable, Tables


def hetrec_lastfm(folder: Path) -> Tables:
    """Last.FM of HetRec 2011: 1,892 users, 17,632 artists, and how often each user listened to an artist.

    Links: ``tagged`` (artist to tag, a row per user who gave it, ``by`` that user); ``tag_counts`` (artist to tag,
    with the number of users as weight), the edges of all users, which show held-out pairs; ``friends`` (user to user,
    each pair in both directions, as published).

    The rating is the listening count. Interactions have no times, so those of the tags are not read: a relation with
    times needs interactions that can be cut at the same moment. ``tags.dat`` is latin-1, ``artists.dat`` UTF-8.

    Args:
        folder: with ``user_artists.dat``, ``artists.dat``, ``tags.dat``, ``user_taggedartists.dat`` and
            ``user_friends.dat``.
    """
    listened = _table(folder / "user_artists.dat").rename(
        {"userID": "user_id", "artistID": "item_id", "weight": "rating"}, strict=False
    )
    interactions = to_interactions(listened, "user_artists.dat")
    users = interactions.select(user_id=pl.col("user").unique().sort())
    artists = _keyed(folder / "artists.dat", {"id": "artist_id"}).select("artist_id", "name", "url")
    tags = _keyed(folder / "tags.dat", {"tagID": "tag_id"}, "latin-1").select("tag_id", name="tagValue")
    made = _keyed(
        folder / "user_taggedartists.dat", {"artistID": "artist_id", "tagID": "tag_id", "userID": "user_id"}
    ).select("artist_id", "tag_id", "user_id")
    friends = _keyed(folder / "user_friends.dat", {"userID": "user_id", "friendID": "friend_id"})
    given = made.join(artists, on="artist_id", how="semi", maintain_order="left")
    notices = []
    if dropped := made.height - given.height:
        notices.append(Notice("user_taggedartists.dat", "tags of artists that nobody listened to dropped", dropped))
    counts = given.group_by("artist_id", "tag_id", maintain_order=True).agg(
        pl.col("user_id").n_unique().cast(pl.Float64).alias("users"), pl.col("user_id").alias(f"{MAYBE_BY}user_id")
    )
    ends = ("artist", "artist_id", "artist_id", "tag", "tag_id", "tag_id")
    people = ("user", "user_id", "user_id", "user", "friend_id", "user_id")
    return Tables(
        name="hetrec-lastfm",
        user="user",
        item="artist",
        interactions=interactions,
        nodes={
            "user": NodeTable("user", users, "user_id"),
            "artist": NodeTable("artist", artists, "artist_id", "name"),
            "tag": NodeTable("tag", tags, "tag_id", "name"),
        },
        links={
            "tagged": LinkTable("tagged", given, *ends, by="user_id"),
            "tag_counts": LinkTable("tag_counts", counts, *ends, weight="users"),
            "friends": LinkTable("friends", friends.select("user_id", "friend_id"), *people),
        },
        notices=tuple(notices),
    )


def _table(path: Path, encoding: str = "utf-8") -> pl.DataFrame:
    """A file with a header and tabs, as text without quotation marks."""
    return parse(read_text(path, encoding), path, "\t")


def _keyed(path: Path, keys: dict[str, str], encoding: str = "utf-8") -> pl.DataFrame:
    """A table whose key columns are renamed, none of them missing."""
    frame = _table(path, encoding)
    columns = [
        as_keys(refuse_missing(column(frame, name, path.name), path.name)).alias(to) for name, to in keys.items()
    ]
    return frame.with_columns(columns)
