"""The chain's scorer and encoder give what the CPU's own give, whichever engine answers."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.backends.cross_encoder import PairScorer
from searchpipe.backends.encoder import TextEncoder
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.errors import EngineError, ModelError
from searchpipe.models import LocalModel
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.device_array import DeviceArray
from searchpipe.runtime.open_chain import ChainOptions, open_chain
from searchpipe.runtime.pair_scorer import ChainPairScorer
from searchpipe.runtime.text_encoder import ChainTextEncoder
from tests.fakes import onnxruntime_cuda
from tests.fakes.cuda_driver import real_driver_present
from tests.fakes.tiny_bert import save_bert
from tests.fakes.tiny_onnx import TinyModel
from tests.fakes.tiny_tokenizer import save_tokenizer
from tests.runtime.row_model import expected_pairs, kernel_engine

QUERY = np.array([4, 5, 6], np.int32)
TEXTS = [np.array(ids, np.int32) for ids in ([4, 5], [], [9, 10, 11, 4, 7], [15])]
BUCKETS = [(4, 16), (16, 32)]
CPU_ONLY = ChainOptions(device=4096, buckets=BUCKETS, threads=1)  # no machine has that many


def local_model(folder: Path, kind: str, *, outputs: int = 1, pooling: str = "none") -> LocalModel:
    model = TinyModel(vocab_size=16, outputs=outputs)
    path = folder / "model.onnx"
    if kind == "encoder":
        model.save_encoder(path)
    else:
        model.save_cross_encoder(path)
    return LocalModel(
        name="tiny",
        kind=kind,  # type: ignore[arg-type]
        model=path,
        tokenizer=save_tokenizer(folder / "tokenizer.json"),
        sha256="",
        max_tokens=32,
        pooling=pooling,  # type: ignore[arg-type]
        normalize=kind == "encoder",
        query_prefix="",
        document_prefix="",
    )


def tokenizer_of(model: LocalModel) -> TextTokenizer:
    return TextTokenizer(model.tokenizer, max_tokens=30)


@pytest.fixture
def small_store(tmp_path: Path) -> _core.TokenStore:
    rng = np.random.default_rng(2)
    writer = _core.TokenStoreWriter(tmp_path / "small")
    for length in rng.integers(0, 25, 60):
        writer.append(rng.integers(4, 16, length).astype(np.int32))
    writer.close()
    return _core.TokenStore(tmp_path / "small")


@pytest.mark.parametrize("outputs", [1, 2])
def test_pairs_score_as_on_the_cpu_itself(
    tmp_path: Path, small_store: _core.TokenStore, outputs: int
) -> None:
    model = local_model(tmp_path, "cross-encoder", outputs=outputs)
    tokenizer = tokenizer_of(model)
    docs = np.random.default_rng(3).permutation(60).astype(np.int32)
    limits = {"max_query_tokens": 8, "max_doc_tokens": 20}
    plain = PairScorer(model, OnnxCpuEngine(model.model, threads=1), tokenizer, **limits)
    chain = open_chain(model, CPU_ONLY)
    assert chain.serving == "onnx-cpu"
    assert chain.states[0].reason
    scorer = ChainPairScorer(model, chain, tokenizer, **limits)
    expected = plain.score(QUERY, small_store, docs)
    np.testing.assert_allclose(scorer.score(QUERY, small_store, docs), expected, atol=1e-5)
    found = asyncio.run(scorer.score_async(QUERY, small_store, docs))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    late = scorer.score(QUERY, small_store, docs, deadline=time.monotonic() - 1)
    assert np.isnan(late).all()
    np.testing.assert_array_equal(
        scorer.lengths(QUERY, small_store, docs), small_store.lengths(docs).clip(max=20) + 6
    )
    outlook = scorer.outlook(QUERY, small_store, docs)
    assert outlook.forecast is None  # nobody has measured this engine
    assert outlook.tokens == outlook.lengths.sum() == scorer.lengths(QUERY, small_store, docs).sum()
    assert scorer.tokens_of(QUERY, small_store, docs) == plain.tokens_of(QUERY, small_store, docs)
    scorer.close()


def test_a_store_of_another_vocabulary_is_refused(tmp_path: Path, store: _core.TokenStore) -> None:
    model = local_model(tmp_path, "cross-encoder")
    scorer = ChainPairScorer(model, open_chain(model, CPU_ONLY), tokenizer_of(model), max_query_tokens=8)
    with pytest.raises(ModelError, match="knows 16 tokens"):
        scorer.score(QUERY, store, np.arange(3, dtype=np.int32))
    scorer.close()


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_texts_encode_as_on_the_cpu_itself(tmp_path: Path, pooling: str) -> None:
    model = local_model(tmp_path, "encoder", outputs=8, pooling=pooling)
    tokenizer = tokenizer_of(model)
    plain = TextEncoder(model, OnnxCpuEngine(model.model, threads=1), tokenizer)
    encoder = ChainTextEncoder(model, open_chain(model, CPU_ONLY), tokenizer)
    assert encoder.dim == plain.dim == 8
    np.testing.assert_allclose(encoder.encode(TEXTS), plain.encode(TEXTS), atol=1e-5)
    assert encoder.encode([]).shape == (0, 8)
    for text, vector in zip(TEXTS, plain.encode(TEXTS), strict=True):
        alone = encoder.encode_row(text)
        assert alone.shape == (8,)
        np.testing.assert_allclose(alone, vector, atol=1e-5)
    assert encoder.predict_row(5) is None  # as of any engine without measured costs
    words = ["red shoes", "cotton hat for men"]
    np.testing.assert_allclose(encoder.encode_texts(words), plain.encode_texts(words), atol=1e-5)
    found = asyncio.run(encoder.encode_async(TEXTS))
    np.testing.assert_allclose(found, plain.encode(TEXTS), atol=1e-5)
    with pytest.raises(EngineError, match="no device output"):
        encoder.encode(TEXTS, device_output=4096)
    with pytest.raises(EngineError, match="no device output"):
        encoder.encode_row(TEXTS[0], device_output=4096)
    encoder.close()


def test_kinds_are_not_mixed_up(tmp_path: Path) -> None:
    model = local_model(tmp_path, "cross-encoder")
    chain = open_chain(model, CPU_ONLY)
    with pytest.raises(ModelError, match="not an encoder"):
        ChainTextEncoder(model, chain, tokenizer_of(model))
    chain.close()


def test_the_gpu_comes_first(tmp_path: Path, device: _core.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sympy")
    model = local_model(tmp_path, "encoder", outputs=8, pooling="mean")
    options = ChainOptions(buckets=BUCKETS, cache=tmp_path / "cache", lanes=2, threads=1)
    prepare_onnx(model.model, tmp_path / "cache", PrepareOptions(pooling="mean", normalize=True))
    with monkeypatch.context() as patched:  # the stand-in cannot prepare, and finds it done
        patched.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)
        chain = open_chain(model, options)
    assert [state.state for state in chain.states] == ["serving", "untried"], chain.states
    assert "4 of 4 graphs captured, 2 lane(s)" in chain.states[0].description
    encoder = ChainTextEncoder(model, chain, tokenizer_of(model))
    assert encoder.encode(TEXTS).shape == (4, 8)
    encoder.close()


@pytest.mark.parametrize("packed", [True, False])
def test_cross_encoders_run_on_packed_rows_unless_told_otherwise(
    tmp_path: Path,
    small_store: _core.TokenStore,
    device: _core.Device,
    monkeypatch: pytest.MonkeyPatch,
    packed: bool,
) -> None:
    pytest.importorskip("sympy")
    model = local_model(tmp_path, "cross-encoder")
    save_bert(model.model)
    options = ChainOptions(
        buckets=BUCKETS, cache=tmp_path / "cache", packed=packed, token_step=256, threads=1
    )
    prepare_onnx(model.model, tmp_path / "cache", PrepareOptions(packed=packed))
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)
        chain = open_chain(model, options)
    names = ["onnx-cuda-packed", "onnx-cuda", "onnx-cpu"][not packed :]
    assert [state.name for state in chain.states] == names
    assert chain.serving == names[0], chain.states
    executor = chain.scorer.executor
    assert (executor.packed, executor.longest_row) == (packed, 32)
    assert executor.buckets[-1] == (16, 512 if packed else 32)
    scorer = ChainPairScorer(model, chain, tokenizer_of(model), max_query_tokens=8, max_doc_tokens=50)
    docs = np.arange(60, dtype=np.int32)
    expected = expected_pairs(QUERY, small_store, docs.tolist(), special=(2, 3))
    np.testing.assert_array_equal(scorer.score(QUERY, small_store, docs), expected)
    scorer.close()


def test_a_model_without_a_packed_form_runs_padded(
    tmp_path: Path, device: _core.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sympy")
    model = local_model(tmp_path, "cross-encoder")  # pools by the mean
    options = ChainOptions(buckets=BUCKETS, cache=tmp_path / "cache", threads=1)
    prepare_onnx(model.model, tmp_path / "cache", PrepareOptions())
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)
        chain = open_chain(model, options)
    assert [state.state for state in chain.states] == ["failed", "serving", "untried"], chain.states
    assert "no packed form" in chain.states[0].reason
    assert not chain.scorer.executor.packed
    chain.close()


def test_device_arrays_are_shown_to_others(device: _core.Device) -> None:
    array = DeviceArray(device, (3, 4))
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    array.from_host(values)
    np.testing.assert_array_equal(array.to_host(), values)
    shown = array.__cuda_array_interface__
    assert (shown["shape"], shown["typestr"], shown["version"]) == ((3, 4), "<f4", 3)
    assert shown["data"] == (array.address, False)
    with pytest.raises(EngineError, match="not float32"):
        array.from_host(values.astype(np.float64))


@pytest.mark.parametrize("library", ["cupy", "torch", "torch by DLPack"])
def test_device_arrays_are_shared_with_other_libraries(device: _core.Device, library: str) -> None:
    if not real_driver_present():
        pytest.skip("needs a GPU")
    module = pytest.importorskip(library.split()[0])
    array = DeviceArray(device, (3, 4))
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    array.from_host(values)
    if library == "cupy":
        shared = module.asarray(array)
    elif library == "torch":
        shared = module.as_tensor(array, device="cuda")
    else:
        shared = module.from_dlpack(array)
    shared += 1  # seen through the other: no copy
    module.cuda.synchronize() if library != "cupy" else module.cuda.Device().synchronize()
    np.testing.assert_array_equal(array.to_host(), values + 1)


def test_vectors_stay_on_the_device(device: _core.Device) -> None:
    engine = kernel_engine(device, BUCKETS, [], output_width=4)
    scorer = _core.Scorer(_core.StagingRing([engine]))
    array = DeviceArray(device, (4, 4))
    ticket = scorer.submit_texts(TEXTS, cls_id=2, sep_id=3, device_output=array.address)
    assert ticket.wait(30)
    np.testing.assert_array_equal(array.to_host(), ticket.scores())
    scorer.close()
