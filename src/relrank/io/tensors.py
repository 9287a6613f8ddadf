"""Tensors and JSON on disk, written atomically.

Tensors are stored as safetensors with JSON metadata and the sha256 of both, which is checked when the file is read.
They are read into memory and never mapped, so later changes to the file have no effect.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from relrank.errors import InputError
from relrank.io.atomic import atomic_write, write_text
from relrank.io.manifest import parse_json_object

FORMAT = "relrank-tensors-2"


def save_tensors(path: Path, tensors: Mapping[str, Tensor], note: Mapping[str, Any], durable: bool = True) -> None:
    """Write tensors and a JSON note as one file, atomically.

    Args:
        path: final name.
        tensors: by name, any device.
        note: plain JSON.
        durable: see ``atomic_write``.
    """
    on_cpu = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    text = json.dumps(dict(note))
    metadata = {"format": FORMAT, "note": text, "sha256": _sha256(on_cpu, text)}
    with atomic_write(path, durable) as temporary:
        save_file(on_cpu, temporary, metadata=metadata)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        InputError: the file is missing, damaged, or of another program.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise InputError("no such file", where=str(path), expected="saved tensors", found="nothing") from None
    except OSError as error:
        raise InputError("file cannot be read", where=str(path), expected="tensors", found=str(error)) from None
    tensors, metadata = _parsed(content, str(path))
    if _sha256(tensors, metadata["note"]) != metadata["sha256"]:
        raise InputError(
            "file is damaged",
            where=str(path),
            expected="the content that was written",
            found="another sha256",
        )
    return tensors, parse_json_object(metadata["note"].encode(), str(path))


def parse_safetensors(content: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a file whose content was already checked, as by ``ManifestReader``.

    Raises:
        InputError: the file is damaged, or of another program.
    """
    return _parsed(content, where)[0]


def _parsed(content: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        tensors = load(content)
        size = int.from_bytes(content[:8], "little")
        metadata: dict[str, str] = json.loads(content[8 : 8 + size]).get("__metadata__") or {}
    except (SafetensorError, ValueError, LookupError, RuntimeError) as error:
        raise InputError("file is damaged", where=where, expected="safetensors", found=str(error)) from None
    if metadata.get("format") != FORMAT or not {"note", "sha256"} <= metadata.keys():
        found = repr(metadata.get("format"))
        raise InputError("not a file of relrank", where=where, expected=f"format {FORMAT}", found=found)
    return tensors, metadata


def _sha256(tensors: Mapping[str, Tensor], note: str) -> str:
    """The digest of the names, types, shapes and numbers of tensors on the CPU, and of a note."""
    digest = hashlib.sha256(note.encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_json(path: Path, value: Any, durable: bool = True) -> None:
    """Write JSON, atomically."""
    with atomic_write(path, durable) as temporary:
        write_text(temporary, json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True))
