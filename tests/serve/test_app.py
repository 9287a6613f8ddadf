"""The service over HTTP: routes, errors, limits, token and metrics; and the server process."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import polars as pl
import pytest
from library import GENRES, ITEMS, N_ITEMS, USERS, constant, library

from relrank.graph.bundle import save_graph
from relrank.io.tensors import save_tensors, write_json
from relrank.runs.fitted_run import _split_frame, load_run

pytest.importorskip("fastapi", reason="needs the extra serve")
from starlette.testclient import TestClient

from relrank.errors import InputError
from relrank.io.manifest import write_manifest
from relrank.serve import app as web
from relrank.serve.app import make_app
from relrank.serve.candidate_filters import Has, LogicalCondition
from relrank.serve.catalogue import Catalogue
from relrank.serve.limits import Limits
from relrank.serve.options import Options, name_runs
from relrank.serve.reloading import RunReloader
from relrank.serve.served_model import ServedModel
from relrank.serve.server import serve
from relrank.serve.service import Service

RUN = library("relational-ease", {"l2": 5.0})
SERVICE = Service({"one": RUN, "two": constant(RUN)})
APP = make_app(SERVICE)
CLIENT = TestClient(APP)


def save(run, folder):
    """Like ``save_run``, without tables: write to a temporary folder, then rename it."""
    part = folder.with_name(folder.name + ".part")
    part.mkdir(parents=True)
    save_graph(run.graph, part / "graph")
    save_tensors(part / "model.safetensors", run.model.state(), {})
    _split_frame(run.split).write_parquet(part / "split.parquet")
    run.titles.write_parquet(part / "titles.parquet")
    write_json(part / "run.json", run.note)
    write_manifest(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def error(response, status):
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    said = response.json()
    assert list(said) == ["error"]
    assert list(said["error"]) == ["message", "where", "expected", "found"]
    assert all(isinstance(text, str) for text in said["error"].values())
    assert "Traceback" not in response.text
    return said["error"]


def test_explanations_over_get_are_of_the_filtered_list():
    narrowed = "any=has_genre:crime&any=wrote:3&without=wrote:1&exclude=1013&exclude=1014&with=has_genre:crime"
    there, item = quote(USERS[1], safe=""), None
    ranked_list = CLIENT.get(f"/recommend/{there}?{narrowed}&k=40").json()["items"]
    for one in (ranked_list[0], ranked_list[-1]):
        item = one["item"]
        found = CLIENT.get(f"/explain/{there}/{item}?{narrowed}").json()
        assert (found["rank"], found["score"]) == (one["place"], pytest.approx(one["score"]))
    assert CLIENT.get(f"/explain/{there}/{item}").json()["rank"] > ranked_list[-1]["place"]
    assert error(CLIENT.get(f"/explain/{there}/1014?{narrowed}"), 422)["message"] == "item does not fit the filters"
    assert error(CLIENT.get(f"/explain/{there}/{item}?with=crime"), 422)["where"] == "query.with"


def test_routes_answer_as_the_service_does():
    for user in (USERS[0], USERS[1]):
        there = quote(user, safe="")
        answer = CLIENT.get(f"/recommend/{there}", params={"k": 3, "offset": 2, "with": ["has_genre:poems: old"]})
        assert answer.json() == SERVICE.recommend(user=user, k=3, offset=2, filters=[("has_genre", GENRES[1])])
        answer = CLIENT.get(
            f"/recommend/{there}?any=has_genre:crime&any=wrote:3&without=wrote:1&exclude=1013&exclude=1014"
        )
        assert answer.json() == SERVICE.recommend(
            user=user,
            exclude=[1013, 1014],
            filters=[
                LogicalCondition("any", (Has("has_genre", "crime"), Has("wrote", "3"))),
                LogicalCondition("not", (Has("wrote", "1"),)),
            ],
        )
        assert CLIENT.get(f"/history/{there}").json() == SERVICE.history(user)
        assert CLIENT.get(f"/recommend/{there}?run=two&exclude_seen=false").json() == SERVICE.recommend(
            user=user, run="two", exclude_seen=False
        )
    item = SERVICE.recommend(user=USERS[1], k=1)["items"][0]["item"]
    assert CLIENT.get(f"/explain/{quote(USERS[1])}/{item}?n=2").json() == SERVICE.explain(item, user=USERS[1], n=2)
    assert CLIENT.get("/similar/1003?k=4").json() == SERVICE.similar(1003, 4)
    assert CLIENT.get("/items?q=trial&limit=3").json() == SERVICE.items("trial", 3)
    assert CLIENT.get("/users?q=reader 4&limit=3").json() == SERVICE.users("reader 4", 3)
    runs = CLIENT.get("/runs").json()
    assert runs == SERVICE.runs()
    assert runs["runs"][0] | {"relations": 0, "example": 0, "weight_meaning": ""} == {
        "name": "one", "model": "relational-ease", "arm": "all", "protocol": "library, seed 0", "n_users": 60,
        "n_items": 48, "n_cold_items": 0, "user": "reader", "item": "book", "relations": 0,
        "weights_adjustable": True, "weight_unit": "pseudo-users", "weight_meaning": "", "attributes": ["has_genre"],
        "example": 0, "filters": ["has_genre", "wrote"], "columns": [],
    }  # fmt: skip
    assert runs["runs"][0]["relations"][1] == {
        "name": "wrote", "source": "author", "target": "book", "edges": 48, "weight": 30.0,
    }  # fmt: skip


def test_posts_answer_as_the_service_does():
    body = {
        "history": [1001, "1002"], "k": 4, "offset": 1, "exclude_seen": False,
        "with": [{"relation": "wrote", "value": 3}], "weights": {"has_genre": 2.0}, "user": None, "run": "one",
    }  # fmt: skip
    assert CLIENT.post("/recommend", json=body).json() == SERVICE.recommend(
        history=[1001, 1002], k=4, offset=1, exclude_seen=False, filters=[("wrote", "3")], weights={"has_genre": 2.0}
    )
    body = {
        "user": USERS[2], "exclude": [1013, "1014"],
        "with": [
            {"any": [{"relation": "wrote", "value": 3}, {"not": {"all": [{"relation": "wrote", "value": "1"}]}}]},
        ],
    }  # fmt: skip
    condition = LogicalCondition(
        "any", (Has("wrote", 3), LogicalCondition("not", (LogicalCondition("all", (Has("wrote", "1"),)),)))
    )
    assert CLIENT.post("/recommend", json=body).json() == SERVICE.recommend(
        user=USERS[2], exclude=[1013, 1014], filters=[condition]
    )
    assert CLIENT.post("/recommend", json={"user": USERS[2]}).json() == SERVICE.recommend(user=USERS[2])
    body = {"history": [1001, 1005], "item": 1009}
    assert CLIENT.post("/explain", json=body).json() == SERVICE.explain(1009, history=[1001, 1005])


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "where", "found"),
    [
        ("GET", "/recommend/nobody", None, 404, "user", "'nobody'"),
        ("GET", "/recommend/", None, 404, "user", "''"),
        ("GET", "/recommend/reader 1?k=0", None, 422, "query.k", "'0'"),
        ("GET", "/recommend/reader 1?k=1001", None, 422, "query.k", "'1001'"),
        ("GET", "/recommend/reader 1?k=ten", None, 422, "query.k", "'ten'"),
        ("GET", "/recommend/reader 1?offset=-1", None, 422, "query.offset", "'-1'"),
        ("GET", "/recommend/reader 1?exclude_seen=perhaps", None, 422, "query.exclude_seen", "'perhaps'"),
        ("GET", "/recommend/reader 1?with=crime", None, 422, "query.with", "'crime'"),
        ("GET", "/recommend/reader 1?with=has_genre:love", None, 422, "with, has_genre", "'love'"),
        ("GET", "/recommend/reader 1?run=three", None, 404, "run", "'three'"),
        ("GET", "/similar/soap", None, 404, "item", "'soap'"),
        ("GET", "/explain/reader 1/soap", None, 404, "item", "'soap'"),
        ("GET", "/explain/nobody/1001", None, 404, "user", "'nobody'"),
        ("GET", "/items?limit=0", None, 422, "query.limit", "'0'"),
        ("GET", "/recommend/reader 1?K=3", None, 422, "query.K", "'K'"),
        ("GET", "/recommend/reader 1?excludeseen=false", None, 422, "query.excludeseen", "'excludeseen'"),
        ("GET", "/recommend/reader 1?k=3&k=4", None, 422, "query.k", "2 values"),
        ("GET", "/recommend/reader 1?k=3&", None, 200, "", ""),
        ("POST", "/recommend?k=3", {"history": [1001]}, 422, "query.k", "'k'"),
        ("GET", "/similar/1003?offset=3", None, 422, "query.offset", "'offset'"),
        ("GET", "/explain/reader 1/1001?weights=", None, 422, "query.weights", "'weights'"),
        ("GET", "/users?x", None, 422, "query.x", "'x'"),
        ("GET", "/runs?run=one", None, 422, "query.run", "'run'"),
        ("GET", "/health?%FF=1", None, 422, "query.\ufffd", "\ufffd"),
        ("GET", "/history/nobody", None, 404, "user", "'nobody'"),
        ("GET", "/nowhere", None, 404, "request", "GET /nowhere"),
        ("GET", "/explain/alone", None, 404, "request", "GET /explain/alone"),
        ("DELETE", "/runs", None, 405, "request", "DELETE /runs"),
        ("POST", "/runs", {}, 405, "request", "POST /runs"),
        ("POST", "/recommend", "{", 400, "body", "Expecting property name"),
        ("POST", "/recommend", "[" * 100_000, 400, "request", "POST /recommend"),
        ("POST", "/recommend", '{"history": [' + "1" * 5000 + "]}", 400, "request", "POST /recommend"),
        ("POST", "/recommend", [], 422, "body", "[]"),
        ("POST", "/recommend", {}, 422, "body", "neither"),
        ("POST", "/recommend", {"user": "nobody"}, 404, "user", "'nobody'"),
        ("POST", "/recommend", {"history": [1000, 1, "é"]}, 422, "history", "1, 'é'; 2 unknown in all"),
        ("POST", "/recommend", {"history": ["\ud800"]}, 422, "body.history.0", "ud800"),
        ("POST", "/recommend", {"history": ["x" * 1001]}, 422, "body.history.0", "xxx"),
        ("POST", "/recommend", {"history": [True]}, 422, "body.history.0", "True"),
        ("POST", "/recommend", {"history": [1.5]}, 422, "body.history.0", "1.5"),
        ("POST", "/recommend", {"history": "1000"}, 422, "body.history", "'1000'"),
        ("POST", "/recommend", {"history": [], "k": 1001}, 422, "k", "1,001"),
        ("POST", "/recommend", {"history": [], "k": "3"}, 422, "body.k", "'3'"),
        ("POST", "/recommend", {"history": [1000] * 2001}, 422, "length of history", "2,001"),
        ("POST", "/recommend", {"history": [], "wiht": []}, 422, "body.wiht", "[]"),
        ("POST", "/recommend", {"history": [], "weights": {"has_genre": -1}}, 422, "body.weights.has_genre", "-1"),
        ("POST", "/recommend", {"history": [], "weights": {"genre": 1}}, 422, "weights", "'genre'"),
        ("POST", "/recommend", {"history": [], "run": "two", "weights": {"genre": 1}}, 422, "weights", "'genre'"),
        ("POST", "/recommend", '{"user": "x", "weights": {"has_genre": NaN}}', 422, "body.weights.has_genre", "nan"),
        ("POST", "/recommend", {"history": [10**30]}, 422, "body.history.0", "1000000"),
        ("POST", "/explain", {"history": [1001]}, 422, "body.item", "1001"),
        ("POST", "/recommend", {"history": [], "with": [{"relation": "wrote"}]}, 422, "body.with.0", "wrote"),
        ("POST", "/recommend", {"history": [], "with": [{"any": []}]}, 422, "body.with.0.any", "[]"),
        ("POST", "/recommend", {"history": [], "with": [{"column": "x", "min": 1}]}, 422, "with", "'x'"),
        ("POST", "/recommend", {"history": [], "exclude": ["soap"]}, 422, "exclude", "'soap'"),
        ("POST", "/recommend", '{"user": "x", "with": [' + '{"not":' * 300 + "{}" + "}" * 300 + "]}", 422, None, ""),
        ("GET", "/recommend/reader 1?without=crime", None, 422, "query.without", "'crime'"),
        ("POST", "/explain", {"history": [1001], "item": 1001}, 422, "item", "1001"),
        ("POST", "/explain", {"history": [1001], "item": 7}, 422, "item", "7"),
    ],
)  # fmt: skip
def test_a_bad_request_names_the_field_and_what_was_found(method, path, body, status, where, found):
    content = None if body is None else body if isinstance(body, str) else json.dumps(body)
    if status == 200:
        assert CLIENT.request(method, path).status_code == 200
        return
    said = error(CLIENT.request(method, path, content=content, headers={"content-type": "application/json"}), status)
    assert where in (None, said["where"])
    assert found in said["found"]


def test_an_error_of_the_server_has_no_trace_but_a_number_in_the_log(monkeypatch, caplog):
    monkeypatch.setattr(ServedModel, "ranked_list", lambda *_, **__: 1 / 0)
    said = error(CLIENT.get("/recommend/reader 1"), 500)
    number = re.search(r"log as (\w{12})", said["found"])[1]
    assert f"error {number} in GET /recommend/reader 1" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "ZeroDivision" not in str(said)


def test_the_token_opens_all_but_health_and_the_page(tmp_path):
    (tmp_path / "index.html").write_text("<!doctype html>hello")
    (tmp_path / "docs.html").write_text("<!doctype html>what it answers")
    client = TestClient(make_app(SERVICE, token="s3cret", page=tmp_path))
    paths = [
        route.path.replace("{user}", "x")
        .replace("{item}", "y")
        .replace("{user:path}", "x")
        .replace("{item:path}", "y")
        for route in client.app.routes
        if hasattr(route, "methods")
    ]
    assert len(paths) > 10
    for path in [*paths, "/recommend/a/b/c", "/runs/"]:
        if path in ("/health", "/docs"):
            continue
        for headers in (
            {},
            {"authorization": "Bearer s3cre"},
            {"authorization": "s3cret"},
            {"authorization": "Bearer é"},
        ):
            answer = client.get(path, headers={k: v.encode() for k, v in headers.items()})
            assert error(answer, 401)["where"] == "header Authorization"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert error(client.post("/recommend", json={"user": "reader 1"}), 401)
    allowed = {"authorization": "Bearer s3cret"}
    assert client.get("/recommend/reader 1", headers=allowed).status_code == 200
    assert client.get("/metrics", headers=allowed).status_code == 200
    assert client.get("/health").json()["status"] == "ok"
    page = client.get("/")
    assert (page.status_code, page.text) == (200, "<!doctype html>hello")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert client.get("/docs").text == "<!doctype html>what it answers"  # which asks for /openapi.json with the token
    assert error(client.get("/../run.json"), 404)


def test_a_mistyped_parameter_is_answered_with_its_name():
    said = error(CLIENT.get("/recommend/reader 1?K=3"), 422)
    assert (
        said["expected"]
        == "one of any, attributes, exclude, exclude_seen, k, offset, run, with, without; did you mean k?"
    )
    assert error(CLIENT.get("/runs?run=one"), 422)["expected"] == "no parameters"


def test_the_scheme_of_a_token_is_read_in_any_case():
    client = TestClient(make_app(SERVICE, token="s3cret"))
    for given in ("Bearer s3cret", "bearer s3cret", "BEARER  s3cret"):
        assert client.get("/runs", headers={"authorization": given}).status_code == 200
    for given in ("Basic s3cret", "Bearers3cret", "Bearer S3CRET", "s3cret", "Bearer", "Bearer s3cret x"):
        assert client.get("/runs", headers={"authorization": given}).status_code == 401


def test_only_allowed_hosts_are_answered():
    client = TestClient(make_app(SERVICE, hosts=["shop.example", "*.inner.example", "[::1]"]))
    for host in (
        "shop.example",
        "SHOP.example:8000",
        "shop.example.",
        "a.inner.example",
        "a.b.inner.example:1",
        "[::1]:80",
    ):
        assert client.get("/runs", headers={"host": host}).status_code == 200
    for host in (
        "evil.example",
        "inner.example",
        "shop.example.evil.example",
        "evil.example:shop.example",
        "",
        "[::2]",
    ):
        assert error(client.get("/runs", headers={"host": host}), 400)["where"] == "header Host"
    assert CLIENT.get("/runs", headers={"host": "anything"}).status_code == 200


def test_head_is_get_without_a_body():
    for path in (
        "/runs",
        "/recommend/reader 1?k=3",
        "/recommend/nobody",
        "/health",
        "/metrics",
        "/docs",
        "/openapi.json",
    ):
        head, get = CLIENT.head(path), CLIENT.get(path)
        assert (head.status_code, head.content) == (get.status_code, b"")
        assert head.headers["content-type"] == get.headers["content-type"]
        if path not in ("/metrics", "/health"):  # which contain times
            assert head.headers["content-length"] == str(len(get.content))
    assert CLIENT.head("/explain").status_code == CLIENT.get("/explain").status_code  # POST only


def test_searches_leave_the_loop_free(monkeypatch):
    """Searches of titles, values and links run in a thread, and so do long histories."""
    threads = {}

    def noted(kind, name):
        asked = getattr(kind, name)

        def call(self, *args, **kwargs):
            threads[name] = threading.current_thread().name
            return asked(self, *args, **kwargs)

        monkeypatch.setattr(kind, name, call)

    noted(Catalogue, "search_items")
    for name in ("search_values", "similar", "candidates"):
        noted(ServedModel, name)
    monkeypatch.setattr(SERVICE.served(), "seconds", 0.0)
    CLIENT.get("/items?q=trial")
    CLIENT.get("/values/has_genre")
    CLIENT.get("/recommend/reader 1?with=has_genre:crime")
    CLIENT.post("/recommend", json={"user": "reader 1", "with": [{"relation": "has_genre", "value": "crime"}]})
    noted(ServedModel, "ranked_list")
    CLIENT.post("/recommend", json={"history": [1001] * 201})
    assert {name: thread.startswith("relrank-slow") for name, thread in threads.items()} == dict.fromkeys(
        ("search_items", "search_values", "candidates", "ranked_list"), True
    )


def test_a_large_body_is_refused_before_it_is_read():
    client = TestClient(make_app(Service({"one": RUN}, Limits(body=2000))))
    assert client.post("/recommend", json={"history": [1001] * 200}).status_code == 200
    said = error(client.post("/recommend", json={"history": [1001] * 2000}), 413)
    assert "2,000 bytes" in said["expected"]
    pulled = 0

    def endless():
        nonlocal pulled
        for _ in range(100):
            pulled += 1
            yield b"[" * 500

    assert error(client.post("/recommend", content=endless()), 413)

    async def told(size, *bodies):
        """Through ASGI, which shows how much was read."""
        sent, left = [], list(bodies)

        async def receive():
            return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", b"application/json")] + ([(b"content-length", size)] if size else [])
        scope = {
            "type": "http", "method": "POST", "path": "/recommend", "raw_path": b"/recommend", "query_string": b"",
            "headers": headers, "root_path": "", "scheme": "http", "server": None, "client": None, "state": {},
        }  # fmt: skip
        await client.app(scope, receive, send)
        return sent[0]["status"], len(left)

    import asyncio

    body = [b" " * 900] * 9
    assert asyncio.run(told(b"8100", *body)) == (413, 9)  # by the header: nothing is read
    assert asyncio.run(told(None, *body)) == (413, 6)  # without a header: only up to the limit
    assert asyncio.run(told(b"-1", *body)) == (413, 9)


def test_measures_count_by_route_and_status(tmp_path):
    client = TestClient(make_app(Service({"one": RUN}), page=tmp_path))
    for path in (
        "/recommend/reader 1?k=7",
        "/recommend/reader 2?k=7",
        "/recommend/nobody",
        "/nowhere",
        "/" + "x" * 50,
    ):
        client.get(path)
    client.request("BREW", "/coffee")
    client.post("/recommend", json={"history": [], "k": 3})
    text = client.get("/metrics").text
    for line in (
        'relrank_requests_total{method="GET",route="/recommend/{user:path}",status="200"} 2.0',
        'relrank_requests_total{method="GET",route="/recommend/{user:path}",status="404"} 1.0',
        'relrank_requests_total{method="POST",route="/recommend",status="200"} 1.0',
        'relrank_request_seconds_count{route="/recommend/{user:path}",status="200"} 2.0',
        'relrank_list_items_bucket{le="5.0",route="/recommend/{user}"} 0.0',
        'relrank_list_items_bucket{le="10.0",route="/recommend/{user}"} 2.0',
        'relrank_list_items_sum{route="/recommend"} 3.0',
    ):
        assert line in text
    loaded = re.search(r'relrank_run_loaded_timestamp_seconds\{run="one"\} (\S+)', text)
    assert time.time() - 60 < float(loaded[1]) <= time.time()
    assert "nowhere" not in text  # paths of clients are no labels
    assert "xxxx" not in text
    assert "BREW" not in text


def test_slow_models_and_quick_ones_answer_alike(monkeypatch):
    threads = []

    def noted(self, *args, **kwargs):
        threads.append(threading.current_thread().name)
        return ranked_list(self, *args, **kwargs)

    ranked_list = ServedModel.ranked_list
    monkeypatch.setattr(ServedModel, "ranked_list", noted)
    answers = []
    for seconds in (0.0, 1.0):
        monkeypatch.setattr(SERVICE.served(), "seconds", seconds)
        answers.append(CLIENT.get("/recommend/reader 7").json())
    assert answers[0] == answers[1]
    assert [name.startswith("relrank-slow") for name in threads] == [False, True]


def test_a_full_queue_says_so_and_when_to_come_again(monkeypatch):
    go = threading.Event()
    service = Service({"one": RUN}, Limits(threads=1, queue=2))
    monkeypatch.setattr(service.served(), "seconds", 1.0)
    app, ranked_list = make_app(service), ServedModel.ranked_list
    monkeypatch.setattr(ServedModel, "ranked_list", lambda *a, **k: go.wait(60) and ranked_list(*a, **k))
    statuses = []
    with TestClient(app) as client:

        def ask():
            statuses.append(client.get("/recommend/reader 1").status_code)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 60
        while (n_pending := client.app.state.responder.n_pending) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert n_pending == 2
        answer = client.get("/similar/1000")
        assert error(answer, 503)["message"] == "too many questions at once"
        assert answer.headers["retry-after"] == "1"
        assert client.get("/health").status_code == 200  # the event loop is not blocked
        go.set()
        for thread in threads:
            thread.join()
    assert statuses == [200, 200]


def test_pitfall_a_body_of_errors_stops_at_the_first_of_a_list():
    """Thousands of invalid ids in one body give one short error, not thousands."""
    for body in ({"history": [[]] * 300_000}, {"history": [], "with": [0] * 300_000}):
        answer = CLIENT.post("/recommend", json=body)
        assert answer.status_code == 422
        assert len(answer.content) < 2_000


def test_description_names_every_route():
    description = CLIENT.get("/openapi.json").json()
    lists = {"/recommend/{user}", "/recommend", "/similar/{item}", "/explain/{user}/{item}", "/explain"}
    catalogue = {"/runs", "/items", "/users", "/values/{relation}", "/history/{user}"}
    assert set(description["paths"]) == lists | catalogue | {"/health", "/metrics"}


def test_examples_in_the_description_are_answered():
    description = CLIENT.get("/openapi.json").json()
    tried = []
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            at = path
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    at = at.replace(f"{{{parameter['name']}}}", quote(parameter["schema"]["examples"][0], safe=""))
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            for example in content.get("examples", {"no body": {"value": None}}).values():
                answer = CLIENT.request(method, at, json=example["value"])
                assert answer.status_code == 200, (method, at, example, answer.text)
                tried.append((path, example["value"]))
    bodies = [body for path, body in tried if path == "/recommend"]
    assert [sorted(set(body) - {"history", "k"}) for body in bodies] == [[], ["user"], ["with"], ["weights"]]
    assert len(tried) == 15


def test_attributes_are_beside_titles_unless_the_request_opts_out():
    for path in ("/recommend/reader 3", "/similar/1003", "/items", "/history/reader 3"):
        items = CLIENT.get(path).json()["items"]
        assert items
        assert all(one["attributes"] == {"has_genre": [GENRES[ITEMS.index(one["item"]) % 4]]} for one in items)
        less = CLIENT.get(path, params={"attributes": False}).json()["items"]
        assert less == [{**one, "attributes": {}} for one in items]
    body = {"history": [1003], "attributes": False}
    assert {str(one["attributes"]) for one in CLIENT.post("/recommend", json=body).json()["items"]} == {"{}"}


def test_draining_is_said_and_closes_connections():
    app = make_app(SERVICE)
    client = TestClient(app)
    assert "connection" not in client.get("/runs").headers
    app.state.draining = True
    answer = client.get("/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "draining")
    answer = client.get("/recommend/reader 1")
    assert (answer.status_code, answer.headers["connection"]) == (200, "close")


# what lies around the application


def test_runs_are_named_after_their_folders(tmp_path):
    for name in ("a/books", "b/books", "study/winner"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "run.json").write_text("{}")
    named = name_runs([tmp_path / "a/books", tmp_path / "b/books", tmp_path / "study", tmp_path / "study/winner"])
    assert named == {
        "books": tmp_path / "a/books", "books-2": tmp_path / "b/books", "study": tmp_path / "study/winner",
        "study-2": tmp_path / "study/winner",
    }  # fmt: skip
    (tmp_path / "begun" / "cells").mkdir(parents=True)
    (tmp_path / "study.toml").write_text("")
    for wrong, found in (
        ("a", f"folders that have one: {tmp_path / 'a/books'}"),
        (".", f"folders that have one: {tmp_path / 'study'}"),
        ("begun", "a study without a winner: run it to its end"),
        ("study.toml", "a file"),
        ("nowhere", "no such folder"),
        ("begun/cells", "none"),
    ):
        with pytest.raises(InputError, match="no fitted model here") as error:
            name_runs([tmp_path / wrong])
        assert error.value.found.startswith(found)


def test_a_port_in_use_is_named_with_what_to_do():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match="address cannot be used") as error:
            serve(Options({}, port=port))
    assert error.value.found == "another program that listens there"
    assert "--port 0" in error.value.expected


def test_a_changed_run_is_taken_over_and_a_broken_one_is_not(tmp_path):
    old, new = library("ease", {"l2": 5.0}), library("ease", {"l2": 80.0})
    folder = tmp_path / "run"
    save(old, folder)
    service = Service({"run": load_run(folder)})
    app = make_app(service)
    watcher, client = RunReloader(service, Options({"run": folder}), app), TestClient(app)
    expected = [client_of(run).get("/recommend/reader 3").json()["items"] for run in (old, new)]
    assert expected[0] != expected[1]

    def served():
        return client.get("/recommend/reader 3").json()["items"], client.get("/health").json()["reload_errors"]

    watcher.reload_changed()
    assert served() == (expected[0], [])
    before = service.served()
    late = RunReloader(service, Options({"run": folder}), app, {"run": ((0, 0, 0),)})  # replaced during loading
    late.reload_changed()
    assert service.served() is not before
    shutil.move(folder, tmp_path / "away")
    watcher.reload_changed()
    assert served() == (expected[0], [])  # a folder missing for a moment is no error
    shutil.move(tmp_path / "away", folder)
    save(new, folder)
    watcher.reload_changed()
    assert served() == (expected[1], [])
    save(old, folder)
    (folder / "run.json").write_text('{"format": "another"}')
    before = service.served()
    watcher.reload_changed()
    items, problems = served()
    assert items == expected[1]
    assert [p["run"] for p in problems] == ["run"]
    assert "cannot be loaded" in problems[0]["message"]
    assert str(tmp_path) not in problems[0]["message"]  # /health needs no token
    assert service.served() is before
    assert 'relrank_run_load_failures_total{run="run"} 1.0' in client.get("/metrics").text
    watcher.reload_changed()  # tried again only after a change
    assert 'relrank_run_load_failures_total{run="run"} 1.0' in client.get("/metrics").text
    (folder / "model.safetensors").write_bytes(b"no tensors")
    write_json(folder / "run.json", old.note)
    watcher.reload_changed()
    assert served()[0] == expected[1]
    save(old, folder)
    watcher.reload_changed(reload_all=True)
    assert served() == (expected[0], [])


def client_of(run):
    return TestClient(make_app(Service({"run": run})))


@contextmanager
def server(*arguments, env=None):
    """A server in a child process: its port and the process."""
    command = [sys.executable, "-m", "relrank.cli.app", "serve", *map(str, arguments), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | (env or {})
    ) as child:
        try:
            said = []
            for line in child.stdout:
                said.append(line)
                if found := re.search(r"serving on http://127\.0\.0\.1:(\d+)", line):
                    break
            else:
                pytest.fail("".join(said))
            child.said = said
            yield int(found[1]), child
        finally:
            if child.poll() is None:
                child.kill()
            child.stdout.close()


def accepts_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=20).close()
    except ConnectionRefusedError:
        return False
    return True


def get(connection, path, headers=None):
    connection.request("GET", path, headers=headers or {})
    answer = connection.getresponse()
    return answer.status, json.loads(answer.read())


def test_a_real_server_reloads_without_dropping_and_drains(tmp_path):
    runs = [library("ease", {"l2": l2}) for l2 in (5.0, 80.0)]
    folder = tmp_path / "books"
    save(runs[0], folder)
    path = "/recommend/reader%203?k=20"
    expected = [client_of(run).get(path).json()["items"] for run in runs]
    token = {"authorization": "Bearer t0ken"}
    with server(folder, "--token-env", "BOOKS_TOKEN", "--grace", 4, env={"BOOKS_TOKEN": "t0ken"}) as (port, child):
        assert any("books: ease on all" in line and f"{N_ITEMS} items" in line for line in child.said)
        wrong, seen, stop = [], set(), threading.Event()

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            while not stop.is_set():
                try:
                    status, answer = get(connection, path, token)
                    seen.add(expected.index(answer["items"]) if status == 200 else f"{status}")
                except (OSError, http.client.HTTPException, ValueError) as broken:
                    wrong.append(repr(broken))
                    return

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        save(runs[1], folder)
        child.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 60
        while 1 not in seen and not wrong and time.monotonic() < deadline:
            time.sleep(0.02)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert {0, 1} >= seen >= {1}

        kept = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        assert get(kept, "/health")[1]["status"] == "ok"
        with socket.create_connection(("127.0.0.1", port), timeout=20) as half:
            half.sendall(b"POST /recommend HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t0ken\r\n"
                         b"Content-Type: application/json\r\nContent-Length: 30\r\n\r\n{")  # fmt: skip
            child.send_signal(signal.SIGTERM)
            status, deadline = 200, time.monotonic() + 60
            while status == 200 and time.monotonic() < deadline:
                fresh = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
                status, health = get(fresh, "/health")
            assert (status, health["status"]) == (503, "draining")
            assert get(kept, path, token)[1]["items"] == expected[1]  # still answered
            while (accepts := accepts_connections(port)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not accepts
            assert child.poll() is None  # one request is still incomplete
            half.sendall(b'"history": [1001], "k": 2   }')
            text = b""
            with suppress(ConnectionError):
                while part := half.recv(4096):
                    text += part
            assert text.startswith(b"HTTP/1.1 200")
            assert json.loads(text.split(b"\r\n\r\n", 1)[1])["k"] == 2
        assert child.wait(60) == 0


def test_pitfall_sigterm_while_workers_start_ends_the_server(tmp_path):
    """Workers may end before they are ready, and the parent must not wait for them."""
    save(library("ease"), tmp_path / "books")
    command = [
        sys.executable,
        "-m",
        "relrank.cli.app",
        "serve",
        str(tmp_path / "books"),
        "--port",
        "0",
        "--workers",
        "2",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as child:
        try:
            # the parent handles signals from its first child on
            children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
            until = time.monotonic() + 60
            while len(children.read_text().split()) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            child.send_signal(signal.SIGTERM)
            child.communicate(timeout=60)
        finally:
            child.kill()


@pytest.mark.slow
def test_two_workers_answer_at_one_address_and_count_together(tmp_path):
    save(RUN, tmp_path / "books")
    with server(tmp_path / "books", "--workers", 2, "--grace", 0) as (port, child):
        for _ in range(30):
            status, answer = get(
                http.client.HTTPConnection("127.0.0.1", port, timeout=20), "/recommend/reader%203?k=2"
            )
            assert (status, len(answer["items"])) == (200, 2)
        counted, until = 0.0, time.monotonic() + 20
        while counted < 30 and time.monotonic() < until:  # a request is counted when its response is sent
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            found = re.search(
                r'relrank_requests_total\{method="GET",route="/recommend/\{user:path\}",status="200"\} (\S+)', text
            )
            counted = float(found[1]) if found else 0.0
        assert counted == 30
        child.send_signal(signal.SIGTERM)
        assert child.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "no fitted model here"),
        (["{run}", "--token-env", "RELRANK_NO_SUCH"], "RELRANK_NO_SUCH"),
        (["{run}", "--host", "203.0.113.7"], "address cannot be used"),
    ],
)
def test_slips_on_the_command_line_are_named(tmp_path, arguments, message, capsys, monkeypatch):
    from relrank.cli.app import main

    save(RUN, tmp_path / "run")
    monkeypatch.setattr(sys, "argv", ["relrank", "serve", *(a.format(run=tmp_path / "run") for a in arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert message in capsys.readouterr().err


def test_titles_do_not_command_the_terminal(tmp_path, capsys, monkeypatch):
    from relrank.cli.app import main

    hostile = RUN.titles.with_columns(pl.format("{}\x1b]0;owned\x07\x9b2J\r\u202e", "title").alias("title"))
    save(replace(RUN, titles=hostile), tmp_path / "run")
    for arguments in (["--user", "reader 1"], ["--history", "1001"], ["--user", "nobody\x1b[2J"]):
        monkeypatch.setattr(sys, "argv", ["relrank", "recommend", str(tmp_path / "run"), "-k", "3", *arguments])
        with suppress(SystemExit):
            main()
        said = "".join(capsys.readouterr())
        assert "\\x1b" in said
        assert not {*"\x1b\x07\x9b\r\u202e"} & {*said}


def test_the_log_shows_the_path_of_a_request_and_does_not_obey_it(monkeypatch, caplog):
    monkeypatch.setattr(ServedModel, "ranked_list", lambda *_, **__: 1 / 0)
    error(CLIENT.get("/recommend/reader 1%1b%5b2J"), 404)
    monkeypatch.setattr(Catalogue, "user_row", lambda *_, **__: 1)
    error(CLIENT.get("/recommend/reader 1%1b%5b2J"), 500)
    assert "GET /recommend/reader 1\\x1b[2J" in caplog.text
    assert "\x1b" not in caplog.text


def test_ids_in_addresses(tmp_path):
    """A slash is part of an id in paths with one id."""
    assert CLIENT.get("/recommend/a%2Fb%20c%3F").json()["user"] == "a/b c?"
    assert CLIENT.get("/recommend/a/b c%3F").json()["user"] == "a/b c?"
    body = {
        "user": "a/b c?",
        "item": next(i for i in ITEMS if i - 1000 not in SERVICE.served().interacted_items(0, None)),
    }
    assert CLIENT.post("/explain", json=body).status_code == 200
    assert web.PAGE.name == "page"
