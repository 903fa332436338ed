"""What the end of a request means: scores or an exception for its caller, and news for its link's breaker."""

from __future__ import annotations

from searchpipe.arrays import Float32
from searchpipe.deadline import ANSWERING, Clock
from searchpipe.errors import ClosedError, EngineError, EngineFailedError
from searchpipe.runtime.bad_scores import mostly_bad
from searchpipe.runtime.chain_keeper import ChainKeeper
from searchpipe.runtime.chain_request import Request
from searchpipe.runtime.links import Live

_SLOW = 20.0
"""Times what a request was expected to take, its queue included: below that the next engine is no faster."""

_STALL_S = 2.0
"""Without any result for so long, while requests ran out of their time, an engine hangs."""


class ChainOutcomes:
    """Judges the requests of an engine chain as they end.

    Threads: any thread may call everything; counts that two of them change at once may lose one.

    Args:
        keeper: of the chain's links.
        failures: so many requests that run out of their time in a row, and the engine may hang.
        clock: monotonic seconds, the chain's.
    """

    def __init__(self, keeper: ChainKeeper, failures: int, clock: Clock) -> None:
        self._keeper = keeper
        self._failures = failures
        self._clock = clock
        self._last_result = clock()
        self._timeouts = 0  # since the last result

    def result(self, request: Request, ended: bool = True, timeout: float | None = None) -> Float32:
        """Scores of a request that has ended, or (``ended`` false) whose caller waited ``timeout`` seconds.

        Raises:
            TimeoutError: it had not ended; it is cancelled now.
            EngineFailedError, ClosedError, QueryCancelled: see :meth:`EngineChain.run`.
        """
        live, ticket = request.live, request.ticket
        if not ended and ticket.cancel():
            self._ran_out(request)
            raise TimeoutError(f"No scores within {timeout:.3g} s.")
        scores = ticket.sound_scores()
        if scores is not None:
            self._succeeded(request)
            return scores
        status = ticket.status
        if status == "done":
            return self._partial(request)
        if status == "failed":
            self._failed(request, ticket.error)
            raise EngineFailedError(f"Engine {self._name(live)}: {ticket.error}.")
        live.breaker.abandoned(request.given)
        if status == "cancelled" and (answering := ANSWERING.get()) is not None:
            answering.check_cancelled()
        raise self.ended(live)

    def _partial(self, request: Request) -> Float32:
        """Scores of which some are late or not finite."""
        live, ticket = request.live, request.ticket
        scores = ticket.scores()
        if mostly_bad(scores, ticket):
            self._heard()
            self._failed(request, "its scores are not finite numbers")
            if live is not self._keeper.serving:
                raise EngineFailedError(f"Engine {self._name(live)}: its scores are not finite numbers.")
        elif ticket.scored:
            self._succeeded(request)
        else:  # late before they were begun: not the engine's doing
            self._heard()
            live.breaker.abandoned(request.given)
        return scores

    def _heard(self) -> None:
        self._timeouts, self._last_result = 0, self._clock()

    def _succeeded(self, request: Request) -> None:
        live, given, ticket, begun, before_s = request
        self._timeouts = 0
        self._last_result = now = self._clock()
        breaker, forecaster, took_s = live.breaker, live.forecaster, now - begun
        slow = (
            forecaster is not None
            and took_s > _SLOW * forecaster.least_s  # or it is not, whatever was expected
            and took_s > _SLOW * forecaster.expected_s(ticket.rows, before_s)
        )
        breaker.succeeded(given, slow=slow, now=now)
        if breaker.state != "closed" or live is self._keeper.probing:
            self._keeper.review(live)

    def _failed(self, request: Request, reason: str) -> None:
        request.live.breaker.failed(request.given, reason)
        self._keeper.review(request.live)

    def _ran_out(self, request: Request) -> None:
        """A caller's time was up first: of many, without a result in between, the engine hangs."""
        live = request.live
        live.breaker.abandoned(request.given)
        self._timeouts += 1
        silent_s = self._clock() - self._last_result
        if self._timeouts >= self._failures and silent_s > _STALL_S:
            self._timeouts, self._last_result = 0, self._clock()
            live.breaker.trip(f"no result for {silent_s:.1f} s")
            self._keeper.review(live)

    def ended(self, live: Live) -> EngineError | ClosedError:
        """Why a scorer is closed: with the chain, or because its link was retired a moment ago."""
        if self._keeper.closed:
            return ClosedError("The engine was closed before the request was scored.")
        reason = self._keeper.states[live.place].reason
        return EngineFailedError(f"Engine {self._name(live)} was retired. {reason}")

    def _name(self, live: Live) -> str:
        return self._keeper.states[live.place].name
