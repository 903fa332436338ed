"""Half precision of graphs with ONNX Runtime's own operators: types, casts, and scores in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from searchpipe.engine.fp16 import FLOAT_INSIDE, Fp32Choice, for_cuda, to_fp16
from searchpipe.engine.onnx_graph import count_ops

NORMS = Fp32Choice(frozenset({"score"}), frozenset({"SkipLayerNormalization", "Softmax"}))
TOKENS, WIDTH = 6, 8


def fused_model() -> Any:
    """Embeddings, two norms after products, and a score a token, as the fusions of BERT leave them."""
    rng = np.random.default_rng(3)

    def constant(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    constants = [
        constant("words", 20, WIDTH),
        constant("positions", TOKENS, WIDTH),
        constant("kinds", 2, WIDTH),
        constant("gamma", WIDTH),
        constant("beta", WIDTH),
        constant("square", WIDTH, WIDTH),
        constant("last", WIDTH, 1),
    ]

    def own(kind: str, inputs: list[str], outputs: list[str]) -> Any:
        return helper.make_node(kind, inputs, outputs, name=outputs[0], domain="com.microsoft", epsilon=1e-12)

    embedded = ["input_ids", "token_type_ids", "words", "positions", "kinds", "gamma", "beta", "mask"]
    nodes = [
        own("EmbedLayerNormalization", embedded, ["embedded", "lengths"]),
        helper.make_node("MatMul", ["embedded", "square"], ["first"], name="first"),
        own("SkipLayerNormalization", ["first", "embedded", "gamma", "beta"], ["normed"]),
        helper.make_node("MatMul", ["normed", "square"], ["second"], name="second"),
        own("SkipLayerNormalization", ["second", "normed", "gamma", "beta"], ["again"]),
        helper.make_node("MatMul", ["again", "last"], ["scores"], name="score"),
    ]
    names = ("input_ids", "token_type_ids", "mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["b", TOKENS]) for name in names]
    output = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["b", TOKENS, 1])
    graph = helper.make_graph(nodes, "fused", inputs, [output], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def scores(model: Any) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(5)
    ids = rng.integers(0, 20, (4, TOKENS)).astype(np.int32)
    feeds = {"input_ids": ids, "token_type_ids": ids % 2, "mask": np.ones_like(ids)}
    found: np.ndarray = session.run(None, feeds)[0]
    return found


@pytest.mark.parametrize("version", ["1.27.3", "1.28.0"])
def test_fused_norms_kept_or_not_the_file_runs_and_scores_are_not_rounded(version: str) -> None:
    reference = scores(fused_model())
    made = to_fp16(fused_model(), for_cuda(NORMS, version))
    found = scores(made)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, reference, atol=0.05)
    # The last product is float32, and so is what leaves the graph: no score is a half-precision number.
    assert np.mean(found == found.astype(np.float16)) < 0.1
    casts = count_ops(made, {"Cast"})
    assert casts <= 2 if version == "1.28.0" else casts >= 4
    kinds = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert kinds["square"] == TensorProto.FLOAT16
    assert kinds["last"] == TensorProto.FLOAT


def test_norms_stay_in_float32_where_the_operator_sums_in_half() -> None:
    keep = Fp32Choice(frozenset({"a"}), frozenset({"Softmax", *FLOAT_INSIDE}))
    assert for_cuda(keep, "1.26.0") == keep
    assert for_cuda(keep, "unknown") == keep
    assert for_cuda(keep, "1.31.1") == Fp32Choice(frozenset({"a"}), frozenset({"Softmax"}))
    assert for_cuda(keep, "2.0.0").operators == {"Softmax"}
