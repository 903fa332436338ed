"""Packed rows: where they lie, how they are cut into batches, which batches are prepared."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.errors import ConfigError
from searchpipe.runtime.buckets import choose_packed_buckets
from tests.runtime.row_model import Built, packed_engine

LONGEST = 24
LENGTHS = st.lists(st.integers(1, LONGEST), max_size=12)
# Rows and tokens, the tokens at most what the rows can have.
BUCKETS = st.lists(
    st.integers(1, 8).flatmap(lambda rows: st.tuples(st.just(rows), st.integers(1, rows * LONGEST))),
    max_size=5,
    unique=True,
)


@given(LENGTHS, st.integers(0, 3), st.integers(0, 30))
def test_rows_lie_one_after_the_other(lengths: list[int], spare_rows: int, spare_tokens: int) -> None:
    rows = len(lengths) + spare_rows or 1
    tokens = min(sum(lengths) + spare_tokens or 1, rows * LONGEST)
    positions, ends, firsts, offset = _core.packed_places(
        lengths, rows=rows, tokens=tokens, longest_row=LONGEST
    )
    for found, shape in ((positions, (tokens,)), (ends, (rows + 1,)), (firsts, (rows,))):
        assert (found.dtype, found.shape) == (np.int32, shape)
    assert (offset.dtype, offset.shape) == (np.int32, (rows, LONGEST))
    present = np.array([*lengths, *[0] * (rows - len(lengths))], int)
    np.testing.assert_array_equal(ends, np.concatenate([[0], np.cumsum(present)]))
    np.testing.assert_array_equal(firsts, np.where(present > 0, ends[:-1], 0))
    counted = [place for length in lengths for place in range(length)]
    np.testing.assert_array_equal(positions, counted + [0] * (tokens - len(counted)))
    # Places of the padded matrix: with a token in order, then those without.
    matrix = np.arange(rows * LONGEST).reshape(rows, LONGEST)
    visible = np.arange(LONGEST) < present[:, None]
    np.testing.assert_array_equal(offset.ravel(), np.concatenate([matrix[visible], matrix[~visible]]))


@pytest.mark.parametrize(
    ("lengths", "options"),
    [
        ([LONGEST + 1], {}),
        ([0], {}),
        ([5, 5, 5], {}),
        ([20, 20], {"tokens": 39}),
        ([], {"tokens": 49}),
        ([], {"longest_row": 0}),
        ([], {"rows": 0}),
    ],
)
def test_rows_that_do_not_fit_are_refused(lengths: list[int], options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"fit|more tokens than|longest_row|outside"):
        _core.packed_places(lengths, **({"rows": 2, "tokens": 48, "longest_row": LONGEST} | options))


def least_cost(lengths: list[int], buckets: list[tuple[int, int]], costs: list[float]) -> float:
    """Try every way to cut."""

    @cache
    def best(begin: int) -> float:
        if begin == len(lengths):
            return 0.0
        return min(
            cost + best(end)
            for end in range(begin + 1, len(lengths) + 1)
            for (rows, tokens), cost in zip(buckets, costs, strict=True)
            if end - begin <= rows and sum(lengths[begin:end]) <= tokens
        )

    return best(0)


@given(LENGTHS, BUCKETS, st.randoms(use_true_random=False))
def test_cuts_are_whole_fit_and_cost_the_least(
    lengths: list[int], some: list[tuple[int, int]], random: np.random.Generator
) -> None:
    buckets = [*some, (2, LONGEST)] if (2, LONGEST) not in some else some
    costs = [random.uniform(0.1, 5.0) for _ in buckets]
    cuts = _core.cut_into_batches(lengths, buckets, [(cost, 0.0) for cost in costs], longest_row=LONGEST)
    assert [row for begin, end, _, _ in cuts for row in range(begin, end)] == list(range(len(lengths)))
    total = 0.0
    for begin, end, rows, tokens in cuts:
        assert end - begin <= rows
        assert sum(lengths[begin:end]) <= tokens
        total += costs[buckets.index((rows, tokens))]
    assert total == pytest.approx(least_cost(lengths, buckets, costs))


def test_what_cannot_be_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="a row of 25 tokens fits no bucket"):
        _core.cut_into_batches([25], [(2, LONGEST)], [(1.0, 0.0)], longest_row=LONGEST)
    with pytest.raises(ValueError, match="no exact shape"):
        _core.cut_into_batches([3], [(2, LONGEST)], [(1.0, 0.0)], longest_row=LONGEST, exact_shape=True)


def test_buckets_go_up_in_steps() -> None:
    assert choose_packed_buckets(max_rows=64, longest_row=32, token_step=512) == [
        (8, 128),
        (16, 256),
        (32, 512),
        (64, 1024),
        (64, 1536),
        (64, 2048),
    ]
    assert choose_packed_buckets(max_rows=1, longest_row=100) == [(1, 100)]
    assert choose_packed_buckets()[-1] == (256, 32_768)


@given(st.integers(1, 300), st.integers(1, 200), st.integers(1, 3000))
def test_chosen_buckets_are_possible(max_rows: int, longest_row: int, token_step: int) -> None:
    buckets = choose_packed_buckets(max_rows=max_rows, longest_row=longest_row, token_step=token_step)
    lengths = [longest_row] * max_rows
    cuts = _core.cut_into_batches(
        lengths, buckets, [(float(tokens), 0.0) for _, tokens in buckets], longest_row=longest_row
    )
    assert sum(end - begin for begin, end, _, _ in cuts) == max_rows
    assert buckets[-1] == (max_rows, max_rows * longest_row)


def test_impossible_buckets() -> None:
    with pytest.raises(ConfigError, match="token_step 0"):
        choose_packed_buckets(token_step=0)


@pytest.mark.parametrize(
    ("buckets", "options", "message"),
    [
        ([(2, 49)], {}, "bucket 2 x 49 has more tokens than 2 rows of 24"),
        ([(4, 23)], {}, "no bucket has the tokens of the longest row, 24"),
        ([(4, 48)], {"inputs": 3}, "takes 5 inputs or, with token types, 6, not 3"),
        ([(4, 48)], {"longest_row": -1}, "longest_row is -1"),
        ([(4, 48)], {"longest_row": 1 << 20}, "longest_row is 1048576"),
    ],
)
def test_impossible_shapes_are_refused(
    device: _core.Device, buckets: list[tuple[int, int]], options: dict[str, int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _core.GraphEngine(device, buckets, **({"inputs": 6, "longest_row": LONGEST} | options))


def test_inputs_lie_apart(device: _core.Device) -> None:
    engine = _core.GraphEngine(device, [(3, 40), (8, 100)], inputs=6, longest_row=LONGEST)
    inputs, output = engine.addresses(3, 40)
    assert all(address % 256 == 0 for address in [*inputs, output])
    sizes = [40, 40, 4, 3, 3 * LONGEST, 40]
    arrays = sorted(zip(inputs, sizes, strict=True))
    assert all(end - begin >= 4 * size for (begin, size), (end, _) in pairwise(arrays))
    assert engine.longest_row == LONGEST


def test_packed_and_padded_lanes_are_not_mixed(device: _core.Device) -> None:
    lanes = []
    for longest_row, inputs in ((16, 6), (0, 3)):
        engine = _core.GraphEngine(device, [(4, 16)], inputs=inputs, longest_row=longest_row)
        engine.set_enqueue(lambda *_: None)
        engine.prepare(capture=False)
        lanes.append(engine)
    with pytest.raises(ValueError, match="share device, buckets, layout"):
        _core.StagingRing(lanes)


def scorer_of(device: _core.Device, buckets: list[tuple[int, int]], **options: int) -> Built:
    calls: list[tuple[int, int]] = []
    engine = packed_engine(device, buckets, calls)
    ring = _core.StagingRing([engine])
    return Built(_core.Scorer(ring, **options), ring, calls, [engine])


def test_a_batch_ends_by_its_tokens_and_wastes_only_its_end(device: _core.Device) -> None:
    built = scorer_of(device, [(64, 24)])
    assert (built.executor.packed, built.executor.longest_row, built.executor.inputs) == (True, 24, 6)
    assert built.executor.buckets == [(64, 1024)]
    texts = [np.full(n % 20, 7, np.int32) for n in range(60)]  # 11.5 tokens on average with [CLS] and [SEP]
    ticket = built.scorer.submit_texts(texts, cls_id=1, sep_id=2)
    assert ticket.wait(30)
    stats = built.scorer.stats()
    real = sum(len(text) + 2 for text in texts)
    assert (stats.batches, stats.real_tokens, stats.padded_tokens) == (1, real, 1024)
    ticket = built.scorer.submit_texts([np.full(22, 7, np.int32)] * 64, cls_id=1, sep_id=2)
    assert ticket.wait(30)
    assert built.scorer.stats().batches == 3  # 1,536 tokens
    built.scorer.close()


def test_requests_of_unlike_lengths_share_a_batch(device: _core.Device) -> None:
    built = scorer_of(device, [(64, 24)], max_queued_rows=1000)
    first = built.scorer.submit_texts([np.full(22, 7, np.int32)] * 200, cls_id=1, sep_id=2)
    tickets = [built.scorer.submit_texts([np.full(n, 7, np.int32)], cls_id=1, sep_id=2) for n in range(22)]
    assert all(ticket.wait(30) for ticket in [first, *tickets])
    assert built.scorer.stats().rows == 222
    built.scorer.close()


def test_a_host_engine_takes_no_packed_rows() -> None:
    executor = _core.HostExecutor(lambda *_: None, [(4, 16), (2, 32)])
    assert (executor.packed, executor.longest_row) == (False, 32)
