"""What a replay asks: a pipeline in this process, or a service over HTTP."""

from __future__ import annotations

import http.client
import math
import ssl
import threading
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import ConfigError, OverloadedError, SearchpipeError
from searchpipe.page import Page
from searchpipe.pipeline import Pipeline
from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Answer, Item, answer_of

MAX_ANSWER_BYTES = 64 << 20
_SHED = (429, 503)


class ShedError(Exception):
    """The target refused the query because of its load; ``code`` is the HTTP status or the error's code."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class TargetError(Exception):
    """The target failed; ``code`` is short, the same for all failures of a kind."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class TargetTimeoutError(TargetError):
    """The target gave no answer in time."""


class Target(Protocol):
    """Answers queries; ``search`` is called from many threads at once."""

    def search(self, entry: Entry) -> Answer:
        """Answer one query.

        Raises:
            ShedError: it was refused because of the load.
            TargetTimeoutError: it took too long.
            TargetError: it failed.
        """
        ...

    def describe(self) -> str:
        """One line."""
        ...

    def close(self) -> None:
        """Let go of connections or engines. Idempotent."""
        ...


class PipelineTarget:
    """A :class:`searchpipe.pipeline.Pipeline`, asked on the caller's own thread. Any thread may search.

    Args:
        pipeline: asked through ``search``; closed with this object.
        k: hits of a query that names no k.
        budget_ms: of a query that names none; None for the configuration's.
    """

    def __init__(self, pipeline: Pipeline, *, k: int = 10, budget_ms: float | None = None) -> None:
        self.pipeline = pipeline
        self._k = k
        self._budget_ms = budget_ms

    def search(self, entry: Entry) -> Answer:
        """As :class:`Target`; an error of the pipeline goes by its ``code``."""
        try:
            page = self._page(entry)
        except OverloadedError as error:
            raise ShedError(error.code) from error
        except SearchpipeError as error:
            raise TargetError(error.code, str(error)) from error
        return answer_of(page)

    def describe(self) -> str:
        """The pipeline's stages."""
        return self.pipeline.describe()

    def close(self) -> None:
        """Close the pipeline."""
        self.pipeline.close()

    def _page(self, entry: Entry) -> Page:
        k, budget = self._wanted(entry)
        return self.pipeline.search(entry.query, k, budget, entry.filters, entry.context)

    def _wanted(self, entry: Entry) -> tuple[int, float | None]:
        return entry.k or self._k, entry.budget_ms if entry.budget_ms is not None else self._budget_ms


class _Hit(msgspec.Struct):
    id: str
    score: float | None = None
    fields: dict[str, Any] = {}


class _Degradation(msgspec.Struct):
    stage: str
    reason: str
    amount: float = 1.0


class _Span(msgspec.Struct):
    stage: str
    start_ms: float
    ms: float


class _Trace(msgspec.Struct):
    total_ms: float
    # No limit is null, for JSON has no infinity.
    budget_ms: float | None = None
    spans: tuple[_Span, ...] = ()


class _Page(msgspec.Struct):
    hits: tuple[_Hit, ...]
    trace: _Trace
    degradations: tuple[_Degradation, ...] = ()
    snapshot: str = ""
    cached: bool = False


