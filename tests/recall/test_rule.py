"""The rule that chooses an index stays inside the memory and its own limits."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from searchpipe.device.plan import MIB
from searchpipe.errors import ConfigError, DeviceMemoryError
from searchpipe.recall.rule import (
    FLAT_ELEMENTS,
    KINDS,
    MAX_PROBES,
    choose_index,
    default_lists,
    default_probes,
    sub_quantizers_for,
)

GIB = 1 << 30
counts = st.integers(1, 200_000_000)
dims = st.sampled_from([1, 3, 8, 64, 100, 384, 512, 768, 1024])
PRECISION = {"float32": 2, "float16": 1, "pq": 0}


@given(count=counts, dim=dims, available=st.integers(0, 1 << 42))
def test_a_choice_fits_and_a_refusal_says_what_is_missing(count, dim, available):
    # Nothing smaller exists than PQ codes and, for few vectors, the float16 numbers themselves.
    if available < min(choose_index(count, dim, 1 << 60, kind=kind).peak_bytes for kind in KINDS):
        with pytest.raises(DeviceMemoryError, match=f"{available / MIB:,.0f} MiB are available"):
            choose_index(count, dim, available)
        return
    try:
        plan = choose_index(count, dim, available)
    except DeviceMemoryError:
        # A graph is smaller than lists only for vectors so short that the rule never asks for it.
        assert available < choose_index(count, dim, 1 << 60, kind="ivf-pq").peak_bytes
        return
    assert plan.peak_bytes <= available
    assert (plan.count, plan.dim) == (count, dim)
    assert plan.reason
    assert str(f"{count:,}") in plan.line()


@given(count=counts, dim=dims, available=st.integers(1 << 20, 1 << 42), more=st.integers(0, 1 << 42))
@example(count=40_000_001, dim=1, available=1_366_985_758, more=30_516_153_213)
def test_more_memory_never_makes_the_vectors_of_a_kind_coarser(count, dim, available, more):
    try:
        less = choose_index(count, dim, available)
    except DeviceMemoryError:
        assume(False)
    plan = choose_index(count, dim, available + more)
    if plan.kind == "cagra" and less.kind == "ivf-flat":
        return  # the quicker index comes first: of short vectors its half precision fits before float32 does
    assert PRECISION[plan.codes] >= PRECISION[less.codes]


@given(count=counts, dim=dims)
def test_with_all_the_memory_only_the_size_decides(count, dim):
    plan = choose_index(count, dim, 1 << 50)
    if count * dim <= FLAT_ELEMENTS:
        assert plan.kind == "flat"
    else:
        assert plan.kind == ("ivf-flat" if count <= 10_000_000 else "cagra")
        assert plan.exact_scores


@given(count=counts, dim=dims, kind=st.sampled_from(KINDS))
def test_a_named_kind_is_taken(count, dim, kind):
    plan = choose_index(count, dim, 1 << 52, kind=kind)
    assert plan.kind == kind
    assert plan.reason == "as asked for"
    assert bool(plan.lists) == kind.startswith("ivf")
    assert bool(plan.graph_degree) == (kind == "cagra")
    assert bool(plan.sub_quantizers) == (kind == "ivf-pq")


def test_the_measured_catalog_is_an_ivf_index_with_4096_lists():
    plan = choose_index(1_000_000, 384, 100 * GIB)
    assert (plan.kind, plan.codes, plan.lists, plan.probes) == ("ivf-flat", "float32", 4096, 64)
    # 1.43 GiB of numbers, and no more than half as much again for padding, ids and growth.
    assert 1.43 * GIB < plan.index_bytes < 2.2 * GIB


def test_numbers_that_were_named_win():
    plan = choose_index(1_000_000, 384, 100 * GIB, codes="float16", lists=1000, probes=3)
    assert (plan.lists, plan.probes, plan.codes) == (1000, 3, "float16")
    assert not plan.exact_scores
    assert choose_index(50_000, 384, GIB, kind="ivf-flat", lists=4, probes=100).probes == 4


def test_less_and_less_memory_gives_narrower_numbers_then_codes_then_a_refusal():
    codes = []
    for gib in (8, 2, 1):
        plan = choose_index(1_000_000, 384, gib * GIB)
        codes.append((plan.kind, plan.codes))
    assert codes == [("ivf-flat", "float32"), ("ivf-flat", "float16"), ("ivf-pq", "pq")]
    with pytest.raises(DeviceMemoryError, match="as ivf-pq"):
        choose_index(1_000_000, 384, 100 * MIB)
    with pytest.raises(DeviceMemoryError, match="as flat"):
        choose_index(1_000_000, 384, 500 * MIB, kind="flat")


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 0},
        {"dim": 0},
        {"kind": "hnsw"},
        {"lists": 101},
        {"lists": -1},
        {"probes": MAX_PROBES + 1},
        {"codes": "pq"},
        {"kind": "ivf-pq", "codes": "float16"},
    ],
)
def test_what_cannot_be_is_refused(arguments):
    values = {"count": 100, "dim": 8, "available_bytes": GIB, **arguments}
    with pytest.raises(ConfigError):
        choose_index(values.pop("count"), values.pop("dim"), values.pop("available_bytes"), **values)


@given(counts)
def test_lists_hold_enough_and_probes_are_possible(count):
    lists = default_lists(count)
    assert lists >= 1
    assert lists == 1 or count // lists >= 39
    assert 1 <= default_probes(lists) <= min(lists, MAX_PROBES)


@given(st.integers(1, 4096))
def test_codes_divide_the_vector(dim):
    size = sub_quantizers_for(dim)
    assert dim % size == 0
    assert size * 8 <= dim or size == min(s for s in (1, 2, 3, 4) if dim % s == 0)
