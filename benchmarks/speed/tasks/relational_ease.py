"""Relational EASE beside LAPACK's Cholesky inverse of the same size, and a drop-one study beside one of its cells.

``benchmarks/relational_ease.py`` says what is solved and how, and does it for more sizes. Here: four relations,
9,999 items; the study's cells at fixed hyper-parameters through the function that a study calls, 2,670 users ranked.
"""

from __future__ import annotations

from collections.abc import Iterator

from relational_ease import RELATIONS, bench_of, drop_one, relational_graph, versus_lapack, warm_up
from speed.environments import Skipped
from speed.frame import Context, Row, Target
from speed.peer import Call

SOLVE = "generated, 53,398 × 9,999, five relations"
STUDY = "generated, 53,398 × 9,999, four relations, 2,670 users ranked"
TASK = "relational_ease"
FITS = {
    "relrank, first fit": "Gram matrices included",
    "relrank, another fit": "Gram matrices kept from the first, as in a study",
}
WHOLE = "relrank, the whole study"
ARMS = 6
"""Interactions alone, all relations, and all without each of four."""


def promised(quick: bool) -> Iterator[Row]:
    """Of both fits and of the study."""
    del quick
    for who in FITS:
        yield Row(TASK, SOLVE, who, None, note="not measured", target=_of_fit(None))
    yield Row(TASK, STUDY, WHOLE, None, note="not measured", target=_of_study(None))


def _of_fit(found: float | None) -> Target:
    return Target("at most 1.3 × LAPACK's Cholesky inverse", found, 1.3, at_least=False)


def _of_study(found: float | None) -> Target:
    return Target(f"{ARMS} arms in at most 3 × one cell", found, 3.0, at_least=False)


def rows(context: Context) -> Iterator[Row]:
    """LAPACK, the model at first and again; one cell, the study."""
    answer = context.run_peer("relrank", TASK, None, rounds=1 if context.quick else 2)
    if isinstance(answer, Skipped):
        yield Row(TASK, SOLVE, "relrank", None, note=answer.why)
        return
    figures, limit = answer.figures, context.roofline.sgemm_gflop_s * 1e9
    inverse = 9_999**3
    first, again, lapack = figures["first_s"], figures["again_s"], figures["lapack_s"]
    for (who, note), seconds in zip(FITS.items(), (first, again), strict=True):
        target = _of_fit(seconds / lapack)
        yield Row(
            TASK, SOLVE, who, seconds, seconds / first, answer.peak_mb, inverse / seconds / limit, note, target,
            version=answer.version, figures=figures,
        )  # fmt: skip
    yield Row(
        TASK, SOLVE, "LAPACK, spotrf and spotri", lapack, lapack / first, None, inverse / lapack / limit,
        "the inverse alone, by turns in relrank's process",
    )  # fmt: skip
    one, study = figures["one_s"], figures["study_s"]
    yield Row(TASK, STUDY, "relrank, one cell", one, 1.0, version=answer.version)
    assert figures["arms"] == ARMS
    target = _of_study(study / one)
    yield Row(TASK, STUDY, WHOLE, study, study / one, target=target, version=answer.version)


def relrank(call: Call) -> list[float]:
    """Both parts, after everything was compiled on a small graph."""
    warm_up()
    graph = relational_graph()
    call.figures |= versus_lapack(graph, call.options["rounds"])
    call.figures |= drop_one(bench_of(graph, 2_670), RELATIONS[:4])
    return [call.figures["first_s"]]
