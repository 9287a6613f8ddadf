"""A proposal on disk: the study file, and copies of tables that a study file cannot read as they are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from relrank.discovery.folder import Folder
from relrank.discovery.proposal import Finding, Proposal
from relrank.io.atomic import atomic_write


def write_study(proposal: Proposal, folder: Folder, out: Path) -> list[Path]:
    """Write a study file, and the tables that it needs beside those of the folder in ``STEM-tables/``.

    Args:
        proposal: for the tables of the folder.
        folder: the tables.
        out: the study file; what is there is replaced.

    Returns:
        The copies that were written.
    """
    base, copies = out.parent.resolve(), out.parent / f"{out.stem}-tables"
    files, reading, written = {}, {}, []
    for name in sorted(set(_tables_of(proposal.config))):
        source = folder.sources.get(name)
        if source is not None and source.direct:
            files[name] = _relative(source.path, folder.path)
            reading[name] = source.reading
            continue
        copies.mkdir(parents=True, exist_ok=True)
        safe = re.sub(r"[^\w.-]+", "-", name)
        path = copies / f"{safe}.parquet"
        frame = proposal.derived[name] if name in proposal.derived else folder.frames[name]
        with atomic_write(path) as part:
            frame.write_parquet(part)
        files[name] = _relative(path, folder.path)
        written.append(path)
    data = {"path": _relative(folder.path, base), **proposal.config["data"]}
    config = {**proposal.config, "name": study_name(folder.path), "data": data}
    text = replace(proposal, config=config).to_toml(files, reading)
    with atomic_write(out) as part:
        part.write_text(text, encoding="utf-8")
    return written


def study_name(folder: Path) -> str:
    """A name for a study of a folder."""
    return re.sub(r"[^\w-]+", "-", folder.resolve().name).strip("-") or "study"


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path.resolve(), start.resolve())).as_posix()


def _tables_of(config: dict[str, Any]) -> Iterator[str]:
    """The names of the tables that a configuration reads."""
    for key, value in config.items():
        if key == "file":
            yield value
        elif isinstance(value, dict):
            yield from _tables_of(value)


def without_relation(proposal: Proposal, name: str, finding: Finding) -> Proposal:
    """The proposal without a relation, those behind it, and what only they read."""
    config = {**proposal.config, "data": dict(proposal.config["data"])}
    relations = dict(config["relations"])
    gone = [name]
    while gone:
        removed = relations.pop(gone.pop(), None)
        if removed is None:
            continue
        ends = {removed.get("target")} - _targets(relations, config["data"].get("links", {}))
        gone += [n for n, r in relations.items() if r.get("node") in ends]
    config["relations"] = relations
    tables = {r["table"] for r in relations.values() if r["kind"] == "link"}
    if "links" in config["data"]:
        config["data"]["links"] = {n: link for n, link in config["data"]["links"].items() if n in tables}
    if not any(r["kind"] == "texts" or "texts" in r for r in relations.values()):
        config["data"].pop("texts", None)
    if not config["data"].get("links"):
        config["data"].pop("links", None)
    if not relations:
        del config["relations"]
    findings = [f for f in proposal.findings if not (f.kind == "relation" and f.message.startswith(f"{name}: "))]
    return replace(proposal, config=config, findings=[*findings, finding])


def _targets(relations: dict[str, Any], links: dict[str, Any]) -> set[str | None]:
    of_links = {
        links[r["table"]]["target"] for r in relations.values() if r["kind"] == "link" and r["table"] in links
    }
    return {r.get("target") for r in relations.values()} | of_links
