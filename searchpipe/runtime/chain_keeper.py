"""Which link of an engine chain serves: opens, retires and brings back, on a thread of its own."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Sequence

from searchpipe.breaker import CircuitBreaker
from searchpipe.errors import EngineError
from searchpipe.runtime.forecast import Forecaster
from searchpipe.runtime.links import Link, LinkState, Live, context_is_dead, never_opens

_LOG = logging.getLogger("searchpipe.engines")

_NAP_S = 60.0
"""The longest sleep; a breaker's cool-down may be longer."""

_HANGS_S = 10.0
"""How long closing waits for a device that may never answer."""


class ChainKeeper:
    """Owns the engines of one chain. Models are opened and freed on threads of its own.

    A link is opened again only after what it had opened before was freed.

    Attributes are read without a lock, and change as a whole; any thread may call anything.

    Attributes:
        serving: the link that answers; None while there is none.
        probing: a better one that is tried beside it.
        closed: whether the chain was closed.
    """

    def __init__(
        self, links: Sequence[Link], breakers: Sequence[CircuitBreaker], options: dict[str, int]
    ) -> None:
        self.states = [LinkState(link.name) for link in links]
        self.breakers = list(breakers)
        self.serving: Live | None = None
        self.probing: Live | None = None
        self.closed = False
        self.fallbacks = 0
        self.returns = 0
        self._links = list(links)
        self._options = options
        self._changed = threading.Condition()
        self._looking = False  # for a link that can serve
        self._thread: threading.Thread | None = None
        self._leaving: dict[int, threading.Thread] = {}  # place -> frees what it had opened

    def open_first(self) -> None:
        """Open the best link that works, on the caller's thread.

        Raises:
            EngineError: none does.
        """
        for place in range(len(self._links)):
            self.serving = self._open(place, serves=True)
            if self.serving is not None:
                self.states[place].state = "serving"
                break
        else:
            raise EngineError(f"No engine could be opened. {self.reasons()}")
        with self._changed:
            self._watch()

    def reasons(self) -> str:
        """Why links failed, in one line."""
        return " ".join(f"{s.name}: {s.reason}" for s in self.states if s.reason)

    def review(self, live: Live) -> None:
        """Act on what a link's breaker says: retire it, or let it serve again."""
        state = live.breaker.state
        if state == "open":
            self._retire(live)
        elif state == "closed" and live is self.probing:
            self._promote(live)

    def wait_until_settled(self, timeout: float | None) -> bool:
        """Wait while a link that can serve is looked for; whether one serves then."""
        with self._changed:
            self._changed.wait_for(lambda: not self._looking, timeout)
            return self.serving is not None

    def close(self, *, drain: bool) -> None:
        """End all requests and free everything. Idempotent."""
        with self._changed:
            self.closed = True
            serving, self.serving = self.serving, None
            probing, self.probing = self.probing, None
            thread, self._thread = self._thread, None
            self._looking = False
            self._changed.notify_all()
        if probing is not None:
            probing.close(drain=False)
        if serving is not None:
            serving.close(drain=drain)
        if thread is not None:
            thread.join()
        for leaving in list(self._leaving.values()):
            leaving.join(_HANGS_S)

    def _open(self, place: int, *, serves: bool) -> Live | None:
        """Open a link; None if it does not, with the reason in its state."""
        from searchpipe import _core

        state, breaker = self.states[place], self.breakers[place]
        state.state = "opening"
        opened = None
        try:
            opened = self._links[place].open()
            scorer = _core.Scorer(opened.executor, **self._options)
        except Exception as error:  # whatever a runtime raises, the next link may work
            if opened is not None:
                opened.close()
            reason = str(error) or type(error).__name__
            breaker.trip(reason)
            state.lost = never_opens(error) or context_is_dead(reason)
            self._fail(place, reason, counts=serves)
            return None
        state.description = opened.description
        forecaster = Forecaster(opened.executor) if opened.on_gpu else None
        return Live(place, scorer, opened, breaker, forecaster)

    def _fail(self, place: int, reason: str, *, counts: bool) -> None:
        state = self.states[place]
        state.state, state.reason = "failed", reason
        self.fallbacks += counts
        _LOG.warning("Engine %s failed: %s", state.name, reason)

    def _retire(self, live: Live) -> None:
        with self._changed:
            if self.closed or live not in (self.serving, self.probing):
                return
            served = live is self.serving
            if not served:
                self.probing = None
            else:
                # One that is being tried is better than none.
                self.serving, self.probing = self.probing, None
                if self.serving is not None:
                    self.states[self.serving.place].state = "serving"
            reason = live.breaker.reason
            self.states[live.place].lost = live.opened.on_gpu and context_is_dead(reason)
            self._fail(live.place, reason, counts=served)
            self._looking = self.serving is None
            self._leave(live, failed=True)
            self._watch()

    def _promote(self, live: Live) -> None:
        with self._changed:
            if self.closed or live is not self.probing:
                return
            before, self.serving, self.probing = self.serving, live, None
            state = self.states[live.place]
            state.state, state.reason = "serving", ""
            self.returns += 1
            _LOG.info("Engine %s serves again", state.name)
            if before is not None:
                self.states[before.place].state = "untried"
                self._leave(before, failed=False)
            self._watch()

    def _leave(self, live: Live, *, failed: bool) -> None:
        """Free a link on a thread of its own: a device that hangs may never let go."""

        def free() -> None:
            if failed and live.opened.on_gpu and context_is_dead(live.breaker.reason, live.opened.check):
                self.states[live.place].lost = True
            try:
                live.close(drain=not failed)
            except Exception:
                _LOG.exception("Engine %s could not be freed", self.states[live.place].name)
                self.states[live.place].lost = True
            with self._changed:
                del self._leaving[live.place]
                self._changed.notify_all()

        thread = threading.Thread(target=free, name="searchpipe-engine-closer", daemon=True)
        self._leaving[live.place] = thread
        thread.start()

    def _watch(self) -> None:
        """Have the thread look at what changed, if there is anything for it to do."""
        if self._thread is None and math.isfinite(self._due_s()):
            self._thread = threading.Thread(target=self._keep, name="searchpipe-engine-opener", daemon=True)
            self._thread.start()
        elif self._thread is None:
            self._looking = False
        self._changed.notify_all()

    def _keep(self) -> None:
        while True:
            with self._changed:
                place = self._next()
                while place is None:
                    if self.closed:
                        return
                    self._looking = False
                    self._changed.notify_all()
                    due_s = self._due_s()
                    if math.isinf(due_s) and self.probing is None:
                        self._thread = None
                        return
                    self._changed.wait(min(max(due_s, 0.001), _NAP_S))
                    place = self._next()
                serves = self.serving is None
            live = self._open(place, serves=serves)
            if live is not None and not self._take(live):
                live.close(drain=False)

    def _take(self, live: Live) -> bool:
        """Let an opened link serve, or be tried; False if the chain was closed meanwhile."""
        with self._changed:
            if self.closed:
                return False
            if self.serving is None:
                self.serving = live
                self.states[live.place].state = "serving"
                self._looking = False
            else:
                self.probing = live
                self.states[live.place].state = "probing"
            self._changed.notify_all()
            return True

    def _candidates(self) -> list[int]:
        """Links that may serve or come back, best first."""
        if self.closed or self.probing is not None:
            return []
        end = self.serving.place if self.serving is not None else len(self._links)
        return [p for p in range(end) if not self.states[p].lost]

    def _next(self) -> int | None:
        """The link to open now."""
        for place in self._candidates():
            if place not in self._leaving and self.breakers[place].due_s() <= 0:
                return place
        return None

    def _due_s(self) -> float:
        """Seconds until one may be opened; inf if none ever will be."""
        # One that is being freed says so when it is.
        return min(
            (_NAP_S if p in self._leaving else self.breakers[p].due_s() for p in self._candidates()),
            default=math.inf,
        )
