from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from searchpipe.backends import TextEncoder, open_encoder
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.errors import EngineError, ModelError
from searchpipe.models import LocalModel
from searchpipe.models.tokenizer import TextTokenizer
from tests.fakes.real_models import real_model
from tests.fakes.tiny_onnx import TinyModel
from tests.fakes.tiny_tokenizer import save_tokenizer

CLS, SEP = 2, 3
TINY = TinyModel()


def local(folder: Path, **changes: object) -> LocalModel:
    """Model of the folder's model.onnx and a tiny tokenizer."""
    values = {
        "name": "tiny",
        "kind": "encoder",
        "model": folder / "model.onnx",
        "tokenizer": save_tokenizer(folder / "tokenizer.json"),
        "sha256": "",
        "max_tokens": 12,
        "pooling": "mean",
        "normalize": False,
        "query_prefix": "",
        "document_prefix": "",
    }
    return LocalModel(**{**values, **changes})


def encoder_of(model: LocalModel, **options: int) -> TextEncoder:
    tokenizer = TextTokenizer(model.tokenizer, max_tokens=model.max_tokens - 2)
    return TextEncoder(model, OnnxCpuEngine(model.model, threads=1), tokenizer, **options)


def texts_of(lengths: list[int], seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(4, 64, size=length, dtype=np.int32) for length in lengths]


def framed(ids: np.ndarray) -> list[int]:
    return [CLS, *ids.tolist(), SEP]


