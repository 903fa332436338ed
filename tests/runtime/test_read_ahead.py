"""What later stages read while recall waits for its device, of documents found by then."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from searchpipe.recall.ahead import UsualTime
from searchpipe.stages.base import Work
from searchpipe.stages.recall import Recall

pytest.importorskip("faiss", reason="the fake FAISS computes with faiss-cpu")

from tests.runtime.ahead_world import AheadWorld, Lexical, Open, open_world, same

__all__ = ["open_world"]  # a fixture


class Early(Lexical):
    early = True


class Reader:
    """Lets the device go on when it is called, and fails."""

    name = "score"
    reads = ("candidates",)

    def __init__(self, go: threading.Event) -> None:
        self.go = go
        self.read: list[list[int]] = []

    def read_ahead(self, work: Work) -> None:
        assert work.candidates is not None
        self.read.append(work.candidates.docs.tolist())
        self.go.set()
        raise RuntimeError("nobody's business")


@pytest.fixture
def world(open_world: Open) -> Iterator[AheadWorld]:
    world = open_world()
    with ThreadPoolExecutor(1) as pool:
        world.recall = Recall([Early(), world.dense], lambda filters: None, depth=20, pool=pool)
        yield world
        world.recall.end_early()


def begun(world: AheadWorld, **asked: Any) -> Work:
    """A query after its encoder, whose lexical search has ended and whose device waits to be let go."""
    work = world.work(2, **asked)
    world.recall.start_early(work)
    search = work.early["lexical"]
    assert search._ended.acquire(timeout=10)
    search._ended.release()
    assert search.found()[0].tolist() == [5, 3, 8]
    return world.encoded(work)


@pytest.mark.parametrize("budget_ms", [np.inf, 60_000.0])
def test_documents_found_by_now_are_read_while_the_device_searches(
    world: AheadWorld, budget_ms: float
) -> None:
    plain = world.recalled(begun(world))
    go = world.stalled()
    reader = Reader(go)
    world.dense.usual.seconds = 0.5
    world.recall.followed_by([object(), reader])
    work = world.recalled(begun(world, budget_ms=budget_ms))
    assert reader.read == [[5, 3, 8]]
    same(work, plain)
    assert work.decision == plain.decision
    assert not work.degradations


def test_nothing_is_read_when_the_device_will_be_done_sooner(world: AheadWorld) -> None:
    go = world.stalled()
    reader = Reader(go)
    world.recall.followed_by([reader])
    world.dense.usual.learn(1e-6, waited=True)
    threading.Timer(0.02, go.set).start()
    world.recalled(begun(world))
    assert reader.read == []


def test_the_usual_time_is_learnt_from_those_that_were_waited_for() -> None:
    usual = UsualTime()
    usual.learn(0.5, waited=False)
    assert usual.seconds == 0.0
    usual.learn(0.4, waited=True)
    assert usual.seconds == 0.4
    usual.learn(0.8, waited=False)  # it may have ended long before
    assert usual.seconds == 0.4
    usual.learn(0.8, waited=True)
    assert 0.4 < usual.seconds < 0.5
    usual.learn(0.1, waited=False)
    assert usual.seconds == 0.1


def test_nothing_is_read_once_the_device_has_answered(world: AheadWorld) -> None:
    plain = world.recalled(begun(world))
    reader = Reader(threading.Event())
    world.recall.followed_by([reader])
    work = begun(world)
    assert work.early["dense"]._begun._pending.wait(10.0)
    same(world.recalled(work), plain)
    assert reader.read == []


def test_a_stage_that_is_switched_off_reads_nothing(world: AheadWorld) -> None:
    go = world.stalled()
    reader = Reader(go)
    world.recall.followed_by([reader])
    threading.Timer(0.02, go.set).start()
    world.recalled(begun(world, without=frozenset({"score"})))
    assert reader.read == []


def test_a_search_that_runs_still_has_no_documents(world: AheadWorld) -> None:
    entered, leave = threading.Event(), threading.Event()

    class Slow(Early):
        def search(self, *asked: Any) -> Any:
            entered.set()
            assert leave.wait(10)
            return super().search(*asked)

    with ThreadPoolExecutor(1) as pool:
        recall = Recall([Slow()], lambda filters: None, depth=20, pool=pool)
        work = world.work(2)
        recall.start_early(work)
        assert entered.wait(10)
        assert work.early["lexical"].found() is None
        leave.set()
        recall.end_early()
