"""A stream's handle as other libraries take it."""

from __future__ import annotations

import pytest

from searchpipe.device.raw_stream import RawStream


def test_it_speaks_the_protocol() -> None:
    assert RawStream(1234).__cuda_stream__() == (0, 1234)


def test_cupy_takes_it_without_a_warning() -> None:
    cupy = pytest.importorskip("cupy", reason="cupy is not installed")
    assert cupy.cuda.Stream.from_external(RawStream(1234)).ptr == 1234
