"""ONNX Runtime's CUDA provider on the fake driver: sessions that compute what their file says.

The work of a run is a host function on the session's stream, so that it is ordered, captured and
replayed as kernels are; it runs the file with ONNX Runtime on the CPU, from and to the addresses of
the binding, which are host memory on the fake driver. Only for that driver.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime as real

from tests.fakes.cuda_driver import HostFunctions

CUDA = "CUDAExecutionProvider"
_real_session = real.InferenceSession
_real_providers = real.get_available_providers


def get_available_providers() -> list[str]:
    return [CUDA, *_real_providers()]


def InferenceSession(path: str, sess_options: Any = None, providers: Any = None, **rest: Any) -> Any:  # noqa: N802
    if isinstance(providers[0], tuple) and providers[0][0] == CUDA:
        return _DeviceSession(path, providers[0][1])
    return _real_session(path, sess_options, providers=providers, **rest)


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype).reshape(shape)


class _Binding:
    def __init__(self) -> None:
        self.inputs: dict[str, np.ndarray] = {}
        self.output: np.ndarray | None = None

    def bind_input(self, name: str, kind: str, ordinal: int, dtype: Any, shape: Any, address: int) -> None:
        self.inputs[name] = _array(address, tuple(shape), dtype)

    def bind_output(
        self,
        name: str,
        kind: str = "cpu",
        ordinal: int = 0,
        dtype: Any = None,
        shape: Any = None,
        address: int = 0,
    ) -> None:
        self.output = _array(address, tuple(shape), dtype)


class _DeviceSession:
    def __init__(self, path: str, options: dict[str, str]) -> None:
        self._session = _real_session(path, providers=["CPUExecutionProvider"])
        self._stream = int(options["user_compute_stream"])
        self._functions = HostFunctions()

    def get_providers(self) -> list[str]:
        return [CUDA, "CPUExecutionProvider"]

    def io_binding(self) -> _Binding:
        return _Binding()

    def run_with_iobinding(self, binding: _Binding, run_options: Any = None) -> None:
        def compute() -> None:
            assert binding.output is not None
            (found,) = self._session.run(None, {name: x.copy() for name, x in binding.inputs.items()})
            binding.output[:] = found

        self._functions.put(self._stream, compute)
