"""``rr.Estimator``: one model with given hyper-parameters, used like an estimator of scikit-learn."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import numpy as np
import polars as pl
from pydantic import Field

import relrank
from relrank.arguments import Seed, checked
from relrank.errors import InputError, did_you_mean, one_of
from relrank.frames.folder import parquet_of, toml_values
from relrank.frames.native import to_library
from relrank.frames.progress import step_progress
from relrank.frames.sources import Columns, Sources
from relrank.graph.construction.build_graph import FeatureConfig, InteractionWeights, RelationConfig, build_graph
from relrank.graph.graph import Graph
from relrank.io import html
from relrank.models import MODELS, ClosedForm, Recommender, Trained
from relrank.models.core.base import override_config
from relrank.runs.batch import BatchRecommender
from relrank.runs.fitted_run import FORMAT, FittedRun, as_keys, as_list, check_k, is_key, item_titles, save_run
from relrank.serve.limits import Limits
from relrank.serve.served_model import ServedModel
from relrank.tables.config import ConfigSection, Name, check
from relrank.tables.protocols import split_without_test
from relrank.tables.readers import DataConfig, read_tables
from relrank.tables.split import Split
from relrank.tables.tables import Tables
from relrank.training import TrainConfig, fit

FIT = "rr.Estimator.fit"
"""Names the method in messages."""


class _Settings(ConfigSection):
    """What a graph is built from."""

    data: DataConfig
    relations: dict[Name, RelationConfig] = Field(default_factory=dict)
    features: dict[Name, FeatureConfig] = Field(default_factory=dict)
    interactions: InteractionWeights = InteractionWeights()


class Estimator:
    """One model, fitted on all rows of a frame: ``fit``, ``recommend``, ``similar``.

    Nothing is tuned and nothing is held out; ``rr.Study`` compares models and relations. The hyper-parameters of a
    study's best model are ``study.winner.note["config"]``.

        model = rr.Estimator("sparse-ease", l2=50.0).fit(purchases, user="customer", item="sku")
        model.recommend(["C-1042", "C-7"], k=10)
        model.similar(["SKU-7"], k=5)

    ``get_params`` and ``set_params`` are those of scikit-learn, so that ``sklearn.base.clone`` works.

    Args:
        model: key in ``rr.MODELS``.
        train: settings of ``rr.TrainConfig`` for a trained model, such as ``{"epochs": 20}``. It trains all epochs.
        seed: of initialization and training.
        hyperparameters: of the model's dataclass; the others have its defaults.

    Attributes:
        run_: the fitted model with its graph, after ``fit``.

    Raises:
        InputError: an unknown model or hyper-parameter.
    """

    run_: FittedRun
    _served: ServedModel | None

    @checked("rr.Estimator")
    def __init__(
        self,
        model: str = "sparse-ease",
        *,
        train: Mapping[str, Any] | None = None,
        seed: Seed = 0,
        **hyperparameters: Any,
    ) -> None:
        self.model, self.train, self.seed = model, train, seed
        self._hyperparameters: dict[str, Any] = _defaults(model)
        self._set(hyperparameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """All parameters by name, as ``scikit-learn`` asks for them."""
        del deep  # no parameter is an estimator
        return {"model": self.model, "train": self.train, "seed": self.seed, **self._hyperparameters}

    def set_params(self, **params: Any) -> Self:
        """Change parameters; another ``model`` resets the hyper-parameters to its defaults.

        Raises:
            InputError: an unknown model or hyper-parameter.
        """
        own = {name: params.pop(name, getattr(self, name)) for name in ("model", "train", "seed")}
        kept = self._hyperparameters if isinstance(own["model"], str) and own["model"] == self.model else {}
        self.__init__(**own, **{**kept, **params})  # type: ignore[misc]
        return self

    @checked("rr.Estimator.fit")
    def fit(
        self,
        interactions: Any,
        *,
        user: str,
        item: str,
        time: str | None = None,
        rating: str | None = None,
        nodes: Mapping[str, Any] | None = None,
        links: Mapping[str, Any] | None = None,
        texts: Any = None,
        relations: Mapping[str, Any] | None = None,
        features: Mapping[str, Any] | None = None,
        weights: Mapping[str, Any] | None = None,
        duplicates: str | None = None,
        unknown: str | None = None,
        missing: str | None = None,
        time_unit: str | None = None,
        na_values: Sequence[str] | None = None,
        quiet: bool = True,
    ) -> Self:
        """Fit the model on all rows; the arguments are those of ``rr.Study``, without relations by default.

        Args:
            interactions: a row per interaction.
            user: column with the users' keys.
            item: column with the items' keys.
            time: column with times, for models that read histories in order.
            rating: column with a number.
            nodes: frames by node type.
            links: links by name.
            texts: texts of items.
            relations: settings by name, as in a study file.
            features: settings by name.
            weights: of interactions.
            duplicates: policy for a (user, item) that occurs twice.
            unknown: policy for keys that are not in the node table.
            missing: policy for rows without a key, number or time.
            time_unit: of numeric times.
            na_values: words that are missing values.
            quiet: show no progress.

        Returns:
            Itself.

        Raises:
            InputError: data or settings are wrong, or do not fit the model.
        """
        columns = Columns(user, item, time, rating, duplicates, unknown, missing, time_unit)
        sources = Sources.of(interactions, columns, nodes, links, texts, na_values=na_values, where=FIT)
        settings = _settings(sources.data, relations, features, weights)
        with step_progress(f"fitting {self.model}", quiet) as progress:
            tables = _read(sources, settings.data)
            split = split_without_test(tables)
            graph = build_graph(tables, split, settings.relations, settings.features, settings.interactions, progress)
            model = self._fitted(graph, lambda epoch, of: progress("epochs", epoch, of))
        self._tables, self._library, self._served = tables, sources.library, None
        self.run_ = FittedRun(model, graph, split, item_titles(tables, split), self._metadata(model, graph, split))
        return self

    def recommend(self, users: Any, k: int = 10) -> Any:
        """The k best items that each user has not chosen.

        Args:
            users: a key, or a list or column of keys; or histories of people who are not in the data, as a list of
                lists of items' keys, oldest first, or such lists by name.
            k: length of the lists; shorter if fewer items are left.

        Returns:
            A frame of the library that the model was fitted on: ``user`` (for histories without names their
            position), ``place``, ``item``, ``title``, ``score``, ``fallback`` (whether the most popular items are
            listed for want of information).

        Raises:
            InputError: the model is not fitted, or a user or item is unknown.
        """
        run = self._run()
        check_k(k)
        if isinstance(users, Mapping) and users:
            return self._native(_of_histories(run, users, k))
        users = [] if isinstance(users, Mapping) else users  # nobody: no rows, the same columns
        asked = [users] if is_key(users) else as_list(users, "users")
        if (
            not is_key(users)
            and asked
            and all(isinstance(history, list | tuple | np.ndarray | pl.Series) for history in asked)
        ):
            return self._native(_of_histories(run, dict(enumerate(map(list, asked))), k))
        rows = run.split.users.rows(as_keys(asked, run.split.users.keys), "users")
        return self._native(BatchRecommender(run).table(rows.astype(np.int64), k))

    def similar(self, items: Any, k: int = 10) -> Any:
        """The k items most similar to each item.

        The similarity is the cosine of the items' vectors for models that have some; for others the score in the list
        of somebody whose history is this item alone.

        Args:
            items: a key, or a list or column of keys.
            k: length of the lists. An item of which the model knows nothing has none.

        Returns:
            A frame: ``item``, ``place``, ``similar``, ``title``, ``similarity``.

        Raises:
            InputError: the model is not fitted, or an item is unknown.
        """
        run = self._run()
        check_k(k)
        asked = [items] if is_key(items) else as_list(items, "items")
        keys = run.split.items
        rows = keys.rows(as_keys(asked, keys.keys), "items")
        if self._served is None:
            self._served = ServedModel(self.model, run, Limits(k=sys.maxsize, history=sys.maxsize), sys.maxsize)
        key = keys.keys.dtype
        schema = {"item": key, "place": pl.UInt32(), "similar": key, "similarity": pl.Float32()}
        frames = [pl.DataFrame(schema=schema)]
        for row in rows.tolist():
            near, similarity = self._served.similar(row, k)
            frames.append(
                pl.DataFrame(
                    {
                        "item": keys.at(np.full(len(near), row)),
                        "place": np.arange(1, len(near) + 1, dtype=np.uint32),
                        "similar": keys.at(near),
                        "similarity": similarity,
                    }
                )
            )
        frame = pl.concat(frames)
        titles = run.titles.rename({"key": "similar"})
        titled = frame.join(titles, on="similar", how="left", maintain_order="left")
        return self._native(titled.select("item", "place", "similar", "title", "similarity"))

    @checked("rr.Estimator.save")
    def save(self, folder: Path | str) -> Path:
        """Write the fitted model, for ``rr.load_run`` and ``relrank serve``.

        Raises:
            InputError: the model is not fitted, or the folder holds something else.
        """
        run = self._run()
        save_run(run.model, run.graph, run.split, self._tables, run.note, Path(folder))
        return Path(folder)

    def __repr__(self) -> str:
        defaults = _defaults(self.model)
        changed = [f"{name}={value!r}" for name, value in self._hyperparameters.items() if value != defaults[name]]
        changed += [f"train={self.train!r}"] if self.train else []
        changed += [f"seed={self.seed!r}"] if self.seed else []
        return f"Estimator({', '.join([repr(self.model), *changed])})"

    def _repr_html_(self) -> str:
        state = self.run_._repr_html_() if hasattr(self, "run_") else html.line("not fitted yet: fit()", faint=True)
        return html.block(repr(self), state)

    def _set(self, values: Mapping[str, Any]) -> None:
        override_config(MODELS[self.model].Config(), values, f"rr.Estimator({self.model!r})")
        self._hyperparameters |= values  # the same objects, as scikit-learn asks for

    def _run(self) -> FittedRun:
        if not hasattr(self, "run_"):
            raise InputError("model is not fitted", where=repr(self), expected="fit(…) before", found="no fit")
        return self.run_

    def _native(self, frame: pl.DataFrame) -> Any:
        return to_library(frame, self._library)

    def _fitted(self, graph: Graph, on_epoch: Any) -> Recommender:
        kind = MODELS[self.model]
        values = dict(self._hyperparameters)
        if "seed" in {field.name for field in fields(kind.Config)}:
            values["seed"] = self.seed
        config = override_config(kind.Config(), values, f"rr.Estimator({self.model!r})")
        kind.check(graph, config)
        if issubclass(kind, ClosedForm):
            return kind(graph, config).solve()
        assert issubclass(kind, Trained)
        start = TrainConfig(**kind.training_defaults(graph))
        train = override_config(start, self.train or {}, "rr.Estimator, train")
        train = override_config(train, {"every": train.epochs, "patience": 0}, "rr.Estimator, train")
        model = kind(graph, config)
        # validated once, after the last epoch, which therefore is the best
        fit(model, train, lambda: 0.0, self.seed, callback=lambda epoch, epochs, *_: on_epoch(epoch, epochs))
        return model

    def _metadata(self, model: Recommender, graph: Graph, split: Split) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "relrank": relrank.__version__,
            "model": self.model,
            "name": self.model,
            "arm": "all" if MODELS[self.model].relational and graph.relations else "interactions",
            "config": asdict(model.config),
            "seed": self.seed,
            "protocol": split.protocol,
            "fingerprint": split.fingerprint,
            "ordered": split.ordered,
            "successive": split.successive,
            "new_items_only": split.new_items_only,
            "unseen": split.unseen,
        }


def _defaults(model: str) -> dict[str, Any]:
    """The hyper-parameters of a model by name, except its seed."""
    if model not in MODELS:
        raise InputError(
            "unknown model",
            where="rr.Estimator",
            expected=one_of(MODELS),
            found=repr(model) + did_you_mean(model, MODELS),
        )
    config = MODELS[model].Config()
    return {field.name: getattr(config, field.name) for field in fields(config) if field.name != "seed"}


def _settings(
    data: Mapping[str, Any],
    relations: Mapping[str, Any] | None,
    features: Mapping[str, Any] | None,
    weights: Mapping[str, Any] | None,
) -> _Settings:
    raw = {"data": data, "relations": relations, "features": features, "interactions": weights}
    return check(toml_values(raw, FIT), _Settings, FIT)


def _read(sources: Sources, config: DataConfig) -> Tables:
    """The frames as a study reads them."""
    with TemporaryDirectory(prefix="relrank-") as folder:
        for name, frame in sources.tables.items():
            (Path(folder) / name).write_bytes(parquet_of(frame, name))
        try:
            return read_tables(config, folder)
        except InputError as error:
            where = error.where.replace(f"{folder}/", "").replace(folder, FIT)
            raise InputError(error.what, where=where, expected=error.expected, found=error.found) from None


def _of_histories(run: FittedRun, histories: Mapping[Any, Iterable[Any]], k: int) -> pl.DataFrame:
    """Lists for histories, under their names."""
    frames = []
    for name, history in histories.items():
        best = run.recommend_for(as_list(history, f"history {name!r}"), k)
        frames.append(best.select(pl.lit(name).alias("user"), pl.all()))
    return pl.concat(frames, how="vertical_relaxed")  # names of several types are texts
