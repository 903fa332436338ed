"""Requests that nobody means: never a 500, never an answer that is not what OpenAPI says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from searchpipe.serve.app import create_app
from searchpipe.serve.schema import ErrorBody, PageBody
from searchpipe.serve.settings import ServeSettings
from tests.fakes.hashed_stages import hashed_pipeline


@pytest.fixture(scope="module")
def client(snapshot_folder: Path) -> Iterator[TestClient]:
    with hashed_pipeline(snapshot_folder) as pipeline:
        app = create_app(pipeline, ServeSettings(max_body_bytes=16_384))
        # A 500 is an answer to look at here, not an exception.
        with TestClient(app, raise_server_exceptions=False) as opened:
            until = time.monotonic() + 30
            while opened.get("/health/ready").status_code != 200:
                assert time.monotonic() < until
                time.sleep(0.01)
            yield opened


text = st.text(st.characters(), max_size=20)  # lone surrogates included
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    text,
    st.integers(min_value=10**300, max_value=10**310),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)
columns = st.sampled_from(["price", "brand", "category", "rating", "is_sale", "color"]) | text
operators = st.sampled_from(["gt", "gte", "lt", "lte", "eq", "in", "ne", "not", "exists"]) | text
conditions = values | st.dictionaries(operators, values | st.dictionaries(operators, values), max_size=3)
stages = st.sampled_from(["tokenize", "encode", "recall", "prerank", "score", "diversify", "page"]) | text
bodies = st.fixed_dictionaries(
    {"query": text | st.just("red shoes")},
    optional={
        "k": st.integers(-2, 1200) | values,
        "filters": st.dictionaries(columns, conditions, max_size=3) | values,
        "context": values,
        "budget_ms": st.floats(-1, 200) | values,
        "stages": st.dictionaries(stages, st.booleans(), max_size=3) | values,
        "priority": st.integers(-101, 101) | values,
        "other": values,
    },
)


def check(reply: Any) -> None:
    assert reply.status_code in (200, 400, 413, 422), reply.text
    if reply.status_code == 200:
        PageBody.model_validate_json(reply.content, strict=True)
    else:
        error = ErrorBody.model_validate_json(reply.content, strict=True).error
        assert error.code
        assert error.message


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bodies)
def test_bodies(client: TestClient, body: Any) -> None:
    content = json.dumps(body).encode()
    check(client.post("/search", content=content, headers={"Content-Type": "application/json"}))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.binary(max_size=200) | bodies.map(lambda body: json.dumps(body).encode()[:-3]),
    st.sampled_from(
        ["application/json", "text/plain", "application/x-www-form-urlencoded", "", "x; charset=utf-7"]
    ),
)
def test_bytes_and_types(client: TestClient, content: bytes, kind: str) -> None:
    check(client.post("/search", content=content, headers={"Content-Type": kind}))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE"]),
    st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=20),
)
def test_paths_and_methods(client: TestClient, method: str, path: str) -> None:
    reply = client.request(method, "http://testserver/" + path.replace("?", "").replace("#", ""))
    assert reply.status_code in (200, 404, 405, 422), reply.text
