"""Exports rewritten for the GPU: same answers, int32 inputs, pooling inside, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.errors import ModelError
from tests.fakes.tiny_onnx import TinyModel, save_graph, save_identity

pytest.importorskip("sympy")
MODEL = TinyModel(dim=16, outputs=8)
IDS = [[5, 9, 33, 2], [7, 8, 0, 0]]
MASK = [[1, 1, 1, 1], [1, 1, 0, 0]]
PLAIN = PrepareOptions(fp16=False)


def run(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros((2, 4))}
    assert {node.type for node in session.get_inputs()} == {"tensor(int32)"}
    assert [node.type for node in session.get_outputs()] == ["tensor(float)"]
    return session.run(None, {name: np.asarray(value, np.int32) for name, value in feeds.items()})[0]


@pytest.mark.parametrize(("fp16", "tolerance"), [(False, 1e-6), (True, 2e-2)])
@pytest.mark.parametrize("fused", [True, False])
def test_scores_stay_the_same(tmp_path: Path, fp16: bool, tolerance: float, fused: bool) -> None:
    source = MODEL.save_cross_encoder(tmp_path / "ranker.onnx")
    prepared = prepare_onnx(source, tmp_path / "cache", PrepareOptions(fp16=fp16, fused=fused))
    expected = [MODEL.pooled(ids[: sum(mask)]) for ids, mask in zip(IDS, MASK, strict=True)]
    np.testing.assert_allclose(run(prepared), expected, atol=tolerance, rtol=tolerance)
    kinds = {tensor.data_type for tensor in onnx.load(str(prepared)).graph.initializer}
    assert (TensorProto.FLOAT16 in kinds) == fp16


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_encoders_pool_inside(tmp_path: Path, pooling: str, normalize: bool) -> None:
    source = MODEL.save_encoder(tmp_path / "encoder.onnx")
    options = PrepareOptions(fp16=False, pooling=pooling, normalize=normalize)  # type: ignore[arg-type]
    prepared = prepare_onnx(source, tmp_path, options)
    expected = []
    for ids, mask in zip(IDS, MASK, strict=True):
        states = MODEL.tokens(ids[: sum(mask)])
        vector = states.mean(axis=0) if pooling == "mean" else states[0]
        expected.append(vector / np.linalg.norm(vector) if normalize else vector)
    found = run(prepared)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    output = onnx.load(str(prepared)).graph.output[0].type.tensor_type.shape.dim
    assert output[-1].dim_value == 8


def test_files_are_made_once_and_by_content(tmp_path: Path) -> None:
    source = MODEL.save_cross_encoder(tmp_path / "ranker.onnx")
    first = prepare_onnx(source, tmp_path / "cache", PLAIN)
    written = first.stat().st_mtime_ns
    assert prepare_onnx(source, tmp_path / "cache", PLAIN) == first
    assert first.stat().st_mtime_ns == written
    assert prepare_onnx(source, tmp_path / "cache", PrepareOptions()) != first
    TinyModel(dim=16, outputs=8, seed=1).save_cross_encoder(source)
    assert prepare_onnx(source, tmp_path / "cache", PLAIN) != first
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".onnx"] * 3


def test_what_is_no_text_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        prepare_onnx(tmp_path / "missing.onnx", tmp_path)
    (tmp_path / "rubbish.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(ModelError, match="is not an ONNX model"):
        prepare_onnx(tmp_path / "rubbish.onnx", tmp_path)
    pixels = save_identity(tmp_path / "pixels.onnx", name="pixels", integer=TensorProto.INT64, axes=["n", 3])
    with pytest.raises(ModelError, match="has the inputs pixels"):
        prepare_onnx(pixels, tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_models_quantised_for_the_cpu_are_refused(tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
    output = helper.make_tensor_value_info("logits", TensorProto.UINT8, ["b", "s"])
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("DynamicQuantizeLinear", ["floats"], ["logits", "scale", "zero"]),
    ]
    path = save_graph(tmp_path / "int8.onnx", nodes, inputs, [output], [])
    with pytest.raises(ModelError, match=r"quantised for the CPU \(it has DynamicQuantizeLinear\).*fp32"):
        prepare_onnx(path, tmp_path)


def test_an_old_export_is_refused(tmp_path: Path) -> None:
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
    output = helper.make_tensor_value_info("logits", TensorProto.INT64, ["b", "s"])
    path = save_graph(
        tmp_path / "old.onnx", [helper.make_node("Add", names, ["logits"])], inputs, [output], []
    )
    model = onnx.load(str(path))
    model.opset_import[0].version = 11
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match="operator set 11, older than 13"):
        prepare_onnx(path, tmp_path)
