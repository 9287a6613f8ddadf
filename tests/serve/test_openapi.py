"""Responses to random requests have the shape of the OpenAPI description, and none is a server error."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, given, settings

pytest.importorskip("fastapi", reason="needs the extra serve")
schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")
from questions import ITEMS, Question, application, ask, check, questions  # noqa: E402
from schemathesis import checks  # noqa: E402

APP = application()
SCHEMA = schemathesis.openapi.from_asgi("/openapi.json", APP)
ANSWERED: Counter[int] = Counter()
CHECKS = [
    checks.not_a_server_error,
    *(checks.CHECKS.get_one(name) for name in ("response_schema_conformance", "status_code_conformance")),
]


@pytest.mark.slow
@settings(max_examples=700, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(questions)
def test_any_question_gets_an_answer_or_is_refused(question):
    ANSWERED[check(APP, question)] += 1


@pytest.mark.slow
def test_the_questions_above_were_of_both_kinds():
    """Otherwise the test above would prove little."""
    if not ANSWERED:
        pytest.skip("goes with the test above")
    assert ANSWERED[200] > 60
    assert ANSWERED[422] > 100
    assert ANSWERED[404] > 30


@SCHEMA.parametrize()
@settings(max_examples=12, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
def test_the_description_is_exact(case):
    case.call_and_validate(checks=CHECKS)


def test_pitfall_an_answer_of_another_shape_would_be_found(monkeypatch):
    monkeypatch.setattr(type(APP.state.service), "users", lambda *_: {"users": [1.5]})
    with pytest.raises(ValueError, match="users"):
        check(APP, Question("GET", "/users"))
    monkeypatch.setattr(type(APP.state.service), "users", lambda *_: 1 / 0)
    with pytest.raises(AssertionError, match="500"):
        check(APP, Question("GET", "/users"))
    assert ask(APP, Question("GET", f"/similar/{ITEMS[0]}"))[0] == 200
