"""``docs/performance.md`` and its plots, from the figures in ``docs/performance.json``. Nothing is measured here.

What was tried stands in ``docs/performance-notes.md``, by hand: a section ``## <task>`` is put under that task's
table, so that writing the page again loses none of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from relrank.io.atomic import atomic_write
from speed.frame import TASKS, Row, Target, shown
from speed.plots import bars, curves

INTRODUCTION = """# Performance

What a user waits for, beside what they would use instead and what the machine can do. Written by
`RELRANK_DATA=… python benchmarks/speed/run.py` (`make bench`); what was tried is kept in `performance-notes.md`.
Each peer runs in a process and an environment of its own, relrank before and after all of them; times are medians.
**×** is a time over relrank's: above 1, relrank is faster. **MB** is the most memory that the whole process held,
interpreter and libraries included. **Of limit** is the share of the machine's own speed that was reached, where the
work has one."""
MANY = 100_000_000
"""Interactions that a machine with 24 GB shall train."""
LIMITS = {
    "copy_gb_s": ("memory to memory, read and written", "GB/s"),
    "gather_small_gb_s": ("256-byte rows at random from 18 MB", "GB/s"),
    "gather_large_gb_s": ("256-byte rows at random from 1 GB", "GB/s"),
    "sgemm_gflop_s": ("float32 product 2,048 × 2,048", "GFLOP/s"),
}


def write(folder: Path) -> None:
    """The page and its plots, from what lies in the folder.

    Raises:
        ValueError: the notes have a section on what is no task.
    """
    report = json.loads((folder / "performance.json").read_text(encoding="utf-8"))
    notes_at, growth_at = folder / "performance-notes.md", folder / "performance-growth.json"
    notes = sections(notes_at.read_text(encoding="utf-8")) if notes_at.is_file() else {}
    growth = json.loads(growth_at.read_text(encoding="utf-8")) if growth_at.is_file() else None
    files = {"performance.md": page(report, notes, growth), "performance.svg": bars(rows_of(report))}
    if growth:
        files["performance-growth.svg"] = curves(growth["rows"])
    for name, text in files.items():
        with atomic_write(folder / name) as part:
            part.write_text(text, encoding="utf-8")


def rows_of(report: dict[str, Any]) -> list[Row]:
    """All rows, task by task."""
    return [Row.of_json(row) for task in report["tasks"].values() for row in task["rows"]]


def sections(text: str) -> dict[str, str]:
    """What stands under each ``## name``; what comes before the first is for whoever writes the notes."""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        if line.startswith("## "):
            name = line[3:].strip()
            found[name] = []
        elif name is not None:
            found[name].append(line)
    return {name: "\n".join(lines).strip() for name, lines in found.items()}


def page(report: dict[str, Any], notes: dict[str, str], growth: dict[str, Any] | None = None) -> str:
    """The page as Markdown.

    Args:
        report: of ``performance.json``.
        notes: of ``sections``.
        growth: of ``performance-growth.json``.

    Raises:
        ValueError: notes on what is no task.
    """
    if unknown := set(notes) - {*TASKS, "growth"}:
        raise ValueError(f"performance-notes.md has sections of no task: {', '.join(sorted(unknown))}")
    return "\n".join(_lines(report, notes, growth)).rstrip() + "\n"


