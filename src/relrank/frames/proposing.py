"""What ``relrank init`` would propose for the frames of a study, under the names that the user gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from relrank.discovery import Hints, Proposal, discover
from relrank.discovery.draft import PREPARED, free_name
from relrank.frames.sources import Columns, Sources

ENDING = ".parquet"


def propose(sources: Sources, columns: Columns) -> Proposal:
    """Propose a study of frames whose interactions, users and items are known.

    Raises:
        InputError: the frames fit no study.
    """
    tables = {name.removesuffix(ENDING): frame for name, frame in sources.tables.items()}
    data = sources.data
    hints = Hints(
        interactions=data["interactions"]["file"].removesuffix(ENDING),
        user=columns.user,
        item=columns.item,
        time=None if columns.time == "row" else columns.time,
        rating=columns.rating,
        item_node=data["item"],
        user_node=data["user"],
    )
    return discover(tables, hints)


def merged(proposal: Proposal, own: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, pl.DataFrame]]:
    """A study's sections with a proposal's; what the user stated goes first.

    Args:
        proposal: for the same frames.
        own: the study as plain values.

    Returns:
        The sections ``data``, ``protocol`` and ``relations``, and further frames by file name.
    """
    config = _with_types_of(proposal.config, own["data"])
    proposed, stated = config["data"], own["data"]
    rows = {**proposed["interactions"], **{k: v for k, v in stated["interactions"].items() if k != "file"}}
    data = {**proposed, **{k: v for k, v in stated.items() if k not in ("interactions", "nodes", "links")}}
    data["interactions"] = rows
    nodes, links = proposed.get("nodes", {}), proposed.get("links", {})
    for kind, node in stated.get("nodes", {}).items():
        found = nodes.get(kind, {})
        nodes = {**nodes, kind: {**found, **node, "file": found.get("file", node["file"])}}
    relations = config.get("relations", {})
    known = {_given(link["file"]): name for name, link in stated.get("links", {}).items()}
    replaced = {name: known[_given(link["file"])] for name, link in links.items() if _given(link["file"]) in known}
    links = {name: link for name, link in links.items() if name not in replaced} | stated.get("links", {})
    relations = {name: _of_table(relation, replaced) for name, relation in relations.items()}
    for name in stated.get("links", {}):
        if not any(r.get("table") == name for r in relations.values()):
            relations = {**relations, free_name(name, relations): {"kind": "link", "table": name}}
    data |= {section: value for section, value in (("nodes", nodes), ("links", links)) if value}
    _name_files(data)
    derived = {f"{name}{ENDING}": frame for name, frame in proposal.derived.items()}
    sections = {"data": data, "protocol": config["protocol"], "relations": {**relations, **own["relations"]}}
    return sections, derived


def _given(file: str) -> str:
    """The file of a frame that a proposal may have prepared."""
    return f"{file.removesuffix(ENDING).removesuffix(f'-{PREPARED}')}{ENDING}"


def _of_table(relation: dict[str, Any], replaced: Mapping[str, str]) -> dict[str, Any]:
    table = str(relation.get("table"))
    return {**relation, "table": replaced[table]} if table in replaced else relation


def _with_types_of(config: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A proposal whose node types have the user's names, recognized by their tables."""
    mine = {_given(node["file"]): kind for kind, node in own.get("nodes", {}).items()}
    nodes = config["data"].get("nodes", {})
    named = {kind: mine[_given(node["file"])] for kind, node in nodes.items() if _given(node["file"]) in mine}

    def renamed(section: Mapping[str, Any]) -> dict[str, Any]:
        ends = ("node", "source", "target", "user", "item")
        return {k: named.get(v, v) if k in ends and isinstance(v, str) else v for k, v in section.items()}

    data = renamed(config["data"])
    data |= {"nodes": {named.get(kind, kind): node for kind, node in nodes.items()}} if nodes else {}
    for section in ("links", "texts"):
        if section in data:
            texts = section == "texts"
            data[section] = renamed(data[section]) if texts else {n: renamed(e) for n, e in data[section].items()}
    relations = {name: renamed(relation) for name, relation in config.get("relations", {}).items()}
    return {**config, "data": data, "relations": relations}


def _name_files(data: Mapping[str, Any]) -> None:
    """Names of files in place of names of tables."""
    sections = [data["interactions"], *data.get("nodes", {}).values(), *data.get("links", {}).values()]
    for section in [*sections, *([data["texts"]] if "texts" in data else [])]:
        section["file"] = f"{section['file'].removesuffix(ENDING)}{ENDING}"
