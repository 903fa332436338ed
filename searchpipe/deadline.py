"""One budget for a whole query, and the words for what was given up to keep it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

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
}
"""The machine-readable reasons of a :class:`searchpipe.page.Degradation`."""


class QueryCancelled(Exception):  # noqa: N818  (control flow, never shown to a caller)
    """The caller has left; raised between two steps so that no more work is done for it."""


class Deadline:
    """When a query must be answered. Read from any thread; ``cancel`` may come from any thread.

    Args:
        budget_ms: milliseconds from now; ``math.inf`` for no limit.
        clock: monotonic seconds.

    Raises:
        QueryError: the budget is NaN, zero, negative or over :data:`MAX_BUDGET_MS`.
    """

    __slots__ = ("_cancelled", "_clock", "budget_s", "start")

    def __init__(self, budget_ms: float, clock: Clock = time.perf_counter) -> None:
        if not isinstance(budget_ms, int | float) or isinstance(budget_ms, bool):
            raise QueryError(f"budget_ms is {budget_ms!r}, which is not a number.", cure="Give milliseconds.")
        if not budget_ms > 0 or (budget_ms > MAX_BUDGET_MS and not math.isinf(budget_ms)):
            raise QueryError(
                f"budget_ms is {budget_ms!r}; it must be over 0 and at most {MAX_BUDGET_MS:.0f}.",
                cure="Give milliseconds, or math.inf for no limit.",
            )
        self._clock = clock
        self._cancelled = False
        self.budget_s = budget_ms / 1000.0
        self.start = clock()

    def elapsed(self) -> float:
        """Seconds since the query began."""
        return self._clock() - self.start

    def remaining(self) -> float:
        """Seconds left; negative once late, ``inf`` without a limit."""
        return self.budget_s - self.elapsed()

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit."""
        return math.isinf(self.budget_s)

    def cancel(self) -> None:
        """Tell the stages that nobody waits for the answer any more."""
        self._cancelled = True

    def check_cancelled(self) -> None:
        """Raise :class:`QueryCancelled` if the caller has left."""
        if self._cancelled:
            raise QueryCancelled
