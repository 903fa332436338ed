"""ONNX Runtime on a GPU, its work captured into our CUDA graphs.

What makes a session capturable (seen on an H200): inputs in int32 and attention
fused (:mod:`searchpipe.backends.onnx_prepare`), so that nothing stays on the CPU;
every node on the GPU, since a graph would replay what the CPU computed at capture;
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

from searchpipe.backends.device_engine import DeviceEngine, Loaded, open_lanes
from searchpipe.backends.onnx_epilogue import PackedBinding, load_split
from searchpipe.backends.onnx_pack import PACKED_INPUTS
from searchpipe.backends.onnx_split import split_graph
from searchpipe.errors import EngineError, MissingDependencyError, ModelError
from searchpipe.interpreter_end import native_calls
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

_PROVIDER = "CUDAExecutionProvider"
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_LOG_ERRORS_ONLY = 3
_LOG_NOTHING = 4
_MEMORY_PATTERNS = False
# The arena grows by what a run needs, not by doubling: the plan of memory stays true.
_ARENA_GROWTH = "kSameAsRequested"
_NO_CPU_NODES = "session.disable_cpu_ep_fallback"
_HAS_CPU_NODES = "fallback to CPU EP has been explicitly disabled"
# Of 2-D operands it makes a Gemm, which first copies the bias to every row of its output.
SLOW_FOR_PACKED = ["MatMulAddFusion"]


def open_onnx_cuda(
    model_path: Path | str,
    device: _core.Device,
    buckets: Sequence[Bucket],
    *,
    longest_row: int = 0,
    lanes: int = 1,
    slots: int = 3,
    capture: bool = True,
    epilogues: Sequence[str] = (),
    name: str = "",
) -> DeviceEngine:
    """Open a model that :func:`searchpipe.backends.onnx_prepare.prepare_onnx` made, and warm it up.

    ``longest_row``: of a model prepared for packed rows, tokens of the longest; 0 for padded ones.
    ``epilogues``: of :data:`searchpipe.backends.onnx_split.KINDS`, products of packed rows that
    cuBLASLt computes together with what follows them; ONNX Runtime the rest.
    A model that ONNX Runtime puts partly on the CPU is not captured.

    Raises:
        MissingDependencyError: ONNX Runtime with CUDA is not installed.
        ModelError: the file cannot be loaded, takes other inputs than those of its kind of rows, or
            has no product with one of the ``epilogues``.
        EngineError: it loaded but does not run on the GPU.
    """
    ort = _onnxruntime()
    path = Path(model_path)
    described = _describe(path)
    if described.packed != bool(longest_row):
        made, asked = ("packed", "padded") if described.packed else ("padded", "packed")
        raise ModelError(f"{path} was prepared for {made} rows, not for {asked} ones.")
    split = split_graph(path, epilogues) if described.packed and epilogues else None
    runtime = f"onnxruntime {ort.__version__} CUDA"
    if split is not None:
        runtime += f" and cuBLASLt for {split.products} products"

    def load(lane: _core.GraphEngine) -> Loaded:
        if split is None:
            return _load_on(ort, path, device.ordinal, lane, described)
        names = PackedBinding(
            described.inputs, described.output, described.width if described.rank > 1 else 0
        )

        def open_part(part: bytes) -> tuple[Any, str]:
            return _open_session(ort, path, device.ordinal, lane.stream, packed=True, part=part)

        return load_split(ort, split, open_part, lane, device.ordinal, names)

    return open_lanes(
        name or path.stem,
        runtime,
        device=device,
        buckets=buckets,
        inputs=len(described.inputs),
        output_width=described.width,
        load=load,
        longest_row=longest_row,
        lanes=lanes,
        slots=slots,
        capture=capture,
    )


class _Described:
    """Names and sizes that the file declares."""

    def __init__(self, path: Path, onnx: Any, graph: Any) -> None:
        tensor = onnx.TensorProto
        constants = {item.name for item in graph.initializer}
        given = {item.name: item.type.tensor_type.elem_type for item in graph.input}
        found = {name: kind for name, kind in given.items() if name not in constants}
        self.packed = "row_ends" in found
        wanted = PACKED_INPUTS if self.packed else _INPUTS
        self.inputs = [name for name in wanted if name in found]
        kinds = {name: tensor.DataType.Name(kind).lower() for name, kind in found.items()}
        wrong = any(kind != tensor.INT32 for kind in found.values())
        if len(self.inputs) != len(found) or len(self.inputs) < len(wanted) - 1 or wrong:
            told = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            raise ModelError(
                f"{path} takes {told or 'no inputs'}; expected int32 {', '.join(wanted[:-1])} and, "
                f"optionally, {wanted[-1]}.",
                cure="Prepare the model with searchpipe.backends.onnx_prepare.prepare_onnx.",
            )
        output = graph.output[0]
        self.output: str = output.name
        shape = [dim.dim_value or dim.dim_param for dim in output.type.tensor_type.shape.dim]
        kind = output.type.tensor_type.elem_type
        if kind != tensor.FLOAT or len(shape) not in (1, 2):
            raise ModelError(
                f"{path}: output {output.name} is {tensor.DataType.Name(kind).lower()} {shape}; "
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


def _describe(path: Path) -> _Described:
    """Read the file itself: a session on the CPU would refuse operators that only GPUs have."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "The CUDA engine needs the package onnx.", cure="Install it: pip install 'searchpipe[gpu]'."
        ) from error
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as error:  # protobuf and onnx raise what they like
        raise ModelError(f"{path} cannot be loaded: {' '.join(str(error).split())[:300]}") from error
    if not graph.output:
        raise ModelError(f"{path} cannot be loaded: it declares no output.")
    return _Described(path, onnx, graph)


