"""Memsets and copies on a stream, as libraries put them between kernels; on a GPU as on the fake driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from searchpipe import _core

Bytes = NDArray[np.uint8]

_CUDA_12 = 12000
_ADDRESS, _SIZE, _HANDLE = ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
_VALUES = {1: ctypes.c_ubyte, 2: ctypes.c_ushort, 4: ctypes.c_uint}


class StreamWork:
    """For one thread."""

    def __init__(self, ordinal: int = 0) -> None:
        self._library = ctypes.CDLL(_core.cuda_available().library)
        self._ordinal = ordinal
        self._context = ctypes.c_void_p()
        self._pinned: list[int] = []
        self._outside("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), ordinal)

    def close(self) -> None:
        for address in self._pinned:
            self._call("cuMemFreeHost", _HANDLE(address))
        self._outside("cuDevicePrimaryCtxRelease", self._ordinal)

    def pinned(self, nbytes: int) -> int:
        """Address of page-locked memory of the host, of zeros; freed by close()."""
        address = ctypes.c_void_p()
        self._call("cuMemHostAlloc", ctypes.byref(address), _SIZE(nbytes), ctypes.c_uint(1))
        assert address.value
        ctypes.memset(address.value, 0, nbytes)
        self._pinned.append(address.value)
        return address.value

    def workspace(self, stream: int, nbytes: int) -> int:
        """Address of memory taken in the stream's order, as libraries take theirs for a product."""
        address = _ADDRESS()
        self._call("cuMemAllocAsync", ctypes.byref(address), _SIZE(nbytes), _HANDLE(stream))
        return address.value

    def give_back(self, stream: int, workspace: int) -> None:
        self._call("cuMemFreeAsync", _ADDRESS(workspace), _HANDLE(stream))

    def fill(self, stream: int, to: int, value: int, element: int, width: int) -> None:
        """Set ``width`` elements of 1, 2 or 4 bytes."""
        name = f"cuMemsetD{8 * element}Async"
        self._call(name, _ADDRESS(to), _VALUES[element](value), _SIZE(width), _HANDLE(stream))

    def fill_rows(
        self, stream: int, to: int, pitch: int, value: int, element: int, shape: tuple[int, int]
    ) -> None:
        """Set ``shape`` (rows, elements a row), rows ``pitch`` bytes apart."""
        rows, width = shape
        self._call(
            f"cuMemsetD2D{8 * element}Async",
            _ADDRESS(to),
            _SIZE(pitch),
            _VALUES[element](value),
            _SIZE(width),
            _SIZE(rows),
            _HANDLE(stream),
        )

    def copy(self, stream: int, to: int, source: int, nbytes: int) -> None:
        """Within the device's memory."""
        self._call("cuMemcpyDtoDAsync", _ADDRESS(to), _ADDRESS(source), _SIZE(nbytes), _HANDLE(stream))

    def copy_in(self, stream: int, to: int, host: int, nbytes: int) -> None:
        self._call("cuMemcpyHtoDAsync", _ADDRESS(to), _HANDLE(host), _SIZE(nbytes), _HANDLE(stream))

    def copy_out(self, stream: int, host: int, source: int, nbytes: int) -> None:
        self._call("cuMemcpyDtoHAsync", _HANDLE(host), _ADDRESS(source), _SIZE(nbytes), _HANDLE(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        self._outside("cuCtxPushCurrent", self._context)
        try:
            self._outside(name, *arguments)
        finally:
            self._outside("cuCtxPopCurrent", ctypes.byref(ctypes.c_void_p()))

    def _outside(self, name: str, *arguments: Any) -> None:
        code = self._function(name)(*arguments)
        assert code == 0, f"{name} answers {code}"

    def _function(self, name: str) -> Callable[..., int]:
        found, status = ctypes.c_void_p(), ctypes.c_int()
        code = self._library.cuGetProcAddress_v2(
            name.encode(), ctypes.byref(found), _CUDA_12, ctypes.c_uint64(1), ctypes.byref(status)
        )
        assert code == 0
        assert found.value
        return ctypes.CFUNCTYPE(ctypes.c_int)(found.value)


@dataclass(frozen=True)
class Fill:
    """Rows of elements that all become one value; addresses are relative to some memory."""

    to: int
    pitch: int
    value: int
    element: int
    rows: int
    width: int

    def put(self, work: StreamWork, stream: int, base: int) -> None:
        if self.rows == 1:
            work.fill(stream, base + self.to, self.value, self.element, self.width)
        else:
            shape = (self.rows, self.width)
            work.fill_rows(stream, base + self.to, self.pitch, self.value, self.element, shape)

    def on_host(self, memory: Bytes) -> None:
        pattern = np.frombuffer(self.value.to_bytes(self.element, "little") * self.width, np.uint8)
        for row in range(self.rows):
            begin = self.to + row * self.pitch
            memory[begin : begin + len(pattern)] = pattern


@dataclass(frozen=True)
class Copy:
    """Within some memory, of parts that do not overlap."""

    to: int
    source: int
    nbytes: int

    def put(self, work: StreamWork, stream: int, base: int) -> None:
        work.copy(stream, base + self.to, base + self.source, self.nbytes)

    def on_host(self, memory: Bytes) -> None:
        memory[self.to : self.to + self.nbytes] = memory[self.source : self.source + self.nbytes]
