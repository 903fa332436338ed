"""A packed graph of which cuBLASLt computes some products, with their bias and GELU.

A lane's work becomes a list of sessions of ONNX Runtime and products of cuBLASLt on one stream, which is
captured into one CUDA graph like the work of one session; what lies between two steps is in buffers that
all shapes share. Saves writing and reading again what a GELU takes: [tokens, 1536] in half precision in
each layer of a small BERT.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.backends.cublaslt import WORKSPACE_BYTES, CublasLt, Operands, loaded_library
from searchpipe.backends.device_engine import Loaded
from searchpipe.backends.onnx_split import Between, GraphStep, ProductStep, SplitGraph
from searchpipe.interpreter_end import native_calls
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

_DEVICE = "cuda"

#: open_session(model): a session for a serialized model on the lane's stream, and why not to capture it.
OpenSession = Callable[[bytes], tuple[Any, str]]


@dataclass(frozen=True, slots=True)
class PackedBinding:
    """What a packed graph reads and writes on a lane.

    Attributes:
        inputs: names, in the order of the lane's addresses.
        output: name.
        output_width: values a row; 0 if the output is [rows].
    """

    inputs: list[str]
    output: str
    output_width: int

    def input_shapes(self, bucket: Bucket, longest_row: int) -> dict[str, tuple[int, ...]]:
        """Shape of each input for a bucket (rows, tokens)."""
        rows, tokens = bucket
        special = {"row_ends": (rows + 1,), "row_firsts": (rows,), "token_offset": (rows, longest_row)}
        return {name: special.get(name, (1, tokens)) for name in self.inputs}

    def output_shape(self, bucket: Bucket) -> tuple[int, ...]:
        """Shape of the output for a bucket."""
        return (bucket[0], self.output_width) if self.output_width else (bucket[0],)


def load_split(
    ort: Any,
    split: SplitGraph,
    open_session: OpenSession,
    lane: _core.GraphEngine,
    ordinal: int,
    names: PackedBinding,
) -> Loaded:
    """Open every step of ``split`` on ``lane``.

    Raises:
        EngineError: a session does not open, or cuBLASLt does not compute one of the products.
    """
    opened: dict[int, Any] = {}
    reasons: list[str] = []
    for at, step in enumerate(split.steps):
        if isinstance(step, GraphStep):
            opened[at], why_not = open_session(step.model.SerializeToString())
            reasons += [why_not] if why_not else []
    steps = _Steps(ort, split, lane, ordinal, names, opened)
    run_options = ort.RunOptions()
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    calls = [steps.calls(bucket, run_options) for bucket in lane.buckets]

    def enqueue(index: int, bucket: Bucket, inputs: list[int], output: int, stream: int) -> None:
        del bucket, inputs, output, stream  # addresses and stream are the lane's
        for call in calls[index]:
            call()

    return Loaded(enqueue, (steps, calls, run_options), next(iter(reasons), ""))


@dataclass(slots=True)
class _Steps:
    """Everything on the device that the steps of a lane share."""

    ort: Any
    split: SplitGraph
    lane: _core.GraphEngine
    ordinal: int
    names: PackedBinding
    sessions: dict[int, Any]
    library: CublasLt = field(init=False)
    _workspace: Any = field(init=False)
    _buffers: dict[int, Any] = field(init=False)
    _constants: list[tuple[Any, Any]] = field(init=False)

    def __post_init__(self) -> None:
        self._workspace = self._allocate((WORKSPACE_BYTES,), np.dtype(np.uint8))
        rows, tokens = (max(bucket[axis] for bucket in self.lane.buckets) for axis in (0, 1))
        self._buffers = {
            tensor.place: self._allocate((rows if tensor.per_row else tokens, tensor.width), tensor.dtype)
            for tensor in self.split.between.values()
        }
        self._constants = [
            (self._copy(step.weights), None if step.bias is None else self._copy(step.bias))
            for step in self.split.steps
            if isinstance(step, ProductStep)
        ]
        self.library = CublasLt(loaded_library(), self._workspace.data_ptr())

    def calls(self, bucket: Bucket, run_options: Any) -> list[Callable[[], None]]:
        """What to call, in this order, to put a batch of this shape on the stream."""
        made: list[Callable[[], None]] = []
        constants = iter(self._constants)
        for at, step in enumerate(self.split.steps):
            if isinstance(step, ProductStep):
                made.append(self._product_call(step, bucket, *next(constants)))
            else:
                made.append(self._session_call(at, step, bucket, run_options))
        return made

    def _session_call(self, at: int, step: GraphStep, bucket: Bucket, run_options: Any) -> Callable[[], None]:
        session = self.sessions[at]
        binding = session.io_binding()
        addresses, output = self.lane.addresses(*bucket)
        given = dict(zip(self.names.inputs, addresses, strict=True))
        shapes = self.names.input_shapes(bucket, self.lane.longest_row)
        for name in step.inputs:
            if name in given:
                self._bind(binding.bind_input, name, np.int32, shapes[name], given[name])
            else:
                self._bind(binding.bind_input, name, *self._tensor(name, bucket))
        for name in step.outputs:
            if name == self.names.output:
                shape = self.names.output_shape(bucket)
                self._bind(binding.bind_output, name, np.float32, shape, output)
            else:
                self._bind(binding.bind_output, name, *self._tensor(name, bucket))

        def run() -> None:
            with native_calls:
                session.run_with_iobinding(binding, run_options)

        return run

    def _product_call(self, step: ProductStep, bucket: Bucket, weights: Any, bias: Any) -> Callable[[], None]:
        dtype, (rows, inner), source = self._tensor(step.source, bucket)
        _, (_, width), output = self._tensor(step.output, bucket)
        operands = Operands(source, weights.data_ptr(), 0 if bias is None else bias.data_ptr(), output)
        product = self.library.product(step.kind, dtype, rows, inner, width, operands)
        stream = self.lane.stream
        return lambda: self.library.enqueue(product, stream)

    def _tensor(self, name: str, bucket: Bucket) -> tuple[Any, tuple[int, int], int]:
        tensor: Between = self.split.between[name]
        count = bucket[0] if tensor.per_row else bucket[1]
        return tensor.dtype, (count, tensor.width), self._buffers[tensor.place].data_ptr()

    def _bind(self, bind: Any, name: str, dtype: Any, shape: Sequence[int], address: int) -> None:
        bind(name, _DEVICE, self.ordinal, np.dtype(dtype).type, list(shape), address)

    def _allocate(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        return self.ort.OrtValue.ortvalue_from_shape_and_type(list(shape), dtype.type, _DEVICE, self.ordinal)

    def _copy(self, array: np.ndarray[Any, Any]) -> Any:
        return self.ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), _DEVICE, self.ordinal)
