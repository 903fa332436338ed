"""Hears every query of one version and passes it on to those who watch the live pipeline."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from searchpipe.live.watcher import Outcome, Watcher
from searchpipe.metrics.observer import Observers, code_of
from searchpipe.page import Page

_REHEARSAL = ContextVar("searchpipe_live_rehearsal", default=False)

_CALLERS_FAULTS = frozenset({"bad_query", "bad_filter", "cancelled", "closed", "forked"})
_SHED = "overloaded"


@contextmanager
def rehearsal() -> Iterator[None]:
    """Queries of this thread are asked for nobody: no observer hears of them."""
    token = _REHEARSAL.set(True)
    try:
        yield
    finally:
        _REHEARSAL.reset(token)


class Relay:
    """The one observer of a version's own pipeline. Any thread may call anything.

    Args:
        number: of the version.
        watcher: told what the query took and how it ended.
        observers: those of the live pipeline.
    """

    def __init__(self, number: int, watcher: Watcher, observers: Observers) -> None:
        self._number = number
        self._watcher = watcher
        self._observers = observers

    def answered(self, page: Page) -> None:
        """Pass an answer on."""
        if _REHEARSAL.get():
            return
        if not page.cached:  # which says nothing about the version's models, and is rarer after a switch
            outcome: Outcome = "degraded" if page.degradations else "full"
            self._watcher.record(self._number, page.trace.total_ms, outcome)
        self._observers.answered(page)

    def refused(self, text: object, error: BaseException) -> None:
        """Pass a refusal on; the caller's own mistakes say nothing about the version."""
        if _REHEARSAL.get():
            return
        code = code_of(error)
        if code == _SHED:
            # Load, not a fault; yet a version that is slower sheds more, as it degrades more.
            self._watcher.record(self._number, math.nan, "degraded")
        elif code not in _CALLERS_FAULTS:
            self._watcher.record(self._number, 0.0, "error")
        self._observers.refused(text, error)
