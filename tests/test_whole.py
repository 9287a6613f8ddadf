import pytest

from relrank.whole import whole


def fail_half_way(path):
    with whole(path) as temporary:
        temporary.write_text("half of the sec")
        raise RuntimeError


def test_a_failed_write_leaves_what_was_there(tmp_path):
    path = tmp_path / "new folder" / "file"
    with whole(path) as temporary:
        temporary.write_text("first")
        assert not path.exists()
    assert path.read_text() == "first"
    with pytest.raises(RuntimeError):
        fail_half_way(path)
    assert path.read_text() == "first"
