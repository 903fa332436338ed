"""Plans of TensorRT 10, TensorRT 11 and TensorRT-RTX, by the same code.

One execution context for each bucket, its profile chosen once, its addresses set
once; one plain enqueue, then its work is captured. The contexts of a lane run one
after the other on the lane's stream, so they share one arena of activation memory.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchpipe.backends.device_engine import DeviceEngine, Loaded, open_lanes
from searchpipe.backends.plan_manifest import read_manifest, read_plan
from searchpipe.errors import EngineError, MissingDependencyError, ModelError
from searchpipe.runtime.buckets import Bucket

if TYPE_CHECKING:
    from searchpipe import _core

# Modules that can run a plan of each runtime; the second and later are found
# where only the lean runtime or the bindings were installed.
MODULES = {
    "tensorrt": ("tensorrt", "tensorrt_bindings", "tensorrt_lean", "tensorrt_lean_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Shape = tuple[int, ...]


def open_tensorrt(
    plan: Path | str,
    device: _core.Device,
    buckets: Sequence[Bucket],
    *,
    lanes: int = 1,
    slots: int = 3,
    capture: bool = True,
    allow_host_code: bool = False,
    name: str = "",
) -> DeviceEngine:
    """Open a plan with the manifest beside it, and warm it up.

    ``device`` is open, so the driver has been probed: TensorRT's own objects crash
    the process where there is none.

    Raises:
        ModelError: the plan is not for this GPU, runtime or version, is not what its
            manifest says, or takes and gives other tensors than a text model.
        MissingDependencyError: the runtime is not installed.
        EngineError: TensorRT refused the plan, or it does not run.
    """
    path = Path(plan)
    manifest = read_manifest(path)
    trt = _runtime_module(manifest.runtime)
    content = read_plan(
        path, manifest, device, manifest.runtime, trt.__version__, allow_host_code=allow_host_code
    )
    logger = _make_logger(trt)
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = manifest.host_code
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(f"{path}: TensorRT refused the plan: {logger.last() or 'without a reason'}.")
    tensors = _Tensors(trt, path, engine)
    profiles = [tensors.profile_for(bucket) for bucket in sorted(buckets, key=lambda b: (b[0] * b[1], b[1]))]

    def load(lane: _core.GraphEngine) -> Loaded:
        return _contexts_on(trt, engine, tensors, device, lane, profiles, logger)

    opened = open_lanes(
        name or manifest.model or path.stem,
        f"{manifest.runtime} {trt.__version__}",
        device=device,
        buckets=buckets,
        inputs=len(tensors.inputs),
        output_width=tensors.width,
        load=load,
        lanes=lanes,
        slots=slots,
        capture=capture,
    )
    opened.held += [engine, runtime, logger]
    return opened


def _runtime_module(runtime: str) -> Any:
    problems = []
    for module in MODULES[runtime]:
        try:
            return importlib.import_module(module)
        except ImportError as error:
            problems.append(f"{module}: {error}")
    raise MissingDependencyError(
        f"The plan needs {runtime}, which cannot be imported ({'; '.join(problems)}).",
        cure="Install it: pip install 'searchpipe[gpu]'.",
    )


def _make_logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, unused-ignore]
        """Keeps the last error: TensorRT gives reasons nowhere else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self._errors = [*self._errors[-3:], message]

        def last(self) -> str:
            return "; ".join(self._errors)

    return Logger()


