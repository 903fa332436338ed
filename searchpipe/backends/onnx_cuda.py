"""ONNX Runtime on a GPU, its work captured into our CUDA graphs.

What makes a session capturable (seen on an H200): inputs in int32 and attention
fused (:mod:`searchpipe.backends.onnx_prepare`), so that nothing stays on the CPU;
the session computing on our stream; inputs and outputs bound to our addresses; no
synchronisation at the end of a run; and no allocation during the capture, hence no
memory patterns (they replace a shape's many blocks by one big one at its second run)
and plain runs until the arena has stopped growing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.backends.device_engine import DeviceEngine, Enqueue, open_lanes
from searchpipe.errors import EngineError, MissingDependencyError, ModelError
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

_PROVIDER = "CUDAExecutionProvider"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LOG_ERRORS_ONLY = 3
_MEMORY_PATTERNS = False
# The arena grows by what a run needs, not by doubling: the plan of memory stays true.
_ARENA_GROWTH = "kSameAsRequested"


def open_onnx_cuda(
    model_path: Path | str,
    device: _core.Device,
    buckets: Sequence[Bucket],
    *,
    lanes: int = 1,
    slots: int = 3,
    capture: bool = True,
    name: str = "",
) -> DeviceEngine:
    """Open a model that :func:`searchpipe.backends.onnx_prepare.prepare_onnx` made, and warm it up.

    Raises:
        MissingDependencyError: ONNX Runtime with CUDA is not installed.
        ModelError: the file cannot be loaded, or takes other inputs than int32 [rows, tokens].
        EngineError: it loaded but does not run on the GPU.
    """
    ort = _onnxruntime()
    path = Path(model_path)
    described = _describe(ort, path)

    def load(lane: _core.GraphEngine) -> tuple[Enqueue, object]:
        return _enqueue_on(ort, path, device.ordinal, lane, described)

    return open_lanes(
        name or path.stem,
        f"onnxruntime {ort.__version__} CUDA",
        device=device,
        buckets=buckets,
        inputs=len(described.inputs),
        output_width=described.width,
        load=load,
        lanes=lanes,
        slots=slots,
        capture=capture,
    )


class _Described:
    """Names and sizes that the file declares."""

    def __init__(self, path: Path, session: Any) -> None:
        found = {node.name: node for node in session.get_inputs()}
        self.inputs = [name for name in _INPUTS if name in found]
        wrong = [f"{node.name} {node.type}" for node in found.values() if node.type != "tensor(int32)"]
        if len(self.inputs) != len(found) or len(self.inputs) < 2 or wrong:
            told = ", ".join(f"{node.name} {node.type}" for node in found.values())
            raise ModelError(
                f"{path} takes {told or 'no inputs'}; expected int32 input_ids, attention_mask and, "
                "optionally, token_type_ids.",
                cure="Prepare the model with searchpipe.backends.onnx_prepare.prepare_onnx.",
            )
        output = session.get_outputs()[0]
        self.output: str = output.name
        shape = output.shape
        if output.type != "tensor(float)" or len(shape) not in (1, 2):
            raise ModelError(
                f"{path}: output {output.name} is {output.type} {shape}; "
                "expected float [rows] or [rows, width].",
                cure="Prepare encoders with pooling, and half-precision models with float32 outputs.",
            )
        self.width = 1 if len(shape) == 1 else shape[1]
        if not isinstance(self.width, int) or self.width < 1:
            raise ModelError(f"{path}: output {output.name} does not declare its width: {shape}.")
        self.rank = len(shape)


def _onnxruntime() -> Any:
    cure = (
        "Install it: pip install 'searchpipe[gpu]' (and uninstall onnxruntime, which owns the same module)."
    )
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError("The CUDA engine needs ONNX Runtime with CUDA.", cure=cure) from error
    if _PROVIDER not in onnxruntime.get_available_providers():
        raise MissingDependencyError(
            f"The installed ONNX Runtime {onnxruntime.__version__} was built without CUDA.", cure=cure
        )
    return onnxruntime


def _describe(ort: Any, path: Path) -> _Described:
    """Read names and types from a session on the CPU, which needs no device memory."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = _LOG_ERRORS_ONLY
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base below Exception
        raise ModelError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    return _Described(path, session)


def _enqueue_on(
    ort: Any, path: Path, ordinal: int, lane: _core.GraphEngine, described: _Described
) -> tuple[Enqueue, object]:
    options = ort.SessionOptions()
    options.log_severity_level = _LOG_ERRORS_ONLY
    options.enable_mem_pattern = _MEMORY_PATTERNS
    provider = {
        "device_id": str(ordinal),
        "user_compute_stream": str(lane.stream),
        "arena_extend_strategy": _ARENA_GROWTH,
        # A model kept in float32 was kept so for its precision; TF32 has that of half precision.
        "use_tf32": "0",
    }
    try:
        session = ort.InferenceSession(str(path), options, providers=[(_PROVIDER, provider)])
    except Exception as error:  # see above
        raise EngineError(f"{path} on CUDA: {' '.join(str(error).split())[:300]}") from error
    if _PROVIDER not in session.get_providers():
        raise EngineError(f"{path}: ONNX Runtime could not start its CUDA provider and fell back to the CPU.")
    run_options = ort.RunOptions()
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    bindings = [_bind(session, ordinal, lane, bucket, described) for bucket in lane.buckets]

    def enqueue(index: int, bucket: Bucket, inputs: list[int], output: int, stream: int) -> None:
        # Addresses and stream are the lane's, which the bindings and the session have already.
        del bucket, inputs, output, stream
        session.run_with_iobinding(bindings[index], run_options)

    return enqueue, (session, bindings, run_options)


def _bind(session: Any, ordinal: int, lane: _core.GraphEngine, bucket: Bucket, described: _Described) -> Any:
    binding = session.io_binding()
    inputs, output = lane.addresses(*bucket)
    for name, address in zip(described.inputs, inputs, strict=True):
        binding.bind_input(name, "cuda", ordinal, np.int32, bucket, address)
    shape = (bucket[0],) if described.rank == 1 else (bucket[0], described.width)
    binding.bind_output(described.output, "cuda", ordinal, np.float32, shape, output)
    return binding
