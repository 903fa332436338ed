"""Engines in order of preference; when one fails, the next answers, and why is on record."""

from __future__ import annotations

import asyncio
import atexit
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from searchpipe.arrays import Float32
from searchpipe.errors import ClosedError, EngineError, PipelineError
from searchpipe.forks import Inherited
from searchpipe.runtime.forecast import Forecaster

if TYPE_CHECKING:
    from searchpipe import _core

Submit = Callable[["_core.Scorer"], "_core.Ticket"]
State = Literal["untried", "opening", "serving", "failed"]


@dataclass(frozen=True, slots=True)
class Opened:
    """What a link opens: an executor, and what to call once its scorer was closed.

    ``on_gpu``: it runs on a GPU, has device memory to offer, and its buckets' costs were measured.
    """

    executor: _core.Executor
    close: Callable[[], None]
    description: str = ""
    on_gpu: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """One engine of a chain: ``open`` makes it ready to serve, or raises."""

    name: str
    open: Callable[[], Opened]


@dataclass(slots=True)
class LinkState:
    """Where one link stands; ``reason`` says why it failed."""

    name: str
    state: State = "untried"
    reason: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True)
class _Serving:
    place: int
    scorer: _core.Scorer
    opened: Opened
    forecaster: Forecaster | None = None  # on a GPU


