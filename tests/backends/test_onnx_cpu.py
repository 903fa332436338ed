from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from searchpipe.backends import Engine
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.backends.text_inputs import check_text_inputs
from searchpipe.errors import ClosedError, EngineError, ModelError
from tests.fakes.tiny_onnx import TinyModel, save_identity

TINY = TinyModel()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TINY.save_encoder(tmp_path_factory.mktemp("onnx") / "model.onnx")


def feeds_of(rows: list[list[int]], dtype: type = np.int64) -> dict[str, np.ndarray]:
    ids = np.asarray(rows, dtype=dtype)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def test_runs_and_tells_its_inputs(path: Path) -> None:
    engine = OnnxCpuEngine(path, threads=1, name="tiny")
    assert isinstance(engine, Engine)
    assert engine.name == "tiny"
    assert OnnxCpuEngine(path, threads=1).name == "model"
    assert engine.inputs == dict.fromkeys(
        ("input_ids", "attention_mask", "token_type_ids"), np.dtype(np.int64)
    )
    assert set(engine.input_ranks.values()) == {2}
    assert engine.outputs == ("hidden",)
    assert engine.output_shape == (None, None, 8)
    out = engine.run(feeds_of([[1, 2, 3], [4, 5, 6]]))
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [TINY.tokens([1, 2, 3]), TINY.tokens([4, 5, 6])], rtol=1e-5)


def test_threads_default_to_the_usable_cores(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchpipe.backends.onnx_cpu.available_cores", lambda: 3)
    assert OnnxCpuEngine(path).threads == 3
    assert OnnxCpuEngine(path, threads=1).threads == 1
    with pytest.raises(ModelError, match="threads is -1"):
        OnnxCpuEngine(path, threads=-1)


def test_many_threads_run_one_engine(path: Path) -> None:
    engine = OnnxCpuEngine(path, threads=1)
    rows = [[number, number + 1] for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        outputs = list(pool.map(lambda row: engine.run(feeds_of([row])), rows))
    for row, out in zip(rows, outputs, strict=True):
        np.testing.assert_allclose(out[0], TINY.tokens(row), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a model at all", "18 bytes"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04" + b"\0" * 100, "zip archive"),
        (b"<!DOCTYPE html><html></html>", "HTML page"),
        (b'{"error": 404}', "JSON text"),
        (b"\x10\0\0\0\0\0\0\0" + b'{"__metadata__":{}}', "safetensors"),
    ],
)
def test_files_that_are_not_onnx(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=message) as caught:
        OnnxCpuEngine(tmp_path / "m.onnx")
    assert caught.value.cure


