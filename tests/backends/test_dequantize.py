"""Float32 files from dynamically quantised ones compute what the rounded weights say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from searchpipe.backends.dequantize import dequantize, float_model
from searchpipe.errors import ModelError
from tests.fakes.tiny_onnx import TinyModel

IDS = [[5, 9, 33, 2], [7, 8, 0, 0]]
MASK = [[1, 1, 1, 1], [1, 1, 0, 0]]


def scores(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    feeds = {"input_ids": IDS, "attention_mask": MASK, "token_type_ids": np.zeros((2, 4))}
    return session.run(None, {name: np.asarray(value, np.int64) for name, value in feeds.items()})[0]


@pytest.fixture
def quantized(tmp_path: Path) -> Path:
    source = TinyModel(dim=16, outputs=8).save_cross_encoder(tmp_path / "float.onnx")
    target = tmp_path / "int8.onnx"
    quantize_dynamic(str(source), str(target), weight_type=QuantType.QInt8)
    assert "MatMulInteger" in {node.op_type for node in onnx.load(str(target)).graph.node}
    return target


def test_weights_are_multiplied_out_and_nothing_else_is_rounded(quantized: Path, tmp_path: Path) -> None:
    dequantize(quantized, tmp_path / "out.onnx")
    onnx.checker.check_model(str(tmp_path / "out.onnx"))
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(quantized)).graph.initializer}

    def weights(name: str) -> np.ndarray:
        zero = np.float32(stored[f"{name}_zero_point"])
        return (stored[f"{name}_quantized"].astype(np.float32) - zero) * stored[f"{name}_scale"]

    model = TinyModel(dim=16, outputs=8)
    model.words, model.types, model.linear = weights("words"), weights("types"), weights("linear")
    expected = [model.pooled(ids[: sum(mask)]) for ids, mask in zip(IDS, MASK, strict=True)]
    np.testing.assert_allclose(scores(tmp_path / "out.onnx"), expected, atol=1e-5)


def test_an_unknown_form_is_refused_and_leaves_no_file(quantized: Path, tmp_path: Path) -> None:
    model = onnx.load(str(quantized))
    gather = next(node for node in model.graph.node if node.op_type == "Gather")
    gather.op_type = "GatherElements"
    onnx.save(model, str(quantized))
    with pytest.raises(ModelError, match="not a row of a table"):
        dequantize(quantized, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_quantised_model_gets_a_twin_that_is_made_once(quantized: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    twin = float_model(quantized, folder)
    assert twin.parent == folder
    assert not {"MatMulInteger", "DequantizeLinear"} & {n.op_type for n in onnx.load(str(twin)).graph.node}
    made = twin.stat().st_mtime_ns
    assert float_model(quantized, folder) == twin
    assert twin.stat().st_mtime_ns == made
    assert sorted(path.name for path in folder.iterdir()) == [twin.name]
    other = quantized.with_name("other.onnx")
    model = onnx.load(str(quantized))
    model.doc_string = "another file"
    onnx.save(model, str(other))
    assert float_model(other, folder) not in (twin, other)


def test_a_float_model_is_taken_as_it_is(tmp_path: Path) -> None:
    source = TinyModel().save_cross_encoder(tmp_path / "float.onnx")
    assert float_model(source, tmp_path / "prepared") == source
    assert not (tmp_path / "prepared").exists()


def test_what_cannot_be_read_or_written_is_said(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        float_model(tmp_path / "absent.onnx", tmp_path)
    (tmp_path / "rubbish.onnx").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="not an ONNX model"):
        float_model(tmp_path / "rubbish.onnx", tmp_path)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelError, match="cannot be written"):
        float_model(quantized, tmp_path / "file")
