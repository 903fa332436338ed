"""A lookup in a dispatcher's queue."""

from __future__ import annotations

import threading

from searchpipe.recall.lookup import Found, Lookup

WAITING, TAKEN, LEADER, DONE = range(4)


class Request:
    """One caller's lookup; guarded by the dispatcher's lock, but for its caller's own ``wake``."""

    __slots__ = (
        "arrival",
        "batch",
        "deadline",
        "departed",
        "error",
        "found",
        "group",
        "lookup",
        "state",
        "wake",
    )

    def __init__(self, lookup: Lookup, arrival: float, deadline: float) -> None:
        self.lookup = lookup
        self.arrival = arrival
        self.deadline = deadline
        self.group = lookup.group
        self.departed = False
        self.state = WAITING
        self.batch: list[Request] = []  # what it leads a search for
        self.found: Found | None = None
        self.error: BaseException | None = None
        self.wake = threading.Lock()  # released once: with the result, or with the lead
        self.wake.acquire()
