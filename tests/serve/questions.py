"""Random valid and invalid requests to the application, and a check of every response."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from hypothesis import strategies as st
from library import GENRES, ITEMS, USERS, constant, library

from relrank.serve import schemas
from relrank.serve.app import make_app
from relrank.serve.limits import Limits
from relrank.serve.service import Service

ANSWERS = {
    "runs": schemas.RunsResponse,
    "recommend": schemas.RecommendResponse,
    "similar": schemas.SimilarResponse,
    "explain": schemas.ExplainResponse,
    "items": schemas.ItemsResponse,
    "users": schemas.UsersResponse,
    "values": schemas.FilterValuesResponse,
    "history": schemas.HistoryResponse,
    "health": schemas.HealthResponse,
}
LIMITS = Limits(history=30, body=4000)


@dataclass(frozen=True)
class Question:
    """A request."""

    method: str
    path: str
    query: str = ""
    body: bytes = b""


def application() -> FastAPI:
    """An application with two runs, one of them with ties everywhere."""
    run = library("relational-ease", {"l2": 5.0})
    return make_app(Service({"one": run, "two": constant(run)}, LIMITS), page=Path("no page"))


def ask(app: FastAPI, question: Question) -> tuple[int, bytes]:
    """Status and body of a response, through ASGI, since an HTTP client would refuse to send some requests."""
    sent: list[Any] = []
    said = [{"type": "http.disconnect"}, {"type": "http.request", "body": question.body, "more_body": False}]

    async def receive() -> Any:
        return said.pop() if len(said) > 1 else said[0]

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": question.method,
        "path": question.path, "raw_path": quote(question.path, errors="replace").encode(), "root_path": "",
        "query_string": question.query.encode(), "headers": [(b"content-type", b"application/json")],
        "scheme": "http", "server": ("testserver", 80), "client": ("test", 1), "state": {},
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def check(app: FastAPI, question: Question) -> int:
    """Check that a response has the shape of its schema or of a client error. Returns its status."""
    status, body = ask(app, question)
    assert 200 <= status < 300 or 400 <= status < 500, (status, body)
    if question.method == "HEAD":
        assert body == b""
    elif status >= 400:
        schemas.ErrorResponse.model_validate_json(body)
    else:
        ANSWERS[question.path.split("/")[1]].model_validate_json(body)
    return status


text = st.text(max_size=12) | st.sampled_from(["", "/", "..", "%00", "\x00", "reader 1", "trial", "x" * 1200])
numbers = st.integers() | st.integers(-2, 60) | st.sampled_from([1000, 1001, 10**19, -(10**400)])
ids = st.sampled_from(ITEMS) | st.sampled_from(USERS) | text | numbers
scalars = st.none() | st.booleans() | numbers | st.floats() | text
anything = st.recursive(
    scalars, lambda x: st.lists(x, max_size=3) | st.dictionaries(text, x, max_size=3), max_leaves=5
)
runs = st.sampled_from([None, "one", "two"])
filters = st.fixed_dictionaries(
    {"relation": st.sampled_from(["has_genre", "wrote", "follows"]) | text, "value": st.sampled_from(GENRES) | ids}
)
weights = st.dictionaries(
    st.sampled_from(["has_genre", "wrote", "follows", "lives_in"]) | text, st.floats(0, 300) | st.floats(), max_size=3
)
right = {
    "history": st.lists(st.sampled_from(ITEMS[:20]), max_size=6), "user": st.sampled_from(USERS),
    "item": st.sampled_from(ITEMS[20:]), "k": st.integers(1, 60), "n": st.integers(1, 20),
    "offset": st.integers(0, 60), "exclude_seen": st.booleans(), "run": runs,
    "with": st.lists(st.sampled_from([{"relation": "wrote", "value": v} for v in (3, "4")]), max_size=2),
    "weights": st.dictionaries(st.sampled_from(["has_genre", "wrote"]), st.floats(0, 300), max_size=2),
}  # fmt: skip
wrong = {
    "history": st.lists(ids, max_size=40), "with": st.lists(filters, max_size=3), "weights": weights,
    "more": anything,
}  # fmt: skip
options = {
    "/recommend": ["k", "offset", "exclude_seen", "run", "with", "weights"],
    "/explain": ["n", "run", "weights"],
}


@st.composite
def posts(draw: st.DrawFn) -> Question:
    """A valid request, one with one or two invalid fields, or arbitrary data."""
    path = draw(st.sampled_from(["/recommend", "/explain"]))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return Question("POST", path, body=draw(st.binary(max_size=30)))
    if kind == 1:
        return Question("POST", path, body=json.dumps(draw(anything)).encode())
    body = {name: draw(right[name]) for name in draw(st.sets(st.sampled_from(options[path]), max_size=3))}
    whom = draw(st.sampled_from(["history", "user"]))
    body[whom] = draw(right[whom])
    if path == "/explain":
        body["item"] = draw(right["item"])
    if kind < 6:
        for name in draw(st.sets(st.sampled_from([*right, *wrong]), min_size=1, max_size=2)):
            body[name] = draw(wrong.get(name, ids) | anything)
    return Question("POST", path, body=json.dumps(body).encode())


@st.composite
def gets(draw: st.DrawFn) -> Question:
    """A valid or slightly invalid URL."""
    first = draw(st.sampled_from(sorted(ANSWERS)) | st.sampled_from(["", "nowhere"]))
    whom = {"recommend": ["user"], "similar": ["item"], "history": ["user"], "explain": ["user", "item"]}
    given = [str(draw(right[name])) for name in whom.get(first, [])]
    query = [("k", "5"), ("offset", "3"), ("limit", "4"), ("q", "trial"), ("run", "two"), ("with", "has_genre:crime")]
    pairs = draw(st.lists(st.sampled_from(query), max_size=3))
    if draw(st.booleans()):
        given = [str(part) for part in draw(st.lists(ids, max_size=2))]
    if draw(st.booleans()):
        pairs += draw(
            st.lists(st.tuples(st.sampled_from([name for name, _ in query]) | text, ids.map(str)), max_size=2)
        )
    text_of = "&".join(f"{quote(name, errors='replace')}={quote(value, errors='replace')}" for name, value in pairs)
    method = draw(st.sampled_from(["GET"] * 6 + ["DELETE", "POST", "HEAD"]))
    return Question(method, "/" + "/".join([first, *given]), text_of)


questions = st.one_of(posts(), gets())
