"""Products with epilogues: what cuBLASLt is asked for gives x @ weights + bias and its GELU, row-major."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from searchpipe.backends.cublaslt import CublasLt, Operands
from searchpipe.errors import EngineError
from tests.fakes.host_cublaslt import HostCublasLt

RNG = np.random.default_rng(3)
ROWS, INNER, WIDTH = 5, 8, 24
STREAM = 77


def arrays(dtype: type) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    shapes = ((ROWS, INNER), (INNER, WIDTH), (WIDTH,))
    x, weights, bias = (RNG.normal(size=shape).astype(dtype) for shape in shapes)
    return x, weights, bias, np.zeros((ROWS, WIDTH), dtype)


def operands(*parts: np.ndarray) -> Operands:
    return Operands(*(part.ctypes.data for part in parts))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("epilogue", ["plain", "bias", "gelu"])
def test_row_major_product(epilogue: str, dtype: type) -> None:
    x, weights, bias, y = arrays(dtype)
    host = HostCublasLt()
    library = CublasLt(host, workspace=0)
    product = library.product(epilogue, dtype, ROWS, INNER, WIDTH, operands(x, weights, bias, y))
    assert not y.any()
    library.enqueue(product, STREAM)
    expected = x.astype(np.float64) @ weights.astype(np.float64) + (0 if epilogue == "plain" else bias)
    if epilogue == "gelu":
        expected = expected / 2 * (1 + erf(expected / np.sqrt(2)))
    np.testing.assert_allclose(y, expected, atol=0.01 if dtype is np.float16 else 1e-3)
    assert host.streams == [STREAM]
    library.close()
    library.close()
    assert not host.alive


def test_dropping_a_library_frees_what_it_made() -> None:
    host = HostCublasLt()
    library = CublasLt(host, workspace=0)
    library.product("gelu", np.float16, ROWS, INNER, WIDTH, operands(*arrays(np.float16)))
    assert host.alive
    library.__del__()
    assert not host.alive


def test_other_types_are_refused() -> None:
    library = CublasLt(HostCublasLt(), workspace=0)
    with pytest.raises(EngineError, match="float16 or float32, not float64"):
        library.product("gelu", np.float64, ROWS, INNER, WIDTH, operands(*arrays(np.float64)))


@pytest.mark.parametrize(
    ("function", "status", "message"),
    [
        ("cublasLtMatmulDescCreate", 3, "cublasLtMatmulDescCreate: out of memory"),
        ("cublasLtMatrixLayoutCreate", 7, "cublasLtMatrixLayoutCreate: invalid value"),
        (
            "cublasLtMatmulAlgoGetHeuristic",
            15,
            r"no algorithm for \[5, 8\] @ \[8, 24\] .*gelu: .*not supported",
        ),
        ("cublasLtMatmul", 99, r"cublasLtMatmul: status \(99\)"),
    ],
)
def test_what_the_library_refuses_is_said_and_freed(function: str, status: int, message: str) -> None:
    host = HostCublasLt((function, status))
    library = CublasLt(host, workspace=0)
    with pytest.raises(EngineError, match=message):
        library.enqueue(
            library.product("gelu", np.float16, ROWS, INNER, WIDTH, operands(*arrays(np.float16))), STREAM
        )
    library.close()
    assert not host.alive


def test_no_device_and_no_function() -> None:
    with pytest.raises(EngineError, match="cublasLtCreate: not initialised"):
        CublasLt(HostCublasLt(("cublasLtCreate", 1)), workspace=0)
    with pytest.raises(EngineError, match="has no cublasLtCreate"):
        CublasLt(object(), workspace=0)
