"""Batch lists equal those of ``recommend``; they are computed in blocks and written atomically."""

import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import polars as pl
import pytest
import torch
from kept_runs import BOUGHT, N_ITEMS, N_USERS, kept

from relrank.errors import InputError
from relrank.evaluation import ranking
from relrank.runs import batch as batching
from relrank.runs.batch import batch
from relrank.runs.fitted_run import FittedRun


def look_away(what: str, done: int, total: int) -> None:
    pass


class Stopped(Exception):  # noqa: N818
    pass


class Asked:
    """Numbers of users that the model scored at once."""

    def __init__(self, run: FittedRun) -> None:
        self.sizes: list[int] = []
        score = run.model.score

        def counted(users: torch.Tensor) -> torch.Tensor:
            self.sizes.append(len(users))
            return score(users)

        run.model.score = counted  # type: ignore[method-assign]


CASES = [
    ("ease", "random-leave-one-out", {}),
    ("popularity", "random-leave-one-out", {}),  # many equal scores
    ("mf", "random-leave-one-out", {"dim": 8}),
    ("sparse-ease", "random-leave-one-out", {"neighbours": 3}),  # most items are not reached
    ("sparse-ease", "last-leave-one-out", {"neighbours": 3}),
    ("ease", "last-leave-one-out", {}),  # the whole history is heard
    ("sasrec", "last-leave-one-out", {"dim": 8, "window": 3, "init_scale": 0.5}),
    ("popularity", "last-leave-one-out", {}),
]


@pytest.mark.parametrize(("name", "split", "config"), CASES)
def test_the_lists_are_those_of_recommend(name: str, split: str, config: dict[str, object], tmp_path: Path) -> None:
    run = kept(tmp_path, name, split, **config)
    with mock.patch.object(batching, "VECTORS_AT_ONCE", 3):  # users at a time; two lists in a part
        n = batch(run, tmp_path / "out" / "lists.parquet", 5, look_away, rows=10)
    lists = pl.read_parquet(tmp_path / "out" / "lists.parquet")
    assert lists.columns == ["user", "place", "item", "title", "score", "fallback"]
    assert n == len(lists) == N_USERS * 5
    assert lists["user"].unique(maintain_order=True).to_list() == run.split.users.keys.to_list()
    for user in run.split.users.keys:
        expected, found = run.recommend(user, 5), lists.filter(pl.col("user") == user).drop("user")
        assert found.drop("score").equals(expected.drop("score")), (found, expected)
        assert found["score"].to_list() == pytest.approx(expected["score"].to_list(), rel=1e-5)


def test_equal_scores_and_short_lists(tmp_path: Path) -> None:
    """Popularity has ties in every full list; their order is that of ``recommend``."""
    run = kept(tmp_path, "popularity")
    batch(run, tmp_path / "lists.parquet", 50, look_away, rows=120)
    lists = pl.read_parquet(tmp_path / "lists.parquet")
    for number, user in enumerate(run.split.users.keys):
        found = lists.filter(pl.col("user") == user)
        assert len(found) == N_ITEMS - len(BOUGHT[number])
        assert found["score"].n_unique() < len(found)
        assert found["item"].to_list() == run.recommend(user, 50)["item"].to_list()


def test_memory_is_a_block_of_scores_and_a_part_of_lists(tmp_path: Path) -> None:
    run = kept(tmp_path, "ease")
    asked, frames = Asked(run), []
    concat = pl.concat

    def seen(parts: list[pl.DataFrame]) -> pl.DataFrame:
        frames.append(sum(map(len, parts)))
        return concat(parts)

    few = mock.patch.object(ranking, "SCORE_BYTES", 4 * N_ITEMS * 2)
    with few, mock.patch.object(batching.pl, "concat", seen):
        batch(run, tmp_path / "lists.parquet", 4, look_away, rows=20)
    assert max(asked.sizes) == 2
    assert sum(asked.sizes) == N_USERS
    assert max(frames) == 20
    assert len(frames) == 4


def test_a_stopped_run_leaves_no_result_and_resumes(tmp_path: Path) -> None:
    run, out = kept(tmp_path, "ease"), tmp_path / "lists.parquet"
    batch(run, tmp_path / "whole.parquet", 4, look_away, rows=20)
    out.write_text("an older result")

    def stop(what: str, done: int, total: int) -> None:
        if done > 10:
            raise Stopped

    with pytest.raises(Stopped):
        batch(run, out, 4, stop, rows=20)
    assert out.read_text() == "an older result"
    with pytest.raises(InputError, match="parts of another run"):
        batch(run, out, 3, look_away, rows=20)
    asked, told = Asked(run), []
    batch(run, out, 4, lambda what, done, total: told.append((done, total)), rows=20)
    assert sum(asked.sizes) == N_USERS - 10  # two parts of five users were there
    assert told[0] == (5, N_USERS)
    assert told[-1] == (N_USERS, N_USERS)
    assert pl.read_parquet(out).equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert sorted(f.name for f in tmp_path.iterdir()) == ["lists.parquet", "run", "whole.parquet"]


