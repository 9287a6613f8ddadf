"""Smaller and larger budgets of a study: the cheap part of its cells first, or further splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from relrank.errors import InputError
from relrank.models import MODELS
from relrank.study.config import ModelSection, StudyConfig, is_trained, trains_on_relations
from relrank.study.result import StudyResult
from relrank.tables.audit import Finding

THOROUGH_SPLITS = 10
THOROUGH_STARTS = 5
"""Splits, or initializations of trained models where all seeds have the same test rows, of a thorough study."""


def fast(config: StudyConfig) -> tuple[StudyConfig, Finding | None]:
    """The cheap part of a study: its first split, without trained models if a closed form judges the relations.

    Its cells are cells of the whole study, which reuses them.

    Returns:
        The smaller study, and a warning for its report; None if nothing was left out.
    """
    study = config.study
    kept = tuple(m for m in config.models if not is_trained(m))
    judges = [m for m in kept if m.kind in MODELS and MODELS[m.kind].relational] if config.relations else kept
    models = kept if judges and study.versus not in _names(config.models, kept) else config.models
    left_out = []
    if len(study.seeds) > 1:
        left_out.append(f"{len(study.seeds) - 1} of {len(study.seeds)} splits")
    left_out += _names(config.models, models)
    small = config.model_copy(update={"models": models, "study": study.model_copy(update={"seeds": study.seeds[:1]})})
    if not left_out:
        return config, None
    message = f"a fast study leaves out {', '.join(left_out)}: without --fast it goes on from its cells"
    return small, Finding("warning", "budget", message, len(left_out))


def refuse_smaller(config: StudyConfig, folder: Path) -> None:
    """Refuse to replace the result of a study by that of its cheap part.

    Raises:
        InputError: the result stored in ``folder`` has splits or models that the study lacks.
    """
    try:
        stored = StudyResult.load(folder)
    except InputError:  # none, or none that can be shown any more
        return
    seeds, models = set(stored.card["seeds"]), set(stored.leaderboard["model"])
    splits, others = seeds - set(config.study.seeds), sorted(models - {m.name for m in config.models})
    if splits or others:
        raise InputError(
            "a fast study would replace the result of a larger one",
            where=str(folder),
            found=", ".join([f"{len(seeds)} splits"] * bool(splits) + others),
            expected="another folder (--out), or the study without --fast",
        )


def thorough(config: StudyConfig) -> StudyConfig:
    """A study with further seeds, which reuses the cells of its own.

    Seeds are splits where the protocol draws test rows, else initializations of trained models that judge relations.

    Raises:
        InputError: further seeds would repeat the same results.
    """
    seeds, drawn = config.study.seeds, config.protocol.draws_test
    if not drawn and not (config.relations and trains_on_relations(config.models)):
        raise InputError(
            "further seeds would repeat the same results",
            where="relrank study --thorough",
            expected='drawn test rows, as with "random-leave-one-out", or a trained model that uses relations',
            found=f'split = "{config.protocol.split}" and closed forms',
        )
    wanted = THOROUGH_SPLITS if drawn else THOROUGH_STARTS
    unused = [seed for seed in range(len(seeds) + wanted) if seed not in seeds]
    more = unused[: max(wanted - len(seeds), 0)]
    return config.model_copy(update={"study": config.study.model_copy(update={"seeds": (*seeds, *more)})})


def _names(models: Sequence[ModelSection], without: Sequence[ModelSection]) -> list[str]:
    kept = {m.name for m in without}
    return [m.name for m in models if m.name not in kept]
