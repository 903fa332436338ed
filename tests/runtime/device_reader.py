"""Reads arrays of an engine out of device memory, on a GPU as on the fake driver."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Int32

_CUDA_12 = 12000


class DeviceReader:
    """For one thread."""

    def __init__(self, ordinal: int = 0) -> None:
        self._library = ctypes.CDLL(_core.cuda_available().library)
        self._push = self._function("cuCtxPushCurrent", ctypes.c_void_p)
        self._pop = self._function("cuCtxPopCurrent", ctypes.c_void_p)
        self._copy = self._function(
            "cuMemcpyDtoHAsync", ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p
        )
        self._synchronize = self._function("cuStreamSynchronize", ctypes.c_void_p)
        self._release = self._function("cuDevicePrimaryCtxRelease", ctypes.c_int)
        self._ordinal = ordinal
        self._context = ctypes.c_void_p()
        retain = self._function("cuDevicePrimaryCtxRetain", ctypes.c_void_p, ctypes.c_int)
        assert retain(ctypes.byref(self._context), ordinal) == 0

    def close(self) -> None:
        self._release(self._ordinal)

    def read(self, stream: int, address: int, elements: int) -> Int32:
        """Elements of int32 from ``address`` on, once everything before on ``stream`` is done."""
        found = np.empty(elements, np.int32)
        assert self._push(self._context) == 0
        codes = self._copy(found.ctypes.data, address, found.nbytes, stream), self._synchronize(stream)
        assert self._pop(ctypes.byref(ctypes.c_void_p())) == 0
        assert codes == (0, 0)
        return found

    def _function(self, name: str, *arguments: Any) -> Callable[..., int]:
        found, status = ctypes.c_void_p(), ctypes.c_int()
        code = self._library.cuGetProcAddress_v2(
            name.encode(), ctypes.byref(found), _CUDA_12, ctypes.c_uint64(0), ctypes.byref(status)
        )
        assert code == 0
        assert found.value
        return ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(found.value)
