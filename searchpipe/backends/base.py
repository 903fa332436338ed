"""What every engine offers, whatever runs it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np

from searchpipe.arrays import Array, Float32


@runtime_checkable
class Engine(Protocol):
    """A loaded model that turns named input arrays into one float32 array.

    ``name`` is for messages and traces. ``inputs`` maps each input's name to its
    dtype; ``input_ranks`` and ``output_shape`` give the number of dimensions and
    the declared shape of the first output (None for an axis that varies, the
    whole None when undeclared). ``outputs`` lists the output names. ``run`` may
    be called from many threads at once; ``close`` once, when no run is in flight.
    """

    @property
    def name(self) -> str: ...
    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]: ...
    @property
    def input_ranks(self) -> Mapping[str, int | None]: ...
    @property
    def outputs(self) -> tuple[str, ...]: ...
    @property
    def output_shape(self) -> tuple[int | None, ...] | None: ...

    def run(self, feeds: Mapping[str, Array]) -> Float32:
        """Run once. Raises ModelError for feeds that do not fit, EngineError when the run fails."""
        ...

    def close(self) -> None:
        """Release what the engine holds; a later ``run`` raises ClosedError."""
        ...
