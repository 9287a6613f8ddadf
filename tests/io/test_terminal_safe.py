"""What stands in a table or a request does not command the terminal that it is shown in."""

import pytest

from relrank.io.terminal_safe import terminal_safe


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Müller 中文 \u0301 🙂", "Müller 中文 \u0301 🙂"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b31mred", "\\x9b31mred"),
        ("two\r\nlines\t.", "two\\r\\nlines\\t."),
        ("abc\u202edcba", "abc\\u202edcba"),
        ("half \ud800", "half \\ud800"),
        ("\u2028", "\\u2028"),
        (None, "None"),
    ],
)
def test_commands_are_shown(text, shown):
    assert terminal_safe(text) == shown


def test_a_message_keeps_its_lines():
    assert terminal_safe("a\nb\x1b[2J\r", lines=True) == "a\nb\\x1b[2J\\r"
