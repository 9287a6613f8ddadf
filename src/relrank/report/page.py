"""The report: one HTML file without external resources, which can be opened offline and mailed."""

from __future__ import annotations

import base64
import hashlib
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from relrank.arguments import checked
from relrank.io.atomic import atomic_write, write_text
from relrank.report import formatting
from relrank.report.study_comparison import compare_studies
from relrank.report.table_data import table_data
from relrank.report.templates import template_environment
from relrank.report.view import build_view, check_fields
from relrank.study.number_format import duration
from relrank.study.result import StudyResult, arm_titles_of, titles_of
from relrank.study.verdicts import agrees

if TYPE_CHECKING:
    from jinja2 import Environment


@checked("rr.write_report")
def write_report(result: StudyResult, path: Path | str, refresh: int | None = None) -> Path:
    """Write a study as one self-contained HTML page.

    Args:
        result: a study; one that still runs, whose card has ``progress``, is marked as provisional.
        path: the file to write, usually ``report.html``; its folder is created. The file is written atomically.
        refresh: seconds after which an open page reloads itself, as long as the study runs.

    Returns:
        ``path``.

    Raises:
        InputError: the study lacks a field that the page shows.
    """
    return _write(render(result, refresh), path)


def write_comparison(a: StudyResult, b: StudyResult, path: Path | str, names: tuple[str, str] | None = None) -> Path:
    """Write two studies side by side as one self-contained HTML page.

    Args:
        a: a study.
        b: another one, of the same data and protocol or not: the page says what cannot be compared.
        path: the file to write, atomically; its folder is created.
        names: how the page calls them; by default by the names of the studies.

    Returns:
        ``path``.

    Raises:
        InputError: a study lacks a field that the page shows.
    """
    for result in (a, b):
        check_fields(result)
    view = compare_studies(a, b, names)
    return _write(_environment(a).get_template("compare.html.j2").render(view | {"refresh": None, **_script()}), path)


def _write(page: str, path: Path | str) -> Path:
    path = Path(path)
    with atomic_write(path) as temporary:
        write_text(temporary, page)
    return path


def render(result: StudyResult, refresh: int | None = None) -> str:
    """The page as text; all values of the study are escaped."""
    view = build_view(result)
    running = view["progress"] is not None
    view |= {"refresh": refresh if running else None, **_script()}
    return _environment(result).get_template("page.html.j2").render(view)


@cache
def _script() -> dict[str, str]:
    """The script, and its hash: the page's security policy allows no other."""
    from markupsafe import Markup

    script = files("relrank.report").joinpath("report.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    return {"script": Markup(script), "script_hash": base64.b64encode(digest).decode()}


def _environment(result: StudyResult) -> Environment:
    """Templates with number formats: by default the decimals of the study's metric, and its titles."""
    environment = template_environment(escape_html=True)
    environment.filters["number"] = lambda value, decimals=result.decimals: formatting.number(value, decimals)
    environment.filters["signed"] = lambda value, decimals=result.decimals: formatting.signed(value, decimals)
    environment.globals |= {
        "interval": partial(formatting.interval, decimals=result.decimals),
        "agrees": agrees,
        "table_data": table_data,
    }
    for write in (
        formatting.count,
        formatting.amount,
        duration,
        formatting.extra,
        formatting.of_base,
        formatting.percent,
        formatting.p_value,
        formatting.signed_percent,
        formatting.typeset,
        formatting.unbroken,
        formatting.metric_name,
        formatting.listed,
    ):
        environment.filters[write.__name__] = write
    titles, arm_titles = titles_of(result.card), arm_titles_of(result.card)
    environment.filters["titled"] = lambda name: titles.get(name, name)
    environment.filters["arm_titled"] = lambda name: arm_titles.get(name, name)
    environment.tests["known"] = formatting.is_finite
    return environment
