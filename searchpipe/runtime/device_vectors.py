"""Places in device memory where queries' vectors stay between the encoder and the index."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Float32
from searchpipe.errors import EngineError
from searchpipe.runtime.device_array import DeviceArray

_FLOAT32: Final = np.dtype(np.float32)


class DeviceVector:
    """One vector in device memory, as ``__cuda_array_interface__`` shows it, and its copy on the host.

    Its place is used again once nobody holds the object: not the query, and not a search that
    the query gave up waiting for. One thread writes it; any thread may read it then.

    Attributes:
        host: float32 ``(dim,)``, the same numbers; set by who filled it.
        shape: ``(dim,)``.
        dtype: float32.
    """

    __slots__ = ("_array", "_places", "_ticket", "dtype", "host", "shape")

    def __init__(self, array: DeviceArray, places: deque[DeviceArray]) -> None:
        self._array = array
        self._places = places
        self._ticket: _core.Ticket | None = None
        self.host: Float32 | None = None
        self.shape = array.shape
        self.dtype = _FLOAT32

    @property
    def address(self) -> int:
        """Of the first number, in device memory."""
        return self._array.address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self._array.__cuda_array_interface__

    def follow(self, stream: int) -> bool:
        """Let later work on ``stream`` (a handle) wait for the batch that writes this vector.

        For ``meanwhile`` of the encoder. False, with nothing done, unless this thread alone has begun
        that batch and a device runs it (``_core.follow_launched``). What the work then reads is the
        query's vector only if :meth:`followed` says so afterwards.

        Raises:
            EngineError: the driver has failed.
        """
        self._ticket = _core.follow_launched(self.address, stream)
        return self._ticket is not None

    def followed(self, vector: Float32 | None) -> bool:
        """Whether ``vector`` came, number by number, of the very request that a stream was made to wait for.

        Not if that failed, although another engine may have written the same place afterwards.
        """
        return vector is not None and self._ticket is not None and self._ticket.holds(vector)

    def __del__(self) -> None:
        self._places.append(self._array)


class DeviceVectors:
    """Lends places for vectors; made when they are first needed, at most ``limit``. Any thread.

    Args:
        device: the GPU.
        dim: numbers of a vector.
        ready: whether the encoder can write device memory now.
        limit: places; who finds none left does without.
    """

    def __init__(
        self, device: _core.Device, dim: int, *, ready: Callable[[], bool] = lambda: True, limit: int = 256
    ) -> None:
        self._device = device
        self._dim = dim
        self._ready = ready
        self._left = limit
        self._lock = threading.Lock()
        self._places: deque[DeviceArray] = deque()
        self._made: list[DeviceArray] = []

    def take(self) -> DeviceVector | None:
        """Lend a place; None where there is none, or nobody could write it."""
        if not self._ready():
            return None
        try:
            array = self._places.pop()
        except IndexError:
            with self._lock:
                if not self._left:
                    return None
                self._left -= 1
            try:
                array = DeviceArray(self._device, (self._dim,))
            except EngineError:
                return None  # a full device costs a copy, not an answer
            self._made.append(array)
        return DeviceVector(array, self._places)

    def close(self) -> None:
        """Lend no more. Idempotent."""
        with self._lock:
            self._left = 0
        self._places = deque()  # what is still lent comes back to the old one

    def free(self) -> None:
        """Close, and free the device memory, whoever holds a vector; nothing may be using one. Idempotent."""
        self.close()
        while self._made:
            self._made.pop().free()
