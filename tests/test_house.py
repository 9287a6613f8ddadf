"""What keeps the source readable, as far as a machine can say."""

import ast
from pathlib import Path

import pytest

import relrank

SOURCE = Path(relrank.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))
LONGEST_FUNCTION = 60
HAND_FORMATTED = 40


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_no_function_is_too_long(file):
    functions = (n for n in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(n, ast.FunctionDef))
    lines = {f.name: f.end_lineno - f.lineno + 1 for f in functions}
    assert {name: n for name, n in lines.items() if n > LONGEST_FUNCTION} == {}


def test_few_lines_are_formatted_by_hand():
    assert sum(file.read_text("utf-8").count("# fmt: skip") for file in FILES) < HAND_FORMATTED


def test_every_module_and_room_says_what_it_holds():
    assert [str(file) for file in FILES if not ast.get_docstring(ast.parse(file.read_text("utf-8")))] == []
