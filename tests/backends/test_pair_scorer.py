from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto

from searchpipe._core import TokenStore, TokenStoreWriter
from searchpipe.backends import PairScorer, open_pair_scorer
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.errors import ConfigError, EngineError, ModelError
from searchpipe.models import LocalModel
from searchpipe.models.tokenizer import TextTokenizer
from tests.fakes.real_models import real_model
from tests.fakes.tiny_onnx import TinyModel, save_identity
from tests.fakes.tiny_tokenizer import save_tokenizer

CLS, SEP = 2, 3
# The tiny tokenizer knows 16 tokens.
ONE = TinyModel(vocab_size=16, outputs=1)
QUERY = np.array([4, 5, 6], dtype=np.int32)
LENGTHS = [5, 1, 9, 0, 3, 9, 2]


def store_of(path: Path, documents: list[np.ndarray]) -> TokenStore:
    writer = TokenStoreWriter(str(path))
    for ids in documents:
        writer.append(ids)
    writer.close()
    return TokenStore(str(path))


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(4, 16, size=length, dtype=np.int32) for length in LENGTHS]


@pytest.fixture(scope="module")
def store(documents: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    return store_of(tmp_path_factory.mktemp("store") / "tokens.bin", documents)


def local(folder: Path, **changes: object) -> LocalModel:
    values = {
        "name": "tiny-cross",
        "kind": "cross-encoder",
        "model": folder / "model.onnx",
        "tokenizer": save_tokenizer(folder / "tokenizer.json"),
        "sha256": "",
        "max_tokens": 64,
        "pooling": "none",
        "normalize": False,
        "query_prefix": "",
        "document_prefix": "",
    }
    return LocalModel(**{**values, **changes})


def scorer_of(model: LocalModel, **limits: int) -> PairScorer:
    tokenizer = TextTokenizer(model.tokenizer, max_tokens=64)
    return PairScorer(model, OnnxCpuEngine(model.model, threads=1), tokenizer, **limits)


def expected(model: TinyModel, query: np.ndarray, document: np.ndarray) -> np.ndarray:
    first = [CLS, *query.tolist(), SEP]
    second = [*document.tolist(), SEP]
    return model.pooled(first + second, [0] * len(first) + [1] * len(second))


@pytest.mark.parametrize("integer", [TensorProto.INT32, TensorProto.INT64])
@pytest.mark.parametrize("flat", [False, True])
def test_scores_come_in_the_order_of_the_documents(
    tmp_path: Path, store: TokenStore, documents: list[np.ndarray], integer: int, flat: bool
) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx", integer=integer, flat=flat)
    scorer = scorer_of(local(tmp_path))
    docs = np.array([4, 2, 0, 3, 6, 1, 2], dtype=np.int32)
    scores = scorer.score(QUERY, store, docs)
    assert scores.dtype == np.float32
    reference = [expected(ONE, QUERY, documents[doc])[0] for doc in docs]
    np.testing.assert_allclose(scores, reference, rtol=1e-4, atol=1e-5)


def test_model_without_token_types(tmp_path: Path, store: TokenStore, documents: list[np.ndarray]) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx", token_types=False)
    scores = scorer_of(local(tmp_path)).score(QUERY, store, np.array([0, 2], dtype=np.int32))
    reference = [ONE.pooled([CLS, *QUERY, SEP, *documents[doc], SEP])[0] for doc in (0, 2)]
    np.testing.assert_allclose(scores, reference, rtol=1e-4, atol=1e-5)


def test_two_classes_give_the_log_odds_of_the_second(
    tmp_path: Path, store: TokenStore, documents: list[np.ndarray]
) -> None:
    two = TinyModel(vocab_size=16, outputs=2)
    two.save_cross_encoder(tmp_path / "model.onnx")
    scores = scorer_of(local(tmp_path)).score(QUERY, store, np.array([1, 5], dtype=np.int32))
    logits = [expected(two, QUERY, documents[doc]) for doc in (1, 5)]
    np.testing.assert_allclose(scores, [pair[1] - pair[0] for pair in logits], rtol=1e-4, atol=1e-5)


def test_token_limits_cut_both_sides(tmp_path: Path, store: TokenStore, documents: list[np.ndarray]) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path), max_query_tokens=2, max_doc_tokens=4)
    docs = np.array([2], dtype=np.int32)
    reference = expected(ONE, QUERY[:2], documents[2][:4])
    np.testing.assert_allclose(scorer.score(QUERY, store, docs), reference, rtol=1e-4, atol=1e-5)
    assert scorer.tokens_of(QUERY, store, docs) == (1, 2 + 4 + 3)


def test_rows_and_width_of_a_step(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path))
    assert scorer.tokens_of(QUERY, store, np.array([1, 2, 3], dtype=np.int32)) == (3, 3 + 9 + 3)
    assert scorer.tokens_of(QUERY, store, np.empty(0, dtype=np.int32)) == (0, 0)


