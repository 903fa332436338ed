"""Dense recall that follows the encoder on the device gives what it would have given in its turn."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from searchpipe.recall.ahead import Landings
from searchpipe.recall.lookup import Lookup
from searchpipe.recall.policy import CoalescePolicy
from searchpipe.recall.rule import Codes, IndexKind
from searchpipe.stages.base import PreparingStage, Work
from tests.fakes.cuda_driver import FakeDriver

pytest.importorskip("faiss", reason="the fake FAISS computes with faiss-cpu")

from tests.runtime.ahead_world import AheadWorld, Open, open_world, same

__all__ = ["open_world"]  # a fixture

BEHIND = "(dense begun behind the encoder)"


@pytest.mark.parametrize(
    ("kind", "codes"),
    [
        ("flat", "float32"),
        ("flat", "float16"),
        ("ivf-flat", "float32"),
        ("ivf-flat", "float16"),
        ("ivf-pq", None),
    ],
)
@pytest.mark.parametrize(("lexical", "lanes"), [(False, 1), (True, 2)])
def test_the_candidates_are_those_of_a_search_in_its_turn(
    open_world: Open, kind: IndexKind, codes: Codes | None, lexical: bool, lanes: int
) -> None:
    world = open_world(kind, codes, lexical=lexical, lanes=lanes)
    for seed in range(6):
        plain = world.recalled(world.encoded(world.work(seed), ahead=False))
        ahead = world.encoded(world.work(seed, budget_ms=60_000))
        assert list(ahead.early) == ["dense"]
        assert ahead.device_place is None
        assert ahead.device_vector is not None
        world.recalled(ahead)
        same(ahead, plain)
        assert ahead.decision == f"{plain.decision} {BEHIND}"
        assert BEHIND not in plain.decision
        assert not ahead.early
        assert ahead.costs.predict("dense", 20) is not None
    stats = world.dispatcher.stats()
    assert (stats.searches, stats.lookups, stats.failures, stats.waiting) == (12, 12, 0, 0)
    assert stats.cost_s > 0


def test_it_is_begun_before_the_vector_is_there(open_world: Open, fake: FakeDriver) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(4), ahead=False))
    prepare, begun = world.recall.prepare, []

    def prepared(work: Work) -> None:
        prepare(work)
        begun.append((work.vector, work.device_vector, list(work.early)))
        fake.hold(False)

    world.recall.prepare = prepared  # type: ignore[method-assign]
    fake.hold()
    work = world.recalled(world.encoded(world.work(4)))
    assert begun == [(None, None, ["dense"])]
    same(work, plain)


def test_recall_is_a_preparing_stage(open_world: Open) -> None:
    assert isinstance(open_world().recall, PreparingStage)


def busy(world: AheadWorld, work: Work) -> Callable[[], None]:
    assert world.dispatcher._claim(Lookup(np.zeros(4, np.float32), 1))

    def free() -> None:
        with world.dispatcher._lock:
            world.dispatcher._pass_on()

    return free


def failed_lately(world: AheadWorld, work: Work) -> Callable[[], None]:
    world.index._breaker.failed("CUDA error 700")
    return lambda: None


def resting(world: AheadWorld, work: Work) -> Callable[[], None]:
    state = SimpleNamespace(breaker=SimpleNamespace(state="open"))
    work.breakers = SimpleNamespace(of_source=lambda name: state)  # type: ignore[assignment]

    def woken() -> None:
        work.breakers = None

    return woken


def dear(world: AheadWorld, work: Work) -> Callable[[], None]:
    for _ in range(3):
        work.costs.observe("dense", 20, 1000.0)
    return lambda: None


def no_landing(world: AheadWorld, work: Work) -> Callable[[], None]:
    assert world.gpu._landings is not None
    world.gpu._landings.close()
    return lambda: None


def small(world: AheadWorld, work: Work) -> Callable[[], None]:
    world.index._max_k = 19
    return lambda: setattr(world.index, "_max_k", world.gpu.max_k)


@pytest.mark.parametrize("reason", [busy, failed_lately, resting, dear, no_landing, small])
def test_what_keeps_it_from_being_begun(
    open_world: Open, reason: Callable[[AheadWorld, Work], Callable[[], None]]
) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(2), ahead=False))
    work = world.work(2, budget_ms=60_000)
    over = reason(world, work)
    world.encoded(work)
    over()
    assert not work.early
    same(world.recalled(work), plain)
    assert BEHIND not in work.decision
    assert world.dispatcher.stats().failures == 0


@pytest.mark.parametrize(
    "asked", [{"filters": {"even": True}}, {"without": frozenset({"recall"})}], ids=["filters", "without"]
)
def test_a_query_that_is_not_to_be_asked_ahead(open_world: Open, asked: dict[str, Any]) -> None:
    world = open_world()
    work = world.encoded(world.work(2, **asked))
    assert not work.early
    same(world.recalled(work), world.recalled(world.encoded(world.work(2, **asked), ahead=False)))


def test_no_time_is_left_for_it(open_world: Open) -> None:
    world = open_world()
    work = world.work(2, budget_ms=60_000)
    place = world.places.take()
    work.device_place, work.reserve_s = place, 100.0
    world.recall.prepare(work)
    assert not work.early


@pytest.mark.parametrize(
    "options",
    [{"kind": "cagra", "codes": "float32"}, {"kind": "ivf-flat", "use_cuvs": True},
     {"policy": CoalescePolicy(max_delay_s=1e-4)}],
    ids=["cagra", "cuvs", "delay"],
)  # fmt: skip
def test_indexes_that_are_not_asked_ahead(open_world: Open, options: dict[str, Any]) -> None:
    world = open_world(**options)
    work = world.encoded(world.work(2))
    assert not work.early
    same(world.recalled(work), world.recalled(world.encoded(world.work(2), ahead=False)))


def test_company_at_the_encoder(open_world: Open, fake: FakeDriver) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(2), ahead=False))
    prepare = world.recall.prepare

    def prepared(work: Work) -> None:
        prepare(work)
        fake.hold(False)

    world.recall.prepare = prepared  # type: ignore[method-assign]
    fake.hold()
    other = world.chain.scorer.submit_texts([np.array([7], np.int32)], cls_id=101, sep_id=102)
    work = world.encoded(world.work(2))
    assert other.wait(30)
    assert not work.early
    same(world.recalled(work), plain)


def test_an_encoder_of_ones_own_need_not_know_of_it(open_world: Open) -> None:
    world = open_world()

    class Own:
        dim, predict = world.encoder.dim, world.encoder.predict

        def encode(
            self, token_ids: Any, *, deadline: Any = None, priority: int = 0, device_output: int = 0
        ) -> Any:
            return world.encoder.encode(token_ids, device_output=device_output)

    world.encode = type(world.encode)(Own(), world.encode._gate, places=world.places)
    work = world.encoded(world.work(2))
    assert not work.early
    same(world.recalled(work), world.recalled(world.encoded(world.work(2), ahead=False)))


def test_a_place_is_not_lent_again_while_a_search_may_read_it(open_world: Open) -> None:
    world = open_world(limit=1)
    go = world.stalled()
    work = world.encoded(world.work(2))
    assert work.device_vector is not None
    address = work.device_vector.address
    assert world.places.take() is None
    del work  # the query was given up; the device has yet to read the place
    gc.collect()
    assert world.places.take() is None
    go.set()
    world.stream.synchronize()
    landings = world.gpu._landings
    assert landings is not None
    assert landings._take() is not None
    place = world.places.take()
    assert place is not None
    assert place.address == address


def test_landings_are_bounded_and_used_again(open_world: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Landings.__init__, "__kwdefaults__", {"limit": 2})
    world = open_world()
    go = world.stalled()
    works = [world.encoded(world.work(seed)) for seed in range(3)]
    assert [list(work.early) for work in works] == [["dense"], ["dense"], []]
    threading.Timer(0.02, go.set).start()
    for seed, work in enumerate(works):
        world.recalled(work)
        same(work, world.recalled(world.encoded(world.work(seed), ahead=False)))
    landings = world.gpu._landings
    assert landings is not None
    assert len(landings._made) == 2
    for seed in range(5):
        assert BEHIND in world.recalled(world.encoded(world.work(seed))).decision
    assert len(landings._made) == 2


def test_many_callers_at_once_get_their_own_answers(open_world: Open) -> None:
    world = open_world("ivf-flat", lexical=True)
    expected = [world.recalled(world.encoded(world.work(seed), ahead=False)) for seed in range(12)]
    problems: list[BaseException] = []

    def ask(first: int) -> None:
        try:
            for turn in range(24):
                seed = (first + turn) % 12
                same(world.recalled(world.encoded(world.work(seed))), expected[seed])
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=ask, args=(first,)) for first in (0, 5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert world.dispatcher.stats().waiting == 0
