"""POST /search over a real pipeline with hashed models."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from searchpipe.pipeline import Pipeline
from searchpipe.serve.app import create_app
from searchpipe.serve.settings import ServeSettings


@pytest.fixture
def client(pipeline: Pipeline) -> Iterator[TestClient]:
    with TestClient(create_app(pipeline, ServeSettings(max_body_bytes=4096))) as opened:
        wait_ready(opened)
        yield opened


def wait_ready(client: TestClient) -> None:
    until = time.monotonic() + 30
    while client.get("/health/ready").status_code != 200:
        assert time.monotonic() < until, client.get("/health/ready").text
        time.sleep(0.01)


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/search", json={"query": "red running shoes", "budget_ms": 5000, **body})


def test_the_answer_is_the_page_as_json(client: TestClient, pipeline: Pipeline) -> None:
    reply = ask(client, k=3)
    assert reply.status_code == 200
    page = reply.json()
    expected = json.loads(json.dumps(pipeline.search("red running shoes", 3, 5000).to_dict()))
    assert page["hits"] == expected["hits"]
    assert set(page) == set(expected)
    assert [span["stage"] for span in page["trace"]["spans"]] == [stage.name for stage in pipeline.stages]
    assert page["hits"][0]["id"] == "a"
    assert page["snapshot"] == pipeline.snapshot.version


def test_filters_choose_and_context_is_taken(client: TestClient) -> None:
    page = ask(client, filters={"price": {"gte": 60}, "color": "blue"}, context={"user": 3}).json()
    assert [hit["id"] for hit in page["hits"]] == ["b"]


def test_a_whole_number_may_have_a_point(client: TestClient) -> None:
    assert len(ask(client, k=2.0).json()["hits"]) == 2
    assert ask(client, k=2.5).status_code == 422


def test_stages_are_switched_off_one_by_one(client: TestClient) -> None:
    spans = {
        s["stage"]: s for s in ask(client, stages={"score": False, "recall": True}).json()["trace"]["spans"]
    }
    assert spans["score"]["decision"] == "switched off"
    assert spans["score"]["units"] == 0
    full = ask(client).json()
    assert {s["stage"]: s["units"] for s in full["trace"]["spans"]}["score"] > 0
    assert "score" in full["hits"][0]["scores"]
    assert "score" not in ask(client, stages={"score": False}).json()["hits"][0]["scores"]
    assert not ask(client, stages={"tokenize": False}).json()["degradations"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x", "k": 0}, "k"),
        ({"query": "x", "k": "ten"}, "k"),
        ({"query": "x", "k": True}, "k"),
        ({"query": "x", "budget_ms": -1}, "budget_ms"),
        ({"query": "x", "filters": []}, "filters"),
        ({"query": "x", "stages": {"score": 3}}, "stages.score"),
        ({"query": "x", "priority": 101}, "priority"),
        ({"query": "x", "depth": 3}, "depth"),
    ],
)
def test_what_is_not_valid_is_named_by_its_field(client: TestClient, body: Any, field: str) -> None:
    reply = client.post("/search", json=body)
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert error["code"] == "invalid_request"
    assert [one["field"] for one in error["fields"]] == [field]
    assert field in error["message"]


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"query": "\u2028"}, "bad_query", "no text"),
        ({"query": "x", "k": 100_000}, "bad_query", "pipeline.max_k"),
        ({"query": "x", "filters": {"prize": 3}}, "bad_filter", "'price'"),
        ({"query": "x", "filters": {"price": {"lte": "a"}}}, "bad_filter", "numbers"),
        ({"query": "x", "stages": {"recall": False}}, "bad_query", "cannot be switched off"),
        ({"query": "x", "stages": {"scroe": True}}, "bad_query", "no stage 'scroe'"),
        ({"query": "x", "budget_ms": 20_000}, "bad_query", "serve.max_budget_ms"),
    ],
)
def test_what_cannot_be_answered_comes_with_a_cure(
    client: TestClient, body: Any, code: str, words: str
) -> None:
    reply = client.post("/search", json=body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["code"] == code
    assert words in error["message"]
    assert error["cure"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'{"query": "x", "k": NaN}',
        b'{"query": "\\ud800"}',
        b'{"query": "x", "filters": {"\\ud800": 1}}',
        b'{"query": "x", "filters": {"brand": "\\ud800"}}',
        b'{"query": "x", "filters": {"price": ' + b"9" * 3000 + b"}}",
        b'{"query": "x", "filters": {"price": {"lte": Infinity}}}',
        b'{"query": "x", "filters": {"price": ' + b'{"not":' * 300 + b"1" + b"}" * 300 + b"}}",
        b'{"query": "x", "context": ' + b"[" * 1500 + b"]" * 1500 + b"}",
        b'{"query": "\xff"}',
    ],
)
def test_odd_bodies_never_break_it(client: TestClient, content: bytes) -> None:
    reply = client.post("/search", content=content, headers={"Content-Type": "application/json"})
    assert reply.status_code in (200, 400, 422)
    assert reply.json()


def test_a_large_body_is_refused_whether_or_not_it_says_so(client: TestClient) -> None:
    large = json.dumps({"query": "x" * 5000}).encode()
    said = client.post("/search", content=large)
    unsaid = client.post("/search", content=iter([large[:2000], large[2000:]]))
    for reply in (said, unsaid):
        assert reply.status_code == 413
        assert reply.json()["error"]["code"] == "body_too_large"


def test_unknown_paths_and_methods(client: TestClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/nothing").json()["error"]["code"] == "not_found"
    assert client.get("/search").status_code == 405
    assert client.get("/docs").status_code == 404


def test_openapi_names_every_route(client: TestClient) -> None:
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/search", "/health/live", "/health/ready", "/metrics", "/about"}
    body = described["components"]["schemas"]["SearchBody"]["properties"]
    assert set(body) == {"query", "k", "filters", "context", "budget_ms", "stages", "priority"}


def test_metrics_count_queries_and_answers(client: TestClient) -> None:
    ask(client)
    client.post("/search", json={"query": "x", "filters": {"prize": 3}})
    client.get("/nothing")
    text = client.get("/metrics").text
    assert 'searchpipe_queries_total{outcome="full"} 1.0' in text
    assert 'searchpipe_errors_total{code="bad_filter"} 1.0' in text
    assert 'searchpipe_http_requests_total{path="/search",status="200"} 1.0' in text
    assert 'searchpipe_http_requests_total{path="other",status="404"} 1.0' in text
    assert 'searchpipe_stage_seconds_count{stage="score"} 1.0' in text


def test_about_tells_what_the_page_needs(client: TestClient, pipeline: Pipeline) -> None:
    about = client.get("/about").json()
    assert [stage["name"] for stage in about["stages"]] == [stage.name for stage in pipeline.stages]
    assert about["products"] == 5


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_that_is_not_said_to_be_json_is_refused(client: TestClient, kind: str | None) -> None:
    """A page elsewhere may post these types without asking first."""
    headers = {} if kind is None else {"Content-Type": kind}
    reply = client.post("/search", content=b'{"query": "shoes"}', headers=headers)
    assert reply.status_code == 422
    assert "Content-Type: application/json" in reply.json()["error"]["cure"]
    for said in ("application/json; charset=utf-8", "Application/JSON", "application/vnd.api+json"):
        assert ask_raw(client, said).status_code == 200


def ask_raw(client: TestClient, kind: str) -> Any:
    body = b'{"query": "shoes", "budget_ms": 5000}'
    return client.post("/search", content=body, headers={"Content-Type": kind})


def test_it_answers_below_a_mount(client: TestClient) -> None:
    outer = Starlette(routes=[Mount("/shop", client.app)])
    with TestClient(outer) as opened:
        page = opened.post("/shop/search", json={"query": "red running shoes", "budget_ms": 5000})
        assert page.status_code == 200
        assert page.json()["hits"] == ask(client).json()["hits"]
        assert (
            opened.post("/shop/search", json={"query": ""}).json()["error"]["fields"][0]["field"] == "query"
        )
        refused = opened.post("/shop/search", json={"query": "x", "filters": {"prize": 3}})
        assert refused.json()["error"]["code"] == "bad_filter"
