"""A stand-in for the module ``tensorrt``: the part of its API that searchpipe uses.

Names and arguments are those of the real bindings (a test compares them where one of
TensorRT's packages is installed). Its plans, made by :func:`build_plan`, hold the row
model of the runtime's tests; its contexts put that model's kernel on the stream that
they are given, through the real driver or the fake one, so that capture and replay
are real. Camel-case names and argument orders are TensorRT's.
"""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import Any

from searchpipe import _core

__version__ = "11.1.0.0"
_MAGIC = b"fake plan\n"
_PTX = (Path(__file__).parent / "row_scores.ptx").read_text()


class TensorIOMode(enum.Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class DataType(enum.Enum):
    FLOAT = 0
    HALF = 1
    INT32 = 3
    INT64 = 8


class ExecutionContextAllocationStrategy(enum.Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class Severity(enum.IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    INTERNAL_ERROR = Severity.INTERNAL_ERROR
    ERROR = Severity.ERROR
    WARNING = Severity.WARNING
    INFO = Severity.INFO
    VERBOSE = Severity.VERBOSE
    Severity = Severity

    def log(self, severity: Severity, msg: str) -> None:
        raise NotImplementedError


class Runtime:
    def __init__(self, logger: ILogger) -> None:
        self.logger = logger
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        if not serialized_engine.startswith(_MAGIC):
            self.logger.log(ILogger.ERROR, "The engine plan file is not compatible with this version")
            return None
        return ICudaEngine(self.logger, json.loads(serialized_engine[len(_MAGIC) :]))


class ICudaEngine:
    def __init__(self, logger: ILogger, plan: dict[str, Any]) -> None:
        self._logger = logger
        self._plan = plan
        self._inputs: list[str] = plan["inputs"]
        self._names = [*self._inputs, "logits"]
        self.num_io_tensors = len(self._names)
        self.num_optimization_profiles = len(plan["profiles"])

    def get_tensor_name(self, index: int) -> str:
        return self._names[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self._inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> DataType:
        return DataType[self._plan["dtype"]] if name in self._inputs else DataType.FLOAT

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, -1) if name in self._inputs else (-1, self._plan["width"])

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        assert name in self._inputs
        return [tuple(shape) for shape in self._plan["profiles"][profile_index]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        rows, tokens = self._plan["profiles"][profile_index][2]
        return int(rows * tokens * 16)

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext | None:
        return IExecutionContext(self, strategy)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine, strategy: ExecutionContextAllocationStrategy) -> None:
        self.engine = engine
        self._memory_set = strategy is not ExecutionContextAllocationStrategy.USER_MANAGED
        self._profile = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._kernel = _core.Kernel(_core.Device(0), _PTX, "row_scores")

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return 0 <= profile_index < self.engine.num_optimization_profiles and stream_handle != 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        low, _, high = self.engine.get_tensor_profile_shape(name, self._profile)
        fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        if fits:
            self._shapes[name] = tuple(shape)
        return fits

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % 256:
            return False
        self._addresses[name] = memory
        return True

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % 256 == 0
        assert size >= self.engine.get_device_memory_size_for_profile_v2(self._profile)
        self._memory_set = True

    def infer_shapes(self) -> list[str]:
        return [name for name in self.engine._inputs if name not in self._shapes]

    def execute_async_v3(self, stream_handle: int) -> bool:
        if not self._memory_set or self.infer_shapes() or len(self._addresses) < self.engine.num_io_tensors:
            self.engine._logger.log(ILogger.ERROR, "enqueueV3: not everything was set")
            return False
        rows, tokens = self._shapes["input_ids"]
        inputs = [self._addresses.get(name, 0) for name in ("input_ids", "attention_mask", "token_type_ids")]
        width = self.engine._plan["width"]
        self._kernel.launch(
            stream_handle, (rows + 63) // 64, 64, [*inputs, self._addresses["logits"], rows, tokens, width]
        )
        return True


def build_plan(
    profiles: list[tuple[tuple[int, int], tuple[int, int], tuple[int, int]]],
    *,
    width: int = 1,
    inputs: tuple[str, ...] = ("input_ids", "attention_mask", "token_type_ids"),
    dtype: str = "INT32",
) -> bytes:
    """Serialise a plan of the row model with these (min, opt, max) shapes."""
    return (
        _MAGIC + json.dumps({"profiles": profiles, "width": width, "inputs": inputs, "dtype": dtype}).encode()
    )
