"""The bounded cache against a plain model of it, under a clock and under threads."""

from __future__ import annotations

import gc
import math
import random
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.cache.bounded import OVERHEAD_BYTES, BoundedCache

KEYS = st.integers(0, 6)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), KEYS),
        st.tuples(st.just("put"), KEYS, st.integers(0, 900)),
        st.tuples(st.just("wait"), st.integers(1, 4)),
    ),
    max_size=60,
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@given(
    steps=STEPS,
    entries=st.integers(1, 4),
    room=st.one_of(st.just(math.inf), st.integers(0, 4000)),
    ttl=st.sampled_from([math.inf, 5.0]),
)
def test_it_does_what_a_plain_list_would(
    steps: list[tuple[Any, ...]], entries: int, room: float, ttl: float
) -> None:
    clock = Clock()
    cache = BoundedCache[int](entries, max_bytes=room, ttl_s=ttl, clock=clock)
    kept: list[tuple[int, int, int, float]] = []  # key, value, size, until; the latest used last
    hits = misses = evictions = expirations = bypassed = 0
    for number, step in enumerate(steps):
        if step[0] == "wait":
            clock.now += step[1]
        elif step[0] == "get":
            found = next((item for item in kept if item[0] == step[1]), None)
            if found is not None:
                kept.remove(found)
                if clock.now < found[3]:
                    kept.append(found)
                else:
                    expirations, found = expirations + 1, None
            hits, misses = hits + (found is not None), misses + (found is None)
            assert cache.get(step[1]) == (None if found is None else found[1])
        else:
            cache.put(step[1], number, step[2])
            kept = [item for item in kept if item[0] != step[1]]
            size = step[2] + OVERHEAD_BYTES
            if size > room:
                bypassed += 1
                continue
            kept.append((step[1], number, size, clock.now + ttl))
            while len(kept) > entries or sum(item[2] for item in kept) > room:
                kept.pop(0)
                evictions += 1
        stats = cache.stats()
        assert (stats.entries, stats.bytes) == (len(kept), sum(item[2] for item in kept))
        assert stats.entries <= entries
        assert stats.bytes <= room
    stats = cache.stats()
    assert (stats.hits, stats.misses) == (hits, misses)
    assert (stats.evictions, stats.expirations, stats.bypassed) == (evictions, expirations, bypassed)


def test_an_entry_is_given_out_until_its_time_and_no_longer() -> None:
    clock = Clock()
    cache = BoundedCache[str](10, ttl_s=60.0, clock=clock)
    cache.put("a", "first", 5)
    clock.now = 59.999
    assert cache.get("a") == "first"
    clock.now = 60.0  # being asked for does not make it younger
    assert cache.get("a") is None
    stats = cache.stats()
    assert (stats.expirations, stats.entries, stats.bytes) == (1, 0, 0)


def test_looking_twice_is_one_miss() -> None:
    cache = BoundedCache[str](2)
    assert math.isnan(cache.stats().hit_rate)
    assert cache.get("a", last=False) is None
    assert cache.get("a") is None
    cache.put("a", "x", 1)
    assert cache.get("a", last=False) == "x"
    assert cache.stats().hit_rate == 0.5
    cache.clear()
    assert cache.get("a") is None
    assert cache.stats().bytes == 0


def test_many_threads_keep_the_books_right() -> None:
    cache = BoundedCache[int](50, max_bytes=50 * (OVERHEAD_BYTES + 20))
    wrong: list[Any] = []
    asked = 4000

    def work(seed: int) -> None:
        keys = random.Random(seed)  # in an order that finds some even if the threads run in turn
        for _ in range(asked):
            key = keys.randrange(90)
            value = cache.get(key)
            if value is None:
                cache.put(key, key * 3, key % 40)
            elif value != key * 3:
                wrong.append((key, value))

    _together([lambda n=n: work(n) for n in range(4)])  # type: ignore[misc]
    stats = cache.stats()
    assert not wrong
    assert stats.hits + stats.misses == 4 * asked
    assert stats.hits > 0
    assert stats.evictions > 0
    assert stats.entries <= 50
    assert 0 < stats.bytes <= stats.max_bytes


@pytest.mark.parametrize("length", [200, 2000])
def test_the_estimate_is_near_what_memory_it_takes(length: int) -> None:
    cache = BoundedCache[bytes](10_000)
    gc.collect()
    tracemalloc.start()
    try:
        for number in range(4000):
            text = f"wireless headphones number {number}"
            key = ("s", "e", text, 10, (), "{}", "{}")
            content = bytes(length)
            cache.put(key, content, 4 * (len(text) + 4) + len(content))
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0.7 * taken < cache.stats().bytes < 1.4 * taken


def _together(jobs: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
