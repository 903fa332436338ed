"""Searches that follow the encoder on the device: begun before their vector is there, read afterwards."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.errors import ClosedError, EngineError
from searchpipe.recall.lookup import Found, Lookup
from searchpipe.recall.recorded import RecordedSearches

_BYTES = 12
"""Of a result: an int64 id and a float32 score. All ids come first, then all scores."""


class Pending(Protocol):
    """A search that a device has been given; for one thread at a time."""

    def wait(self, timeout_s: float) -> bool:
        """Whether it has ended, after at most ``timeout_s``; raises ``EngineError`` if it failed."""
        ...

    def found(self) -> Found:
        """The result of a search that has ended."""
        ...


class Begun:
    """A lookup that was begun and whose answer nobody has fetched yet. Belongs to one thread.

    Args:
        lookup: what was asked.
        pending: the search.
        finish: of the index (:meth:`searchpipe.recall.lookup.BatchIndex.finish`).
        launch_s: seconds that its beginning took.
        ended: told once what the search has cost its caller, in seconds; None if it failed.

    Attributes:
        seconds: what it has cost its caller so far: its beginning, and waiting for its end.
    """

    __slots__ = ("_ended", "_finish", "_lookup", "_pending", "seconds")

    def __init__(
        self,
        lookup: Lookup,
        pending: Pending,
        finish: Callable[[Lookup, Found], tuple[Int32, Float32]],
        launch_s: float,
        ended: Callable[[float | None], None],
    ) -> None:
        self._lookup = lookup
        self._pending = pending
        self._finish = finish
        self._ended = ended
        self.seconds = launch_s

    def ended(self, timeout_s: float = 0.0) -> bool:
        """Whether :meth:`end` would not wait, after at most ``timeout_s``: it tells what failed, too."""
        try:
            return self._pending.wait(timeout_s)
        except EngineError:
            return True

    def end(self, timeout_s: float) -> tuple[Int32, Float32] | None:
        """Wait at most ``timeout_s`` for the documents nearest, best first; None if they are not there yet.

        Not to be called again after they came.

        Returns:
            docs int32 ``(m,)`` and inner products float32 ``(m,)``, m <= k.

        Raises:
            EngineError: the search failed, or its index was closed.
        """
        since = time.perf_counter()
        try:
            if not self._pending.wait(timeout_s):
                self.seconds += time.perf_counter() - since
                return None
            found = self._pending.found()
        except BaseException:
            self._ended(None)
            raise
        answer = self._finish(self._lookup, found)
        self.seconds += time.perf_counter() - since
        self._ended(self.seconds)
        return answer


class UsualTime:
    """How long searches of one index take lately, from their beginning until the device is done.

    Any thread may call anything: of two that learn at once one is forgotten.

    Attributes:
        seconds: 0 until one was waited for.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds = 0.0

    def learn(self, took_s: float, *, waited: bool) -> None:
        """Of a search that was seen to have ended; ``waited``: when it did, not some time before."""
        if not waited:  # that it took no longer is all that is known
            self.seconds = min(self.seconds, took_s)
        elif self.seconds:
            self.seconds += (took_s - self.seconds) / 8
        else:
            self.seconds = took_s


class Landing:
    """Where one search leaves its result: device memory, and the host's copy that follows on the stream.

    Attributes:
        memory: both; None once freed.
        vector: what the search reads, held until it is known to have ended; None if it is.
    """

    __slots__ = ("memory", "vector")

    def __init__(self, memory: _core.Readback) -> None:
        self.memory: _core.Readback | None = memory
        self.vector: object = None

    def readback(self) -> _core.Readback:
        """The memory. Raises ClosedError once it was freed."""
        if self.memory is None:
            raise ClosedError("The index was closed before the search was read.")
        return self.memory


class DevicePending:
    """A :class:`Pending` on a landing, which it gives back when nobody holds it any more."""

    __slots__ = ("_idle", "_landing", "_width")

    def __init__(self, landing: Landing, width: int, idle: deque[Landing]) -> None:
        self._landing = landing
        self._width = width
        self._idle = idle

    def wait(self, timeout_s: float) -> bool:
        """As said by :class:`Pending`; the GIL is released. Never before its vector was there."""
        return self._landing.readback().wait(timeout_s)

    def found(self) -> Found:
        """Copies of ids and scores. Raises RuntimeError before the search has ended."""
        memory = self._landing.readback()
        ids, scores = np.empty(self._width, np.int64), np.empty(self._width, np.float32)
        memory.copy(ids)
        memory.copy(scores, offset=ids.nbytes)
        self._landing.vector = None
        return Found(ids, scores)

    def __del__(self) -> None:
        self._idle.append(self._landing)


class Landings:
    """Landings of one index, made when they are first needed. One thread at a time begins and closes.

    One whose search was given up keeps its vector's place until the device has read it, as the place
    must not be written for somebody else before.

    Args:
        device: ordinal of the GPU.
        stream: the index's own, as a number.
        widest: results of a search at most.
        limit: landings; who finds none left begins nothing.
        recorded: puts the searches of one place and landing on the stream; None: they do so themselves.
    """

    def __init__(
        self,
        device: int,
        stream: int,
        widest: int,
        *,
        limit: int = 16,
        recorded: RecordedSearches | None = None,
    ) -> None:
        self._recorded = recorded
        self._device = device
        self._stream = stream
        self._nbytes = _BYTES * widest
        self._limit = limit
        self._made: list[Landing] = []
        self._idle: deque[Landing] = deque()  # what is given back may come from any thread

    def begin(self, vector: Any, width: int, search: Callable[[int, int], None]) -> DevicePending | None:
        """Put a search on the stream; None, with nothing begun, where that is not possible now.

        Args:
            vector: on the device, as :class:`searchpipe.runtime.device_vectors.DeviceVector`; nothing is
                begun for one that cannot be followed.
            width: results.
            search: called with the addresses of ids and scores in device memory.

        Raises:
            EngineError: what ``search`` raised, or the driver has failed.
        """
        follow = getattr(vector, "follow", None)
        if follow is None or _BYTES * width > self._nbytes:
            return None
        landing = self._take()
        if landing is None:
            return None
        pending = DevicePending(landing, width, self._idle)
        if not follow(self._stream):
            return None
        memory = landing.readback()
        landing.vector = vector
        nbytes = 0  # of what fails half-way only the end is of interest
        ids, scores = memory.address, memory.address + 8 * width
        try:
            if self._recorded is None:
                search(ids, scores)
            else:
                key = vector.address, ids, width
                self._recorded.put(key, lambda: search(ids, scores))
            nbytes = _BYTES * width
        finally:
            memory.fetch(self._stream, nbytes)
        return pending

    def close(self) -> None:
        """Free everything once the device is done with it. Idempotent."""
        self.forget()
        self._limit = 0
        self._idle.clear()
        while self._made:
            self._made.pop().memory = None

    def forget(self) -> None:
        """Searches will be others from now on."""
        if self._recorded is not None:
            self._recorded.forget()

    def _take(self) -> Landing | None:
        for _ in range(len(self._idle)):
            landing = self._idle.popleft()
            if landing.memory is not None and (landing.vector is None or landing.memory.done()):
                landing.vector = None
                return landing
            self._idle.append(landing)
        if len(self._made) >= self._limit:
            return None
        landing = Landing(_core.Readback(_core.Device(self._device), self._nbytes))
        self._made.append(landing)
        return landing
