"""Explicit int8: Q/DQ pairs around the products with weights, symmetric, one scale a column of weights."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.engine.fp16 import kept_fp32, to_fp16
from searchpipe.engine.onnx_graph import (
    count_ops,
    last_projection,
    load_model,
    makers,
    matching,
    name_nodes,
    save_model,
    tools,
    weighted_products,
)
from searchpipe.engine.ranges import RangeTable
from searchpipe.engine.recipe import PrecisionSettings
from searchpipe.errors import RecipeError

_KINDS = ["MatMul", "Gemm"]
_HALF_SCALES_OPSET = 19


def quantisable(model: Any, settings: PrecisionSettings, table: RangeTable) -> list[str]:
    """Names of the products that int8 is to compute, in order of computation.

    Left alone are what ``keep_fp32`` and ``exclude_int8`` name, the last projection if it is kept, and
    products whose input was zero throughout calibration.

    Raises:
        RecipeError: an expression fits no node, the table is of another model, or nothing is left.
    """
    left_alone = matching(model, settings.keep_fp32) | matching(model, settings.exclude_int8)
    if settings.keep_last:
        left_alone |= last_projection(model)
    names = []
    for node in weighted_products(model):
        if node.name in left_alone or node.input[0] in table.dead:
            continue
        if node.input[0] not in table.ranges:
            raise RecipeError(
                f"The calibration table has no range for {node.input[0]}, which {node.name} reads.",
                cure="Calibrate this model anew.",
            )
        names.append(node.name)
    if not names:
        raise RecipeError(
            "The recipe leaves no product for int8.", cure="Shorten exclude_int8, or leave int8 out of make."
        )
    return names


def quantise(model_path: Path, table: RangeTable, nodes: Iterable[str], out: Path) -> Path:
    """Write the model with these products in int8, the rest in float32.

    Activations have one scale a tensor, from ``table``; weights one a column, from their largest value;
    every zero point is 0, as TensorRT wants it.

    Args:
        model_path: in the standard form.
        table: from calibration.
        nodes: names from :func:`quantisable`.
        out: the file to write; it appears whole or not at all.

    Raises:
        RecipeError: the quantiser fails.
    """
    tools("onnx", "onnxruntime")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorData, TensorsData, save_tensors_data
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    wanted = sorted(nodes)
    model = load_model(model_path)
    read = {node.input[0] for node in weighted_products(model) if node.name in set(wanted)}
    add_pre_process_metadata(model)  # the standard form is what its pre-processing makes
    data = {
        name: TensorData(lowest=np.float32(-found.threshold), highest=np.float32(found.threshold))
        for name, found in table.ranges.items()
        if name in read
    }
    with tempfile.TemporaryDirectory(prefix=".int8-", dir=out.parent) as folder:
        cache, made = Path(folder) / "ranges.json", Path(folder) / "int8.onnx"
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, data), cache)
        try:
            quantize_static(
                model,
                made,
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=_KINDS,
                nodes_to_quantize=wanted,
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "MatMulConstBOnly": True,
                    # What follows a product (bias, residual) is not rounded; TensorRT takes no int32 bias.
                    "OpTypesToExcludeOutputQuantization": _KINDS,
                    "QuantizeBias": False,
                },
                calibration_cache_path=cache,
            )
            result = load_model(made)
        except RecipeError:
            raise
        except Exception as error:  # the quantiser raises what it likes
            reason = " ".join(str(error).split())[:200]
            raise RecipeError(f"The model cannot be quantised: {reason}.") from error
    _spare_others(result, set(wanted))
    name_nodes(result)
    _check(result)
    return save_model(result, out)


def _spare_others(model: Any, wanted: set[str]) -> None:
    """Give everything but the products the values before rounding, in place.

    The quantiser makes every reader of a tensor read its rounded twin, residual sums too, which
    costs most of what int8 loses on a transformer.
    """
    made = makers(model)
    original = {
        node.output[0]: quantize.input[0]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
        and (quantize := made.get(node.input[0])) is not None
        and quantize.op_type == "QuantizeLinear"
    }
    for node in model.graph.node:
        if node.name in wanted:
            continue
        for place, name in enumerate(node.input):
            if name in original:
                node.input[place] = original[name]


def with_half_precision(path: Path, settings: PrecisionSettings, out: Path) -> Path:
    """Write an int8 model of :func:`quantise` with the rest in half precision, for TensorRT.

    In float32 everything between the int8 products would cost what int8 saves. The scales are half
    precision too, which the operators take from set 19 on.

    Raises:
        RecipeError: the operator set cannot be converted, or the converter fails.
    """
    (version_converter,) = tools("onnx.version_converter")
    model = load_model(path)
    try:
        model = version_converter.convert_version(model, _HALF_SCALES_OPSET)
    except Exception as error:  # onnx raises RuntimeError and others
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"The int8 model cannot use half precision: {reason}.") from error
    made = to_fp16(model, kept_fp32(model, settings))
    _check(made)
    return save_model(made, out)


def _check(model: Any) -> None:
    """Refuse what TensorRT would: zero points other than 0, scales that are not positive."""
    (onnx,) = tools("onnx")
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        scale = onnx.numpy_helper.to_array(tensors[node.input[1]])
        zero = onnx.numpy_helper.to_array(tensors[node.input[2]])
        if np.any(zero != 0) or not np.all(np.isfinite(scale)) or np.any(scale <= 0):
            raise RecipeError(f"{node.name}: a scale is not positive, or a zero point is not 0.")
    if not count_ops(model, {"QuantizeLinear"}):
        raise RecipeError("The quantiser left the model as it was.")