class EngineChain:
    """Serves requests on the first link that works.

    At construction links are opened in order until one succeeds. While serving,
    ``max_failures`` failed requests in a row retire the link: the next one is opened
    in the background and takes over. Requests that fail meanwhile, and those that come
    before the next link is ready, raise :class:`EngineError` at once, so that a pipeline
    can go on without them; nobody waits for a model to load. A retired link is not tried
    again: a CUDA context that has failed stays broken for the life of the process.

    Threads: any thread may call everything.

    Raises:
        EngineError: no link could be opened; the message has every reason.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        max_failures: int = 3,
        max_queued_rows: int = 16384,
        batch_tokens: int = 0,
    ) -> None:
        if not links:
            raise PipelineError("An engine chain needs at least one link.")
        self._links = list(links)
        self._states = [LinkState(link.name) for link in links]
        self._max_failures = max_failures
        self._options = {"max_queued_rows": max_queued_rows, "batch_tokens": batch_tokens}
        self._lock = threading.Lock()
        self._failures = 0
        self._closed = False
        self._serving: _Serving | None = None
        self._opener: threading.Thread | None = None
        self._retired: list[_Serving] = []
        self._serving = self._open_from(0)
        if self._serving is None:
            raise EngineError(f"No engine could be opened. {self._reasons()}")
        _open_chains.add(self)

    @property
    def states(self) -> list[LinkState]:
        """Copies of all links' states, in order."""
        with self._lock:
            return [LinkState(s.name, s.state, s.reason, s.description) for s in self._states]

    @property
    def serving(self) -> str:
        """Name of the link that answers now; empty while the next is opened and after the last failed."""
        serving = self._serving
        return self._links[serving.place].name if serving is not None else ""

    @property
    def forecaster(self) -> Forecaster | None:
        """Predicts requests on the link that answers now; None if its costs are unknown, or none answers."""
        serving = self._serving
        return serving.forecaster if serving is not None else None

    @property
    def scorer(self) -> _core.Scorer:
        """The scorer that answers now, for its statistics and buckets.

        Raises:
            EngineError, ClosedError: there is none.
        """
        return self._current().scorer

    def run(self, submit: Submit, *, timeout: float | None = None) -> Float32:
        """Submit a request and wait for its scores; NaN where its own deadline came first.

        Args:
            submit: called once with the scorer; returns the ticket.
            timeout: seconds to wait at most; the request is cancelled then.

        Raises:
            EngineError: the engine failed, or none is ready.
            OverloadedError, ClosedError: as ``submit`` raises them.
            TimeoutError: no scores within ``timeout``.
        """
        serving, ticket = self._submit(submit)
        if not ticket.wait(timeout) and ticket.cancel():
            raise TimeoutError(f"No scores within {timeout} s.")
        return self._result(serving, ticket)

    async def run_async(self, submit: Submit) -> Float32:
        """As :meth:`run`, for an event loop, which the scorer wakes; a cancelled task cancels its request."""
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        serving, ticket = self._submit(submit)
        ticket.on_done(lambda: _wake(loop, ended))
        try:
            await ended
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        return self._result(serving, ticket)

    def wait_until_serving(self, timeout: float | None = None) -> bool:
        """Wait for a link that is being opened; True if one serves then."""
        opener = self._opener
        if opener is not None:
            opener.join(timeout)
        return self._serving is not None

    def close(self, *, drain: bool = True) -> None:
        """Refuse requests, finish (or drop) those that wait, and close the engines. Idempotent."""
        with self._lock:
            self._closed = True
            serving, self._serving = self._serving, None
            opener = self._opener
        if serving is not None:
            serving.scorer.close(drain=drain)
            serving.opened.close()
        if opener is not None:
            opener.join()
        _close_all(self._retired)
        _open_chains.discard(self)

    def _current(self) -> _Serving:
        serving = self._serving
        if serving is not None:
            return serving
        if self._closed:
            raise ClosedError("The engine was closed.")
        raise EngineError(f"No engine is ready. {self._reasons()}")

    def _submit(self, submit: Submit) -> tuple[_Serving, _core.Ticket]:
        serving = self._current()
        try:
            return serving, submit(serving.scorer)
        except ClosedError:
            raise self._ended(serving) from None

    def _ended(self, serving: _Serving) -> EngineError | ClosedError:
        """Why a scorer is closed: with the chain, or because its link was retired a moment ago."""
        if self._closed:
            return ClosedError("The engine was closed before the request was scored.")
        place = serving.place
        return EngineError(f"Engine {self._links[place].name} was retired. {self._states[place].reason}")

    def _result(self, serving: _Serving, ticket: _core.Ticket) -> Float32:
        status = ticket.status
        if status == "done":
            self._failures = 0
            return ticket.scores()
        if status == "closed":
            raise self._ended(serving)
        name = self._links[serving.place].name
        if status == "failed":
            self._count_failure(serving, ticket.error)
        raise EngineError(f"Engine {name}: {ticket.error}.")

    def _count_failure(self, serving: _Serving, reason: str) -> None:
        with self._lock:
            if self._serving is not serving or self._closed:
                return
            self._failures += 1
            if self._failures < self._max_failures:
                return
            self._serving = None
            self._failures = 0
            self._retired.append(serving)
            self._fail(serving.place, reason)
            self._opener = threading.Thread(
                target=self._replace, args=(serving,), name="searchpipe-engine-opener", daemon=True
            )
            self._opener.start()

    def _replace(self, retired: _Serving) -> None:
        retired.scorer.close(drain=False)
        opened = self._open_from(retired.place + 1)
        with self._lock:
            if not self._closed:
                self._serving = opened
                return
        if opened is not None:
            opened.scorer.close(drain=False)
            opened.opened.close()

    def _open_from(self, place: int) -> _Serving | None:
        from searchpipe import _core

        for index in range(place, len(self._links)):
            self._states[index].state = "opening"
            try:
                opened = self._links[index].open()
                scorer = _core.Scorer(opened.executor, **self._options)
            except Exception as error:  # whatever a runtime raises, the next link may work
                self._fail(index, str(error) or type(error).__name__)
                continue
            self._states[index].state = "serving"
            self._states[index].description = opened.description
            forecaster = Forecaster(opened.executor) if opened.on_gpu else None
            return _Serving(index, scorer, opened, forecaster)
        return None

    def _fail(self, place: int, reason: str) -> None:
        self._states[place].state = "failed"
        self._states[place].reason = reason

    def _reasons(self) -> str:
        return " ".join(f"{s.name}: {s.reason}" for s in self._states if s.reason)


def _wake(loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
    def finish() -> None:
        if not ended.done():
            ended.set_result(None)

    try:
        loop.call_soon_threadsafe(finish)
    except RuntimeError:  # the loop was closed: nobody waits any more
        return


def _close_all(retired: list[_Serving]) -> None:
    while retired:
        serving = retired.pop()
        serving.scorer.close(drain=False)
        serving.opened.close()


_open_chains: Inherited = Inherited()


@atexit.register
def _close_open_chains() -> None:
    # Scorer threads that outlived the interpreter could not take the GIL any more.
    for chain in _open_chains:
        chain.close(drain=False)
