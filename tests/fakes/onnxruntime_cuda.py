"""A stand-in for the module ``onnxruntime`` as built with CUDA.

Sessions on the CPU are ONNX Runtime's own. A session on CUDA runs the row model of the
runtime's tests, on padded or packed rows as the file's inputs are: its kernel goes on the
session's stream, from and to the addresses of the binding, through the real driver or the
fake one. Operators named in ``ON_CPU`` are what CUDA does not know.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as real

from searchpipe import _core

__version__ = real.__version__
SessionOptions = real.SessionOptions
GraphOptimizationLevel = real.GraphOptimizationLevel
_CUDA = "CUDAExecutionProvider"
_FOLDER = Path(__file__).parent
_PTX = (_FOLDER / "row_scores.ptx").read_text()
_PACKED_PTX = (_FOLDER / "packed_row_scores.ptx").read_text()
ON_CPU: set[str] = set()
disabled: list[set[str]] = []  # optimizers, of each session that was opened


def get_available_providers() -> list[str]:
    return [_CUDA, "CPUExecutionProvider"]


class RunOptions:
    def __init__(self) -> None:
        self.entries: dict[str, str] = {}

    def add_run_config_entry(self, name: str, value: str) -> None:
        self.entries[name] = value


class _Binding:
    def __init__(self) -> None:
        self.bound: dict[str, tuple[tuple[int, ...], int]] = {}

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
    ) -> None:
        assert (device_type, element_type) == ("cuda", np.int32)
        self.bound[name] = (tuple(shape), buffer_ptr)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Any = None,
        buffer_ptr: int | None = None,
    ) -> None:
        assert (device_type, element_type) == ("cuda", np.float32)
        assert buffer_ptr is not None
        self.bound["output"] = (tuple(shape), buffer_ptr)


class _CudaSession:
    def __init__(self, options: dict[str, str], names: set[str]) -> None:
        self._stream = int(options["user_compute_stream"])
        self._packed = "row_ends" in names
        device = _core.Device(int(options.get("device_id", "0")))
        if self._packed:
            self._kernel = _core.Kernel(device, _PACKED_PTX, "packed_row_scores")
        else:
            self._kernel = _core.Kernel(device, _PTX, "row_scores")

    def get_providers(self) -> list[str]:
        return get_available_providers()

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, iobinding: _Binding, run_options: RunOptions | None = None) -> None:
        assert run_options is not None
        assert run_options.entries["disable_synchronize_execution_providers"] == "1"
        if self._packed:
            self._run_packed(iobinding.bound)
            return
        (rows, tokens), ids = iobinding.bound["input_ids"]
        _, mask = iobinding.bound["attention_mask"]
        _, types = iobinding.bound.get("token_type_ids", ((), 0))
        shape, output = iobinding.bound["output"]
        width = shape[1] if len(shape) == 2 else 1
        arguments = [ids, mask, types, output, rows, tokens, width]
        self._kernel.launch(self._stream, (rows + 63) // 64, 64, arguments)

    def _run_packed(self, bound: dict[str, tuple[tuple[int, ...], int]]) -> None:
        (one, tokens), ids = bound["input_ids"]
        assert one == 1
        (rows, longest_row), offset = bound["token_offset"]
        (_, ends), (_, firsts), (_, positions) = (
            bound[name] for name in ("row_ends", "row_firsts", "position_ids")
        )
        assert bound["row_ends"][0] == (rows + 1,)
        assert bound["row_firsts"][0] == (rows,)
        assert bound["position_ids"][0] == (1, tokens)
        shape, types = bound.get("token_type_ids", ((1, tokens), 0))
        assert shape == (1, tokens)
        shape, output = bound["output"]
        width = shape[1] if len(shape) == 2 else 1
        arguments = [ids, positions, ends, firsts, offset, types, output, rows, longest_row, width]
        self._kernel.launch(self._stream, (rows + 63) // 64, 64, arguments)


class Fail(Exception):  # noqa: N818
    """As the real one: no RuntimeError."""


def InferenceSession(  # noqa: N802
    path: str, sess_options: Any = None, providers: Any = None, disabled_optimizers: Any = None
) -> Any:
    if providers == ["CPUExecutionProvider"]:
        return real.InferenceSession(path, sess_options, providers=providers)
    ((name, options),) = providers
    assert name == _CUDA
    graph = onnx.load(path).graph
    if ON_CPU.intersection(node.op_type for node in graph.node) and _no_cpu(sess_options):
        raise Fail(
            "[ONNXRuntimeError] : 1 : FAIL : This session contains graph nodes that are assigned to the "
            "default CPU EP, but fallback to CPU EP has been explicitly disabled by the user."
        )
    disabled.append(set(disabled_optimizers or ()))
    return _CudaSession(options, {node.name for node in graph.input})


def _no_cpu(options: Any) -> bool:
    try:
        found: str = options.get_session_config_entry("session.disable_cpu_ep_fallback")
    except RuntimeError:  # not set
        return False
    return found == "1"