def _lines(report: dict[str, Any], notes: dict[str, str], growth: dict[str, Any] | None) -> Iterator[str]:
    rows = rows_of(report)
    runs = [task["run"] for task in report["tasks"].values()]
    yield INTRODUCTION
    if any(run["quick"] for run in runs):
        quick = [f"`{name}`" for name, task in report["tasks"].items() if task["run"]["quick"]]
        yield ""
        yield f"**Of a quick run, with few repeats, so rough: {', '.join(quick)}.**"
    yield ""
    by_run: dict[str, list[str]] = {}
    for name, task in report["tasks"].items():
        by_run.setdefault(measured(task["run"]), []).append(name)
    for told, names in by_run.items():
        yield f"- {told}" + (f" Of {', '.join(f'`{name}`' for name in names)}." if len(by_run) > 1 else "")
    peers = {f"{row.who.partition(',')[0]} {row.version}" for row in rows if row.version and "relrank" not in row.who}
    if peers:
        yield f"- Peers: {', '.join(sorted(peers))}."
    if lacking := [f"`{name}`" for name in TASKS if name not in report["tasks"]]:
        yield f"- Not run: {', '.join(lacking)}; what was promised of these is not below."
    yield ""
    promised = [(row, row.target) for row in (*rows, _of_growth(growth)) if row.target is not None]
    if promised:
        met = sum(target.met for _, target in promised)
        unknown = sum(target.found is None for _, target in promised)
        rest = f", {unknown} not measured" if unknown else ""
        yield f"## Targets: {met} of {len(promised)} met{rest}"
        yield ""
        yield "| task | data | who | target | found | |"
        yield "|---|---|---|---|---|---|"
        for row, target in promised:
            value = "–" if target.found is None else figure(target.found)
            words = " | ".join(escaped(word) for word in (row.task, row.data, row.who, target.text, value))
            yield f"| {words} | {verdict(target)} |"
        yield ""
    if any(row.ratio for row in rows):
        yield "![How many times as long as relrank everybody takes](performance.svg)"
        yield ""
    yield "## What the machine can do"
    yield ""
    yield "Measured in the run that it is held against, on all cores; in brackets the largest of the repeats over the"
    yield "smallest, less 1."
    yield ""
    by_limits: dict[str, list[str]] = {}
    for name, task in report["tasks"].items():
        by_limits.setdefault(json.dumps(task["run"]["roofline"]), []).append(name)
    yield "| | " + " | ".join(", ".join(names) for names in by_limits.values()) + " |"
    yield "|---" * (1 + len(by_limits)) + "|"
    for key, (text, unit) in LIMITS.items():
        found = [json.loads(limits) for limits in by_limits]
        yield f"| {text} | " + " | ".join(f"{f[key]:.0f} {unit} ({f['spread'][key]:.0%})" for f in found) + " |"
    for name, task in report["tasks"].items():
        yield ""
        yield f"## {name}"
        yield ""
        yield task["about"]
        yield ""
        mine = [Row.of_json(row) for row in task["rows"]]
        limited = any(row.fraction is not None for row in mine)
        for data in dict.fromkeys(row.data for row in mine):
            yield f"| {data} | time | × | MB | " + ("of limit | " * limited) + "|"
            yield "|---|---|---|---|" + "---|" * limited + "---|"
            for row in mine:
                if row.data == data:
                    yield f"| {' | '.join(cells(row, limited))} |"
            yield ""
        if name in notes:
            yield "**What was tried.** " + notes[name]
    if growth:
        yield ""
        yield from _growth(growth, notes.get("growth"))


def measured(run: dict[str, Any]) -> str:
    """When, where and with what."""
    machine = run["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:g} GB"
    commit = f", commit {run['commit']}" if run.get("commit") else ""
    return f"{run['date']}{commit}: {where}, {versions}."


def cells(row: Row, limited: bool) -> list[str]:
    """One row of a task's table."""
    said = [row.note] if row.note else []
    if row.target is not None:
        found = "" if row.target.met or row.target.found is None else f": {figure(row.target.found)}"
        said.append(f"{row.target.text}: {verdict(row.target)}{found}")
    if row.seconds is None:
        said[:1] = [row.note if row.note.startswith("not ") else f"not measured: {row.note}"]
    return [
        escaped(row.who),
        "–" if row.seconds is None else shown(row.seconds),
        "–" if row.ratio is None else f"{row.ratio:.3g}",
        "–" if row.peak_mb is None else f"{row.peak_mb:,.0f}",
        *(["–" if row.fraction is None else f"{row.fraction:.0%}"] if limited else []),
        escaped("; ".join(said)),
    ]


def escaped(text: str) -> str:
    """For a cell of a table in Markdown."""
    return text.replace("|", "\\|")


def verdict(target: Target) -> str:
    """Met, not measured, or by how much it was missed."""
    if target.found is None:
        return "**not measured**"
    return "met" if target.met else f"**missed by {target.missed_by:.0%}**"


def figure(value: float) -> str:
    """Three digits, from a thousand all before the point."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _of_growth(growth: dict[str, Any] | None) -> Row:
    """What was promised of a hundred million interactions."""
    sizes = [] if growth is None else [row for row in growth["rows"] if row["interactions"] >= MANY]
    peak = max((row["peak_mb"] * 2**20 / 1e9 for row in sizes), default=None)
    data = f"{MANY:,} interactions, peak memory in GB"
    return Row("growth", data, "relrank", None, target=Target("at most 20 GB", peak, 20, at_least=False))


def _growth(growth: dict[str, Any], note: str | None) -> Iterator[str]:
    yield "## growth"
    yield ""
    yield "Generated interactions, one size after another, `python benchmarks/speed/growth.py`."
    yield ""
    by_run: dict[str, list[str]] = {}
    for row in growth["rows"]:
        # rows without a record of their own are of the one that all rows shared
        by_run.setdefault(measured(row.get("run") or growth), []).append(f"{row['interactions']:,}")
    for run, sizes in by_run.items():
        yield f"- {run}" + (f" Of {' and '.join(sizes)}." if len(by_run) > 1 else "")
    yield ""
    yield "| interactions | users × items | graph | step | epoch, estimated | peak MB |"
    yield "|---|---|---|---|---|---|"
    for row in growth["rows"]:
        yield (
            f"| {row['interactions']:,} | {row['users']:,} × {row['items']:,} | {shown(row['seconds_graph'])} | "
            f"{shown(row['seconds_step'])} | {shown(row['seconds_epoch_estimated'])} | {row['peak_mb']:,.0f} |"
        )
    yield ""
    yield "![Time and memory over the number of interactions](performance-growth.svg)"
    if note:
        yield ""
        yield "**What was tried.** " + note
