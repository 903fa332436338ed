"""Ranges of activations: what each method chooses, what is ignored, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from searchpipe.engine.activations import calibration_device
from searchpipe.engine.ranges import (
    RangeTable,
    TensorRange,
    _percentile,
    _rebin,
    measure,
    read_table,
    write_table,
)
from searchpipe.engine.recipe import CalibrationSettings
from searchpipe.errors import RecipeError
from tests.fakes.tiny_onnx import TinyModel, save_graph

Method = Literal["entropy", "percentile", "max"]
Feeds = Iterator[dict[str, np.ndarray]]


def save_product(path: Path) -> Path:
    """x [rows, 8] times a constant matrix: the range of x is what is fed."""
    weights = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["logits"])]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 8])]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["rows", 8])]
    return save_graph(path, nodes, inputs, outputs, [weights])


def normal(batches: int = 40, *, outlier: float = 0.0, seed: int = 0) -> Iterator[dict[str, np.ndarray]]:
    rng = np.random.default_rng(seed)
    for number in range(batches):
        values = rng.normal(size=(64, 8)).astype(np.float32)
        if outlier and number == batches - 1:
            values[0, 0] = outlier
        yield {"x": values}


def chosen(
    tmp_path: Path, method: Method, feeds: Iterator[dict[str, np.ndarray]], **settings: Any
) -> TensorRange:
    path = save_product(tmp_path / "product.onnx")
    return measure(path, feeds, CalibrationSettings(method=method, **settings)).ranges["x"]


def test_each_method_chooses_its_threshold(tmp_path: Path) -> None:
    largest = max(float(np.abs(feeds["x"]).max()) for feeds in normal(outlier=40.0))
    found = {m: chosen(tmp_path, m, normal(outlier=40.0)) for m in ("max", "percentile", "entropy")}  # type: ignore[arg-type]
    assert all(each.amax == pytest.approx(largest) for each in found.values())
    assert all(each.values == 40 * 64 * 8 for each in found.values())
    assert found["max"].threshold == pytest.approx(40.0)
    assert found["max"].clipped == 0.0
    # 99.99% of a normal distribution lie within 3.89; of 20,480 values two may lie beyond.
    assert 3.4 < found["percentile"].threshold < 4.6
    assert found["percentile"].clipped <= 2e-4
    assert 1.0 < found["entropy"].threshold < 6.0
    tight = chosen(tmp_path, "percentile", normal(outlier=40.0), percentile=90.0)
    assert tight.threshold == pytest.approx(1.645, rel=0.05)


def test_ranges_are_those_of_all_batches_however_they_are_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = chosen(tmp_path, "percentile", normal())
    monkeypatch.setattr("searchpipe.engine.ranges._CHUNK_BYTES", 4096)
    pieces = chosen(tmp_path, "percentile", normal())
    assert pieces.values == whole.values
    assert pieces.amax == whole.amax
    assert pieces.threshold == pytest.approx(whole.threshold, rel=0.02)


@given(
    values=st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=300),
    percentile=st.floats(90, 100),
)
def test_the_percentile_is_numpys(values: list[float], percentile: float) -> None:
    array = np.array(values)
    limit = float(np.abs(array).max()) or 1.0
    counts, edges = np.histogram(array, 2048, range=(-limit, limit))
    found = _percentile(counts, edges, percentile)
    expected = float(np.quantile(np.abs(array), percentile / 100, method="inverted_cdf"))
    width = 2 * limit / 2048
    assert expected - 1.01 * width <= found <= expected + 1.01 * width


@given(bins=st.integers(1, 12_000).map(lambda n: 2 * n), seed=st.integers(0, 9))
def test_fewer_bins_hold_the_same_values_at_the_same_places(bins: int, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(0, 5, bins)
    made, edges = _rebin(counts, 3.0)
    assert len(made) <= 4096
    assert len(made) % 2 == 0
    assert len(edges) == len(made) + 1
    assert made.sum() == counts.sum()
    assert made[len(made) // 2 :].sum() == counts[bins // 2 :].sum()
    assert edges[-1] == pytest.approx(-edges[0])
    assert edges[-1] >= 3.0 - 1e-9


def text_batch(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def test_padding_does_not_count(tmp_path: Path) -> None:
    model = TinyModel(dim=4, outputs=2)
    model.words[0] = 100.0  # of the padding token
    path = model.save_cross_encoder(tmp_path / "model.onnx")
    ids = np.random.default_rng(0).integers(5, 60, (16, 8))
    mask = np.ones((16, 8), np.int64)
    ids[:, 6:], mask[:, 6:] = 0, 0
    table = measure(path, [text_batch(ids, mask)], CalibrationSettings(method="max"))
    assert table.rows == 16
    assert table.ranges["summed"].amax < 20.0
    assert table.ranges["summed"].values == 16 * 6 * 4


def test_constant_inputs_are_refused(tmp_path: Path) -> None:
    path = TinyModel(dim=4, outputs=2).save_cross_encoder(tmp_path / "model.onnx")
    ids = np.tile(np.array([2, 9, 3, 7, 3]), (32, 1))
    with pytest.raises(RecipeError, match="inputs repeat: 1 of 32 rows are different"):
        measure(path, [text_batch(ids, np.ones_like(ids))], CalibrationSettings())
    with pytest.raises(RecipeError, match="got no rows"):
        measure(path, [], CalibrationSettings())


def test_a_model_that_gives_nan_is_refused(tmp_path: Path) -> None:
    model = TinyModel(dim=4, outputs=2)
    model.words[9] = np.nan
    path = model.save_cross_encoder(tmp_path / "model.onnx")
    ids = np.arange(5, 35).reshape(6, 5)
    with pytest.raises(RecipeError, match="NaN or infinity in summed"):
        measure(path, [text_batch(ids, np.ones_like(ids))], CalibrationSettings())


def test_what_was_zero_throughout_is_told(tmp_path: Path) -> None:
    feeds = [{"x": np.zeros((4, 8), np.float32) + np.arange(4, dtype=np.float32)[:, None] * 0}]
    path = save_product(tmp_path / "product.onnx")
    model = onnx.load(str(path))
    model.graph.input.append(helper.make_tensor_value_info("id", TensorProto.INT64, ["rows"]))
    path.write_bytes(model.SerializeToString())
    feeds[0]["id"] = np.arange(4)
    table = measure(path, feeds, CalibrationSettings(method="max"))
    assert table.dead == ("x",)
    assert not table.ranges


def test_tables_are_read_as_they_were_written(tmp_path: Path) -> None:
    table = RangeTable(
        key="k", method="max", rows=3, ranges={"x": TensorRange(2.0, 1.5, 0.1, 9)}, dead=("y",)
    )
    path = write_table(table, tmp_path / "table.json")
    assert read_table(path) == read_table(path, "k") == table
    assert read_table(path, "other") is None
    assert read_table(tmp_path / "none.json") is None


def test_calibration_takes_a_gpu_where_onnx_runtime_can(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons = "searchpipe.engine.gates.runtime.gpu_reason"
    monkeypatch.setattr(reasons, lambda: "")
    assert [calibration_device(asked) for asked in ("auto", "cpu", "cuda")] == ["cuda", "cpu", "cuda"]
    monkeypatch.setattr(reasons, lambda: "the driver shows no GPU")
    assert calibration_device("auto") == "cpu"
    with pytest.raises(RecipeError, match="the driver shows no GPU"):
        calibration_device("cuda")


@pytest.mark.filterwarnings("ignore")  # ONNX Runtime warns of a provider that it does not have
def test_a_cuda_provider_that_does_not_start_is_refused(tmp_path: Path) -> None:
    """This ONNX Runtime has none: it would fall back on the CPU without a word."""
    path = TinyModel(outputs=1).save_cross_encoder(tmp_path / "m.onnx")
    with pytest.raises(RecipeError, match=r"CUDA provider|on cuda"):
        measure(path, [], CalibrationSettings(method="max"), device="cuda")