@pytest.mark.parametrize("integer", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("types", [False, True])
def test_mean_pooling_ignores_padding_and_keeps_the_order(tmp_path: Path, integer: int, types: bool) -> None:
    TINY.save_encoder(tmp_path / "model.onnx", integer=integer, token_types=types)
    texts = texts_of([3, 0, 10, 1, 7, 3])
    out = encoder_of(local(tmp_path)).encode(texts)
    assert out.dtype == np.float32
    np.testing.assert_allclose(out, [TINY.pooled(framed(ids)) for ids in texts], rtol=1e-4, atol=1e-5)


def test_cls_pooling_takes_the_first_token(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    out = encoder_of(local(tmp_path, pooling="cls")).encode(texts_of([5, 2]))
    np.testing.assert_allclose(out, [TINY.tokens([CLS])[0]] * 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("declared", [False, True])
def test_models_that_pool_by_themselves(tmp_path: Path, declared: bool) -> None:
    TINY.save_pooled_encoder(tmp_path / "model.onnx", declare_dim=declared)
    encoder = encoder_of(local(tmp_path, pooling="none"))
    texts = texts_of([5, 2])
    assert encoder.dim == 8
    np.testing.assert_allclose(
        encoder.encode(texts), [TINY.pooled(framed(ids)) for ids in texts], rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("budget", [1, 13, 24, 4096])
def test_batches_do_not_change_the_result_nor_break_the_budget(tmp_path: Path, budget: int) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    encoder = encoder_of(local(tmp_path), padded_tokens=budget)
    sizes: list[tuple[int, int]] = []
    run = encoder.engine.run
    encoder.engine.run = lambda feeds: (sizes.append(feeds["input_ids"].shape), run(feeds))[1]
    texts = texts_of([3, 0, 10, 1, 7, 3, 9, 2])
    expected = [TINY.pooled(framed(ids)) for ids in texts]
    np.testing.assert_allclose(encoder.encode(texts), expected, rtol=1e-4, atol=1e-5)
    assert sum(rows for rows, _ in sizes) == len(texts)
    assert all(rows == 1 or rows * width <= budget for rows, width in sizes)
    assert (len(sizes) == 1) == (budget == 4096)


def test_texts_are_cut_to_the_model_s_limit(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    (ids,) = texts_of([50])
    out = encoder_of(local(tmp_path, max_tokens=12)).encode([ids])
    np.testing.assert_allclose(out[0], TINY.pooled(framed(ids[:10])), rtol=1e-4, atol=1e-5)


def test_unit_length_and_no_division_by_zero(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    out = encoder_of(local(tmp_path, normalize=True)).encode(texts_of([3, 0, 7]))
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-5)
    nothing = TinyModel()
    nothing.linear[:] = 0
    nothing.save_encoder(tmp_path / "model.onnx")
    out = encoder_of(local(tmp_path, normalize=True)).encode(texts_of([3]))
    assert out.tolist() == [[0.0] * 8]


def test_nan_stays_in_its_own_row(tmp_path: Path) -> None:
    broken = TinyModel()
    broken.words[40] = np.nan
    broken.save_encoder(tmp_path / "model.onnx")
    out = encoder_of(local(tmp_path, normalize=True)).encode(
        [np.array([40], dtype=np.int32), np.array([5], dtype=np.int32)]
    )
    assert np.isnan(out[0]).all()
    assert np.isfinite(out[1]).all()


def test_texts_with_and_without_a_prefix(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    encoder = encoder_of(local(tmp_path))
    np.testing.assert_array_equal(
        encoder.encode_texts(["shoes"], prefix="red "), encoder.encode_texts(["red shoes"])
    )
    assert encoder.encode_texts([]).shape == (0, 8)
    assert encoder.encode_texts(["", "\ud800\0"]).shape == (2, 8)


def test_wrong_models_are_refused(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="is a cross-encoder, not an encoder"):
        encoder_of(local(tmp_path, kind="cross-encoder"))
    with pytest.raises(ModelError, match=r"expected \[batch, dim\] with pooling 'none'"):
        encoder_of(local(tmp_path, pooling="none"))
    TINY.save_pooled_encoder(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"shape \(None, 8\), expected \[batch, sequence, dim\]"):
        encoder_of(local(tmp_path))


def test_engine_that_returns_another_shape(tmp_path: Path) -> None:
    TINY.save_encoder(tmp_path / "model.onnx")
    encoder = encoder_of(local(tmp_path))
    encoder.engine.run = lambda feeds: np.zeros((1, 1, 8), dtype=np.float32)
    with pytest.raises(EngineError, match=r"returned \(1, 1, 8\) for 2 texts of width 5"):
        encoder.encode(texts_of([3, 2]))


@pytest.mark.shared
@pytest.mark.parametrize("name", ["minilm-l6", "bge-small"])
def test_real_encoder_knows_paraphrases(name: str) -> None:
    model = real_model(name)
    encoder = open_encoder(model, threads=2)
    pairs = [
        ("wireless bluetooth headphones", "cordless earphones with bluetooth"),
        ("women's running shoes", "ladies jogging sneakers"),
        ("stainless steel water bottle", "insulated metal drinking flask"),
        ("garden hose 50 ft", "fifty foot hosepipe for the yard"),
    ]
    queries = encoder.encode_texts([left for left, _ in pairs], prefix=model.query_prefix)
    documents = encoder.encode_texts([right for _, right in pairs], prefix=model.document_prefix)
    cosines = queries @ documents.T
    assert encoder.dim == 384
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-4)
    np.testing.assert_array_equal(cosines.argmax(axis=1), np.arange(len(pairs)))
    unrelated = cosines[~np.eye(len(pairs), dtype=bool)]
    assert np.diag(cosines).min() > unrelated.max()


@pytest.mark.shared
def test_real_encoder_hardly_depends_on_batch_mates() -> None:
    encoder = open_encoder(real_model("minilm-l6"), threads=2)
    words = [
        "red",
        "blue",
        "cotton",
        "steel",
        "garden",
        "kitchen",
        "shoe",
        "lamp",
        "phone",
        "case",
        "toy",
        "dress",
    ]
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(words, size=rng.integers(1, 30))) for _ in range(24)]
    alone = np.concatenate([encoder.encode_texts([text]) for text in texts])
    assert np.einsum("nd,nd->n", alone, encoder.encode_texts(texts)).min() > 0.99