def test_parts_of_a_model_with_other_numbers_are_refused(tmp_path: Path) -> None:
    run, out = kept(tmp_path, "mf", dim=8), tmp_path / "lists.parquet"

    def stop(what: str, done: int, total: int) -> None:
        if done > 5:
            raise Stopped

    with pytest.raises(Stopped):
        batch(run, out, 4, stop, rows=20)
    run.model.init_weights(1)
    with pytest.raises(InputError, match="parts of another run"):
        batch(run, out, 4, look_away, rows=20)
    with pytest.raises(InputError, match="a folder has this name"):
        batch(run, tmp_path / "run", 4, look_away)


def test_the_same_command_resumes_whenever_it_was_killed(tmp_path: Path) -> None:
    """Before the metadata are written, before the first part, and while the parts are deleted."""
    run, out, parts = kept(tmp_path, "ease"), tmp_path / "lists.parquet", tmp_path / "lists.parquet.parts"
    batch(run, tmp_path / "whole.parquet", 4, look_away, rows=20)
    whole = pl.read_parquet(tmp_path / "whole.parquet")
    parts.mkdir()
    batch(run, out, 4, look_away, rows=20)
    assert pl.read_parquet(out).equals(whole)

    def stop(what: str, done: int, total: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        batch(run, out, 4, stop, rows=20)
    assert sorted(f.name for f in parts.iterdir()) == [".lock", "batch.json"]
    batch(run, out, 3, look_away, rows=20)  # no part was there, so nobody's was
    assert len(pl.read_parquet(out)) == 3 * N_USERS
    unlinked: list[Path] = []

    def killed(file: Path, missing_ok: bool = False) -> None:
        if file.parent == parts and file.suffix == ".parquet":
            if unlinked:
                raise Stopped
            unlinked.append(file)
        file.rename(tmp_path / "gone")

    with mock.patch.object(Path, "unlink", killed), pytest.raises(Stopped):
        batch(run, out, 4, look_away, rows=20)
    assert unlinked
    assert pl.read_parquet(out).equals(whole)
    batch(run, out, 4, look_away, rows=20)
    assert pl.read_parquet(out).equals(whole)
    assert not parts.exists()


def test_one_process_at_a_time_writes_a_file_and_a_linked_folder_of_parts_is_refused(tmp_path: Path) -> None:
    run, out, parts = kept(tmp_path, "ease"), tmp_path / "lists.parquet", tmp_path / "lists.parquet.parts"
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "000000000000.parquet").write_text("precious")
    parts.symlink_to(photos)
    with pytest.raises(InputError, match="link"):
        batch(run, out, 4, look_away)
    parts.unlink()
    holding = (
        "import sys, pathlib; from relrank.io.folder_lock import locked_folder\n"
        "with locked_folder(pathlib.Path(sys.argv[1])): input()"
    )
    other = subprocess.Popen([sys.executable, "-c", holding, parts], stdin=subprocess.PIPE)
    while not (parts / ".owner.json").exists():
        time.sleep(0.01)
    with pytest.raises(InputError, match=rf"folder is in use\n  where:    {out}[\s\S]*process {other.pid} of"):
        batch(run, out, 4, look_away)
    other.communicate(b"\n")
    batch(run, out, 4, look_away)
    assert (photos / "000000000000.parquet").read_text() == "precious"


def test_keys_keep_their_types(tmp_path: Path) -> None:
    batch(kept(tmp_path, "ease"), tmp_path / "lists.parquet", 2, look_away)
    schema = pl.read_parquet_schema(tmp_path / "lists.parquet")
    types = {
        "user": pl.String,
        "place": pl.UInt32,
        "item": pl.Int64,
        "title": pl.String,
        "score": pl.Float32,
        "fallback": pl.Boolean,
    }
    assert schema == types


def test_a_changed_part_is_computed_again(tmp_path: Path) -> None:
    """Parts of a killed run are complete; parts that were changed afterwards are not used."""
    run, out, parts = kept(tmp_path, "ease"), tmp_path / "lists.parquet", tmp_path / "lists.parquet.parts"
    batch(run, out, 5, look_away, rows=25)
    right = pl.read_parquet(out)

    def stopped(what: str, done: int, total: int) -> None:
        if done == total:
            raise Stopped

    with pytest.raises(Stopped):
        batch(run, out, 5, stopped, rows=25)
    files = sorted(parts.glob("*.parquet"))
    assert len(files) == 3
    pl.read_parquet(files[0]).with_columns(pl.col("item").reverse()).write_parquet(files[0])
    files[1].write_bytes(files[1].read_bytes()[:-40])
    files[2].unlink()
    files[2].mkdir()
    batch(run, out, 5, look_away, rows=25)
    assert pl.read_parquet(out).equals(right)
