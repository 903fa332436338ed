"""Matrix products of cuBLASLt with what follows them computed on the way out: a bias, a GELU.

ONNX Runtime has no such product that can be captured into a CUDA graph: its GemmFloat8 synchronises the
stream, makes a handle and allocates at every call, and takes a bias only as a full matrix. The library
itself is there in any process in which ONNX Runtime's CUDA provider is loaded.

Numbers below: enumerations of cublasLt.h (CUDA 12 and 13); functions and their arguments are documented
in NVIDIA's cuBLAS manual, "Using the cuBLASLt API". GELU is the form with tanh there.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from searchpipe.errors import EngineError

#: Epilogues by name: what becomes of x @ weights before it is written.
EPILOGUES: Final = {"plain": 1, "bias": 4, "gelu": 4 | 32}
#: Device memory that a product may use beside its operands, bytes; NVIDIA's advice for Hopper.
WORKSPACE_BYTES: Final = 32 << 20

_LIBRARIES = ("libcublasLt.so.13", "libcublasLt.so.12")
_TYPES = {np.dtype(np.float16): 2, np.dtype(np.float32): 0}  # CUDA_R_16F, CUDA_R_32F
_FLOAT32 = 0
_COMPUTE_FLOAT32 = 68
_DESC_EPILOGUE, _DESC_BIAS_POINTER = 7, 8
_PREFERENCE_WORKSPACE = 1
_STATUS = {1: "not initialised", 3: "out of memory", 7: "invalid value", 13: "execution failed"} | {
    8: "architecture mismatch",
    14: "internal error",
    15: "not supported",
}
_Handle = ctypes.c_void_p


class _Found(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


@dataclass(frozen=True, slots=True)
class Operands:
    """Device addresses of y [rows, width] = epilogue(x [rows, inner] @ weights + bias), all row-major."""

    x: int
    weights: int  # [inner, width]
    bias: int  # [width]; not read if the epilogue is `plain`
    y: int


def loaded_library() -> Any:
    """The cuBLASLt that this process has loaded already.

    Raises:
        EngineError: it has loaded none, or none of a version known here.
    """
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name, mode=os.RTLD_LAZY | os.RTLD_NOLOAD)
        except OSError:
            continue
    raise EngineError(f"None of {', '.join(_LIBRARIES)} is loaded; ONNX Runtime's CUDA provider loads one.")


class CublasLt:
    """A handle of cuBLASLt on the device that is current when it is made.

    Threads: one at a time. Closed when nothing refers to it or to its products any more, or by ``close``,
    after the last of them has been computed.

    Args:
        library: what :func:`loaded_library` returned.
        workspace: device address of :data:`WORKSPACE_BYTES` bytes that no other stream uses.

    Raises:
        EngineError: the library refuses.
    """

    def __init__(self, library: Any, workspace: int) -> None:
        self._library = library
        self._workspace = workspace
        self._handle = _Handle()
        self._products: list[Product] = []
        self.call("cublasLtCreate", ctypes.byref(self._handle))

    def call(self, name: str, *values: Any) -> None:
        """Call a function; all return a status.

        Raises:
            EngineError: the status is not success, or the library has no such function.
        """
        try:
            status = getattr(self._library, name)(*values)
        except AttributeError as error:
            raise EngineError(f"The loaded cuBLASLt has no {name}.") from error
        if status:
            raise EngineError(f"{name}: {_STATUS.get(status, 'status')} ({status}).")

    def product(
        self, epilogue: str, dtype: Any, rows: int, inner: int, width: int, operands: Operands
    ) -> Product:
        """Choose how to compute one product of a fixed shape at fixed addresses.

        Raises:
            EngineError: there is no way to compute it on this device.
        """
        made = Product(self, epilogue, np.dtype(dtype), (rows, inner, width), operands)
        self._products.append(made)
        made.choose(self._handle)
        return made

    def enqueue(self, product: Product, stream: int) -> None:
        """Put a product on ``stream``; it computes in float32, whatever the operands are."""
        product.enqueue(self._handle, self._workspace, stream)

    def close(self) -> None:
        """Free what the library holds; twice does nothing."""
        for product in self._products:
            product.close()
        self._products.clear()
        if self._handle:
            self.call("cublasLtDestroy", self._handle)
            self._handle = _Handle()

    def __del__(self) -> None:
        with suppress(Exception):  # at exit the driver may be gone
            self.close()


class Product:
    """One product, made by :meth:`CublasLt.product`.

    cuBLASLt is column-major: what is [rows, width] here is [width, rows] there, so it computes
    y' = weights' x', and its bias, one for each row of y', is one for each column of y.
    """

    def __init__(
        self, library: CublasLt, epilogue: str, dtype: Any, shape: tuple[int, int, int], operands: Operands
    ) -> None:
        if dtype not in _TYPES:
            raise EngineError(f"Products with an epilogue take float16 or float32, not {dtype}.")
        self._library = library
        self._operands = operands
        self._shape = shape
        self._epilogue = epilogue
        self._objects: list[tuple[str, Any]] = []
        self._found = _Found()
        self._one, self._zero = ctypes.c_float(1), ctypes.c_float(0)
        rows, inner, width = shape
        kind = _TYPES[dtype]
        try:
            self._desc = self._make("cublasLtMatmulDesc", _COMPUTE_FLOAT32, _FLOAT32)
            self._set(_DESC_EPILOGUE, ctypes.c_uint32(EPILOGUES[epilogue]))
            if epilogue != "plain":
                self._set(_DESC_BIAS_POINTER, ctypes.c_void_p(operands.bias))
            self._weights = self._layout(kind, width, inner)
            self._x = self._layout(kind, inner, rows)
            self._y = self._layout(kind, width, rows)
        except BaseException:
            self.close()
            raise

    def choose(self, handle: Any) -> None:
        """Ask the library for its best algorithm that needs no more than the workspace."""
        preference = self._make("cublasLtMatmulPreference")
        limit = ctypes.c_uint64(WORKSPACE_BYTES)
        self._library.call(
            "cublasLtMatmulPreferenceSetAttribute",
            preference,
            ctypes.c_int(_PREFERENCE_WORKSPACE),
            ctypes.byref(limit),
            ctypes.c_size_t(ctypes.sizeof(limit)),
        )
        count = ctypes.c_int(0)
        rows, inner, width = self._shape
        what = f"[{rows}, {inner}] @ [{inner}, {width}] with the epilogue {self._epilogue}"
        layouts = (self._weights, self._x, self._y, self._y)
        try:
            self._library.call(
                "cublasLtMatmulAlgoGetHeuristic",
                handle,
                self._desc,
                *layouts,
                preference,
                ctypes.c_int(1),
                ctypes.byref(self._found),
                ctypes.byref(count),
            )
        except EngineError as error:
            raise EngineError(f"cuBLASLt has no algorithm for {what}: {error}") from error
        if count.value < 1 or self._found.state:
            raise EngineError(f"cuBLASLt has no algorithm for {what}.")

    def enqueue(self, handle: Any, workspace: int, stream: int) -> None:
        """Put it on ``stream`` and return."""
        y = ctypes.c_void_p(self._operands.y)
        self._library.call(
            "cublasLtMatmul",
            handle,
            self._desc,
            ctypes.byref(self._one),
            ctypes.c_void_p(self._operands.weights),
            self._weights,
            ctypes.c_void_p(self._operands.x),
            self._x,
            ctypes.byref(self._zero),
            y,
            self._y,
            y,
            self._y,
            ctypes.byref(self._found),  # its first member is the algorithm
            ctypes.c_void_p(workspace),
            ctypes.c_size_t(WORKSPACE_BYTES),
            ctypes.c_void_p(stream),
        )

    def close(self) -> None:
        """Free descriptions; twice does nothing."""
        while self._objects:
            kind, made = self._objects.pop()
            self._library.call(f"{kind}Destroy", made)

    def _make(self, kind: str, *values: Any) -> Any:
        made = ctypes.c_void_p()
        self._library.call(f"{kind}Create", ctypes.byref(made), *values)
        self._objects.append((kind, made))
        return made

    def _layout(self, kind: int, height: int, columns: int) -> Any:
        sizes = (ctypes.c_uint64(height), ctypes.c_uint64(columns), ctypes.c_int64(height))
        return self._make("cublasLtMatrixLayout", ctypes.c_int(kind), *sizes)

    def _set(self, attribute: int, value: Any) -> None:
        size = ctypes.c_size_t(ctypes.sizeof(value))
        self._library.call(
            "cublasLtMatmulDescSetAttribute",
            self._desc,
            ctypes.c_int(attribute),
            ctypes.byref(value),
            size,
        )