def test_truncated_missing_and_folder(path: Path, tmp_path: Path) -> None:
    content = path.read_bytes()
    (tmp_path / "m.onnx").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="is not a model that ONNX Runtime"):
        OnnxCpuEngine(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        OnnxCpuEngine(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="is a folder"):
        OnnxCpuEngine(tmp_path)


def test_types_that_no_text_model_has(tmp_path: Path) -> None:
    save_identity(tmp_path / "m.onnx", name="input_ids", integer=TensorProto.UINT8, axes=["b", "s"])
    with pytest.raises(ModelError, match=r"input_ids has type tensor\(uint8\)"):
        OnnxCpuEngine(tmp_path / "m.onnx")
    whole = TensorProto.INT32
    save_identity(tmp_path / "m.onnx", name="x", integer=TensorProto.INT64, axes=["b"], output_type=whole)
    with pytest.raises(ModelError, match=r"float tensor, but is logits of type tensor\(int32\)"):
        OnnxCpuEngine(tmp_path / "m.onnx")


@pytest.mark.parametrize("number", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_float_outputs_become_float32(tmp_path: Path, number: int) -> None:
    save_identity(tmp_path / "m.onnx", name="x", integer=TensorProto.INT64, axes=["b"], output_type=number)
    out = OnnxCpuEngine(tmp_path / "m.onnx").run({"x": np.array([1, 2], dtype=np.int64)})
    assert out.dtype == np.float32
    assert out.tolist() == [1.0, 2.0]


def test_nan_and_infinity_pass_through(tmp_path: Path) -> None:
    save_identity(tmp_path / "m.onnx", name="x", integer=TensorProto.FLOAT, axes=["b"])
    values = np.array([np.nan, np.inf, -np.inf, 1], dtype=np.float32)
    np.testing.assert_array_equal(OnnxCpuEngine(tmp_path / "m.onnx").run({"x": values}), values)


def test_feeds_that_do_not_fit(path: Path) -> None:
    engine = OnnxCpuEngine(path)
    good = feeds_of([[1, 2]])
    with pytest.raises(
        ModelError, match="takes the inputs input_ids, attention_mask, token_type_ids; got input_ids"
    ):
        engine.run({"input_ids": good["input_ids"]})
    with pytest.raises(ModelError, match="takes the inputs"):
        engine.run({**good, "position_ids": good["input_ids"]})
    with pytest.raises(ModelError, match=r"input_ids as int64 with 2 dimensions; got int32"):
        engine.run({**good, "input_ids": good["input_ids"].astype(np.int32)})
    with pytest.raises(ModelError, match=r"got int64 \(2,\)"):
        engine.run({**good, "input_ids": good["input_ids"][0]})


def test_failed_run_is_an_engine_error(path: Path) -> None:
    engine = OnnxCpuEngine(path, name="tiny")
    with pytest.raises(EngineError, match=r"tiny failed on input_ids \(1, 2\)"):
        engine.run(feeds_of([[1, 10**6]]))  # outside the vocabulary
    engine.run(feeds_of([[1, 2]]))  # and the engine lives on


def test_closed_engine_refuses(path: Path) -> None:
    engine = OnnxCpuEngine(path)
    engine.close()
    engine.close()
    with pytest.raises(ClosedError):
        engine.run(feeds_of([[1]]))


@pytest.mark.parametrize("integer", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("types", [False, True])
def test_text_inputs_of_either_width(tmp_path: Path, integer: int, types: bool) -> None:
    TINY.save_encoder(tmp_path / "m.onnx", integer=integer, token_types=types)
    expected = np.int32 if integer == TensorProto.INT32 else np.int64
    assert check_text_inputs(OnnxCpuEngine(tmp_path / "m.onnx")) == expected


def test_other_inputs_are_refused_with_what_is_there(tmp_path: Path) -> None:
    save_identity(tmp_path / "m.onnx", name="pixels", integer=TensorProto.FLOAT, axes=["b", 3])
    with pytest.raises(ModelError, match=r"has the inputs pixels float32; expected input_ids"):
        check_text_inputs(OnnxCpuEngine(tmp_path / "m.onnx"))


class StatedEngine:
    """An engine that only states its inputs."""

    name = "stated"

    def __init__(self, inputs: dict[str, np.dtype], ranks: dict[str, int | None]) -> None:
        self.inputs, self.input_ranks = inputs, ranks


def test_wrong_rank_and_mixed_widths_are_refused() -> None:
    wide, narrow = np.dtype(np.int64), np.dtype(np.int32)
    names = ("input_ids", "attention_mask")
    with pytest.raises(ModelError, match="attention_mask has 4 dimensions, expected 2"):
        check_text_inputs(StatedEngine(dict.fromkeys(names, wide), {"input_ids": 2, "attention_mask": 4}))
    with pytest.raises(ModelError, match="expected all int64 or all int32"):
        check_text_inputs(StatedEngine({names[0]: wide, names[1]: narrow}, dict.fromkeys(names, 2)))
    with pytest.raises(ModelError, match="expected all int64 or all int32"):
        check_text_inputs(
            StatedEngine(dict.fromkeys(names, np.dtype(np.float32)), dict.fromkeys(names, None))
        )
    with pytest.raises(ModelError, match="expected input_ids"):
        check_text_inputs(StatedEngine({}, {}))