class _Tensors:
    """The plan's inputs, output and profiles, checked to be those of a text model."""

    def __init__(self, trt: Any, path: Path, engine: Any) -> None:
        self._path = path
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        given = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        outputs = [name for name in names if name not in given]
        self.inputs = [name for name in _INPUTS if name in given]
        wrong = [name for name in self.inputs if engine.get_tensor_dtype(name) != trt.DataType.INT32]
        if len(self.inputs) != len(given) or len(self.inputs) < 2 or wrong:
            raise ModelError(
                f"{path} takes {', '.join(sorted(given)) or 'nothing'}{' (not int32)' if wrong else ''}; "
                "expected int32 input_ids, attention_mask and, optionally, token_type_ids."
            )
        if len(outputs) != 1 or engine.get_tensor_dtype(outputs[0]) != trt.DataType.FLOAT:
            raise ModelError(f"{path} gives {', '.join(outputs) or 'nothing'}; expected one float32 output.")
        self.output = outputs[0]
        shape = tuple(engine.get_tensor_shape(self.output))
        if len(shape) not in (1, 2) or (len(shape) == 2 and shape[1] < 1):
            raise ModelError(f"{path}: output {self.output} is {shape}; expected [rows] or [rows, width].")
        self.width = 1 if len(shape) == 1 else int(shape[1])
        self._profiles = [self._ranges(engine, index) for index in range(engine.num_optimization_profiles)]

    def _ranges(self, engine: Any, index: int) -> tuple[Shape, Shape, Shape]:
        low, best, high = engine.get_tensor_profile_shape(self.inputs[0], index)
        return tuple(low), tuple(best), tuple(high)

    def profile_for(self, bucket: Bucket) -> int:
        """Return the profile that allows the bucket and was tuned for the nearest shape."""
        fitting = [
            (abs(best[0] * best[1] - bucket[0] * bucket[1]), index)
            for index, (low, best, high) in enumerate(self._profiles)
            if all(a <= b <= c for a, b, c in zip(low, bucket, high, strict=True))
        ]
        if not fitting:
            told = ", ".join(f"{low} to {high}" for low, _, high in self._profiles)
            raise ModelError(
                f"{self._path} has no profile for {bucket[0]} x {bucket[1]}; it has {told or 'none'}.",
                cure="Choose buckets inside the profiles, or build the plan with wider ones.",
            )
        return min(fitting)[1]


def _contexts_on(
    trt: Any,
    engine: Any,
    tensors: _Tensors,
    device: _core.Device,
    lane: _core.GraphEngine,
    profiles: list[int],
    logger: Any,
) -> Loaded:
    from searchpipe import _core

    arena_bytes = max(_activation_bytes(engine, profile) for profile in set(profiles))
    arena = _core.DeviceBuffer(device, max(arena_bytes, 1))
    contexts = []
    for bucket, profile in zip(lane.buckets, profiles, strict=True):
        context = engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EngineError(f"TensorRT made no context: {logger.last()}.")
        context.set_device_memory(arena.address, arena.nbytes)
        inputs, output = lane.addresses(*bucket)
        done = [context.set_optimization_profile_async(profile, lane.stream)]
        done += [context.set_input_shape(name, bucket) for name in tensors.inputs]
        addresses = zip([*tensors.inputs, tensors.output], [*inputs, output], strict=True)
        done += [context.set_tensor_address(name, address) for name, address in addresses]
        missing = context.infer_shapes()
        if not all(done) or missing:
            raise EngineError(
                f"TensorRT refused bucket {bucket[0]} x {bucket[1]}: {logger.last() or missing}."
            )
        contexts.append(context)

    def enqueue(index: int, bucket: Bucket, inputs: list[int], output: int, stream: int) -> None:
        del inputs, output  # set in the context already
        if not contexts[index].execute_async_v3(stream):
            raise EngineError(f"TensorRT did not enqueue {bucket[0]} x {bucket[1]}: {logger.last()}")

    return Loaded(enqueue, (contexts, arena))


def _activation_bytes(engine: Any, profile: int) -> int:
    # TensorRT 10.0 has it without _v2, 11 only with.
    for name in ("get_device_memory_size_for_profile_v2", "get_device_memory_size_for_profile"):
        if hasattr(engine, name):
            return int(getattr(engine, name)(profile))
    raise EngineError(
        "This TensorRT does not tell the activation memory of a profile; version 10 or newer is needed."
    )
