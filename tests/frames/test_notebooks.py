"""The notebooks of the docs run from the first cell to the last, in the kernel that a user has."""

import os
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
pytest.importorskip("ipykernel", reason="needs ipykernel")
pytest.importorskip("pandas", reason="needs pandas")
pytest.importorskip("plotly", reason='needs the extra "plot"')

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"
SOURCE = Path(__file__).parents[2] / "src"
MOST_BYTES = 20_000
FINISHED = {"frames-to-plan": "cells, ", "reading-a-verdict": "cells, ", "one-model": "similarity"}
"""By notebook, a text among its outputs."""


def executed(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def texts(notebook: Any) -> str:
    found = [output.get("data", {}) for output in outputs(notebook)]
    return "\n".join(str(data.get("text/html", "")) + str(data.get("text/plain", "")) for data in found)


def test_they_are_the_notebooks_of_the_docs():
    assert {path.stem for path in NOTEBOOKS.glob("*.ipynb")} == set(FINISHED)


@pytest.mark.parametrize("name", FINISHED)
def test_stored_without_outputs_and_valid(name):
    path = NOTEBOOKS / f"{name}.ipynb"
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert outputs(notebook) == []
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


SLOW = [pytest.param(name, marks=[] if name == "frames-to-plan" else [pytest.mark.slow]) for name in FINISHED]


@pytest.mark.parametrize("name", SLOW)
def test_it_runs(name, tmp_path, monkeypatch):
    if name == "one-model":
        pytest.importorskip("uvicorn", reason="needs the extra serve")
    notebook = executed(name, tmp_path, monkeypatch)
    assert FINISHED[name] in texts(notebook)
    streams = [o for o in outputs(notebook) if o.output_type == "stream" and o.name == "stderr"]
    assert [o.text for o in streams] == []  # progress is shown as HTML, and nothing warns
    if name == "frames-to-plan":
        assert "Build Driver" in "".join(o.text for o in outputs(notebook) if o.output_type == "stream")
        assert "<iframe srcdoc" in texts(notebook)
        assert "<progress" not in texts(notebook)  # every bar ends
    if name != "one-model":
        assert any("application/vnd.plotly.v1+json" in o.get("data", {}) for o in outputs(notebook))
