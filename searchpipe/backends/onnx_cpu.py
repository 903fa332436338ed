"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Array, Float32
from searchpipe.backends.cores import available_cores
from searchpipe.errors import ClosedError, EngineError, MissingDependencyError, ModelError
from searchpipe.interpreter_end import native_calls

_DTYPES: dict[str, Any] = {
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(bool)": np.bool_,
}
_FLOAT_OUTPUTS = ("tensor(float)", "tensor(float16)", "tensor(double)")
_LOG_ERRORS_ONLY = 3


class OnnxCpuEngine:
    """An ONNX file behind the :class:`~searchpipe.backends.base.Engine` protocol, on the CPU.

    ``threads`` is the number of threads inside one run (0: every core that affinity
    and container quota allow). ``run`` may be called from many threads at once.

    Raises:
        ModelError: no such file, a folder, an empty or truncated file, not ONNX, or inputs and
            outputs of types that no text model has; the message says what was found.
        MissingDependencyError: ONNX Runtime is not installed.

    """

    def __init__(self, model_path: Path | str, *, threads: int = 0, name: str = "") -> None:
        if threads < 0:
            raise ModelError(f"threads is {threads}; use 0 (all cores) or more.")
        self.path = Path(model_path)
        self.threads = threads or available_cores()
        self._name = name or self.path.stem
        self._session: Any = _open_session(self.path, self.threads)
        inputs = self._session.get_inputs()
        outputs = self._session.get_outputs()
        self._inputs = {node.name: _dtype_of(self.path, node) for node in inputs}
        self._ranks = {node.name: _rank_of(node) for node in inputs}
        self._outputs = tuple(node.name for node in outputs)
        if not outputs or outputs[0].type not in _FLOAT_OUTPUTS:
            found = f"{outputs[0].name} of type {outputs[0].type}" if outputs else "none"
            raise ModelError(f"{self.path}: the first output must be a float tensor, but is {found}.")
        self._output_shape = _shape_of(outputs[0])

    @property
    def name(self) -> str:
        return self._name

    @property
    def inputs(self) -> Mapping[str, np.dtype[Any]]:
        """Dtype of each input, by name."""
        return self._inputs

    @property
    def input_ranks(self) -> Mapping[str, int | None]:
        """Number of dimensions of each input; None when the file does not say."""
        return self._ranks

    @property
    def outputs(self) -> tuple[str, ...]:
        return self._outputs

    @property
    def output_shape(self) -> tuple[int | None, ...] | None:
        """Declared shape of the first output, None for an axis that varies; None when undeclared."""
        return self._output_shape

    def run(self, feeds: Mapping[str, Array]) -> Float32:
        """Run the model once and return its first output as float32; NaN and infinity pass through.

        Raises:
            ModelError: a missing or extra input, or one of another dtype or rank.
            EngineError: the run itself failed.
            ClosedError: the engine was closed, or the interpreter is ending.

        """
        session = self._session
        if session is None:
            raise ClosedError(f"Engine {self._name} was closed.")
        self._check(feeds)
        with native_calls:
            try:
                result = session.run(self._outputs[:1], dict(feeds))[0]
            except Exception as error:  # the runtime's exceptions share no base below Exception
                shapes = ", ".join(f"{key} {value.shape}" for key, value in feeds.items())
                reason = " ".join(str(error).split())[:400]
                raise EngineError(f"Engine {self._name} failed on {shapes}: {reason}") from error
        return np.asarray(result, dtype=np.float32)

    def close(self) -> None:
        """Drop the session; what still runs finishes first."""
        self._session = None

    def _check(self, feeds: Mapping[str, Array]) -> None:
        if feeds.keys() != self._inputs.keys():
            raise ModelError(
                f"Engine {self._name} takes the inputs {', '.join(self._inputs)}; "
                f"got {', '.join(feeds) or 'none'}."
            )
        for key, value in feeds.items():
            rank = self._ranks[key]
            if value.dtype != self._inputs[key] or (rank is not None and value.ndim != rank):
                raise ModelError(
                    f"Engine {self._name} takes {key} as {self._inputs[key]} with "
                    f"{'any number of' if rank is None else rank} dimensions; "
                    f"got {value.dtype} {value.shape}."
                )


def _open_session(path: Path, threads: int) -> Any:
    if path.is_dir():
        raise ModelError(f"{path} is a folder.", cure="Name the .onnx file inside it.")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise ModelError(
            f"{path} cannot be read: {error.strerror or error}.", cure="Correct the model's source."
        ) from error
    if size == 0:
        raise ModelError(f"{path} is empty.", cure="Fetch the model again.")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "Running models on the CPU needs ONNX Runtime.", cure="Install it: pip install 'searchpipe[cpu]'."
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = _LOG_ERRORS_ONLY
    # The threads sleep between runs instead of spinning: they share the host's cores with
    # the host's own work and with other queries. On 2 busy cores (MiniLM-L12 int8, 8 pairs
    # of 38 tokens) a run took 180 ms and 124 ms of CPU without spinning, 298 ms and 205 ms with.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    with native_calls:
        try:
            return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's exceptions share no base below Exception
            reason = " ".join(str(error).split())[:300]
            raise ModelError(
                f"{path} ({size} bytes{_looks_like(head)}) is not a model that ONNX Runtime "
                f"{onnxruntime.__version__} can load: {reason}",
                cure="Name a complete .onnx file (`searchpipe models verify` checks the cached ones).",
            ) from error


def _looks_like(head: bytes) -> str:
    """Name common files that are given for a model by mistake."""
    for magic, what in (
        (b"version https://git-lfs", ", a Git LFS pointer: the file itself was not pulled"),
        (b"PK\x03\x04", ", a zip archive"),
        (b"<!DOCTYPE", ", an HTML page"),
        (b"<html", ", an HTML page"),
        (b"{", ", a JSON text"),
    ):
        if head.startswith(magic):
            return what
    if head[8:10] == b'{"':
        return ", a safetensors file"
    return ""


def _dtype_of(path: Path, node: Any) -> np.dtype[Any]:
    dtype = _DTYPES.get(node.type)
    if dtype is None:
        raise ModelError(f"{path}: input {node.name} has type {node.type}, which no text model takes.")
    found: np.dtype[Any] = np.dtype(dtype)
    return found


def _rank_of(node: Any) -> int | None:
    return len(node.shape) if node.shape else None


def _shape_of(node: Any) -> tuple[int | None, ...] | None:
    if not node.shape:
        return None
    return tuple(size if isinstance(size, int) else None for size in node.shape)
