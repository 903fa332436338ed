"""One budget for a whole query, and the words for what was given up to keep it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from types import TracebackType
from typing import Final

from searchpipe import _core
from searchpipe.errors import QueryError

Clock = Callable[[], float]
"""Monotonic seconds."""

MAX_BUDGET_MS: Final = 600_000.0
"""Longest finite budget; a longer one is a mistake in units (or wants ``math.inf``)."""

REASONS: Final[dict[str, str]] = {
    "deadline": "too little of the budget was left to start it",
    "shortened": "only a part fitted into the budget",
    "admission": "so many queries came that there was no time for it",
    "busy": "the engine was busy with other queries until the time was up",
    "stage_failed": "it raised an exception",
    "missing_input": "an earlier stage did not deliver what it reads",
    "bad_scores": "it gave scores that are not finite numbers",
    "unknown_tokens": "the model's vocabulary has no token of the query",
    "unavailable": "its engine or index could not be used",
    "circuit_open": "it kept failing or was too slow, and is left out for a while",
}
"""The machine-readable reasons of a :class:`searchpipe.page.Degradation`."""


class QueryCancelled(Exception):  # noqa: N818  (control flow, never shown to a caller)
    """The caller has left; raised between two steps so that no more work is done for it."""


ANSWERING: ContextVar[Deadline | None] = ContextVar("searchpipe_answering", default=None)
"""The deadline of the query that this thread answers, for engines whose callers pass none on."""


class Deadline:
    """When a query must be answered. Read from any thread; ``cancel`` may come from any thread.

    Args:
        budget_ms: milliseconds from now; ``math.inf`` for no limit.
        clock: monotonic seconds.

    Attributes:
        budget_s: the whole budget in seconds, ``inf`` for no limit.
        unlimited: whether there is no limit.
        start: when the query began, on ``clock``.
        due: when the budget is spent, on ``time.perf_counter``; ``-inf`` if ``clock`` is another one.
        cancelled: whether the caller has left; see :meth:`cancel`.

    Raises:
        QueryError: the budget is NaN, zero, negative or over :data:`MAX_BUDGET_MS`.
    """

    __slots__ = ("_clock", "_leave", "budget_s", "cancelled", "due", "start", "unlimited")

    def __init__(self, budget_ms: float, clock: Clock = time.perf_counter) -> None:
        kind = type(budget_ms)  # `int | float` would be made anew for every query
        if kind is not float and kind is not int and not _is_number(budget_ms):
            raise QueryError(f"budget_ms is {budget_ms!r}, which is not a number.", cure="Give milliseconds.")
        if not budget_ms > 0 or (budget_ms > MAX_BUDGET_MS and not math.isinf(budget_ms)):
            raise QueryError(
                f"budget_ms is {budget_ms!r}; it must be over 0 and at most {MAX_BUDGET_MS:.0f}.",
                cure="Give milliseconds, or math.inf for no limit.",
            )
        self._clock = clock
        self.cancelled = False
        self._leave: list[Callable[[], object]] = []
        self.budget_s = budget_ms / 1000.0
        self.unlimited = math.isinf(self.budget_s)
        self.start = clock()
        self.due = self.start + self.budget_s if clock is time.perf_counter else -math.inf

    def elapsed(self) -> float:
        """Seconds since the query began."""
        return self._clock() - self.start

    def remaining(self) -> float:
        """Seconds left; negative once late, ``inf`` without a limit."""
        return self.budget_s - (self._clock() - self.start)

    def cancel(self) -> None:
        """Tell the stages, and whoever waits for the query, that nobody waits for the answer any more."""
        self.cancelled = True
        for leave in tuple(self._leave):
            leave()

    def on_cancel(self, leave: Callable[[], object]) -> AbstractContextManager[None]:
        """Have ``leave`` called if the caller leaves while the body of a ``with`` runs, or has left already.

        On the thread that cancels, perhaps an event loop's, so it must be quick; perhaps twice. It must
        not raise.
        """
        return _core.made(_Leaving, self, leave)

    def check_cancelled(self) -> None:
        """Raise :class:`QueryCancelled` if the caller has left."""
        if self.cancelled:
            raise QueryCancelled


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Leaving:
    """A class because a generator would cost twice as much. One thread."""

    __slots__ = __match_args__ = ("_deadline", "_leave")  # the order in which `made` fills them
    _deadline: Deadline
    _leave: Callable[[], object]

    def __enter__(self) -> None:
        self._deadline._leave.append(self._leave)
        if self._deadline.cancelled:  # before `cancel` could see it
            try:
                self._leave()
            except BaseException:
                self._deadline._leave.remove(self._leave)
                raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deadline._leave.remove(self._leave)
