"""What happened to the versions of a live pipeline, counted and told."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Literal

from searchpipe.live.record import Record

_LOG = logging.getLogger("searchpipe.live")
_REMEMBERED = 1000

Step = Literal[
    "loading",
    "warming",
    "checking",
    "shadowing",
    "switched",
    "failed",
    "given_up",
    "good",
    "rolled_back",
    "retired",
]
"""``failed``: the new version was not taken on, or a rollback could not be done; the serving one stays.
``given_up``: so, but because the live pipeline was closed, or the process ended: the version is not to blame,
and nothing of it is logged as a warning or left in the state folder."""

_WARNINGS = ("failed", "rolled_back")


@dataclass(frozen=True, slots=True)
class Event:
    """One step.

    Attributes:
        when: seconds since 1970.
        step: what happened.
        version: its number; 0 for one that was never opened.
        identity: of its snapshot and settings, ``build/digest``.
        code: of the error or breach; empty for none.
        reason: in words.
    """

    when: float
    step: Step
    version: int
    identity: str
    code: str = ""
    reason: str = ""


class History:
    """The last 1000 events. Any thread may call anything.

    Args:
        record: remembers those that change something.
        listener: told of each, on the thread that made it; what it raises is logged.
    """

    def __init__(self, record: Record, listener: Callable[[Event], None] | None = None) -> None:
        self._record = record
        self._listener = listener
        self._events: deque[Event] = deque(maxlen=_REMEMBERED)
        self._counts: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def add(self, step: Step, version: int, identity: str, *, code: str = "", reason: str = "") -> None:
        """Tell of a step."""
        event = Event(time.time(), step, version, identity, code, reason)
        with self._lock:
            self._events.append(event)
            self._counts[step, code] += 1
        level = logging.WARNING if step in _WARNINGS else logging.INFO
        fields = {name: value for name, value in asdict(event).items() if value != "" and name != "when"}
        _LOG.log(level, "version %s", step, extra={"fields": fields})
        if step in ("switched", "good", *_WARNINGS):
            self._record.tell(asdict(event))
        if self._listener is not None:
            try:
                self._listener(event)
            except Exception:
                _LOG.exception("The listener for versions failed")

    @property
    def events(self) -> list[Event]:
        """The oldest first."""
        with self._lock:
            return list(self._events)

    def count(self, step: Step) -> dict[str, int]:
        """Events of a step since the start, by code."""
        with self._lock:
            return {code: n for (name, code), n in self._counts.items() if name == step}
