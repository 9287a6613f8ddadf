"""What ``relrank init`` finds: relations proposed of those expected, wrong keys, leaks named, seconds.

    python benchmarks/discovery.py [FOLDER] [--only NAME] [--show]

Shops are made (``discovery_shops.py``); public data sets are read from ``RELRANK_DATA`` if it is set.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from discovery_shops import SHOPS, Truth, words, write_shop
from relrank.discovery import Proposal, discover
from relrank.discovery.folder import read_folder
from relrank.discovery.verification import verified
from relrank.discovery.writing import write_study

PUBLIC = {
    "goodbooks-10k": Truth(
        ("ratings_v1", "user_id", "book_id", ""),
        frozenset(words("""
books.authors books.language_code books.original_publication_year text:books book_tags
""")),
        frozenset(
            {
                ("ratings_v1.book_id", "books.book_id"), ("book_tags.goodreads_book_id", "books.goodreads_book_id"),
                ("book_tags.tag_id", "tags.tag_id"), ("ratings_v1.user_id", ""),
                ("ratings_v2_users5pct.book_id", "books.book_id"),
            }
        ),
        frozenset(words("""
books.average_rating books.ratings_count books.work_ratings_count books.work_text_reviews_count
books.ratings_1 books.ratings_2 books.ratings_3 books.ratings_4 books.ratings_5
""")),
    ),
    "ml-100k": Truth(
        ("u.data", "column_1", "column_2", "column_4"),
        frozenset(words("""
u.item.flags u.item.column_3 u.user.column_2 u.user.column_3 u.user.column_4
""")),
        frozenset({("u.data.column_1", "u.user.column_1"), ("u.data.column_2", "u.item.column_1")}),
        frozenset(["u1.base", "u2.base", "ua.base"]),
    ),
    "hetrec-lastfm-2k": Truth(
        ("user_artists", "userID", "artistID", ""),
        frozenset(["user_friends", "user_taggedartists"]),
        frozenset(
            {
                ("user_artists.artistID", "artists.id"), ("user_taggedartists.artistID", "artists.id"),
                ("user_taggedartists.tagID", "tags.tagID"), ("user_friends.userID", ""),
                ("user_friends.friendID", ""), ("user_taggedartists.userID", ""), ("user_artists.userID", ""),
            }
        ),
        frozenset(),
    ),
    "ml-1m": Truth(
        ("ratings_uir", "user_id", "movie_id", ""),
        frozenset(["users.column_2", "users.column_3", "users.column_4", "movies.column_3"]),
        frozenset({("ratings_uir.user_id", "users.column_1"), ("ratings_uir.movie_id", "movies.column_1")}),
        frozenset(),
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Score:
    """How a proposal compares with the truth."""

    missing: frozenset[str]
    extra: frozenset[str]
    wrong: frozenset[str]
    unnamed: frozenset[str]


def origins(config: dict[str, Any]) -> frozenset[str]:
    """Where each proposed relation comes from, as ``Truth.relations`` says it."""
    data = config["data"]
    tables = {name: plain(node["file"]) for name, node in data.get("nodes", {}).items()}
    result = set()
    for name, relation in config.get("relations", {}).items():
        match relation["kind"]:
            case "link":
                result.add(plain(data["links"][relation["table"]]["file"]))
            case "texts":
                result.add(plain(data["texts"]["file"]))
            case "text":
                result.add(f"text:{tables[relation['node']]}")
            case _:
                column = "flags" if name == "flags" else relation["column"]
                if "-prepared" in data["nodes"][relation["node"]]["file"]:
                    column = column.removesuffix("_year")  # made of a date
                result.add(f"{tables[relation['node']]}.{column}")
    return frozenset(result)


def plain(file: str) -> str:
    """The table that a prepared or joined one was made of."""
    return file.removesuffix("-prepared").partition("-with-")[0]


def joins(config: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Every join of a configuration: column and key that it is matched with, "" for keys of interactions."""
    data = config["data"]
    nodes = {n: (plain(node["file"]), node["key"]) for n, node in data.get("nodes", {}).items()}
    rows = data["interactions"]

    def join(file: str, column: str, node: str, match: str | None = None) -> tuple[str, str]:
        table, key = nodes.get(node, ("", ""))
        return f"{plain(file)}.{column}", f"{table}.{match or key}" if table else ""

    if "-with-" not in rows["file"]:
        yield join(rows["file"], rows["user"], data["user"])
    yield join(rows["file"], rows["item"], data["item"])
    for link in data.get("links", {}).values():
        yield join(link["file"], link["source_column"], link["source"], link.get("source_match"))
        if link["target"] in nodes or link["target"] in (data["user"], data["item"]):
            yield join(link["file"], link["target_column"], link["target"], link.get("target_match"))
        if "by" in link:
            yield join(link["file"], link["by"], data["user"])
    if "texts" in data:
        yield join(data["texts"]["file"], data["texts"]["key"], data["item"])
    for relation in config.get("relations", {}).values():
        if relation["kind"] == "attribute" and relation.get("target") in nodes:
            yield join(nodes[relation["node"]][0], relation["column"], relation["target"])


def score(proposal: Proposal, truth: Truth) -> Score:
    """Compare a proposal with the truth."""
    found = origins(proposal.config)
    wrong = {
        f"{a} = {b or 'keys of the interactions'}" for a, b in joins(proposal.config) if (a, b) not in truth.keys
    }
    rows = proposal.config["data"]["interactions"]
    chosen = (plain(rows["file"]), rows["user"], rows["item"], rows.get("time", ""))
    if chosen != truth.interactions:
        wrong.add(f"interactions {chosen}")
    named = {f.where for f in proposal.findings if f.kind == "leak"}
    return Score(truth.relations - found, found - truth.relations, frozenset(wrong), frozenset(truth.leaks - named))


def measure(name: str, truth: Truth, folder: Path, out: Path, show: bool) -> None:
    """Propose, check as ``relrank init`` does, and print one row."""
    start = time.perf_counter()
    tables = read_folder(folder)
    proposal = discover(tables.frames, stated=tables.stated)

    def write(current: Proposal) -> Path:
        write_study(current, tables, out)
        return out

    proposal = verified(proposal, write)
    seconds = time.perf_counter() - start
    result, expected = score(proposal, truth), len(truth.relations)
    found = f"{expected - len(result.missing)} of {expected}"
    leaks = f"{len(truth.leaks) - len(result.unnamed)} of {len(truth.leaks)}"
    print(f"| {name} | {found} | {len(result.extra)} | {len(result.wrong)} | {leaks} | {seconds:.0f} |", flush=True)
    if show:
        for what in ("missing", "extra", "wrong", "unnamed"):
            for entry in sorted(getattr(result, what)):
                print(f"      {what}: {entry}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="where shops and study files are written")
    parser.add_argument("--only", help="names, separated by commas")
    parser.add_argument("--show", action="store_true", help="list what is missing, further and wrong")
    arguments = parser.parse_args()
    base = arguments.folder or Path(tempfile.mkdtemp())
    only = set(arguments.only.split(",")) if arguments.only else {*SHOPS, *PUBLIC}
    print("| data | expected relations | further | wrong keys | leaks named | seconds |\n|---|---|---|---|---|---|")
    for name in SHOPS:
        if name in only:
            truth = write_shop(name, base / name)
            measure(name, truth, base / name, base / f"{name}.toml", arguments.show)
    data = os.environ.get("RELRANK_DATA")
    for name, truth in PUBLIC.items():
        if data and name in only:
            measure(name, truth, Path(data) / name, base / f"{name}.toml", arguments.show)


if __name__ == "__main__":
    main()
