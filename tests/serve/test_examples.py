"""The examples are run as they stand."""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from starlette.testclient import TestClient

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(autouse=True)
def _environment(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCHPIPE_SNAPSHOT", str(world.snapshot))
    monkeypatch.setenv("SEARCHPIPE_CONFIG", str(world.config_file))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def wsgi() -> Iterator[ModuleType]:
    module = load("wsgi_threads")
    yield module
    module.pipeline().close()


def call(module: ModuleType, query: str) -> tuple[str, Any]:
    environ: dict[str, Any] = {"QUERY_STRING": query}
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(module.app(environ, lambda status, headers: statuses.append(status)))
    return statuses[0], json.loads(body)


def test_wsgi_threads_share_one_pipeline(wsgi: ModuleType, world: Any) -> None:
    answers: list[tuple[str, Any]] = []

    def ask() -> None:
        answers.append(call(wsgi, f"q={world.queries[0].replace(' ', '+')}&k=3"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [status for status, _ in answers] == ["200 OK"] * 8
    assert all(page["hits"] for _, page in answers)
    assert wsgi._opened.cache_info().misses == 1
    for query in ("q=", "q=x&k=0", "q=x&k=many"):
        assert call(wsgi, query)[0].startswith("400")


def test_fastapi_app(world: Any) -> None:
    module = load("fastapi_app")
    with TestClient(module.app) as client:
        reply = client.get("/search", params={"q": world.queries[0], "k": 3})
        assert reply.status_code == 200
        assert 1 <= len(reply.json()["hits"]) <= 3
        assert client.get("/search", params={"q": "x", "k": 0}).status_code == 400
        assert client.get("/search").status_code == 422
    assert module.app.state.pipeline._closed
