"""Requests that schemathesis makes up from the OpenAPI description, checked against it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from searchpipe.serve.app import create_app
from tests.fakes.hashed_stages import hashed_pipeline

schemathesis = pytest.importorskip("schemathesis", reason="needs schemathesis")


@pytest.fixture(scope="module")
def described(snapshot_folder: Path) -> Iterator[Any]:
    with hashed_pipeline(snapshot_folder) as pipeline:
        app = create_app(pipeline)
        service = app.state.service
        service.start()
        end = time.monotonic() + 30
        while service.status != "ready":
            assert time.monotonic() < end
            time.sleep(0.01)

        async def started(scope: Any, receive: Any, send: Any) -> None:
            # Schemathesis starts and ends the application with each request.
            if scope["type"] != "lifespan":
                await app(scope, receive, send)
                return
            for kind in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{kind}.complete"})

        yield schemathesis.openapi.from_asgi("/openapi.json", started)
        service.close()


@pytest.mark.parametrize(
    ("path", "method", "mode"),
    [
        ("/search", "POST", "POSITIVE"),
        ("/search", "POST", "NEGATIVE"),
        *((path, "GET", "POSITIVE") for path in ("/about", "/health/live", "/health/ready", "/metrics")),
    ],
)
def test_answers_are_what_openapi_says(described: Any, path: str, method: str, mode: str) -> None:
    operation = described[path][method]
    strategy = operation.as_strategy(generation_mode=schemathesis.GenerationMode[mode])

    @settings(
        max_examples=60 if method == "POST" else 5, deadline=None, suppress_health_check=list(HealthCheck)
    )
    @given(case=strategy)
    def check(case: Any) -> None:
        # What a filter may ask depends on the snapshot: a request of the right form may still be refused.
        case.call_and_validate(
            excluded_checks=[schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]
        )

    check()