class HttpTarget:
    """``POST URL`` with JSON, one kept-alive connection a thread. Any thread may search.

    The body holds ``query`` and, where known, ``k``, ``filters``, ``context`` and ``budget_ms``;
    the answer is that of ``searchpipe serve``: :meth:`searchpipe.page.Page.to_dict`. Statuses 429 and 503 are
    refusals. A kept connection that the server had closed meanwhile is opened again once.

    Args:
        url: ``http://HOST:PORT``; the path ``/search`` is added where there is none.
        k: sent for a query that names no k; None to leave it to the service.
        budget_ms: likewise.
        timeout_s: longest wait for an answer, in seconds.

    Raises:
        ConfigError: the URL is not http or https.
    """

    def __init__(
        self, url: str, *, k: int | None = None, budget_ms: float | None = None, timeout_s: float = 10.0
    ) -> None:
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} has no valid port: {error}.") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"{url!r} is not an http or https URL.", cure="Such as http://127.0.0.1:8080.")
        self.url = url
        self._host, self._port, self._secure = parts.hostname, port, parts.scheme == "https"
        path = parts.path if parts.path not in ("", "/") else "/search"
        self._path = path + (f"?{parts.query}" if parts.query else "")
        self._k, self._budget_ms, self._timeout_s = k, budget_ms, timeout_s
        self._own = threading.local()
        self._lock = threading.Lock()
        self._open: set[http.client.HTTPConnection] = set()
        self._encoder = msgspec.json.Encoder()
        self._context = ssl.create_default_context() if self._secure else None

    def search(self, entry: Entry) -> Answer:
        """As :class:`Target`; an error goes by its HTTP status or by what failed."""
        try:
            status, content = self._post(self._body(entry))
        except TimeoutError as error:
            self._drop()
            raise TargetTimeoutError("timeout", str(error)) from error
        except (OSError, http.client.HTTPException) as error:
            self._drop()
            raise TargetError(_code_of(error), str(error)) from error
        if status in _SHED:
            raise ShedError(str(status))
        if status != 200:
            raise TargetError(str(status), content[:200].decode("utf-8", "replace"))
        return parse_page(content)

    def describe(self) -> str:
        """The URL."""
        return self.url

    def close(self) -> None:
        """Close all connections; searches that run fail."""
        with self._lock:
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    def _body(self, entry: Entry) -> bytes:
        wanted = {
            "query": entry.query,
            "k": entry.k if entry.k is not None else self._k,
            "filters": entry.filters,
            "context": entry.context,
            "budget_ms": entry.budget_ms if entry.budget_ms is not None else self._budget_ms,
        }
        # JSON has no infinity: left out, the service's own budget counts.
        body = {name: value for name, value in wanted.items() if value is not None and value != math.inf}
        try:
            return self._encoder.encode(body)
        except UnicodeEncodeError:
            body["query"] = entry.query.encode("utf-8", "replace").decode()
            return self._encoder.encode(body)

    def _post(self, body: bytes) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        kept = getattr(self._own, "connection", None)
        if kept is not None:
            try:
                kept.request("POST", self._path, body, headers)
                return _read(kept.getresponse())
            except (ConnectionError, http.client.RemoteDisconnected, http.client.CannotSendRequest):
                self._drop()
        connection = self._connect()
        connection.request("POST", self._path, body, headers)
        return _read(connection.getresponse())

    def _connect(self) -> http.client.HTTPConnection:
        if self._secure:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=self._timeout_s, context=self._context
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=self._timeout_s)
        self._own.connection = connection
        with self._lock:
            self._open.add(connection)
        return connection

    def _drop(self) -> None:
        connection = getattr(self._own, "connection", None)
        self._own.connection = None
        if connection is not None:
            with self._lock:
                self._open.discard(connection)
            connection.close()


def parse_page(content: bytes) -> Answer:
    """An answer from the JSON of a page.

    Raises:
        TargetError: with the code ``bad_answer``, it is no page.
    """
    try:
        page = _PAGE.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise TargetError("bad_answer", str(error)) from error
    return Answer(
        tuple(
            Item(h.id, h.score if h.score is not None else 0.0, str(h.fields.get("title") or h.id)[:200])
            for h in page.hits
        ),
        page.trace.total_ms,
        math.inf if page.trace.budget_ms is None else page.trace.budget_ms,
        tuple((d.stage, d.reason, d.amount) for d in page.degradations),
        tuple((s.stage, s.start_ms, s.ms) for s in page.trace.spans),
        page.snapshot,
        page.cached,
    )


_PAGE = msgspec.json.Decoder(decodable(_Page))


def _read(response: http.client.HTTPResponse) -> tuple[int, bytes]:
    content = response.read(MAX_ANSWER_BYTES + 1)
    if len(content) > MAX_ANSWER_BYTES:
        raise http.client.HTTPException("the answer is too long")
    return response.status, content


def _code_of(error: Exception) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "connection_refused"
    return "connection_lost" if isinstance(error, ConnectionError) else type(error).__name__
