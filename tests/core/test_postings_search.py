"""Searches that several threads work on, Python's and the core's own."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from searchpipe._core import PostingsIndex, SearchThreads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_that_share_a_search_find_what_one_finds(large: PostingsIndex, threads: int) -> None:
    boosts = [1.0] * large.fields
    random = np.random.default_rng(threads)
    for _ in range(20):
        terms = [f"w{number}" for number in random.choice(12, 4, replace=False)]
        mask = random.random(len(large)) < 0.3 if random.random() < 0.5 else None
        k = int(random.integers(1, 400))
        search = large.begin(terms, boosts=boosts, k=k, mask=None if mask is None else mask.copy())
        assert not search.wait(0.001)  # who waits does not search
        search.run(0.0)
        workers = [threading.Thread(target=search.run) for _ in range(threads)]
        for worker in workers:
            worker.start()
        assert search.wait(20.0)
        for worker in workers:
            worker.join()
        for found, expected in zip(
            search.found(), large.search(terms, boosts=boosts, k=k, mask=mask), strict=True
        ):
            np.testing.assert_array_equal(found, expected)
        assert search.seconds > 0.0
        docs = search.found()[0]
        search.run()  # nothing is left
        np.testing.assert_array_equal(search.found()[0], docs)


def test_threads_of_the_core_find_what_one_finds(large: PostingsIndex) -> None:
    boosts = [1.0] * large.fields
    random = np.random.default_rng(3)
    threads = SearchThreads(5)
    try:
        lent = set()
        for round_ in range(40):
            terms = [f"w{number}" for number in random.choice(12, 4, replace=False)]
            mask = random.random(len(large)) < 0.3 if round_ % 2 else None
            search = large.begin(terms, boosts=boosts, k=100, mask=None if mask is None else mask.copy())
            lent.add(search.share(threads, 1 + round_ % 3))
            if round_ % 4 == 0:  # freed, with all that it reads, while they may be at it
                continue
            search.run()
            assert search.wait(20.0)
            expected = large.search(terms, boosts=boosts, k=100, mask=mask)
            for found, wanted in zip(search.found(), expected, strict=True):
                np.testing.assert_array_equal(found, wanted)
        assert lent <= {0, 1, 2, 3}
        assert max(lent) > 0
    finally:
        threads.close()
    threads.close()
    late = large.begin(["w1"], boosts=boosts, k=3)
    assert late.share(threads, 3) == 0
    late.run()
    assert len(late.found()[0]) == 3


@pytest.mark.parametrize("count", [-1, 0, 257])
def test_a_number_of_threads_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} search threads"):
        SearchThreads(count)


def test_a_search_that_was_only_begun(large: PostingsIndex) -> None:
    search = large.begin(["w1"], boosts=[1.0] * large.fields, k=3)
    with pytest.raises(RuntimeError, match="has not ended"):
        search.found()
    assert search.seconds == 0.0
    for asked in ({"boosts": [], "k": 1}, {"boosts": [1.0] * large.fields, "k": 1, "mask": np.ones(2, bool)}):
        with pytest.raises(ValueError, match=r"boosts|mask"):
            large.begin(["w1"], **asked)
    nothing = large.begin(["nowhere"], boosts=[1.0] * large.fields, k=3)
    nothing.run()
    assert nothing.ended
    assert nothing.found()[0].tolist() == []
