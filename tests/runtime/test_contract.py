"""What every engine behind a scorer must do, whatever computes."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import ClosedError, OverloadedError
from tests.runtime.row_model import Built, expected_pairs, expected_texts

BUCKETS = [(4, 16), (4, 32), (16, 32), (16, 64), (64, 64)]
QUERY = np.array([2000, 2001, 2002], np.int32)
Build = Callable[..., Built]


def submit(
    built: Built, packer: _core.PairPacker, store: _core.TokenStore, docs: np.ndarray, **options: float
) -> _core.Ticket:
    return built.scorer.submit_pairs(packer, store, QUERY, docs.astype(np.int32), **options)


@pytest.mark.parametrize("count", [1, 3, 64, 65, 200])
def test_scores_come_back_in_the_order_of_docs(
    build_engine: Build,
    packer: _core.PairPacker,
    store: _core.TokenStore,
    rng: np.random.Generator,
    count: int,
) -> None:
    built = build_engine(BUCKETS)
    docs = rng.permutation(200)[:count]
    ticket = submit(built, packer, store, docs)
    assert ticket.wait(30)
    assert ticket.status == "done"
    assert ticket.scored == ticket.rows == count
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, docs))
    stats = built.scorer.stats()
    assert stats.rows == count
    assert stats.padded_tokens >= stats.real_tokens > 0
    assert stats.queued_rows == stats.batches_in_flight == 0


def test_no_documents_is_done_at_once(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    ticket = submit(build_engine(BUCKETS), packer, store, np.array([]))
    assert ticket.done()
    assert ticket.scores().shape == (0,)


def test_many_threads_get_their_own_scores(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)
    problems: list[str] = []

    def search(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(20):
            query = rng.integers(1000, 30000, rng.integers(0, 12)).astype(np.int32)
            docs = rng.integers(0, 200, rng.integers(1, 40)).astype(np.int32)
            ticket = built.scorer.submit_pairs(packer, store, query, docs, priority=int(rng.integers(3)))
            ticket.wait()
            if not np.array_equal(ticket.scores(), expected_pairs(query, store, docs)):
                problems.append(f"seed {seed}, query {query}, docs {docs}")

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert built.scorer.stats().requests == 120


def test_encoder_rows_have_a_width(build_engine: Build, rng: np.random.Generator) -> None:
    built = build_engine([(1, 16), (8, 16), (8, 32)], output_width=5)
    texts = [rng.integers(1000, 30000, n).astype(np.int32) for n in (0, 3, 40, 12, 30, 1, 7, 9, 2)]
    ticket = built.scorer.submit_texts(texts, cls_id=101, sep_id=102, max_tokens=32)
    assert ticket.wait(30)
    assert ticket.scores().shape == (9, 5)
    np.testing.assert_array_equal(ticket.scores(), expected_texts(texts, 5, max_tokens=32))


def test_a_row_longer_than_every_bucket_is_refused(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine([(4, 16)])
    longest = int(np.argmax(store.lengths()))
    with pytest.raises(ValueError, match="the engine takes 16; lower"):
        submit(built, packer, store, np.array([longest]))


def test_an_unknown_document_is_refused(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    with pytest.raises(IndexError, match="200"):
        submit(build_engine(BUCKETS), packer, store, np.array([0, 200]))


def test_a_past_deadline_gives_the_rows_up(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)
    ticket = submit(built, packer, store, np.arange(30), deadline=time.monotonic() - 1.0)
    assert ticket.wait(30)
    assert ticket.status == "done"
    assert ticket.scored == 0
    assert np.isnan(ticket.scores()).all()
    assert built.scorer.stats().late_rows == 30
    after = submit(built, packer, store, np.arange(30), deadline=time.monotonic() + 60.0)
    assert after.wait(30)
    np.testing.assert_array_equal(after.scores(), expected_pairs(QUERY, store, range(30)))


@pytest.mark.parametrize("deadline", [float("inf"), 1e30])
def test_an_infinite_deadline_is_none(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore, deadline: float
) -> None:
    ticket = submit(build_engine(BUCKETS), packer, store, np.arange(5), deadline=deadline)
    assert ticket.wait(30)
    assert ticket.scored == 5


def test_close_drains_and_then_refuses(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)
    tickets = [submit(built, packer, store, np.arange(50)) for _ in range(10)]
    built.scorer.close()
    assert [ticket.status for ticket in tickets] == ["done"] * 10
    with pytest.raises(ClosedError, match="closed"):
        submit(built, packer, store, np.arange(5))
    built.scorer.close()


def test_callbacks_wake_an_event_loop(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)

    async def search(docs: np.ndarray) -> np.ndarray:
        loop = asyncio.get_running_loop()
        woken = asyncio.Event()
        ticket = submit(built, packer, store, docs)
        ticket.on_done(lambda: loop.call_soon_threadsafe(woken.set))
        await asyncio.wait_for(woken.wait(), 30)
        return ticket.scores()

    async def main() -> list[np.ndarray]:
        return await asyncio.gather(*(search(np.arange(i, i + 40)) for i in range(8)))

    for i, scores in enumerate(asyncio.run(main())):
        np.testing.assert_array_equal(scores, expected_pairs(QUERY, store, range(i, i + 40)))


def test_a_callback_after_the_end_is_called_at_once(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    ticket = submit(build_engine(BUCKETS), packer, store, np.arange(4))
    assert ticket.wait(30)
    called: list[int] = []
    ticket.on_done(lambda: called.append(1))
    assert called == [1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_callback_that_raises_hurts_nobody(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)

    def broken() -> None:
        raise KeyError("of the caller's own")

    first = submit(built, packer, store, np.arange(4))
    first.on_done(broken)
    assert first.wait(30)
    second = submit(built, packer, store, np.arange(9))
    assert second.wait(30)
    assert second.status == "done"


def test_a_full_queue_refuses(build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore) -> None:
    built = build_engine(BUCKETS, max_queued_rows=10)
    with pytest.raises(OverloadedError, match="limit of 10"):
        submit(built, packer, store, np.arange(11))
    ticket = submit(built, packer, store, np.arange(10))
    assert ticket.wait(30)
