"""Vectors of queries that are asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from searchpipe.arrays import Float32, Int32
from searchpipe.cache import BoundedCache, uncached
from searchpipe.gate import ComputeGate
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.forecast import Forecast
from searchpipe.stages.base import Work
from searchpipe.stages.encode import Encode
from tests.conftest import World
from tests.fakes.hashed_stages import HashedVectors
from tests.stages.conftest import make_work

__all__ = ["make_work"]

Make = Callable[..., Work]


class Counting(HashedVectors):
    """Gives rows of a batch, as engines do."""

    def __init__(self) -> None:
        self.calls = 0
        self.broken = False

    def encode(self, token_ids: list[Int32], **_: Any) -> Float32:
        self.calls += 1
        rows = super().encode([*token_ids] * 8)
        return np.full_like(rows, np.nan) if self.broken else rows


class Predicting(Counting):
    def predict(self, lengths: Int32) -> Forecast | None:
        return Forecast(0.0, 0.0)


def encoded(stage: Encode, work: Work, tokens: list[int]) -> Float32 | None:
    work.tokens = np.array(tokens, np.int32)
    stage.run(work)
    return work.vector


@pytest.mark.parametrize("kind", [Counting, Predicting])
def test_a_vector_is_computed_once(make_work: Make, kind: type[Counting]) -> None:
    encoder, cache = kind(), BoundedCache[Float32](10)
    stage = Encode(encoder, ComputeGate(), cache=cache)
    works = [make_work(budget_ms=10_000) for _ in range(3)]
    first, second, other = (
        encoded(stage, w, t) for w, t in zip(works, ([5, 6], [5, 6], [6, 5]), strict=True)
    )
    assert first is not None
    assert second is not None
    assert other is not None
    assert first.tobytes() == second.tobytes() == kind().encode([np.array([5, 6], np.int32)])[0].tobytes()
    assert not np.array_equal(other, first)
    assert encoder.calls == 2
    assert [w.decision for w in works] == ["2 tokens", "2 tokens, cached", "2 tokens"]
    assert (cache.stats().hits, cache.stats().misses) == (1, 2)


def test_nobody_can_change_what_others_get(make_work: Make) -> None:
    stage = Encode(Counting(), ComputeGate(), cache=BoundedCache[Float32](10))
    expected = HashedVectors().encode([np.array([5, 6], np.int32)])[0]
    for _ in range(3):
        vector = encoded(stage, make_work(), [5, 6])
        assert vector is not None
        np.testing.assert_array_equal(vector, expected)
        vector[:] = 0.0


def test_bounded_and_without_the_batches_that_vectors_were_rows_of(make_work: Make) -> None:
    cache = BoundedCache[Float32](3)
    stage = Encode(Counting(), ComputeGate(), cache=cache)
    for number in range(10):
        encoded(stage, make_work(), [number])
    stats = cache.stats()
    assert (stats.entries, stats.evictions) == (3, 7)
    kept = cache.get(np.array([9], np.int32).tobytes())
    assert kept is not None
    assert kept.base is None


def test_what_failed_is_not_kept(make_work: Make) -> None:
    encoder, cache = Counting(), BoundedCache[Float32](3)
    stage = Encode(encoder, ComputeGate(), cache=cache)
    encoder.broken = True
    work = make_work()
    assert encoded(stage, work, [1]) is None
    assert work.degradations[0].reason == "bad_scores"
    encoder.broken = False
    assert encoded(stage, make_work(), [1]) is not None
    assert encoder.calls == 2


def test_a_known_vector_needs_no_time_and_no_device(make_work: Make) -> None:
    encoder, taken = Predicting(), []

    def take() -> Any:
        taken.append(SimpleNamespace(address=0, host=None))
        return taken[-1]

    stage = Encode(
        encoder,
        ComputeGate(),
        places=SimpleNamespace(take=take),
        cache=BoundedCache[Float32](3),  # type: ignore[arg-type]
    )
    works = [make_work(budget_ms=10_000), make_work(budget_ms=0.001)]
    first, second = (encoded(stage, work, [1]) for work in works)
    assert second is not None
    assert first is not None
    assert second.tobytes() == first.tobytes()
    assert works[0].device_vector is taken[0]
    assert works[1].device_vector is None  # recall copies the host's
    assert len(taken) == encoder.calls == 1
    assert not works[1].degradations


def test_going_round_the_cache(make_work: Make) -> None:
    encoder, cache = Counting(), BoundedCache[Float32](3)
    stage = Encode(encoder, ComputeGate(), cache=cache)
    with uncached():
        for _ in range(2):
            encoded(stage, make_work(), [1])
    assert encoder.calls == 2
    assert (cache.stats().entries, cache.stats().misses) == (0, 0)


@pytest.fixture(scope="module")
def two(world: World) -> Iterator[tuple[Pipeline, Pipeline]]:
    config = {**world.config, "cache": {"embeddings_entries": 100}}
    with Pipeline.open(world.snapshot, config) as kept, Pipeline.open(world.snapshot, world.config) as plain:
        yield kept, plain


def test_the_pages_of_a_real_encoder_stay_the_same(two: tuple[Pipeline, Pipeline], world: World) -> None:
    kept, plain = two
    for _ in range(2):
        for text in world.queries[:15]:
            found = kept.search(text, budget_ms=math.inf)
            assert found.hits == plain.search(text, budget_ms=math.inf).hits
            assert not found.cached
    stats = kept.caches["embeddings"]
    assert list(kept.caches) == ["embeddings"]
    assert stats.hits >= 15
    assert stats.misses == stats.entries <= 15
    assert f"embeddings: hit rate {stats.hit_rate:.1%}" in kept.describe()
    assert plain.caches == {}
