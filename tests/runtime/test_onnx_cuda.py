"""ONNX Runtime's CUDA sessions on our stream and addresses: through a stand-in, and for real on a GPU."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from searchpipe import _core
from searchpipe.backends.onnx_cuda import open_onnx_cuda
from searchpipe.backends.onnx_prepare import PrepareOptions, prepare_onnx
from searchpipe.errors import MissingDependencyError, ModelError
from tests.fakes import onnxruntime_cuda
from tests.fakes.tiny_bert import LONGEST, VOCABULARY, save_bert
from tests.fakes.tiny_onnx import TinyModel
from tests.runtime.row_model import expected_texts

BUCKETS = [(4, 16), (8, 32)]
RNG = np.random.default_rng(4)
TEXTS = [RNG.integers(1, 60, n).astype(np.int32) for n in (3, 12, 29, 30, 1, 0, 22, 9, 14, 27)]
MODEL = TinyModel(dim=16, outputs=3)


@pytest.fixture
def ort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", onnxruntime_cuda)


def save(folder: Path, **options: object) -> Path:
    return MODEL.save_cross_encoder(folder / "ranker.onnx", integer=TensorProto.INT32, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("token_types", [True, False])
def test_sessions_are_captured_on_our_stream(
    tmp_path: Path, device: _core.Device, ort: None, token_types: bool
) -> None:
    opened = open_onnx_cuda(save(tmp_path, token_types=token_types), device, BUCKETS, lanes=2)
    assert (opened.inputs, opened.output_width) == (3 if token_types else 2, 3)
    assert opened.not_captured == {}
    scorer = _core.Scorer(opened.executor)
    ticket = scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 3))
    scorer.close()
    opened.close()


@pytest.mark.parametrize("token_types", [True, False])
def test_packed_rows_are_captured_on_our_stream(
    tmp_path: Path, device: _core.Device, ort: None, token_types: bool
) -> None:
    packed = pack_named(save_bert(tmp_path / "bert.onnx", token_types=token_types), tmp_path)
    opened = open_onnx_cuda(packed, device, [(8, 64), (16, 256)], longest_row=LONGEST, lanes=2)
    assert (opened.inputs, opened.output_width) == (6 if token_types else 5, 1)
    assert opened.not_captured == {}
    assert "packed rows" in opened.describe()
    assert onnxruntime_cuda.disabled[-1] == {"MatMulAddFusion"}
    scorer = _core.Scorer(opened.executor)
    ticket = scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)
    assert ticket.wait(30)
    np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 1)[:, 0])
    scorer.close()
    opened.close()


def pack_named(source: Path, folder: Path) -> Path:
    """Prepared by the real runtime's tools, which the stand-in has not."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(sys.modules, "onnxruntime", onnxruntime)
        return prepare_onnx(source, folder / "packed", PrepareOptions(packed=True))


def test_rows_must_be_those_the_model_was_prepared_for(
    tmp_path: Path, device: _core.Device, ort: None
) -> None:
    with pytest.raises(ModelError, match="prepared for padded rows, not for packed ones"):
        open_onnx_cuda(save(tmp_path), device, BUCKETS, longest_row=32)
    packed = pack_named(save_bert(tmp_path / "bert.onnx"), tmp_path)
    with pytest.raises(ModelError, match="prepared for packed rows, not for padded ones"):
        open_onnx_cuda(packed, device, BUCKETS)


def test_what_is_placed_on_the_cpu_is_not_captured(
    tmp_path: Path, device: _core.Device, ort: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime_cuda, "ON_CPU", {"ReduceSum"})
    with open_onnx_cuda(save(tmp_path), device, BUCKETS) as opened:
        assert set(opened.not_captured) == set(BUCKETS)
        assert "puts some of its operators on the CPU" in opened.describe()
        scorer = _core.Scorer(opened.executor)
        ticket = scorer.submit_texts(TEXTS, cls_id=101, sep_id=102)
        assert ticket.wait(30)
        np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 3))
        scorer.close()


