"""An encoder or a search that fails, or is late, after dense recall was begun behind the encoder."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from searchpipe.deadline import QueryCancelled
from searchpipe.errors import EngineError
from searchpipe.recall.ahead import DevicePending
from tests.fakes.cuda_driver import FakeDriver

pytest.importorskip("faiss", reason="the fake FAISS computes with faiss-cpu")

from tests.runtime.ahead_world import AheadWorld, Open, open_world, same

__all__ = ["open_world"]  # a fixture
BEHIND = "(dense begun behind the encoder)"


class Wrapped:
    """An encoder that does something after the one it asks."""

    def __init__(self, world: AheadWorld, after: Callable[[Any, dict[str, Any]], Any]) -> None:
        self.encoder, self.after = world.encoder, after
        world.encode._alone = self

    def predict_row(self, length: int) -> Any:
        return self.encoder.predict_row(length)

    def encode_row(self, token_ids: Any, **asked: Any) -> Any:
        return self.after(self.encoder.encode_row(token_ids, **asked), asked)


def test_an_encoder_that_fails_afterwards(open_world: Open) -> None:
    world = open_world(lexical=True)

    def fail(found: Any, asked: Any) -> Any:
        raise EngineError("CUDA error 700")

    Wrapped(world, fail)
    work = world.work(2)
    with pytest.raises(EngineError):
        world.encoded(work)
    assert work.device_place is None
    assert list(work.early) == ["dense"]
    world.recalled(work)
    assert work.candidates is not None
    assert list(work.candidates.scores) == ["fused", "lexical"]
    assert not work.early


def test_an_encoder_that_gives_no_numbers(open_world: Open) -> None:
    world = open_world(lexical=True)
    Wrapped(world, lambda found, asked: np.full_like(found, np.nan))
    work = world.recalled(world.encoded(world.work(2)))
    assert [d.reason for d in work.degradations] == ["bad_scores"]
    assert work.device_vector is None
    assert list(work.orders) == ["lexical", "fused"]


def test_another_engine_that_answers_after_all(open_world: Open) -> None:
    world = open_world()
    tokens = world.work(7).tokens
    assert tokens is not None

    def again(found: Any, asked: dict[str, Any]) -> Any:
        return world.encoder.encode_row(tokens, device_output=asked["device_output"])

    plain = world.recalled(world.encoded(world.work(7), ahead=False))
    Wrapped(world, again)
    work = world.encoded(world.work(2))
    assert list(work.early) == ["dense"]
    same(world.recalled(work), plain)
    assert BEHIND not in work.decision


def test_a_search_that_cannot_be_begun_is_asked_for_in_its_turn(open_world: Open) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(2), ahead=False))
    world.gpu._index.fail_next = 1
    work = world.encoded(world.work(2))
    assert not work.early
    same(world.recalled(work), plain)
    assert world.dispatcher.stats().failures == 1
    again = world.encoded(world.work(2))
    assert list(again.early) == ["dense"]
    same(world.recalled(again), plain)


def test_a_search_that_fails_is_asked_for_once_more(
    open_world: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(2), ahead=False))

    def fail(self: DevicePending, timeout_s: float) -> bool:
        raise EngineError("cuEventQuery failed")

    monkeypatch.setattr(DevicePending, "wait", fail)
    work = world.recalled(world.encoded(world.work(2)))
    same(work, plain)
    assert world.dispatcher.stats().failures == 1


def test_what_is_late_is_left_out_where_something_else_answered(open_world: Open) -> None:
    world = open_world(lexical=True)
    go = world.stalled()
    work = world.encoded(world.work(2, budget_ms=60_000))
    work.reserve_s = 59.9
    world.recalled(work)
    go.set()
    assert [(d.reason, d.given_up) for d in work.degradations] == [("deadline", "dense recall")]
    assert list(work.orders) == ["lexical", "fused"]


def test_alone_it_is_waited_for(open_world: Open) -> None:
    world = open_world()
    plain = world.recalled(world.encoded(world.work(2), ahead=False))
    go = world.stalled()
    work = world.encoded(world.work(2, budget_ms=60_000))
    work.reserve_s = 100.0
    threading.Timer(0.02, go.set).start()
    same(world.recalled(work), plain)


def test_a_caller_who_leaves_is_not_waited_for(open_world: Open) -> None:
    world = open_world()
    go = world.stalled()
    work = world.encoded(world.work(2))
    threading.Timer(0.02, work.deadline.cancel).start()
    with pytest.raises(QueryCancelled):
        world.recalled(work)
    go.set()


def test_closing_frees_what_a_query_left_behind_still_holds(open_world: Open, fake: FakeDriver) -> None:
    world = open_world()
    work = world.encoded(world.work(2))
    assert list(work.early) == ["dense"]
    world.close()
    assert (fake.device_bytes(), fake.pinned_bytes()) == (0, 0)
    with pytest.raises(EngineError):
        world.recalled(work)