def _load_on(ort: Any, path: Path, ordinal: int, lane: _core.GraphEngine, described: _Described) -> Loaded:
    session, why_not = _open_session(ort, path, ordinal, lane.stream, described.packed)
    run_options = ort.RunOptions()
    run_options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    bindings = [_bind(session, ordinal, lane, bucket, described) for bucket in lane.buckets]

    def enqueue(index: int, bucket: Bucket, inputs: list[int], output: int, stream: int) -> None:
        # Addresses and stream are the lane's, which the bindings and the session have already.
        del bucket, inputs, output, stream
        with native_calls:
            session.run_with_iobinding(bindings[index], run_options)

    return Loaded(enqueue, (session, bindings, run_options), why_not)


def _open_session(
    ort: Any, path: Path, ordinal: int, stream: int, packed: bool, part: bytes | None = None
) -> tuple[Any, str]:
    """A session on the stream for the file or a part of it, and why its work must not be captured, if so."""
    provider = {
        "user_compute_stream": str(stream),
        "arena_extend_strategy": _ARENA_GROWTH,
        # A model kept in float32 was kept so for its precision; TF32 has that of half precision.
        "use_tf32": "0",
    }
    if ordinal:  # 0 is the default, and naming it makes ONNX Runtime 1.31 warn of plugins that nobody wants
        provider["device_id"] = str(ordinal)
    disabled = {"disabled_optimizers": SLOW_FOR_PACKED} if packed else {}

    def start(cpu_nodes: bool) -> Any:
        options = ort.SessionOptions()
        options.log_severity_level = _LOG_ERRORS_ONLY if cpu_nodes else _LOG_NOTHING
        options.enable_mem_pattern = _MEMORY_PATTERNS
        if not cpu_nodes:
            options.add_session_config_entry(_NO_CPU_NODES, "1")
        providers = [(_PROVIDER, provider)]
        with native_calls:
            return ort.InferenceSession(part or str(path), options, providers=providers, **disabled)

    why_not = ""
    try:
        try:
            session = start(cpu_nodes=False)
        except Exception as error:  # the runtime's exceptions share no base below Exception
            if _HAS_CPU_NODES not in str(error):
                raise
            why_not = "ONNX Runtime puts some of its operators on the CPU, which a graph would not run again"
            session = start(cpu_nodes=True)
    except Exception as error:  # see above
        raise EngineError(f"{path} on CUDA: {' '.join(str(error).split())[:300]}") from error
    if _PROVIDER not in session.get_providers():
        raise EngineError(f"{path}: ONNX Runtime could not start its CUDA provider and fell back to the CPU.")
    return session, why_not


def _bind(session: Any, ordinal: int, lane: _core.GraphEngine, bucket: Bucket, described: _Described) -> Any:
    binding = session.io_binding()
    inputs, output = lane.addresses(*bucket)
    rows, tokens = bucket
    shapes: dict[str, tuple[int, ...]] = {}
    if described.packed:
        shapes = {"row_ends": (rows + 1,), "row_firsts": (rows,), "token_offset": (rows, lane.longest_row)}
    for name, address in zip(described.inputs, inputs, strict=True):
        shape = shapes.get(name, (1, tokens) if described.packed else bucket)
        binding.bind_input(name, "cuda", ordinal, np.int32, shape, address)
    shape = (rows,) if described.rank == 1 else (rows, described.width)
    binding.bind_output(described.output, "cuda", ordinal, np.float32, shape, output)
    return binding