def test_the_real_runtime_says_so_as_the_stand_in_does(tmp_path: Path) -> None:
    """No provider but the CPU's takes these operators: the message is the one that is looked for."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    others = [name for name in onnxruntime.get_available_providers() if name == "AzureExecutionProvider"]
    if not others:
        pytest.skip("needs a provider that takes no operators")
    with pytest.raises(Exception, match="fallback to CPU EP has been explicitly disabled"):
        onnxruntime.InferenceSession(str(save(tmp_path)), options, providers=others)


def test_models_that_were_not_prepared_are_refused(tmp_path: Path, device: _core.Device, ort: None) -> None:
    int64 = MODEL.save_cross_encoder(tmp_path / "int64.onnx")
    with pytest.raises(ModelError, match=r"expected int32 input_ids.*prepare_onnx"):
        open_onnx_cuda(int64, device, BUCKETS)
    encoder = MODEL.save_encoder(tmp_path / "hidden.onnx", integer=TensorProto.INT32)
    with pytest.raises(ModelError, match="Prepare encoders with pooling"):
        open_onnx_cuda(encoder, device, BUCKETS)
    (tmp_path / "rubbish.onnx").write_bytes(b"rubbish")
    with pytest.raises(ModelError, match="cannot be loaded"):
        open_onnx_cuda(tmp_path / "rubbish.onnx", device, BUCKETS)


def test_a_runtime_without_cuda_is_named(
    tmp_path: Path, device: _core.Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingDependencyError, match="built without CUDA"):
        open_onnx_cuda(save(tmp_path), device, BUCKETS)


def test_the_stand_in_binds_as_the_real_one() -> None:
    real = onnxruntime.capi.onnxruntime_inference_collection
    for name, fake in (
        ("bind_input", onnxruntime_cuda._Binding.bind_input),
        ("bind_output", onnxruntime_cuda._Binding.bind_output),
    ):
        wanted = list(inspect.signature(getattr(real.IOBinding, name)).parameters)
        assert list(inspect.signature(fake).parameters) == wanted
    run = inspect.signature(real.Session.run_with_iobinding)
    assert list(run.parameters) == list(
        inspect.signature(onnxruntime_cuda._CudaSession.run_with_iobinding).parameters
    )


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="ONNX Runtime without CUDA"
)
@pytest.mark.parametrize("fp16", [False, True])
def test_the_real_runtime_is_captured(tmp_path: Path, device: _core.Device, cuda: object, fp16: bool) -> None:
    if cuda is not None:
        pytest.skip("needs a GPU")
    source = MODEL.save_cross_encoder(tmp_path / "ranker.onnx")
    prepared = prepare_onnx(source, tmp_path, PrepareOptions(fp16=fp16))
    opened = open_onnx_cuda(prepared, device, BUCKETS)
    assert opened.not_captured == {}
    scorer = _core.Scorer(opened.executor)
    ticket = scorer.submit_texts(TEXTS, cls_id=61, sep_id=62)
    assert ticket.wait(60), ticket.error
    expected = [MODEL.pooled([61, *text, 62]) for text in TEXTS]
    np.testing.assert_allclose(ticket.scores(), expected, atol=2e-2 if fp16 else 1e-4)
    scorer.close()
    opened.close()


@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="ONNX Runtime without CUDA"
)
@pytest.mark.parametrize(("fp16", "tolerance"), [(False, 1e-3), (True, 3e-2)])
def test_the_real_runtime_packs(
    tmp_path: Path, device: _core.Device, cuda: object, fp16: bool, tolerance: float
) -> None:
    if cuda is not None:
        pytest.skip("needs a GPU")
    source = save_bert(tmp_path / "bert.onnx", hidden=64, heads=2)  # heads of 32: flash attention in fp16
    packed = prepare_onnx(source, tmp_path, PrepareOptions(fp16=fp16, packed=True))
    opened = open_onnx_cuda(packed, device, [(8, 64), (16, 256), (16, 512)], longest_row=LONGEST)
    assert opened.not_captured == {}
    scorer = _core.Scorer(opened.executor)
    texts = [text % VOCABULARY for text in TEXTS]
    ticket = scorer.submit_texts(texts, cls_id=61, sep_id=62)
    assert ticket.wait(60), ticket.error
    plain = onnxruntime.InferenceSession(str(source), providers=["CPUExecutionProvider"])
    for text, score in zip(texts, ticket.scores(), strict=True):
        row = np.concatenate([[61], text, [62]])[None].astype(np.int64)
        feeds = {
            "input_ids": row,
            "attention_mask": np.ones_like(row),
            "token_type_ids": np.zeros_like(row),
        }
        np.testing.assert_allclose(score, plain.run(None, feeds)[0].item(), atol=tolerance)
    alone = scorer.submit_texts(texts[:1], cls_id=61, sep_id=62)
    assert alone.wait(60)
    np.testing.assert_allclose(alone.scores(), ticket.scores()[:1], atol=tolerance)
    scorer.close()
    opened.close()
