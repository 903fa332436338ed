"""Exports rewritten for the GPU: same answers, int32 inputs, pooling inside, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

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


def save_attention(path: Path, *, guarded: bool) -> Path:
    """Two heads of width 4 over TinyModel-like embeddings; ``guarded`` as PyTorch's SDPA is exported."""
    rng = np.random.default_rng(3)
    constants = {
        "words": rng.normal(size=(64, 8)),
        "split": np.array([0, 0, 2, 4]),
        "merge": np.array([0, 0, 8]),
        "one": np.float32(1),
        "hidden": np.float32(-10000),
        "scale": np.float32(2),
        "zero": np.float32(0),
        "axis_1": np.array([1]),
        "axis_2": np.array([2]),
        "gain": np.ones(8),
        "shift": np.zeros(8),
    }
    for part in "qkvo":
        constants |= {f"w{part}": rng.normal(size=(8, 8)), f"b{part}": rng.normal(size=8)}
    node = helper.make_node
    nodes = [
        node("Gather", ["words", "input_ids"], ["embedded"]),
        node("LayerNormalization", ["embedded", "gain", "shift"], ["x"]),
        node("Unsqueeze", ["attention_mask", "axis_1"], ["mask_3d"]),
        node("Unsqueeze", ["mask_3d", "axis_2"], ["mask_4d"]),
        node("Cast", ["mask_4d"], ["mask"], to=TensorProto.FLOAT),
        node("Sub", ["one", "mask"], ["padding"]),
        node("Mul", ["padding", "hidden"], ["added"]),
    ]
    for part, order in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        nodes += [
            node("MatMul", ["x", f"w{part}"], [f"{part}0"]),
            node("Add", [f"{part}0", f"b{part}"], [f"{part}1"]),
            node("Reshape", [f"{part}1", "split"], [f"{part}2"]),
            node("Transpose", [f"{part}2"], [part], perm=order),
        ]
    nodes += [
        node("MatMul", ["q", "k"], ["products"]),
        node("Div", ["products", "scale"], ["scaled"]),
        node("Add", ["scaled", "added"], ["masked"]),
        node("Softmax", ["masked"], ["shares"], axis=-1),
        node("IsNaN", ["shares"], ["nan"]),
        node("Where", ["nan", "zero", "shares"], ["safe"]),
        node("MatMul", ["safe" if guarded else "shares", "v"], ["mixed"]),
        node("Transpose", ["mixed"], ["rows"], perm=[0, 2, 1, 3]),
        node("Reshape", ["rows", "merge"], ["context"]),
        node("MatMul", ["context", "wo"], ["o0"]),
        node("Add", ["o0", "bo"], ["o1"]),
        node("Add", ["o1", "x"], ["residual"]),
        node("LayerNormalization", ["residual", "gain", "shift"], ["last_hidden_state"]),
    ]
    if not guarded:
        nodes = [item for item in nodes if item.op_type not in ("IsNaN", "Where")]
    names = ("input_ids", "attention_mask")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["b", "s"]) for name in names]
    output = helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", 8])
    tensors = [
        numpy_helper.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, name)
        for name, value in ((name, np.asarray(value)) for name, value in constants.items())
    ]
    return save_graph(path, nodes, inputs, [output], tensors)


def test_attention_is_one_operation(tmp_path: Path) -> None:
    prepared = prepare_onnx(save_attention(tmp_path / "plain.onnx", guarded=False), tmp_path / "cache", PLAIN)
    assert [node.op_type for node in onnx.load(str(prepared)).graph.node].count("Attention") == 1


def test_attention_of_an_unknown_form_is_refused_unless_it_need_not_be_fused(tmp_path: Path) -> None:
    path = save_attention(tmp_path / "guarded.onnx", guarded=True)
    with pytest.raises(ModelError, match=r"fused the attention of 0 of 1 layers.*fused=False"):
        prepare_onnx(path, tmp_path / "cache", PLAIN)
    assert not (tmp_path / "cache").exists()
    assert prepare_onnx(path, tmp_path / "cache", PrepareOptions(fp16=False, fused=False)).exists()
