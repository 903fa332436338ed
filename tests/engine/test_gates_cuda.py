"""Variants behind the GPU's scorer, through stand-ins for the driver and the runtime."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from searchpipe import _core
from searchpipe.catalog import Snapshot
from searchpipe.engine.gates.cuda_variant import open_cuda_variant
from searchpipe.engine.gates.evaluation import EvalQuery
from searchpipe.engine.gates.numeric import independence_gate
from searchpipe.engine.gates.runtime import gate_device
from searchpipe.engine.gates.variants import Inputs, cosines, open_inputs
from searchpipe.errors import ClosedError, ModelError, RecipeError
from tests.conftest import World
from tests.fakes import onnxruntime_cuda
from tests.fakes.tiny_onnx import TinyModel
from tests.runtime.conftest import cuda, device  # noqa: F401
from tests.runtime.row_model import row_scores

BUCKETS = [(8, 32), (8, 64)]


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch, device: _core.Device) -> None:  # noqa: F811
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)


@pytest.fixture
def snapshot(world: World) -> Iterator[Snapshot]:
    with Snapshot.open(world.snapshot) as opened:
        yield opened


def tokenizer(world: World) -> Path:
    return world.snapshot.parent / "tokenizer.json"


def test_pairs_are_scored_in_their_order(world: World, snapshot: Snapshot, tmp_path: Path, ort: None) -> None:
    path = TinyModel(outputs=1).save_cross_encoder(tmp_path / "m.onnx", integer=TensorProto.INT32)
    inputs = open_inputs("pair", snapshot, tokenizer(world), 64)
    assert inputs.pairs is not None
    variant = open_cuda_variant(path, inputs, BUCKETS)
    pairs = [(text, doc) for doc in range(5) for text in world.queries[:4]]
    feeds, order = inputs.pairs.feeds(pairs)
    expected = np.empty(len(pairs), np.float32)
    expected[order] = row_scores(*(feeds[name].astype(np.int32) for name in feeds), 1)[:, 0]
    np.testing.assert_array_equal(variant.score(pairs), expected)
    queries = [EvalQuery(text, np.arange(6, dtype=np.int32), {}) for text in world.queries[:9]]
    assert independence_gate(variant, queries, 0.0, max_tokens=64).passed
    variant.run_shape(8, 64)
    assert "CUDA" in variant.runtime
    variant.close()
    with pytest.raises(ClosedError):
        variant.score(pairs)


def test_queries_give_their_cosines(world: World, snapshot: Snapshot, tmp_path: Path, ort: None) -> None:
    dim = snapshot.dense.dim
    path = TinyModel(outputs=dim).save_pooled_encoder(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="int32"):
        open_cuda_variant(path, open_inputs("query", snapshot, tokenizer(world), 64), BUCKETS)
    path = TinyModel(outputs=dim).save_cross_encoder(tmp_path / "m32.onnx", integer=TensorProto.INT32)
    inputs = open_inputs("query", snapshot, tokenizer(world), 64, prefix="find ")
    assert inputs.queries is not None
    variant = open_cuda_variant(path, inputs, BUCKETS)
    texts = world.queries[:3]
    pairs = [(text, doc) for text in texts for doc in (7, 1)]
    feeds = inputs.queries.feeds(list(dict.fromkeys(texts)))
    vectors = row_scores(*(feeds[name].astype(np.int32) for name in feeds), dim)
    expected = cosines(vectors, list(dict.fromkeys(texts)), pairs, inputs)
    np.testing.assert_allclose(variant.score(pairs), expected, rtol=1e-6)
    variant.close()


def test_rankers_stay_on_the_cpu(snapshot: Snapshot, tmp_path: Path, ort: None) -> None:
    class Features:
        def feeds(self, pairs: object) -> dict[str, np.ndarray]:
            return {}

    with pytest.raises(RecipeError, match="CPU alone"):
        open_cuda_variant(tmp_path / "m.onnx", Inputs(snapshot, ranker=Features()), BUCKETS)
    assert gate_device("ranker") == "cpu"
    assert gate_device("pair") == "cuda"
