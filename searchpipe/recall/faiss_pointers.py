"""Arrays as FAISS's Python wrapper takes them, from the host's memory or the device's."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchpipe.catalog.optional import require
from searchpipe.device.raw_stream import RawStream
from searchpipe.recall.lookup import on_device


class OneRow:
    """A query vector on the device, seen as an array of one row."""

    def __init__(self, vector: Any, dim: int) -> None:
        shown = dict(vector.__cuda_array_interface__)
        shown.update(shape=(1, dim), strides=None)
        self._vector = vector  # owns the memory
        self.shape = (1, dim)
        self.__cuda_array_interface__ = shown


def as_half(queries: Any) -> Any:
    """``queries`` as float16, complete, where they were."""
    if not on_device(queries):
        return queries.astype(np.float16)
    cupy = require("cupy", "gpu")
    half = cupy.asarray(queries).astype(np.float16)
    cupy.cuda.get_current_stream().synchronize()
    return half


def stacked(vectors: list[Any], stream: int) -> Any:
    """Vectors on the device as rows of one array there, complete unless FAISS has a ``stream`` of ours."""
    cupy = require("cupy", "gpu")
    # On the stream that FAISS uses, so nothing has to be waited for here; cupy makes
    # this stream wait for those that the producers of the vectors have named.
    kinds = cupy.cuda.Stream
    on = kinds.from_external(RawStream(stream)) if stream else kinds.null
    with on:
        rows = cupy.stack([cupy.asarray(vector) for vector in vectors])
    if not stream:
        on.synchronize()
    return rows


def float_pointer(faiss: Any, array: Any) -> Any:
    """A ``float*`` to an array, which must outlive it."""
    if on_device(array):
        return faiss.cast_integer_to_float_ptr(array.__cuda_array_interface__["data"][0])
    return faiss.swig_ptr(array)


def void_pointer(faiss: Any, array: Any) -> Any:
    """A ``void*`` to an array, which must outlive it."""
    if on_device(array):
        return faiss.cast_integer_to_void_ptr(array.__cuda_array_interface__["data"][0])
    return faiss.swig_ptr(array)
