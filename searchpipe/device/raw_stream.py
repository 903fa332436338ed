"""A CUDA stream given by its handle, for libraries that speak the CUDA stream protocol."""

from __future__ import annotations


class RawStream:
    """The stream with this ``CUstream`` handle, which must outlive every use.

    ``cupy.cuda.Stream.from_external(RawStream(handle))`` and its like take it. Any thread.
    """

    __slots__ = ("_handle",)

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        """Version of the protocol, and the handle."""
        return (0, self._handle)
