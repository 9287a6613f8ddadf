import pytest

from relrank.whole import whole, whole_folder


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


def write_half(folder):
    with whole_folder(folder) as part:
        (part / "one").write_text("half")
        raise RuntimeError


def test_a_folder_is_replaced_whole_and_a_failed_one_leaves_nothing(tmp_path):
    folder = tmp_path / "new" / "run"
    with pytest.raises(RuntimeError):
        write_half(folder)
    assert list(folder.parent.iterdir()) == []
    with whole_folder(folder) as part:
        (part / "one").write_text("first")
        (part / "old only").touch()
        assert not folder.exists()
    with pytest.raises(RuntimeError):
        write_half(folder)
    assert (folder / "one").read_text() == "first"
    left = folder.with_name(".run.part")  # of a killed write
    left.mkdir()
    (left / "stale").touch()
    with whole_folder(folder) as part:
        (part / "one").write_text("second")
    assert {f.name: f.read_text() for f in folder.iterdir()} == {"one": "second"}
    assert [f.name for f in folder.parent.iterdir()] == ["run"]
