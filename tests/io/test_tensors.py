import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from relrank.errors import InputError
from relrank.io.tensors import load_tensors, save_tensors, write_json


def test_tensors_and_note_come_back(tmp_path):
    tensors = {
        "weights": torch.tensor([[1.5, -torch.inf], [0.1, 1e-40]]),
        "transposed": torch.arange(6).view(2, 3).T,
        "step": torch.tensor(3.0),
        "half": torch.tensor([1.0], dtype=torch.bfloat16),
        "none": torch.empty(0, 4),
    }
    note = {"epoch": 3, "metric": 0.1 + 0.2, "name": "größer", "history": [[1, None]]}
    path = tmp_path / "new" / "folder" / "m.safetensors"
    save_tensors(path, tensors, note)
    found, said = load_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert said == note
    assert [p.name for p in path.parent.iterdir()] == ["m.safetensors"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    save_tensors(path, {"a": torch.ones(2)}, {})
    with pytest.raises(TypeError):
        save_tensors(path, {"a": torch.zeros(2)}, {"not": {1, 2}})
    assert load_tensors(path)[0]["a"].tolist() == [1, 1]
    write_json(tmp_path / "x.json", {"b": 1, "a": "é"})
    with pytest.raises(TypeError):
        write_json(tmp_path / "x.json", {1, 2})
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == {"a": "é", "b": 1}
    assert not list(tmp_path.glob("*.json.part"))


def test_missing_damaged_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(InputError, match="no such file"):
        load_tensors(path)
    save_tensors(path, {"a": torch.ones(100)}, {})
    whole = path.read_bytes()
    for broken in (whole[:-50], b"", b"PK\x03\x04 not tensors", struct.pack("<Q", 1 << 40)):
        path.write_bytes(broken)
        with pytest.raises(InputError, match=r"file is damaged[\s\S]*m\.safetensors"):
            load_tensors(path)
    for metadata in (None, {"format": "pt"}):
        save_file({"a": torch.ones(2)}, path, metadata=metadata)
        with pytest.raises(InputError, match="not a file of relrank"):
            load_tensors(path)
