"""``rr.Study``: from data frames to the evidence, with the objects and files of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from relrank.arguments import checked
from relrank.errors import InputError
from relrank.frames import figures, views
from relrank.frames.folder import STUDY_FILE, files_hash, refuse_foreign, study_text, write_study
from relrank.frames.main_module import check_main_module
from relrank.frames.native import to_library
from relrank.frames.progress import Display, in_notebook, step_progress, study_progress
from relrank.frames.proposing import merged, propose
from relrank.frames.sources import WHERE, Columns, Sources
from relrank.io.atomic import named
from relrank.report import answer, write_report
from relrank.study import budget
from relrank.study.config import StudyConfig, check_accepted, read_study
from relrank.study.engines.engine import SequentialEngine
from relrank.study.engines.process_engine import ProcessEngine
from relrank.study.folder import study_folder
from relrank.study.leaks import is_accepted, leaks_of, refuse_leaks
from relrank.study.prepare import StudyData, prepare
from relrank.study.prepare import smoke as shrink
from relrank.study.run import run_study
from relrank.study.winner import save_winner
from relrank.tables.config import check

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from relrank.discovery import Finding
    from relrank.graph.graph import Graph
    from relrank.runs.fitted_run import FittedRun
    from relrank.study.engines.engine import Engine
    from relrank.study.result import StudyResult


class Study:
    """A study of data frames.

    Frames are those of pandas, polars, Arrow or any library that narwhals knows; results are frames of the library of
    ``interactions`` (polars for libraries without frames of their own). The frames are written as Parquet into
    ``out/frames`` beside a ``study.toml``, and the study runs as ``relrank study out/study.toml`` would: finished
    cells are reused, also by the command line, and changed frames run again what depends on them. Frames and settings
    are copied: who edits them later makes a new study.

        study = rr.Study(purchases, user="customer", item="sku", time="bought_at", nodes={"product": products})
        study.run()
        study.verdicts

    Args:
        interactions: a row per interaction.
        user: column with the users' keys.
        item: column with the items' keys.
        time: column with times; "row" if rows are in chronological order.
        rating: column with a number.
        nodes: frames (or ``rr.Nodes``) with a row per node, by node type. The table of the items is the one named
            like the column ``item``, or else the one with a column of that name; likewise of the users.
        links: ``(frame, source_column, target_column)`` or ``rr.Links``, by name.
        texts: a frame with the items' column and one named "text", ``(frame, key, text)``, or ``rr.Texts``.
        relations: settings by name, as in a study file. By default ``init`` proposes them before the study runs.
        features: of nodes, likewise.
        weights: of interactions, as ``[interactions]`` in a study file.
        protocol: as in a study file, or the name of a split. By default that of the proposal; without one the last
            interaction of each user is held out, or a random one where there are no times.
        models: names, or settings as in a study file; of one model without a list.
        study: settings as in ``[study]`` of a study file, such as ``{"metric": "ndcg@10"}``.
        valid: frame of validation rows with the columns of ``interactions``, for ``protocol="given"``.
        test: likewise, of test rows.
        duplicates: policy for a (user, item) that occurs twice: "error", "first", "last", "max", "keep".
        unknown: policy for keys that are not in the node table: "error" or "drop".
        missing: policy for rows without a key, number or time: "error" or "drop".
        time_unit: of numeric times, if their range does not say it.
        na_values: words that are missing values.
        name: of the study.
        title: heading of the report.
        description: a sentence or two under it.
        out: folder of the study; ``runs/NAME`` by default.

    Raises:
        InputError: a frame, column or setting is wrong.
    """

    @checked("rr.Study")
    def __init__(
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
        protocol: str | Mapping[str, Any] | None = None,
        models: str | Mapping[str, Any] | Iterable[str | Mapping[str, Any]] | None = None,
        study: Mapping[str, Any] | None = None,
        valid: Any = None,
        test: Any = None,
        duplicates: str | None = None,
        unknown: str | None = None,
        missing: str | None = None,
        time_unit: str | None = None,
        na_values: Sequence[str] | None = None,
        name: str | None = None,
        title: str | None = "",
        description: str | None = "",
        out: Path | str | None = None,
    ) -> None:
        columns = Columns(user, item, time, rating, duplicates, unknown, missing, time_unit)
        self._columns = columns
        parts = {part: rows for part, rows in (("valid", valid), ("test", test)) if rows is not None}
        self._sources = Sources.of(interactions, columns, nodes, links, texts, parts, na_values)
        given = self._sources.data
        models = [models] if isinstance(models, str | Mapping) else models
        folder = None if out is None else _new_or_folder(Path(out))
        raw: dict[str, Any] = {
            "name": name or _study_name(f"{given['user']}-{given['item']}" if folder is None else folder.name),
            "title": title,
            "description": description,
            "data": given,
            "protocol": _protocol(protocol, time, test is not None),
            "interactions": weights or {},
            "relations": dict(relations or {}),
            "features": features or {},
            "models": None if models is None else [{"name": m} if isinstance(m, str) else m for m in models],
            "study": study or {},
        }
        self._raw = deepcopy(raw)  # whoever edits the settings that were given does not edit the study
        self._protocol_is_default = protocol is None and test is None
        self._needs_proposal = relations is None
        self._findings: list[Finding] = []
        self._comments: dict[str, str] = {}
        config = self._config()
        self.folder = Path("runs") / config.name if folder is None else folder
        self._prepared: tuple[StudyConfig, bool, StudyData] | None = None
        self._written = ""
        self._done: tuple[StudyConfig, StudyResult, FittedRun, Path] | None = None

    # what is studied

    @property
    def config(self) -> StudyConfig:
        """The study's settings, checked.

        Raises:
            InputError: a setting is wrong.
        """
        self._settle()
        return self._config()

    @property
    def relations(self) -> dict[str, Any]:
        """Settings of the relations by name; entries may be added, changed and deleted."""
        relations: dict[str, Any] = self._raw["relations"]
        return relations

    @property
    def data(self) -> StudyData:
        """Tables, splits, graphs and the audit's findings.

        Raises:
            InputError: data or settings are wrong.
        """
        return self._prepare(quiet=True)

    @property
    def graph(self) -> Graph:
        """The graph of the first split, with all relations."""
        return self.data.split_contexts[0].graph

    def init(self) -> Self:
        """Look at the frames, and add the relations, links, texts, filters and split that ``relrank init`` proposes.

        What was stated stays as it is. ``run``, ``audit`` and the others do this by themselves if the study was made
        without ``relations``.

        Returns:
            Itself; ``findings`` says what was found, and a notebook shows it.

        Raises:
            InputError: the frames fit no study.
        """
        proposal = propose(self._sources, self._columns)
        sections, derived = merged(proposal, self._raw)
        self._raw |= {
            name: value for name, value in sections.items() if name != "protocol" or self._protocol_is_default
        }
        self._sources.tables |= derived
        self._findings, self._comments, self._needs_proposal = proposal.findings, proposal.comments, False
        return self

    @property
    def findings(self) -> Any:
        """What ``init`` found and left out, and why, as a frame: ``kind``, ``where``, ``message``, ``count``."""
        rows = [{name: getattr(f, name) for name in views.FINDINGS} for f in self._findings]
        return self._native(pl.DataFrame(rows, schema=views.FINDINGS))

    @checked("rr.Study.audit")
    def audit(self, quiet: bool = False) -> Any:
        """Check data and split for leaks before anything is fitted.

        Args:
            quiet: show no progress.

        Returns:
            A frame, leaks first: ``level`` ("leak", "warning" or "ok"), ``check``, ``finding``, ``count``,
            ``names`` of relations and features concerned, ``remedy``, ``accepted``.

        Raises:
            InputError: data or settings are wrong.
        """
        data, accepted = self._prepare(quiet), self.config.study.accept_leaks
        rows = [
            {
                "level": finding.level,
                "check": finding.check,
                "finding": finding.message,
                "count": finding.count,
                "names": ", ".join(finding.names),
                "remedy": finding.remedy,
                "accepted": is_accepted(finding, accepted),
            }
            for level in ("leak", "warning", "ok")
            for finding in data.findings
            if finding.level == level
        ]
        return self._native(pl.DataFrame(rows))

    # running it

    @checked("rr.Study.run")
    def run(self, jobs: int = 1, fast: bool = False, smoke: bool = False, quiet: bool = False) -> StudyResult:
        """Fit every model on every arm, judge the relations, write the report and save the best model.

        An interrupted run resumes, and a finished one is loaded.

        Args:
            jobs: cells that run at once, each in a process of its own. In a script this needs
                ``if __name__ == "__main__":`` around what it does, since each process imports the script.
            fast: the first split and closed forms only; a later run without it goes on from there.
            smoke: a test run with few users and trials, in a folder of its own; its figures mean nothing.
            quiet: show no progress.

        Returns:
            The result; see ``verdicts``, ``plan``, ``leaderboard`` and ``effects`` for its frames.

        Raises:
            LeakError: the audit found a leak that ``study={"accept_leaks": [...]}`` does not name.
            InputError: data or settings are wrong, the folder belongs to another study or is in use, or a fast run
                would replace the result of a larger one.
        """
        engine = self._engine(jobs)
        config, folder, left_out = self.config, self.folder, None
        check_accepted(config, WHERE)
        if fast:
            config, left_out = budget.fast(config)
        if smoke:
            config, folder = shrink(config), folder.with_name(f"{folder.name}-smoke")
        if fast:
            budget.refuse_smaller(config, folder)
        with self._own_folder(), ExitStack() as stack:
            data = self._prepare(quiet, smoke)
            if left_out is not None:
                contexts = tuple(c for c in data.split_contexts if c.seed in config.study.seeds)
                data = replace(data, split_contexts=contexts, findings=(*data.findings, left_out))
            refuse_leaks(leaks_of(data.findings), config.study.accept_leaks)
            stack.enter_context(study_folder(folder, config, smoke))
            with engine as running, study_progress(quiet, config.titles) as callback:
                result = run_study(config, data, folder, callback, running)
            write_report(result, folder / "report.html")
            if smoke:
                Display(quiet).note("a smoke run: its figures, verdicts and plan mean nothing")
            with step_progress("fitting the best model", quiet) as progress:
                winner = save_winner(config, data, folder, lambda text: progress(text, 0, None))
        self._done = self.config, result, winner, folder
        return result

    @property
    def result(self) -> StudyResult:
        """The result of ``run``.

        Raises:
            InputError: the study has not run, or its settings have changed since.
        """
        return self._finished()[1]

    @property
    def winner(self) -> FittedRun:
        """The best model on validation, fitted; ``winner.recommend`` and the service use it."""
        return self._finished()[2]

    # reading the result

    @property
    def answer(self) -> str:
        """What to build, and what is known about the other relations, in a sentence or two; a smoke run says so."""
        return answer(self.result)

    @property
    def plan(self) -> Any:
        """The order in which to build relations, as a frame.

        Columns: ``step``, ``relation``, ``title``, ``build`` (whether it is worth it), ``alternatives``, ``adds``
        with ``adds_low`` and ``adds_high``, ``total`` so far, ``share`` of what all relations bring, ``left`` (what
        the rest adds) likewise, ``rows`` and ``seconds``.
        """
        return self._native(views.plan(self.result))

    @property
    def verdicts(self) -> Any:
        """A frame with a row per model and relation; see ``StudyResult``."""
        return self._native(self.result.verdicts)

    @property
    def leaderboard(self) -> Any:
        """A frame with a row per model and arm, best first; see ``StudyResult``."""
        return self._native(self.result.leaderboard)

    @property
    def effects(self) -> Any:
        """A frame with a row per paired difference; see ``StudyResult``."""
        return self._native(self.result.effects)

    @checked("rr.Study.plot_effects")
    def plot_effects(self, model: str | None = None) -> Figure:
        """What each relation adds, with intervals and the margin, as a Plotly figure; needs the extra "plot".

        Args:
            model: that judges; by default the one whose verdicts come first.
        """
        return figures.effects(self.result, model)

    def plot_plan(self) -> Figure:
        """The metric against the number of relations that are built, as a Plotly figure; needs the extra "plot"."""
        return figures.plan(self.result)

    @checked("rr.Study.plot_leaderboard")
    def plot_leaderboard(self, most: int = 20) -> Figure:
        """Models and arms by the study's metric, with intervals, as a Plotly figure; needs the extra "plot".

        Args:
            most: rows that are shown, the best ones.
        """
        return figures.leaderboard(self.result, most)

    @checked("rr.Study.report")
    def report(self, path: Path | str | None = None, height: int = 800) -> Path:
        """Write the report, one HTML page that opens offline; a notebook also shows it.

        Args:
            path: of the page; ``report.html`` in the study's folder by default.
            height: of the page in a notebook, in pixels.

        Returns:
            The path.
        """
        _, result, _, folder = self._finished()
        if path is None and not self._owns_folder():
            raise InputError(
                "folder has the files of another study",
                where=f"rr.Study.report, {folder}",
                expected="path=…, or run() again; better, a folder for each study: out=…",
                found="another study that has run there since",
            )
        page = write_report(result, folder / "report.html" if path is None else path)
        if in_notebook():
            from IPython.display import HTML, display

            display(HTML(views.framed(page.read_text(encoding="utf-8"), height)))  # type: ignore[no-untyped-call]
        return page

    def recommend(self, user: str | int | Sequence[str | int], k: int = 10) -> Any:
        """The best model's list for a user, or for the history of somebody who is not in the data.

        Args:
            user: a user's key; or a list of keys of items, oldest first.
            k: length of the list.

        Returns:
            A frame: ``place``, ``item``, ``title``, ``score``, ``fallback`` (whether the most popular items are
            listed for want of information).

        Raises:
            InputError: the user or an item is unknown, or the study has not run.
        """
        return self._native(views.recommended(self.winner, user, k))

    # writing it down

    def to_toml(self) -> str:
        """The study file that ``save`` writes."""
        self._settle()
        return study_text(self._plain(), self._comments)

    @checked("rr.Study.save")
    def save(self, folder: Path | str) -> Path:
        """Write the frames and the study file into a folder, from which ``relrank study FILE`` runs it.

        Returns:
            The study file.

        Raises:
            InputError: the folder holds other files of these names.
        """
        folder = named(Path(folder))
        folder.mkdir(parents=True, exist_ok=True)
        self._settle()
        write_study(folder, self._plain(), self._sources.tables, self._comments)
        return folder / STUDY_FILE

    # showing it

    def __repr__(self) -> str:
        return views.study_text(self._summary())

    def _repr_html_(self) -> str:
        return views.study_html(self._summary())

    def _summary(self) -> views.Summary:
        config = self._config()
        result = None if self._done is None or self._done[0] != config else self._done[1]
        tables = {name.removesuffix(".parquet"): frame.shape for name, frame in self._sources.tables.items()}
        sentence = "" if result is None else answer(result)
        found = [(f.kind, f.where, f.message) for f in self._findings]
        return views.Summary(config, self.folder, tables, result, sentence, found, self._needs_proposal)

    # inner workings

    def _settle(self) -> None:
        """Propose relations if the study was made without any."""
        if self._needs_proposal and not self.relations:
            self.init()

    def _plain(self) -> dict[str, Any]:
        """The study as plain values, without empty sections."""
        return {key: value for key, value in self._raw.items() if value not in (None, {}, "", [])}

    def _config(self) -> StudyConfig:
        return check(self._plain(), StudyConfig, WHERE)

    def _prepare(self, quiet: bool, smoke: bool = False) -> StudyData:
        """Write the frames, and read them as the command line would; once per configuration."""
        config = self.config
        if self._prepared is not None and self._prepared[:2] == (config, smoke) and self._owns_folder():
            return self._prepared[2]
        with self._own_folder():
            changed = write_study(self.folder, self._plain(), self._sources.tables, self._comments)
            for name in changed:
                Display(quiet).note(f"{name.removesuffix('.parquet')} changed since the last run")
            with step_progress("reading the frames", quiet) as progress:
                read = read_study(self.folder / STUDY_FILE)
                data = prepare(shrink(read) if smoke else read, self.folder, smoke, progress)
            self._written = files_hash(self.folder)
        self._prepared = config, smoke, data
        return data

    @contextmanager
    def _own_folder(self) -> Iterator[None]:
        """Lock the folder, in which no other study may replace the frames meanwhile."""
        refuse_foreign(self.folder)
        with study_folder(self.folder, self.config):
            yield

    def _owns_folder(self) -> bool:
        """Whether the folder has this study's files, and not those that another one has written there since."""
        return self._written == files_hash(self.folder)

    def _engine(self, jobs: int) -> AbstractContextManager[Engine]:
        if jobs == 1:
            return nullcontext(SequentialEngine())
        check_main_module(jobs)
        return ProcessEngine(jobs)

    def _finished(self) -> tuple[StudyConfig, StudyResult, FittedRun, Path]:
        if self._done is None or self._done[0] != self.config:
            found = "it has not run" if self._done is None else "its settings have changed since it ran"
            raise InputError(
                "study without a result", where=f"rr.Study, {self.folder}", expected="run()", found=found
            )
        return self._done

    def _native(self, frame: pl.DataFrame) -> Any:
        return to_library(frame, self._sources.library)


def _new_or_folder(path: Path) -> Path:
    """The path, if it can be a folder.

    Raises:
        InputError: it is a file, or no name.
    """
    if named(path).exists() and not path.is_dir():
        where, expected = f"{WHERE}, out", "a folder, or a new name"
        raise InputError("a file has this name", where=where, expected=expected, found=str(path))
    return path


def _study_name(text: str) -> str:
    """A text as the name of a study, which has no spaces."""
    return re.sub(r"[^\w.-]+", "-", text).strip(".") or "study"


def _protocol(protocol: str | Mapping[str, Any] | None, time: str | None, given: bool) -> Mapping[str, Any]:
    if isinstance(protocol, Mapping):
        return protocol
    default = "given" if given else "random-leave-one-out" if time is None else "last-leave-one-out"
    return {"split": protocol or default}
