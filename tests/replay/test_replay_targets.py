"""Targets: a pipeline, and a service over HTTP with its failures."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError, OverloadedError
from searchpipe.page import Degradation, Hit, Page, Span, Trace
from searchpipe.replay.entry import Entry
from searchpipe.replay.targets import (
    HttpTarget,
    PipelineTarget,
    ShedError,
    TargetError,
    TargetTimeoutError,
    parse_page,
)

PAGE = Page(
    "red shoes",
    (Hit(1, "a", 0.5, {}, {"title": "Red shoes"}, ()), Hit(2, "b", 0.25, {}, {}, ())),
    (Degradation("score", "shortened", "scored 1 of 2", 0.5),),
    Trace(7.0, 50.0, 1.0, (Span("recall", 0.0, 3.0, 0, 2), Span("page", 3.0, 1.0, 2, 2))),
    "v7",
)


class Service(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.body = json.dumps(PAGE.to_dict()).encode()
        self.asked: list[dict[str, Any]] = []
        self.connections: set[Any] = set()
        self.close_after = False
        self.hang = threading.Event()
        self.hang.set()

    def handle_error(self, *_: object) -> None:
        """Clients that hang up are part of the tests."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Service

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked.append({"path": self.path, **json.loads(content)})
        self.server.connections.add(self.client_address)
        self.server.hang.wait(30)
        self.send_response(self.server.status)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)
        # Without a word to the client, as a server does that is restarted.
        self.close_connection = self.server.close_after

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.hang.set()
        server.shutdown()
        thread.join()


def ask(target: HttpTarget, text: str = "red shoes", **rest: Any) -> Any:
    try:
        return target.search(Entry(0.0, text, **rest))
    finally:
        target.close()


def test_a_page_over_http_is_the_page_in_process(service: Service) -> None:
    class Fake:
        def search(self, *_: object) -> Page:
            return PAGE

    answer = ask(HttpTarget(service.url))
    assert answer == PipelineTarget(Fake()).search(Entry(0.0, "red shoes"))  # type: ignore[arg-type]
    assert answer.ids == ("a", "b")
    assert [item.title for item in answer.items] == ["Red shoes", "b"]
    assert answer.degradations == (("score", "shortened", 0.5),)
    assert answer.spans == (("recall", 0.0, 3.0), ("page", 3.0, 1.0))


def test_the_request_holds_what_the_entry_says(service: Service) -> None:
    target = HttpTarget(service.url, k=20, budget_ms=40)
    target.search(Entry(0.0, "x", 5, {"brand": "Acme"}, 30.0, context={"user": "u"}))
    target.search(Entry(0.0, "x \ud83d"))
    target.close()
    full = {"k": 5, "filters": {"brand": "Acme"}, "budget_ms": 30.0, "context": {"user": "u"}}
    assert service.asked == [
        {"path": "/search", "query": "x", **full},
        {"path": "/search", "query": "x ?", "k": 20, "budget_ms": 40},
    ]


def test_without_a_limit_the_services_own_budget_counts(service: Service) -> None:
    ask(HttpTarget(service.url + "/v2/find?debug=1", budget_ms=math.inf))
    assert service.asked == [{"path": "/v2/find?debug=1", "query": "red shoes"}]


def test_one_connection_a_thread_is_kept(service: Service) -> None:
    target = HttpTarget(service.url)
    for _ in range(5):
        target.search(Entry(0.0, "x"))
    target.close()
    assert len(service.asked) == 5
    assert len(service.connections) == 1


def test_a_connection_that_the_server_closed_is_opened_again(service: Service) -> None:
    service.close_after = True
    target = HttpTarget(service.url)
    for _ in range(3):
        assert target.search(Entry(0.0, "x")).ids == ("a", "b")
    target.close()
    assert len(service.connections) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_refusals_are_shed(service: Service, status: int) -> None:
    service.status = status
    with pytest.raises(ShedError, match=str(status)):
        ask(HttpTarget(service.url))


@pytest.mark.parametrize(
    ("status", "body", "code"),
    [
        (500, b"oops", "500"),
        (400, b"{}", "400"),
        (200, b"", "bad_answer"),
        (200, b"[]", "bad_answer"),
        (200, b'{"hits": [{"id": 7}], "trace": {"total_ms": 1}}', "bad_answer"),
        (200, b"[" * 100_000, "bad_answer"),
    ],
)
def test_failures_go_by_their_code(service: Service, status: int, body: bytes, code: str) -> None:
    service.status, service.body = status, body
    with pytest.raises(TargetError) as caught:
        ask(HttpTarget(service.url))
    assert caught.value.code == code


def test_no_answer_in_time(service: Service) -> None:
    service.hang.clear()
    with pytest.raises(TargetTimeoutError):
        ask(HttpTarget(service.url, timeout_s=0.2))


def test_nobody_listens() -> None:
    with Service() as server:
        url = server.url
    with pytest.raises(TargetError) as caught:
        ask(HttpTarget(url))
    assert caught.value.code == "connection_refused"


@pytest.mark.parametrize("url", ["ftp://x", "localhost:80", "http://", "http://x:99999", ""])
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(ConfigError):
        HttpTarget(url)


@given(st.binary(max_size=200))
def test_any_answer_is_a_page_or_a_target_error(content: bytes) -> None:
    try:
        parse_page(content)
    except TargetError as error:
        code = error.code
    else:
        code = "bad_answer"
    assert code == "bad_answer"


def test_no_limit_is_null() -> None:
    answer = parse_page(
        b'{"hits": [{"id": "a", "score": null}], "trace": {"total_ms": 1, "budget_ms": null}}'
    )
    assert answer.budget_ms == math.inf
    assert answer.items[0].score == 0.0


def test_errors_of_a_pipeline() -> None:
    class Fake:
        error: Exception = OverloadedError("full")

        def search(self, *_: object) -> Page:
            raise self.error

    fake = Fake()
    target = PipelineTarget(fake)  # type: ignore[arg-type]
    with pytest.raises(ShedError, match="overloaded"):
        target.search(Entry(0.0, "x"))
    fake.error = ConfigError("no")
    with pytest.raises(TargetError) as caught:
        target.search(Entry(0.0, "x"))
    assert caught.value.code == "bad_config"
