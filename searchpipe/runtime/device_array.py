"""Device memory that cupy, torch and FAISS can read without a copy."""

from __future__ import annotations

import importlib
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Array
from searchpipe.errors import EngineError, MissingDependencyError

if TYPE_CHECKING:
    from searchpipe import _core


_DLPACK_CUDA = 2
"""kDLCUDA of the DLPack standard."""


class DeviceArray:
    """A C-contiguous array in device memory, as ``__cuda_array_interface__`` (version 3) shows it.

    ``cupy.asarray(array)``, ``torch.as_tensor(array, device="cuda")`` and, where cupy is
    installed, anything's ``from_dlpack(array)`` share its memory, which lives as long as
    either. Threads: as with any memory, one writer at a time.

    Raises:
        EngineError: the device has not the memory (``CudaError``).
    """

    def __init__(self, device: _core.Device, shape: tuple[int, ...], dtype: Any = np.float32) -> None:
        from searchpipe import _core

        self.shape = shape
        self.dtype = np.dtype(dtype)
        self._ordinal = device.ordinal
        self.nbytes: int = prod(shape) * self.dtype.itemsize
        self._memory: _core.DeviceBuffer | None = _core.DeviceBuffer(device, self.nbytes)

    @property
    def address(self) -> int:
        """Of the first element, in device memory."""
        return self._buffer.address

    @property
    def _buffer(self) -> _core.DeviceBuffer:
        if self._memory is None:
            raise EngineError("The device memory of this array was freed.")
        return self._memory

    def free(self) -> None:
        """Give the memory back, whoever holds the array; nothing may be using it. Idempotent."""
        self._memory = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            # Who waits for a ticket finds its rows complete: there is no stream to wait for.
            "stream": None,
            "version": 3,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _DLPACK_CUDA, self._ordinal

    def __dlpack__(self, **options: Any) -> Any:
        """Return a capsule by way of cupy. Raises MissingDependencyError without it."""
        try:
            cupy = importlib.import_module("cupy")
        except ImportError as error:
            raise MissingDependencyError(
                "Sharing device memory by DLPack needs cupy.",
                cure="Install it with: pip install searchpipe[gpu]",
            ) from error
        return cupy.asarray(self).__dlpack__(**options)

    def to_host(self) -> Array:
        """Return a copy in host memory."""
        out: Array = np.empty(self.shape, self.dtype)
        self._buffer.read(out)
        return out

    def from_host(self, values: Array) -> None:
        """Fill from an array of the same shape and dtype."""
        if values.shape != self.shape or values.dtype != self.dtype:
            raise EngineError(f"The array is {values.dtype} {values.shape}, not {self.dtype} {self.shape}.")
        self._buffer.write(np.ascontiguousarray(values))
