"""Compares all allowed documents on the device: the last resort of a filtered search."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import numpy as np

from searchpipe.arrays import Bool, Float32, Int64
from searchpipe.catalog.optional import require
from searchpipe.device import nvtx
from searchpipe.device.raw_stream import RawStream
from searchpipe.errors import EngineError

# One warp a row: 32 lanes read neighbouring numbers, so each load of the warp is one
# or two whole sectors of memory, and the search runs at the speed of the memory.
_KERNEL = r"""
#include <cuda_fp16.h>
extern "C" __global__ void masked_dot(const __half* __restrict__ rows, const float* __restrict__ query,
                                      const int* __restrict__ allowed, int count, int dim,
                                      float* __restrict__ scores) {
  const long long warp = (static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (warp >= count) return;
  const __half* row = rows + static_cast<long long>(allowed[warp]) * dim;
  float sum = 0.0f;
  for (int at = lane; at < dim; at += 32) sum += __half2float(row[at]) * query[at];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_down_sync(0xffffffffu, sum, step);
  if (lane == 0) scores[warp] = sum;
}
"""
_THREADS = 256
_BLOCK = 65_536
_MASKS_KEPT = 8
_MARGIN = 16  # float16 may swap near ties; the caller scores what is found exactly


class DeviceMatrix:
    """A catalog's vectors as float16 in device memory; for one thread at a time.

    Args:
        vectors: float32 ``(count, dim)``, may be memory-mapped.
        device: ordinal of the GPU.
        stream: a CUstream as a number, which must outlive the object; 0 for a stream of its own.

    Raises:
        MissingDependencyError: cupy is not installed.
        EngineError: the device has not the memory.
    """

    def __init__(self, vectors: Float32, *, device: int = 0, stream: int = 0) -> None:
        self._cupy: Any = require("cupy", "gpu")
        self._device = device
        self._masks: OrderedDict[int, tuple[Bool, Any]] = OrderedDict()
        cupy = self._cupy
        try:
            with cupy.cuda.Device(device):
                self._stream = (
                    cupy.cuda.Stream.from_external(RawStream(stream))
                    if stream
                    else cupy.cuda.Stream(non_blocking=True)
                )
                with self._stream:
                    self._rows = cupy.empty(vectors.shape, np.float16)
                    for start in range(0, len(vectors), _BLOCK):
                        block = np.asarray(vectors[start : start + _BLOCK]).astype(np.float16)
                        self._rows[start : start + _BLOCK].set(block)
                    self._kernel = cupy.RawKernel(_KERNEL, "masked_dot")
                    self._kernel.compile()
                self._stream.synchronize()
        except cupy.cuda.memory.OutOfMemoryError as error:
            raise EngineError(
                f"GPU {device} has no memory for {vectors.shape} float16 numbers: {error}"
            ) from error

    @staticmethod
    def nbytes(count: int, dim: int) -> int:
        """Device memory of the matrix and of one search's scores and their order."""
        return count * dim * 2 + count * 24

    def search(self, query: Float32, k: int, mask: Bool) -> Int64:
        """The ``k`` nearest allowed documents and a few more: int64 ``(m,)``, in no particular order.

        Args:
            query: float32 ``(dim,)`` on the host.
            k: documents wanted.
            mask: bool ``(count,)``, never changed: the last few are kept on the device, by identity.

        Raises:
            EngineError: the device failed.
        """
        cupy = self._cupy
        try:
            with nvtx.range("recall:exact"), cupy.cuda.Device(self._device), self._stream:
                allowed = self._allowed(mask)
                n = int(allowed.size)
                if not n:
                    return np.empty(0, np.int64)
                scores = cupy.empty(n, np.float32)
                rows, dim = self._rows, self._rows.shape[1]
                blocks = -(-n * 32 // _THREADS)
                arguments = (rows, cupy.asarray(query), allowed, np.int32(n), np.int32(dim), scores)
                self._kernel((blocks,), (_THREADS,), arguments)
                width = min(n, k + _MARGIN)
                if width < n:
                    allowed = allowed[cupy.argpartition(scores, n - width)[n - width :]]
                found: Int64 = cupy.asnumpy(allowed).astype(np.int64)
                return found
        except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.driver.CUDADriverError, MemoryError) as error:
            raise EngineError(f"The exact search on GPU {self._device} failed: {error}") from error

    def _allowed(self, mask: Bool) -> Any:
        """Ordinals of the allowed documents, int32 on the device."""
        # The mask is held with its ordinals: while it lives, no other has its identity.
        known = self._masks.get(id(mask))
        if known is None:
            ordinals = self._cupy.asarray(np.flatnonzero(mask).astype(np.int32))
            known = self._masks[id(mask)] = (mask, ordinals)
            while len(self._masks) > _MASKS_KEPT:
                self._masks.popitem(last=False)
        else:
            self._masks.move_to_end(id(mask))
        return known[1]
