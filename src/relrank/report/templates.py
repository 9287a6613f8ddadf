"""The templates of this folder: one way to read them, for pages in HTML and in Markdown."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Environment


def template_environment(*, escape_html: bool) -> Environment:
    """An environment without filters of ours, in which a name that is missing is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("relrank.report", ""),
        autoescape=escape_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=not escape_html,
        bytecode_cache=_compiled(escape_html),
    )


@cache
def _compiled(escape_html: bool) -> BytecodeCache:
    """A cache of compiled templates for this process: compiling takes three times as long as writing a page.

    Escaping is compiled into them.
    """
    del escape_html
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
