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
