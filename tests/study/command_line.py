"""The command line inside the test's own process."""

from pathlib import Path

import pytest

from relrank.cli.app import main


def relrank(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], at: Path, *words: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command that runs in a folder."""
    monkeypatch.chdir(at)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["relrank", *words])
    with pytest.raises(SystemExit) as end:
        main()
    out, err = capsys.readouterr()
    return int(end.value.code or 0), out, err
