"""What is kept on disk: tensors as safetensors with JSON beside them, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from relrank.errors import InputError
from relrank.whole import whole

FORMAT = "relrank-tensors-1"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any]) -> None:
    """Write tensors and a JSON note as one file under a temporary name, then rename it.

    Args:
        path: final name.
        tensors: by name, any device.
        note: plain JSON.
    """
    on_cpu = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    with whole(path) as temporary:
        save_file(on_cpu, temporary, metadata={"format": FORMAT, "note": json.dumps(dict(note))})


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        InputError: no such file, a damaged one, or one of another program.
    """
    try:
        with safe_open(path, framework="pt") as file:
            note = file.metadata() or {}
            if note.get("format") != FORMAT:
                raise InputError(
                    "not a file of relrank",
                    where=str(path),
                    expected=f"format {FORMAT}",
                    found=repr(note.get("format")),
                )
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(note["note"])  # noqa: SIM118
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), expected="saved tensors", found="nothing") from None
    except SafetensorError as error:
        raise InputError("file is damaged", where=str(path), expected="safetensors", found=str(error)) from None


def write_json(path: Path, value: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True), encoding="utf-8")
