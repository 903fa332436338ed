"""Scores in one call in the good case, and what is counted for an engine while a request runs."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import EngineFailedError
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from searchpipe.runtime.pair_scorer import ChainPairScorer
from tests.runtime.row_model import random_store, row_scores
from tests.runtime.test_faces import local_model, tokenizer_of

TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]


class Engine:
    """Waits to be let go, and spoils as many rows as it is told to."""

    def __init__(self, *, width: int = 1) -> None:
        self.go = threading.Event()
        self.go.set()
        self.spoilt = 0
        self.error: Exception | None = None
        self.width = width

    def executor(self) -> _core.Executor:
        return _core.HostExecutor(
            self.compute, [(4, 32)], output_width=self.width, costs=[(1.0, 0.0)], slots=1
        )

    def compute(self, ids: np.ndarray, mask: np.ndarray, types: np.ndarray, output: np.ndarray) -> None:
        assert self.go.wait(30)
        if self.error is not None:
            raise self.error
        output[:] = row_scores(ids, mask, types, output.shape[1])
        output[: self.spoilt, -1] = np.inf


def ask(scorer: _core.Scorer, deadline: float | None = None) -> _core.Ticket:
    return scorer.submit_texts(TEXTS, cls_id=101, sep_id=102, deadline=deadline)


@pytest.mark.parametrize("width", [1, 3])
def test_sound_scores_are_the_scores(width: int) -> None:
    engine = Engine(width=width)
    scorer = _core.Scorer(engine.executor())
    engine.go.clear()
    ticket = ask(scorer)
    assert ticket.sound_scores() is None  # pending
    engine.go.set()
    assert ticket.wait(30)
    found = ticket.sound_scores()
    assert found is not None
    assert found.shape == ((3,) if width == 1 else (3, width))
    np.testing.assert_array_equal(found, ticket.scores())
    scorer.close()


def test_what_is_not_sound_has_none() -> None:
    engine = Engine()
    scorer = _core.Scorer(engine.executor())
    late = ask(scorer, time.monotonic() - 1.0)
    assert late.wait(30)
    assert late.status == "done"
    assert late.sound_scores() is None
    engine.spoilt = 1
    spoilt = ask(scorer)
    assert spoilt.wait(30)
    assert np.isinf(spoilt.scores()).sum() == 1
    assert spoilt.sound_scores() is None
    engine.error = RuntimeError("out of memory")
    failed = ask(scorer)
    assert failed.wait(30)
    assert (failed.status, failed.sound_scores()) == ("failed", None)
    nothing = scorer.submit_texts([], cls_id=101, sep_id=102)
    assert nothing.wait(30)
    assert (nothing.status, nothing.sound_scores()) == ("done", None)
    scorer.close()


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Engine, ChainPairScorer, _core.TokenStore]:
    engine = Engine()
    chain = EngineChain([Link("held", lambda: Opened(engine.executor(), lambda: None, "held", on_gpu=True))])
    model = local_model(tmp_path, "cross-encoder")
    tokenizer: TextTokenizer = tokenizer_of(model)
    tokenizer.vocab_size = 30_522
    scorer = ChainPairScorer(model, chain, tokenizer, max_query_tokens=8, max_doc_tokens=20)
    return engine, scorer, random_store(tmp_path / "tokens", documents=30, longest=25, seed=3)


def test_others_wait_as_long_with_a_forecast_as_without(
    pairs: tuple[Engine, ChainPairScorer, _core.TokenStore],
) -> None:
    _, scorer, store = pairs
    query, docs = TEXTS[0], np.arange(10, dtype=np.int32)
    outlook = scorer.outlook(query, store, docs)
    assert outlook.forecast == scorer.predict(outlook.lengths)
    assert outlook.tokens == outlook.lengths.sum()
    waits: list[float] = []

    def look() -> None:
        forecast = scorer.predict(outlook.lengths)
        assert forecast is not None
        waits.append(forecast.wait_s)

    for forecast in (None, outlook.forecast):
        found = scorer.score(query, store, docs, meanwhile=look, forecast=forecast)
        assert np.isfinite(found).all()
    assert waits == [pytest.approx(3e-3)] * 2  # three batches of four rows, 1 ms each
    assert scorer.predict(outlook.lengths) == outlook.forecast  # both have ended
    scorer.close()


def test_a_request_that_fails_is_not_counted_any_more(
    pairs: tuple[Engine, ChainPairScorer, _core.TokenStore],
) -> None:
    engine, scorer, store = pairs
    docs = np.arange(10, dtype=np.int32)
    outlook = scorer.outlook(TEXTS[0], store, docs)
    engine.error = RuntimeError("out of memory")
    with pytest.raises(Exception, match="out of memory"):
        scorer.score(TEXTS[0], store, docs, forecast=outlook.forecast)
    assert scorer.predict(outlook.lengths) == outlook.forecast
    scorer.close()


def test_half_the_rows_not_finite_count_as_a_failure_and_fewer_do_not(
    pairs: tuple[Engine, ChainPairScorer, _core.TokenStore],
) -> None:
    engine, scorer, store = pairs
    docs = np.arange(4, dtype=np.int32)
    engine.spoilt = 1
    for _ in range(5):
        assert np.isinf(scorer.score(TEXTS[0], store, docs)).sum() == 1
    assert scorer.chain.states[0].trips == 0
    engine.spoilt = 2
    for _ in range(2):
        assert np.isinf(scorer.score(TEXTS[0], store, docs)).sum() == 2
    with pytest.raises(EngineFailedError, match="not finite numbers"):  # the third retires it
        scorer.score(TEXTS[0], store, docs)
    assert scorer.chain.states[0].trips == 1
    scorer.close()
