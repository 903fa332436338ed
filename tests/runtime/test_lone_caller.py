"""A caller that finds nobody else sees its batches through itself; with company the scorer's threads do."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.arrays import Int32
from searchpipe.errors import ClosedError, OverloadedError
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.row_model import ENGINES, Built, expected_pairs, expected_texts, kernel_engine

BUCKETS = [(4, 16), (4, 32), (16, 32), (16, 64), (64, 64)]
WATCHED = ["graph", "graph-2-lanes", "packed", "packed-2-lanes"]
QUERY = np.array([2000, 2001, 2002], np.int32)
TEXTS = [np.full(n, 2000 + n, np.int32) for n in (3, 9, 20)]
Build = Callable[..., Built]


def prepare(
    scorer: _core.Scorer, packer: _core.PairPacker, store: _core.TokenStore, docs: Int32, **options: float
) -> _core.Ticket:
    return scorer.prepare_pairs(packer, store, QUERY, docs.astype(np.int32), **options)


@pytest.mark.parametrize("count", [1, 3, 64, 65, 200])
def test_scores_come_back_in_the_order_of_docs(
    build_engine: Build,
    packer: _core.PairPacker,
    store: _core.TokenStore,
    rng: np.random.Generator,
    count: int,
) -> None:
    built = build_engine(BUCKETS)
    for _ in range(3):
        docs = rng.permutation(200)[:count]
        ticket = prepare(built.scorer, packer, store, docs)
        assert ticket.status == "pending"
        assert built.scorer.run(ticket, 30)
        np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, docs))
    stats = built.scorer.stats()
    assert (stats.requests, stats.rows) == (3, 3 * count)
    assert stats.queued_rows == stats.batches_in_flight == 0


@pytest.mark.parametrize("kind", WATCHED)
@pytest.mark.parametrize("dropped", [False, True])
def test_two_halves_are_the_whole(
    kind: str, dropped: bool, device: _core.Device, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES[kind](device, [(64, 64)])
    docs, called = np.arange(40), []
    for turn in range(5):
        ticket = prepare(built.scorer, packer, store, docs)
        flight = built.scorer.begin(ticket)
        other = prepare(built.scorer, packer, store, docs[:3])
        assert built.scorer.run(other, 30)  # what others ask for does not wait for the second half
        if dropped:
            del flight
            assert ticket.wait(30)
        else:
            assert flight.finish(30, lambda: called.append("meanwhile"))
            assert len(called) == turn + 1
        np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, docs))
        np.testing.assert_array_equal(other.scores(), expected_pairs(QUERY, store, docs[:3]))
    stats = built.scorer.stats()
    assert (stats.requests, stats.rows, stats.batches_in_flight) == (10, 215, 0)
    assert stats.lone_batches >= 1
    last = built.scorer.begin(prepare(built.scorer, packer, store, docs))
    closing = threading.Thread(target=built.scorer.close)
    closing.start()
    assert last.finish(30)
    closing.join(30)
    assert not closing.is_alive()


@pytest.mark.parametrize("kind", WATCHED)
def test_a_lone_caller_needs_one_stream_and_no_thread(
    kind: str, device: _core.Device, fake: FakeDriver, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = ENGINES[kind](device, [(64, 64)])
    between = fake.count("cuMemcpyDtoDAsync"), fake.count("cuStreamWaitEvent")
    for _ in range(5):
        ticket = prepare(built.scorer, packer, store, np.arange(40))
        assert built.scorer.run(ticket)
        np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(40)))
    assert between == (fake.count("cuMemcpyDtoDAsync"), fake.count("cuStreamWaitEvent"))
    stats = built.scorer.stats()
    assert stats.lone_batches == stats.batches == 5
    built.scorer.close()


def test_what_cannot_be_watched_is_left_to_the_threads(device: _core.Device) -> None:
    engine = kernel_engine(device, BUCKETS, [])
    asleep = _core.Scorer(_core.StagingRing([engine], spin_s=0.0))
    others = [ENGINES["enqueue"](device, BUCKETS).scorer, ENGINES["host"](None, BUCKETS).scorer]
    for scorer in (asleep, *others):
        ticket = scorer.prepare_texts(TEXTS, cls_id=101, sep_id=102)
        assert scorer.run(ticket, 30)
        np.testing.assert_array_equal(ticket.scores(), expected_texts(TEXTS, 1)[:, 0])
        assert scorer.stats().lone_batches == 0
        scorer.close()


@pytest.mark.parametrize("spin_s", [-1e-6, 0.02, float("nan")])
def test_spinning_has_limits(device: _core.Device, spin_s: float) -> None:
    engine = kernel_engine(device, [(4, 16)], [])
    with pytest.raises(ValueError, match=r"must be 0 to 0\.01"):
        _core.StagingRing([engine], spin_s=spin_s)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_what_finds_no_slot_is_left_to_the_worker(
    device: _core.Device, packer: _core.PairPacker, store: _core.TokenStore, slots: int
) -> None:
    # One wave that is cut into at least eight batches; then several waves.
    for options in ({"batch_tokens": 64 * 64}, {"batch_tokens": 1}):
        built = ENGINES["graph"](device, [(8, 64), (64, 8)], slots=slots, **options)
        docs = np.flatnonzero(store.lengths() > 8)[:64]
        for _ in range(3):
            ticket = prepare(built.scorer, packer, store, docs)
            assert built.scorer.run(ticket, 30)
            np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, docs))
        assert built.scorer.stats().batches >= 24
        built.scorer.close()


def test_the_rows_are_in_device_memory_too(build_engine: Build, rng: np.random.Generator) -> None:
    built = build_engine([(1, 16), (8, 16), (8, 32)], output_width=5)
    texts = [rng.integers(1000, 30000, n).astype(np.int32) for n in (0, 3, 30, 12)]
    if not built.engines:
        ticket = built.scorer.prepare_texts(texts, cls_id=101, sep_id=102, device_output=64)
        assert built.scorer.run(ticket, 30)
        assert (ticket.status, ticket.error) == ("failed", "a host engine has no device output")
        return
    device = _core.Device(0)
    target = _core.DeviceBuffer(device, 4 * 5 * 4)
    for _ in range(5):
        target.write(np.zeros(20, np.float32))
        ticket = built.scorer.prepare_texts(texts, cls_id=101, sep_id=102, device_output=target.address)
        assert built.scorer.run(ticket, 30)
        found = np.empty((4, 5), np.float32)
        target.read(found)
        np.testing.assert_array_equal(found, expected_texts(texts, 5))
        np.testing.assert_array_equal(ticket.scores(), found)


def test_an_ended_or_queued_request_is_not_queued_again(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    scorer = build_engine(BUCKETS).scorer
    gone = prepare(scorer, packer, store, np.arange(5))
    assert gone.cancel()
    assert scorer.run(gone)
    assert gone.status == "cancelled"
    assert scorer.stats().requests == 0
    told: list[str] = []
    ticket = prepare(scorer, packer, store, np.arange(5))
    ticket.on_done(lambda: told.append("done"))
    scorer.submit(ticket)
    scorer.submit(ticket)
    assert scorer.run(ticket, 30)
    assert scorer.run(ticket, 30)
    np.testing.assert_array_equal(ticket.scores(), expected_pairs(QUERY, store, range(5)))
    empty = prepare(scorer, packer, store, np.arange(0))
    assert scorer.run(empty)
    assert empty.scores().shape == (0,)
    late = prepare(scorer, packer, store, np.arange(5), deadline=0.0)
    assert scorer.run(late)
    assert np.isnan(late.scores()).all()
    scorer.close()
    assert told == ["done"]


def test_refusals(build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore) -> None:
    scorer = build_engine(BUCKETS, max_queued_rows=10).scorer
    other = build_engine(BUCKETS).scorer
    with pytest.raises(OverloadedError, match="limit of 10"):
        scorer.run(prepare(scorer, packer, store, np.arange(11)))
    ticket = prepare(scorer, packer, store, np.arange(10))
    with pytest.raises(ValueError, match="another scorer"):
        other.run(ticket)
    with pytest.raises(ValueError, match="NaN"):
        scorer.run(ticket, float("nan"))
    with pytest.raises(IndexError, match="200"):
        prepare(scorer, packer, store, np.array([200]))
    scorer.close()
    with pytest.raises(ClosedError, match="closed"):
        scorer.run(ticket)
    assert ticket.status == "pending"


def test_lone_callers_merged_ones_and_event_loops_get_their_own_scores(
    build_engine: Build, packer: _core.PairPacker, store: _core.TokenStore
) -> None:
    built = build_engine(BUCKETS)
    executor = built.executor
    chain = EngineChain([Link("it", lambda: Opened(executor, lambda: None))])
    built.scorer.close()  # one scorer an executor
    problems: list[str] = []

    def draw(rng: np.random.Generator) -> tuple[Int32, Int32]:
        query = rng.integers(1000, 30000, rng.integers(0, 12)).astype(np.int32)
        return query, rng.integers(0, 200, rng.integers(1, 90)).astype(np.int32)

    def check(query: Int32, docs: Int32, scores: np.ndarray) -> None:
        if not np.array_equal(scores, expected_pairs(query, store, docs)):
            problems.append(f"query {query}, docs {docs}")

    def search(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for turn in range(15):
            query, docs = draw(rng)
            if turn % 3 == 2:
                ticket = chain.scorer.submit_pairs(packer, store, query, docs)
                ticket.wait(30)
                check(query, docs, ticket.scores())
            else:
                check(query, docs, chain.run(lambda it: it.prepare_pairs(packer, store, query, docs)))  # noqa: B023

    async def loop() -> None:
        rng = np.random.default_rng(99)
        asked = [draw(rng) for _ in range(15)]
        found = await asyncio.gather(
            *(chain.run_async(lambda it, a=a: it.prepare_pairs(packer, store, *a)) for a in asked)
        )
        for (query, docs), scores in zip(asked, found, strict=True):
            check(query, docs, scores)

    threads = [threading.Thread(target=search, args=(seed,)) for seed in range(4)]
    threads.append(threading.Thread(target=lambda: asyncio.run(loop())))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert chain.scorer.stats().requests == 4 * 15 + 15
    assert chain.scorer.stats().batches_in_flight == 0
    chain.close()


def test_an_event_loop_is_served_by_the_threads(device: _core.Device) -> None:
    engine = kernel_engine(device, BUCKETS, [])
    ring = _core.StagingRing([engine])
    chain = EngineChain([Link("gpu", lambda: Opened(ring, engine.close))])
    scores = asyncio.run(chain.run_async(lambda it: it.prepare_texts(TEXTS, cls_id=101, sep_id=102)))
    np.testing.assert_array_equal(scores, expected_texts(TEXTS, 1)[:, 0])
    assert chain.scorer.stats().lone_batches == 0
    chain.close()
