"""Half precision for the GPU: a cross-encoder's last projection stays float32, the rest as it was."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from tests.fakes.tiny_bert import save_bert

pytest.importorskip("sympy")
FLOAT, HALF = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def made_by(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def kinds(path: Path) -> Counter[str]:
    graph = onnx.load(str(path)).graph
    return Counter(node.op_type for node in graph.node if node.op_type not in ("Cast", "Constant"))


@pytest.mark.parametrize("packed", [False, True])
def test_the_last_projection_and_nothing_else_is_float32(tmp_path: Path, packed: bool) -> None:
    source = save_bert(tmp_path / "bert.onnx")
    half = prepare_onnx(source, tmp_path, PrepareOptions(packed=packed))
    graph = onnx.load(str(half)).graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wide = {name for name, tensor in weights.items() if tensor.data_type == FLOAT}
    made = made_by(graph)
    # From the scores back to the product: float32 weights, and no cast that would round.
    node = made[graph.output[0].name]
    path = [node.op_type]
    found = wide & set(node.input)
    while node.op_type not in ("MatMul", "Gemm"):
        node = next(made[name] for name in node.input if name in made)
        path.append(node.op_type)
        found |= wide & set(node.input)
    assert "Cast" not in path
    assert found == wide
    assert wide
    read = made[node.input[0]]
    assert read.op_type == "Cast"
    assert [each.i for each in read.attribute if each.name == "to"] == [FLOAT]
    # The tools fuse the same, and what is fused has weights in half precision.
    assert kinds(half) == kinds(prepare_onnx(source, tmp_path, PrepareOptions(fp16=False, packed=packed)))
    for node in graph.node:
        if node.op_type in ("Attention", "SkipLayerNormalization", "BiasGelu"):
            assert {weights[name].data_type for name in node.input if name in weights} <= {HALF}


def test_large_scores_are_not_rounded_to_half_precision(tmp_path: Path) -> None:
    """Between 1,024 and 2,048 half precision knows whole numbers only; a bias of 1024.3 must stay."""
    source = save_bert(tmp_path / "bert.onnx")
    model = onnx.load(str(source))
    last = made_by(model.graph)[model.graph.output[0].name]
    while last.op_type != "Add":
        last = made_by(model.graph)[last.input[0]]
    [bias] = [tensor for tensor in model.graph.initializer if tensor.name in last.input]
    shifted = numpy_helper.to_array(bias) + np.float32(1024.3)
    bias.CopyFrom(numpy_helper.from_array(shifted.astype(np.float32), bias.name))
    onnx.save(model, str(source))
    feeds = {
        "input_ids": np.array([[1, 5, 9, 2]], np.int32),
        "attention_mask": np.ones((1, 4), np.int32),
        "token_type_ids": np.zeros((1, 4), np.int32),
    }
    scores = []
    for fp16 in (False, True):
        path = prepare_onnx(source, tmp_path, PrepareOptions(fp16=fp16))
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        scores.append(session.run(None, feeds)[0].item())
    assert scores[1] == pytest.approx(scores[0], abs=0.02)
    assert scores[0] % 1 != pytest.approx(0, abs=0.03)
