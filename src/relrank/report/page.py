"""The report: one HTML file without external resources, which can be opened offline and mailed."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING

from relrank.io.atomic import atomic_write, write_text
from relrank.report import formatting
from relrank.report.view import build_view
from relrank.study.result import StudyResult, arm_titles_of, titles_of
from relrank.study.verdicts import agrees

if TYPE_CHECKING:
    from jinja2 import BytecodeCache


def write_report(result: StudyResult, path: Path | str) -> Path:
    """Write a study as one self-contained HTML page.

    Args:
        result: a finished study.
        path: the file to write, usually ``report.html``; its folder is created. The file is written atomically.

    Returns:
        ``path``.

    Raises:
        InputError: the study lacks a field that the page shows.
    """
    path = Path(path)
    page = render(result)
    with atomic_write(path) as temporary:
        write_text(temporary, page)
    return path


@cache
def _compiled() -> BytecodeCache:
    """A cache of compiled templates for this process: compiling takes three times as long as writing a page."""
    from jinja2 import BytecodeCache
    from jinja2.bccache import Bucket

    class MemoryCache(BytecodeCache):
        def __init__(self) -> None:
            self.code: dict[str, bytes] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            if bucket.key in self.code:
                bucket.bytecode_from_string(self.code[bucket.key])

        def dump_bytecode(self, bucket: Bucket) -> None:
            self.code[bucket.key] = bucket.bytecode_to_string()

    return MemoryCache()


def render(result: StudyResult) -> str:
    """The page as text; all values of the study are escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("relrank.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_compiled(),
    )
    # by default with the decimals of the study's metric
    environment.filters["number"] = lambda value, decimals=result.decimals: formatting.number(value, decimals)
    environment.filters["signed"] = lambda value, decimals=result.decimals: formatting.signed(value, decimals)
    environment.globals["interval"] = partial(formatting.interval, decimals=result.decimals)
    for write in (
        formatting.count,
        formatting.amount,
        formatting.extra,
        formatting.percent,
        formatting.p_value,
        formatting.typeset,
        formatting.metric_name,
        formatting.listed,
    ):
        environment.filters[write.__name__] = write
    titles, arm_titles = titles_of(result.card), arm_titles_of(result.card)
    environment.filters["titled"] = lambda name: titles.get(name, name)
    environment.filters["arm_titled"] = lambda name: arm_titles.get(name, name)
    environment.globals["agrees"] = agrees
    environment.tests["known"] = formatting.is_finite
    return environment.get_template("page.html.j2").render(build_view(result))
