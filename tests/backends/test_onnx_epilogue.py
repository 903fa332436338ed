"""Sessions and products in turn: buffers, addresses and shapes fit together for every bucket."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from searchpipe.backends import onnx_epilogue
from searchpipe.backends.onnx_epilogue import PackedBinding, load_split
from searchpipe.backends.onnx_split import split_graph
from tests.fakes.host_cublaslt import HostCublasLt

RNG = np.random.default_rng(4)
WIDTH, INNER, LONGEST, STREAM = 8, 32, 6, 5
BUCKETS = [(2, 6), (4, 12)]
NAMES = PackedBinding(["input_ids", "row_firsts"], "scores", 1)


def packed_model(path: Path) -> Path:
    """Two layers of a product, its GELU and another product around which the input goes, then pooling."""
    dtype = np.float16
    constants = {"words": RNG.normal(size=(50, WIDTH)).astype(dtype), "flat": np.array([-1, WIDTH])}
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        helper.make_node("Reshape", ["embedded", "flat"], ["x0"]),
    ]
    for layer in range(2):
        into, out, bias = (f"{name}{layer}" for name in ("into", "out", "bias"))
        constants[into] = RNG.normal(size=(WIDTH, INNER)).astype(dtype)
        constants[out] = (RNG.normal(size=(INNER, WIDTH)) / INNER).astype(dtype)
        constants[bias] = RNG.normal(size=INNER).astype(dtype)
        source = f"x{layer}"
        if layer:
            source = "firsts"
            nodes.append(helper.make_node("Gather", [f"x{layer}", "row_firsts"], ["firsts"]))
        nodes += [
            helper.make_node("MatMul", [source, into], [f"wide{layer}"]),
            helper.make_node("BiasGelu", [f"wide{layer}", bias], [f"bent{layer}"], domain="com.microsoft"),
            helper.make_node("MatMul", [f"bent{layer}", out], [f"narrow{layer}"]),
            helper.make_node("Add", [f"narrow{layer}", source], [f"x{layer + 1}"]),
        ]
    constants["head"] = RNG.normal(size=(WIDTH, 1)).astype(np.float32)
    nodes += [
        helper.make_node("Cast", ["x2"], ["exact"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["exact", "head"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "packed",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT32, [1, "tokens"]),
            helper.make_tensor_value_info("row_firsts", TensorProto.INT32, ["rows"]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows", 1])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


class HostLane:
    """Addresses of one lane, in host memory."""

    def __init__(self) -> None:
        self.buckets = BUCKETS
        self.longest_row = LONGEST
        self.stream = STREAM
        rows, tokens = BUCKETS[-1]
        self.ids, self.firsts = np.zeros(tokens, np.int32), np.zeros(rows, np.int32)
        self.scores = np.zeros(rows, np.float32)

    def addresses(self, rows: int, tokens: int) -> tuple[list[int], int]:
        assert (rows, tokens) in self.buckets
        return [self.ids.ctypes.data, self.firsts.ctypes.data], self.scores.ctypes.data


def open_host(model: bytes | str) -> Any:
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_every_bucket_scores_as_the_whole_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, host, lane = packed_model(tmp_path / "packed.onnx"), HostCublasLt(), HostLane()
    monkeypatch.setattr(onnx_epilogue, "_DEVICE", "cpu")
    monkeypatch.setattr(onnx_epilogue, "loaded_library", lambda: host)
    ort = SimpleNamespace(OrtValue=onnxruntime.OrtValue, RunOptions=onnxruntime.RunOptions)
    split = split_graph(path, ["gelu"])
    reasons = iter(["", "a node is on the CPU", ""])
    loaded = load_split(ort, split, lambda model: (open_host(model), next(reasons)), lane, 0, NAMES)
    assert loaded.why_not_captured == "a node is on the CPU"
    whole = open_host(str(path))
    for index in (1, 0, 1):
        rows, tokens = BUCKETS[index]
        lane.ids[:tokens] = RNG.integers(0, 50, tokens)
        lane.firsts[:rows] = RNG.permutation(tokens)[:rows]
        feeds = {"input_ids": lane.ids[None, :tokens], "row_firsts": lane.firsts[:rows]}
        [expected] = whole.run(None, feeds)
        lane.scores[:] = np.nan
        loaded.enqueue(index, (rows, tokens), [], 0, STREAM)
        np.testing.assert_allclose(lane.scores[:rows], expected[:, 0], atol=0.02)
        assert np.isnan(lane.scores[rows:]).all()
        assert np.ptp(expected) > 0.1
    assert host.streams == [STREAM] * 6
