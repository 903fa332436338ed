"""cuBLASLt on host memory, for the functions that products with epilogues need, as NVIDIA's manual has them.

Column-major matrices, no transposition; D = epilogue(alpha A B + beta C); a bias is added to each row of
D. Anything else that it is asked for is a status that is not success.
"""

# ruff: noqa: N802, N815 - the names of the library.
from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

INVALID, UNSUPPORTED = 7, 15
TYPES = {0: np.float32, 2: np.float16}
EPILOGUE, BIAS_POINTER, MAX_WORKSPACE = 7, 8, 1
PLAIN, BIAS, GELU_BIAS = 1, 4, 36
ALGORITHM = 4711


class HostCublasLt:
    """``refuse``: a function that fails, with its status. ``alive``: objects not destroyed yet."""

    def __init__(self, refuse: tuple[str, int] = ("", 0)) -> None:
        self.refuse = refuse
        self.alive: dict[int, Any] = {}
        self.streams: list[int] = []

    def __getattribute__(self, name: str) -> Any:
        found = object.__getattribute__(self, name)
        if name.startswith("cublasLt") and name == self.refuse[0]:
            return lambda *_: self.refuse[1]
        return found

    def _create(self, out: Any, value: Any) -> int:
        key = max(self.alive, default=0x1000) + 1
        self.alive[key] = value
        out._obj.value = key
        return 0

    def _destroy(self, made: Any) -> int:
        return 0 if self.alive.pop(made.value, None) is not None else INVALID

    def cublasLtCreate(self, out: Any) -> int:
        return self._create(out, "handle")

    def cublasLtMatmulDescCreate(self, out: Any, compute: int, scale: int) -> int:
        return self._create(out, {EPILOGUE: PLAIN}) if (compute, scale) == (68, 0) else INVALID

    def cublasLtMatrixLayoutCreate(self, out: Any, kind: Any, rows: Any, columns: Any, leading: Any) -> int:
        if leading.value < rows.value:
            return INVALID
        return self._create(out, (TYPES[kind.value], rows.value, columns.value, leading.value))

    def cublasLtMatmulPreferenceCreate(self, out: Any) -> int:
        return self._create(out, {MAX_WORKSPACE: 0})

    def _set(self, made: Any, attribute: Any, value: Any, size: Any) -> int:
        if size.value != ctypes.sizeof(value._obj):
            return INVALID
        self.alive[made.value][attribute.value] = value._obj.value
        return 0

    cublasLtMatmulDescSetAttribute = cublasLtMatmulPreferenceSetAttribute = _set
    cublasLtDestroy = cublasLtMatmulDescDestroy = cublasLtMatrixLayoutDestroy = _destroy
    cublasLtMatmulPreferenceDestroy = _destroy

    def cublasLtMatmulAlgoGetHeuristic(
        self, handle: Any, desc: Any, a: Any, b: Any, c: Any, d: Any, preference: Any, asked: Any, *out: Any
    ) -> int:
        found, count = out
        shapes = [self.alive[each.value][1:3] for each in (a, b, d)]
        (m, k), (k2, n), result = shapes
        if self.alive[handle.value] != "handle" or c.value != d.value or (k, (m, n)) != (k2, result):
            return INVALID
        if self.alive[desc.value][EPILOGUE] not in (PLAIN, BIAS, GELU_BIAS):
            return UNSUPPORTED
        found._obj.algorithm[0] = ALGORITHM
        found._obj.workspace = self.alive[preference.value][MAX_WORKSPACE]
        count._obj.value = min(asked.value, 1)
        return 0

    def cublasLtMatmul(
        self,
        handle: Any,
        desc: Any,
        alpha: Any,
        a: Any,
        a_form: Any,
        b: Any,
        b_form: Any,
        beta: Any,
        *rest: Any,
    ) -> int:
        c, c_form, d, d_form, algorithm, _workspace, size, stream = rest
        wanted = self.alive[desc.value]
        workspace_short = size.value < algorithm._obj.workspace
        if (
            self.alive[handle.value] != "handle"
            or algorithm._obj.algorithm[0] != ALGORITHM
            or workspace_short
        ):
            return INVALID
        left, right = (self._matrix(*pair).astype(np.float32) for pair in ((a, a_form), (b, b_form)))
        y = alpha._obj.value * left @ right
        if beta._obj.value:
            y = y + beta._obj.value * self._matrix(c, c_form)
        out = self._matrix(d, d_form)
        if wanted[EPILOGUE] & BIAS:
            address = ctypes.c_void_p(wanted[BIAS_POINTER])
            y = y + self._memory(address, out.dtype, len(out))[:, None]
        if wanted[EPILOGUE] == GELU_BIAS:
            y = y / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3)))
        out[:] = y.astype(out.dtype)
        self.streams.append(stream.value)
        return 0

    def _matrix(self, address: Any, form: Any) -> np.ndarray:
        dtype, rows, columns, leading = self.alive[form.value]
        return self._memory(address, dtype, leading * columns).reshape(columns, leading).T[:rows]

    def _memory(self, address: Any, dtype: Any, count: int) -> np.ndarray:
        size = count * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_char * size).from_address(address.value), dtype)
