"""The end of the interpreter, which daemon threads of the host live to see.

A service may end while such a thread is inside a query: those of ``http.server.ThreadingHTTPServer`` are
daemons, and so are many a framework's. Once the interpreter has begun to take itself down, CPython before
3.14 ends a thread that asks for the GIL by unwinding its stack, and C++ code that is left that way aborts
the process: ONNX Runtime's does, when a run or the opening of a session comes back. (The core's own code
holds such threads instead: ``csrc/bindings/gil.h``.) So all of that is brought to an end before, by one
function of ``atexit``, while threads still run as ever: what is open is closed in order, then calls of
ONNX Runtime are waited for and begin no more.

Before that function is called, ``concurrent.futures`` waits for the threads of all its pools, whose queues
take nothing any more: what such a thread does for others must not go on for as long as they ask.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from searchpipe.errors import ClosedError

_LOG = logging.getLogger("searchpipe")

_WAIT_S = 5.0
"""For all that runs; a query without a limit, or one that hangs, does not keep the process alive."""

_LOOK_S = 0.002

LIVE, PIPELINES, ENGINES = range(3)
"""The order in which things are closed: who uses others comes first."""


class Closable(Protocol):
    """What can be closed within a time."""

    def end(self, seconds: float) -> None:
        """Close, but leave alone what still runs after ``seconds``."""


class NativeCalls:
    """``with native_calls:`` around calls that must not come back while the interpreter ends.

    Any thread may enter, but not inside itself. Costs half a microsecond.
    """

    def __init__(self) -> None:
        self._inside: set[int] = set()  # threads; one step each to add and discard, so without a lock
        self._ended = False
        if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
            os.register_at_fork(after_in_child=self._inside.clear)

    def __enter__(self) -> None:
        me = threading.get_ident()
        self._inside.add(me)
        if self._ended:  # looked at after the thread has shown itself: `end` does it the other way round
            self._inside.discard(me)
            raise ClosedError("The interpreter is ending.")

    def __exit__(self, *_: object) -> None:
        self._inside.discard(threading.get_ident())

    def end(self, seconds: float) -> bool:
        """Refuse calls from now on, and wait for those that run; whether none is left."""
        self._ended = True
        self._inside.discard(threading.get_ident())  # this one is not, whatever a signal kept from being said
        end = time.monotonic() + seconds
        while self._inside and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return not self._inside


native_calls = NativeCalls()
"""Of this process."""

_open: list[tuple[int, Iterable[Closable]]] = []


def ending() -> bool:
    """Whether the interpreter has begun to end; for what has failed and asks why, as a thread is begun.

    A pool of threads refuses to begin anything from then on, which is the one public sign of it.
    """
    with ThreadPoolExecutor(1, "searchpipe-ending") as pool:
        try:
            pool.submit(int)
        except RuntimeError as error:
            return "shutdown" in str(error)  # not so where the system has no thread left
    return False


def close_at_end(order: int, objects: Iterable[Closable]) -> None:
    """Close what ``objects`` holds when the interpreter ends; a smaller ``order`` goes first."""
    _open.append((order, objects))


@atexit.register
def _end() -> None:
    end = time.monotonic() + _WAIT_S
    for _, objects in sorted(_open, key=lambda one: one[0]):
        for one in objects:
            try:
                one.end(max(0.0, end - time.monotonic()))
            except Exception:
                _LOG.exception("%s could not be closed when the interpreter ended", type(one).__name__)
    if not native_calls.end(max(0.0, end - time.monotonic())):
        _LOG.warning("Models still run while the interpreter ends, after %g s of waiting", _WAIT_S)
