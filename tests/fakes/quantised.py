"""Tiny models quantised by ONNX Runtime's own quantiser: well, badly, and then broken."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

Feeds = dict[str, np.ndarray]


def quantise(model: Path, out: Path, batches: list[Feeds]) -> Path:
    """Static int8 with explicit Q/DQ of the matrix products, ranges being the least and largest seen."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[Feeds] = iter(batches)

        def get_next(self) -> Feeds | None:
            return next(self._left, None)

    quantize_static(
        str(model),
        str(out),
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=["MatMul"],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True},
    )
    return out


def break_scales(model: Path, out: Path, factor: float = 100.0) -> Path:
    """Multiply every scale of activations, as a table that belongs to another model would."""
    loaded = onnx.load(str(model))
    for tensor in loaded.graph.initializer:
        if tensor.name.endswith("_scale") and "linear" not in tensor.name:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name)
            )
    onnx.save(loaded, str(out))
    return out
