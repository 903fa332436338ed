"""A stand-in for the module ``onnxruntime`` as built with CUDA.

Sessions on the CPU are ONNX Runtime's own. A session on CUDA runs the row model of the
runtime's tests, whatever the file says: its kernel goes on the session's stream, from
and to the addresses of the binding, through the real driver or the fake one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as real

from searchpipe import _core

__version__ = real.__version__
SessionOptions = real.SessionOptions
GraphOptimizationLevel = real.GraphOptimizationLevel
_CUDA = "CUDAExecutionProvider"
_PTX = (Path(__file__).parent / "row_scores.ptx").read_text()


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
    def __init__(self, options: dict[str, str]) -> None:
        self._stream = int(options["user_compute_stream"])
        self._kernel = _core.Kernel(_core.Device(int(options["device_id"])), _PTX, "row_scores")

    def get_providers(self) -> list[str]:
        return get_available_providers()

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, iobinding: _Binding, run_options: RunOptions | None = None) -> None:
        assert run_options is not None
        assert run_options.entries["disable_synchronize_execution_providers"] == "1"
        (rows, tokens), ids = iobinding.bound["input_ids"]
        _, mask = iobinding.bound["attention_mask"]
        _, types = iobinding.bound.get("token_type_ids", ((), 0))
        shape, output = iobinding.bound["output"]
        width = shape[1] if len(shape) == 2 else 1
        arguments = [ids, mask, types, output, rows, tokens, width]
        self._kernel.launch(self._stream, (rows + 63) // 64, 64, arguments)


def InferenceSession(path: str, sess_options: Any = None, providers: Any = None) -> Any:  # noqa: N802
    if providers == ["CPUExecutionProvider"]:
        return real.InferenceSession(path, sess_options, providers=providers)
    ((name, options),) = providers
    assert name == _CUDA
    return _CudaSession(options)
