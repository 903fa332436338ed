"""Engines in order of preference; when one fails the next answers, and the better one comes back."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from searchpipe import _core
from searchpipe.arrays import Float32
from searchpipe.breaker import BreakerPolicy, CircuitBreaker
from searchpipe.deadline import ANSWERING, Clock
from searchpipe.errors import ClosedError, EngineError, EngineUnavailableError, PipelineError
from searchpipe.forks import Inherited
from searchpipe.interpreter_end import ENGINES, close_at_end
from searchpipe.runtime.chain_keeper import ChainKeeper
from searchpipe.runtime.chain_outcomes import ChainOutcomes
from searchpipe.runtime.chain_request import Begun, Request, Spare, once
from searchpipe.runtime.forecast import Forecaster
from searchpipe.runtime.links import Link, LinkState, Live, Opened

__all__ = ["EngineChain", "Link", "LinkState", "Opened", "Submit"]

Submit = Callable[[_core.Scorer], _core.Ticket]
"""Makes a request of a scorer: prepared, to be queued as suits the caller, or queued already."""

Start = Callable[[_core.Scorer], tuple[_core.Ticket, _core.Flight] | None]
"""Begins a request of a scorer; None: there is none to be made."""


class EngineChain:
    """Serves requests on the best link that works.

    At construction links are opened in order until one succeeds. Each link has a circuit breaker
    (:class:`searchpipe.breaker.CircuitBreaker`): requests that fail, whose scores are mostly not finite
    numbers, or that take far longer than forecast open it. The link is then retired, and the next one is
    opened in the background. Requests that fail meanwhile, and those that come before the next link is
    ready, raise :class:`EngineError` at once, so that a pipeline can go on without them; nobody waits
    for a model to load.

    A better link comes back on its own: once its cool-down is over it is opened in the background
    beside the one that serves, and is tried with one request at a time, which the serving one answers
    if the trial fails. After ``policy.probes`` that went well it serves again, and the other one is closed
    after its last request. This needs memory for both at once; without it, opening fails and is tried again
    later. What cannot come back in this process is never tried (``LinkState.lost``): a CUDA context that
    has failed stays broken for the life of a process, and a plan or package that does not fit stays so.

    Threads: any thread may call everything. A lone caller of :meth:`run` does on its own thread what the
    threads of the scorer do otherwise (``_core.Scorer.run``).

    Args:
        links: best first.
        policy: of each link's breaker.
        max_queued_rows, batch_tokens: of each link's ``_core.Scorer``.
        clock: monotonic seconds.

    Raises:
        EngineError: no link could be opened; the message has every reason.
    """

    def __init__(
        self,
        links: Sequence[Link],
        *,
        policy: BreakerPolicy | None = None,
        max_queued_rows: int = 16384,
        batch_tokens: int = 0,
        clock: Clock = time.monotonic,
    ) -> None:
        if not links:
            raise PipelineError("An engine chain needs at least one link.")
        policy = policy or BreakerPolicy()
        self._clock = clock
        self._keeper = ChainKeeper(
            links,
            [CircuitBreaker(policy, clock=clock) for _ in links],
            {"max_queued_rows": max_queued_rows, "batch_tokens": batch_tokens},
        )
        self._outcomes = ChainOutcomes(self._keeper, policy.failures, clock)
        self._keeper.open_first()
        _open_chains.add(self)

    @property
    def states(self) -> list[LinkState]:
        """Copies of all links' states, in order."""
        breakers = self._keeper.breakers
        return [
            replace(state, breaker=breaker.state, trips=breaker.trips)
            for state, breaker in zip(self._keeper.states, breakers, strict=True)
        ]

    @property
    def fallbacks(self) -> int:
        """How often a link that served, or was to serve, failed; trials of a better one are not counted."""
        return self._keeper.fallbacks

    @property
    def returns(self) -> int:
        """How often a better link came back."""
        return self._keeper.returns

    @property
    def serving(self) -> str:
        """Name of the link that answers now; empty while the next is opened and after the last failed."""
        live = self._keeper.serving
        return self._keeper.states[live.place].name if live is not None else ""

    @property
    def forecaster(self) -> Forecaster | None:
        """Predicts requests on the link that answers now; None if its costs are unknown, or none answers."""
        live = self._keeper.serving
        return live.forecaster if live is not None else None

    @property
    def scorer(self) -> _core.Scorer:
        """The scorer that answers now, for its statistics and buckets.

        Raises:
            EngineError, ClosedError: there is none.
        """
        return self._current().scorer

    def run(
        self,
        submit: Submit,
        *,
        timeout: float | None = None,
        meanwhile: Spare | None = None,
        before_end: Spare | None = None,
    ) -> Float32:
        """Submit a request and wait for its scores; NaN where its own deadline came first.

        Args:
            submit: called with a scorer; returns the ticket. Called again if a link that was tried failed.
            timeout: seconds to wait at most; the request is cancelled then.
            meanwhile: called once on this thread when the request was submitted; what it raises is ignored.
            before_end: called at most once on this thread, shortly before the scores are there, of a lone
                caller of a GPU (``_core.Scorer.run``); what it raises is ignored.

        Raises:
            EngineFailedError: the engine failed; ``EngineUnavailableError``: none is ready.
            OverloadedError, ClosedError: the queue is full, the engine closed; what ``submit`` raises.
            QueryCancelled: inside a pipeline, the query's caller has left.
            TimeoutError: no scores within ``timeout``.
        """
        if (answering := ANSWERING.get()) is not None:
            answering.check_cancelled()
        spare = None if meanwhile is None else once(meanwhile)
        late = None if before_end is None else once(before_end)
        if self._keeper.probing is not None:
            since = self._clock()
            scores = self._tried(submit, timeout, spare, late)
            if scores is not None:
                return scores
            if timeout is not None:  # the one that serves answers
                timeout = max(0.0, timeout - (self._clock() - since))
        while True:
            request = self._begin(submit, queue=False)
            try:
                ended = request.run(timeout, spare, late)
            except ClosedError:
                self._moved_on(request.live)
                continue
            return self._outcomes.result(request, ended, timeout)

    def begin(self, start: Start) -> Begun | None:
        """Put a request on its way, to be finished with :meth:`finish` on this thread, or abandoned.

        Args:
            start: called with a scorer; begins one of its tickets there, or returns None.

        Returns:
            None if ``start`` has, and if it is better asked with :meth:`run`, as links change or are tried.

        Raises:
            OverloadedError, ClosedError: the queue is full, the engine closed; what ``start`` raises.
        """
        live = self._keeper.serving
        if live is None or self._keeper.probing is not None or not (given := live.breaker.admit()):
            return None
        begun, before_s = self._clock(), 0.0 if live.forecaster is None else live.forecaster.given_s
        started = None
        try:
            started = start(live.scorer)
        finally:
            if started is None:
                live.breaker.abandoned(given)
        if started is None:
            return None
        ticket, flight = started
        return Begun(Request(live, given, ticket, begun, before_s), flight)

    def finish(
        self,
        begun: Begun,
        *,
        timeout: float | None = None,
        meanwhile: Spare | None = None,
        before_end: Spare | None = None,
    ) -> Float32:
        """Wait for the scores of what :meth:`begin` has begun; once.

        Args:
            begun: of this thread.
            timeout: as of :meth:`run`.
            meanwhile: likewise, called now.
            before_end: likewise.

        Raises:
            EngineFailedError, ClosedError, QueryCancelled, TimeoutError: as :meth:`run`.
        """
        spare = None if meanwhile is None else once(meanwhile)
        late = None if before_end is None else once(before_end)
        request, flight = begun
        return self._outcomes.result(request, request.finish(flight, timeout, spare, late), timeout)

    async def run_async(self, submit: Submit) -> Float32:
        """As :meth:`run`, for an event loop, which the scorer wakes; a cancelled task cancels its request."""
        trial = self._try(submit, queue=True)
        if trial is not None:
            try:
                await trial.ended()
                return self._outcomes.result(trial)
            except EngineError:
                pass
        request = self._begin(submit, queue=True)
        await request.ended()
        return self._outcomes.result(request)

    def wait_until_serving(self, timeout: float | None = None) -> bool:
        """Wait for a link that is being opened; True if one serves then."""
        return self._keeper.wait_until_settled(timeout)

    def close(self, *, drain: bool = True) -> None:
        """Refuse requests, finish (or drop) those that wait, and close the engines. Idempotent."""
        self._keeper.close(drain=drain)
        _open_chains.discard(self)

    def end(self, seconds: float) -> None:  # noqa: ARG002  (what is in flight ends when the device says so)
        """Close because the interpreter ends, dropping what waits."""
        self.close(drain=False)

    def _current(self) -> Live:
        live = self._keeper.serving
        if live is not None:
            return live
        if self._keeper.closed:
            raise ClosedError("The engine was closed.")
        raise EngineUnavailableError(f"No engine is ready. {self._keeper.reasons()}")

    def _tried(
        self, submit: Submit, timeout: float | None, spare: Spare | None, late: Spare | None
    ) -> Float32 | None:
        """Scores of the link that is to come back; None if it is not to be tried now, or failed."""
        trial = self._try(submit, queue=False)
        if trial is None:
            return None
        try:
            ended = trial.run(timeout, spare, late)
        except Exception:
            return None  # the one that serves says why
        try:
            return self._outcomes.result(trial, ended, timeout)
        except EngineError:
            return None

    def _try(self, submit: Submit, *, queue: bool) -> Request | None:
        """Make a request of the link that is to come back, if it is to be tried now."""
        live = self._keeper.probing
        given = live.breaker.admit() if live is not None else 0
        if live is None or not given:
            return None
        try:
            return self._request(live, given, submit, queue=queue)
        except Exception:
            return None  # the one that serves says why

    def _begin(self, submit: Submit, *, queue: bool) -> Request:
        while True:
            live = self._keeper.serving or self._current()
            given = live.breaker.admit()
            if not given:
                name = self._keeper.states[live.place].name
                raise EngineUnavailableError(f"Engine {name} is being tried. {self._keeper.reasons()}")
            try:
                return self._request(live, given, submit, queue=queue)
            except ClosedError:
                self._moved_on(live)

    def _moved_on(self, live: Live) -> None:
        """A scorer has refused: raise why, unless a better one has taken over a moment ago."""
        if self._keeper.closed or self._keeper.serving in (None, live):
            raise self._outcomes.ended(live) from None

    def _request(self, live: Live, given: int, submit: Submit, *, queue: bool) -> Request:
        try:
            ticket = submit(live.scorer)
            if queue:
                live.scorer.submit(ticket)
        except BaseException:
            live.breaker.abandoned(given)
            raise
        before_s = 0.0 if live.forecaster is None else live.forecaster.given_s
        return Request(live, given, ticket, self._clock(), before_s)


_open_chains = Inherited()
close_at_end(ENGINES, _open_chains)
