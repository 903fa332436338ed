"""Opening, warming, ready, draining, closed; and what is shed on the way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from searchpipe.errors import OverloadedError, SnapshotNotFoundError
from searchpipe.pipeline import Pipeline
from searchpipe.serve.answers import problem_of, retry_after
from searchpipe.serve.app import create_app
from searchpipe.serve.settings import ServeSettings
from tests.fakes.hashed_stages import Hold, hashed_pipeline

QUERY = {"query": "shoes", "budget_ms": 10_000}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_it_is_live_before_it_is_ready(snapshot_folder: Path) -> None:
    go, opened = threading.Event(), []

    def open_pipeline() -> Pipeline:
        go.wait(30)
        opened.append(hashed_pipeline(snapshot_folder))
        return opened[0]

    app = create_app(open_pipeline)
    with TestClient(app) as client:
        assert client.get("/health/live").status_code == 200
        ready = client.get("/health/ready")
        assert (ready.status_code, ready.json()) == (503, {"status": "opening"})
        early = client.post("/search", json=QUERY)
        assert early.status_code == 503
        assert early.json()["error"]["code"] == "not_ready"
        assert early.headers["Retry-After"]
        go.set()
        until(lambda: client.get("/health/ready").status_code == 200)
        assert client.post("/search", json=QUERY).status_code == 200
        app.state.service.drain()
        drained = client.get("/health/ready")
        assert (drained.status_code, drained.json()) == (503, {"status": "draining"})
        # Who has not heard of it yet is still answered.
        assert client.post("/search", json=QUERY).status_code == 200
        assert client.get("/health/live").status_code == 200
    assert app.state.service.status == "closed"
    assert opened[0]._closed
    assert app.state.service.close()


def test_warming_is_not_ready(snapshot_folder: Path) -> None:
    hold = Hold()
    app = create_app(lambda: hashed_pipeline(snapshot_folder, hold=hold))
    with TestClient(app) as client:
        assert hold.entered.acquire(timeout=30)
        assert client.get("/health/ready").json() == {"status": "warming"}
        hold.go.set()
        until(lambda: client.get("/health/ready").status_code == 200)


def test_a_pipeline_of_the_caller_is_left_open(pipeline: Pipeline) -> None:
    with TestClient(create_app(pipeline)):
        pass
    assert len(pipeline.search("shoes", budget_ms=5000)) > 0


def test_a_pipeline_that_cannot_be_opened_is_reported() -> None:
    told = threading.Event()
    app = create_app(lambda: Pipeline.open("/nowhere/at/all"))
    app.state.service.on_failure = told.set
    with TestClient(app) as client:
        assert told.wait(30)
        assert client.get("/health/ready").json() == {"status": "failed"}
    assert isinstance(app.state.service.failure, SnapshotNotFoundError)


@contextlib.contextmanager
def held(folder: Path, config: dict[str, Any], settings: ServeSettings) -> Iterator[tuple[Any, Hold]]:
    """An application whose queries wait; warmed up before."""
    hold = Hold()
    hold.go.set()
    pipeline = hashed_pipeline(folder, config, hold=hold)
    app = create_app(pipeline, settings)
    try:
        with TestClient(app) as client:
            until(lambda: client.get("/health/ready").status_code == 200)
            while hold.entered.acquire(blocking=False):
                pass
            hold.go.clear()
            yield client, hold
    finally:
        hold.go.set()
        pipeline.close()


def post_in_threads(
    client: TestClient, bodies: list[dict[str, Any]]
) -> tuple[list[threading.Thread], list[Any]]:
    replies: list[Any] = []
    threads = [
        threading.Thread(target=lambda body=body: replies.append(client.post("/search", json=body)))
        for body in bodies
    ]
    for thread in threads:
        thread.start()
    return threads, replies


def test_what_the_queue_cannot_hold_is_shed_and_it_recovers(snapshot_folder: Path) -> None:
    config = {"pipeline": {"threads": 1, "max_waiting": 2}}
    with held(snapshot_folder, config, ServeSettings()) as (client, hold):
        threads, replies = post_in_threads(client, [QUERY] * 12)
        assert hold.entered.acquire(timeout=30)
        until(lambda: len(replies) == 9)  # 1 runs, 2 wait
        assert {reply.status_code for reply in replies} == {503}
        for reply in replies:
            assert reply.json()["error"]["code"] == "overloaded"
            assert 1 <= int(reply.headers["Retry-After"]) <= 60
        hold.go.set()
        for thread in threads:
            thread.join(30)
        assert sorted(reply.status_code for reply in replies) == [200] * 3 + [503] * 9
        assert client.post("/search", json=QUERY).status_code == 200
        assert 'searchpipe_errors_total{code="overloaded"} 9.0' in client.get("/metrics").text


def test_an_urgent_query_takes_the_place_of_one_that_can_wait(snapshot_folder: Path) -> None:
    config = {"pipeline": {"threads": 1, "max_waiting": 1}}
    with held(snapshot_folder, config, ServeSettings()) as (client, hold):
        running, first = post_in_threads(client, [QUERY])
        assert hold.entered.acquire(timeout=30)
        pipeline = client.app.state.service.pipeline
        waiting, patient = post_in_threads(client, [{**QUERY, "priority": -1}])
        until(lambda: pipeline.load == (1, 1))
        urgent_thread, urgent = post_in_threads(client, [{**QUERY, "priority": 5}])
        until(lambda: bool(patient))
        assert patient[0].status_code == 503
        hold.go.set()
        for thread in (*running, *waiting, *urgent_thread):
            thread.join(30)
        assert (first[0].status_code, urgent[0].status_code) == (200, 200)


def test_requests_in_flight_are_bounded_but_health_is_answered(snapshot_folder: Path) -> None:
    with held(snapshot_folder, {}, ServeSettings(max_requests=2)) as (client, hold):
        threads, replies = post_in_threads(client, [QUERY] * 5)
        until(lambda: len(replies) == 3)
        assert {reply.status_code for reply in replies} == {503}
        assert all(reply.headers["Retry-After"] for reply in replies)
        assert client.get("/health/ready").status_code == 200
        assert 'searchpipe_http_shed_total{limit="requests"} 3.0' in client.get("/metrics").text
        hold.go.set()
        for thread in threads:
            thread.join(30)
        assert sum(reply.status_code == 200 for reply in replies) == 2


def test_one_client_cannot_take_all(snapshot_folder: Path) -> None:
    with held(snapshot_folder, {}, ServeSettings(max_per_client=1)) as (client, hold):
        threads, replies = post_in_threads(client, [QUERY] * 3)
        until(lambda: len(replies) == 2)
        assert {reply.status_code for reply in replies} == {429}
        assert {reply.headers["Retry-After"] for reply in replies} == {"1"}
        hold.go.set()
        for thread in threads:
            thread.join(30)
        assert client.post("/search", json=QUERY).status_code == 200


def test_a_client_that_leaves_frees_its_work(snapshot_folder: Path) -> None:
    with held(snapshot_folder, {}, ServeSettings()) as (client, hold):
        pipeline = client.app.state.service.pipeline
        body = b'{"query": "shoes", "budget_ms": 10000}'
        sent: list[Any] = []

        async def leave() -> None:
            messages = [{"type": "http.request", "body": body, "more_body": False}]

            async def receive() -> dict[str, Any]:
                if messages:
                    return messages.pop()
                while not hold.entered.acquire(blocking=False):
                    await asyncio.sleep(0.005)
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                sent.append(message)

            headers = [(b"content-type", b"application/json")]
            scope = {
                **{"type": "http", "method": "POST", "path": "/search", "raw_path": b"/search"},
                **{"query_string": b"", "headers": headers, "client": ("c", 1), "server": ("s", 1)},
                **{"scheme": "http", "http_version": "1.1", "root_path": "", "asgi": {"version": "3.0"}},
            }
            await client.app(scope, receive, send)
            while pipeline.load != (0, 0):
                await asyncio.sleep(0.005)

        asyncio.run(asyncio.wait_for(leave(), 30))
        assert not hold.go.is_set()  # nobody let it go: it ended because nobody waits
        assert 'searchpipe_errors_total{code="cancelled"} 1.0' in client.get("/metrics").text


def test_a_body_that_never_ends_is_given_up(snapshot_folder: Path) -> None:
    with held(snapshot_folder, {}, ServeSettings(body_timeout_s=0.05)) as (client, _):

        def slowly() -> Iterator[bytes]:
            yield b'{"query": '

        sent: list[Any] = []

        async def drip() -> None:
            first = [{"type": "http.request", "body": next(slowly()), "more_body": True}]

            async def receive() -> dict[str, Any]:
                if first:
                    return first.pop()
                await asyncio.sleep(60)
                raise AssertionError

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/search", "headers": [], "client": None}
            await client.app.middleware_stack(scope, receive, send)

        asyncio.run(asyncio.wait_for(drip(), 30))
        assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("waiting", "threads", "seconds", "expected"),
    [(0, 4, 0.05, 1), (64, 4, 0.5, 8), (10_000, 1, 1.0, 60), (5, 4, 0.0, 1), (5, 4, float("nan"), 1)],
)
def test_retry_after_is_the_time_of_the_queue(
    waiting: int, threads: int, seconds: float, expected: int
) -> None:
    assert retry_after(waiting, threads, seconds) == expected


@pytest.mark.parametrize(("predicted", "expected"), [(0.004, "1"), (2.1, "3"), (1e9, "60"), (None, "7")])
def test_retry_after_is_what_admission_predicted(predicted: float | None, expected: str) -> None:
    answer = problem_of(OverloadedError("late", retry_after_s=predicted), retry_s=7)
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, expected)
