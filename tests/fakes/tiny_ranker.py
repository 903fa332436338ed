"""A feature ranker without training: a weighted sum of the dense features plus a number a category row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from searchpipe.models.cache import sha256_of
from searchpipe.stages.ranker_definition import FEATURES_VERSION, CategoryTable, RankerDefinition


def save_ranker(
    path: Path,
    weights: Mapping[str, float],
    *,
    tables: tuple[tuple[str, int], ...] = (("brand", 64), ("user", 8)),
    version: int = FEATURES_VERSION,
) -> Path:
    """Write the model and its definition; a category's row adds its number / 1000 to the score."""
    linear = np.array(list(weights.values()), np.float32)[:, None]
    nodes = [
        helper.make_node("MatMul", ["dense", "linear"], ["product"]),
        helper.make_node("Cast", ["categories"], ["rows"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["rows", "thousandth"], ["small"]),
        helper.make_node("ReduceSum", ["small", "one"], ["extra"], keepdims=1),
        helper.make_node("Add", ["product", "extra"], ["sum"]),
        helper.make_node("Squeeze", ["sum", "one"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "ranker",
        [
            helper.make_tensor_value_info("categories", TensorProto.INT64, ["rows", len(tables)]),
            helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["rows", len(weights)]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])],
        [
            numpy_helper.from_array(linear, "linear"),
            numpy_helper.from_array(np.array(0.001, np.float32), "thousandth"),
            numpy_helper.from_array(np.array([1], np.int64), "one"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    RankerDefinition(
        features_version=version,
        categories=tuple(CategoryTable(*table) for table in tables),
        dense=tuple(weights),
        model_sha256=sha256_of(path),
    ).save(path)
    return path