def test_empty_query_and_no_documents(tmp_path: Path, store: TokenStore, documents: list[np.ndarray]) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path))
    nothing = np.empty(0, dtype=np.int32)
    assert scorer.score(QUERY, store, nothing).shape == (0,)
    scores = scorer.score(nothing, store, np.array([0, 3], dtype=np.int32))
    reference = [expected(ONE, nothing, documents[doc])[0] for doc in (0, 3)]
    np.testing.assert_allclose(scores, reference, rtol=1e-4, atol=1e-5)


def test_threads_do_not_share_buffers(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path))
    rng = np.random.default_rng(3)
    jobs = [
        (rng.integers(4, 16, size=rng.integers(0, 5), dtype=np.int32),
         rng.integers(0, len(LENGTHS), size=rng.integers(1, 30), dtype=np.int32))
        for _ in range(120)
    ]  # fmt: skip
    alone = [scorer.score(query, store, docs) for query, docs in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: scorer.score(job[0], store, job[1]), jobs))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_returned_scores_survive_the_next_call(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx", flat=True)
    scorer = scorer_of(local(tmp_path))
    first = scorer.score(QUERY, store, np.array([0, 1, 2], dtype=np.int32))
    kept = first.copy()
    scorer.score(QUERY[:1], store, np.array([4, 5, 6], dtype=np.int32))
    np.testing.assert_array_equal(first, kept)


def test_nan_passes_through_in_its_own_place(tmp_path: Path) -> None:
    broken = TinyModel(vocab_size=16, outputs=1)
    broken.words[9] = np.nan
    broken.save_cross_encoder(tmp_path / "model.onnx")
    documents = [np.array(ids, dtype=np.int32) for ids in ([5, 6], [9], [7])]
    scorer = scorer_of(local(tmp_path))
    scores = scorer.score(QUERY, store_of(tmp_path / "s", documents), np.array([2, 1, 0], dtype=np.int32))
    assert np.isnan(scores).tolist() == [False, True, False]


def test_unknown_document(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path))
    for doc in (-1, len(LENGTHS)):
        with pytest.raises(IndexError):
            scorer.score(QUERY, store, np.array([0, doc], dtype=np.int32))


def test_store_of_another_tokenizer(tmp_path: Path) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    store = store_of(tmp_path / "s", [np.array([16], dtype=np.int32)])
    with pytest.raises(ModelError, match="holds id 16; model tiny-cross knows 16 tokens"):
        scorer_of(local(tmp_path)).score(QUERY, store, np.array([0], dtype=np.int32))


def test_wrong_models_are_refused(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="is an encoder, not a cross-encoder"):
        scorer_of(local(tmp_path, kind="encoder"))
    TinyModel(vocab_size=16, outputs=3).save_cross_encoder(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"output means has the shape \(None, 3\)"):
        scorer_of(local(tmp_path))
    TinyModel(vocab_size=16, outputs=1).save_encoder(tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"shape \(None, None, 1\)"):
        scorer_of(local(tmp_path))
    save_identity(tmp_path / "model.onnx", name="ids", integer=TensorProto.INT64, axes=["b", "s"])
    with pytest.raises(ModelError, match="has the inputs ids int64; expected input_ids"):
        scorer_of(local(tmp_path))


def test_limits_that_do_not_fit_the_model(tmp_path: Path) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    with pytest.raises(ConfigError, match=r"tiny-cross \(at most 16 tokens\)"):
        scorer_of(local(tmp_path, max_tokens=16), max_query_tokens=32)


def test_outputs_that_are_no_scores(tmp_path: Path, store: TokenStore) -> None:
    ONE.save_cross_encoder(tmp_path / "model.onnx")
    scorer = scorer_of(local(tmp_path))
    docs = np.array([0, 1], dtype=np.int32)
    scorer.engine.run = lambda feeds: np.zeros((2, 5), dtype=np.float32)
    with pytest.raises(ModelError, match=r"returned \(2, 5\) for 2 pairs"):
        scorer.score(QUERY, store, docs)
    scorer.engine.run = lambda feeds: np.zeros((1, 1), dtype=np.float32)
    with pytest.raises(EngineError, match=r"returned \(1, 1\) for 2 pairs"):
        scorer.score(QUERY, store, docs)


@pytest.mark.shared
def test_real_cross_encoder_ranks_what_answers_the_query_first(tmp_path: Path) -> None:
    scorer = open_pair_scorer(real_model("minilm-l12-cross"), threads=2)
    texts = [
        "garden hose 50 ft expandable",
        "Sony WH-1000XM5 wireless noise cancelling headphones",
        "headphone stand, aluminium",
        "stainless steel water bottle",
    ]
    store = store_of(tmp_path / "s", scorer.tokenizer.ids_many(texts))
    query = scorer.tokenizer.ids("wireless headphones")
    scores = scorer.score(query, store, np.arange(4, dtype=np.int32))
    assert scores.argmax() == 1
    assert scores[2] > max(scores[0], scores[3])
    # Dynamic int8: batch mates move a score, but by tenths of a logit, not by an order of magnitude.
    alone = [scorer.score(query, store, np.array([doc], dtype=np.int32))[0] for doc in range(4)]
    np.testing.assert_allclose(scores, alone, atol=0.5)
