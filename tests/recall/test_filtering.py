"""The way a filtered search begins is possible and asks for enough."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from searchpipe.recall.filtering import choose_way, fetch_size, filtered_probes
from searchpipe.recall.rule import MAX_PROBES

sizes = st.integers(1, 10_000_000)


@given(
    k=st.integers(1, 2048),
    count=sizes,
    share=st.floats(0, 1),
    max_k=st.integers(32, 2048),
    selects=st.booleans(),
)
def test_what_is_asked_for_can_be_given(k, count, share, max_k, selects):
    allowed = max(1, int(count * share))
    way, width = choose_way(k, count, allowed, max_k=max_k, selects=selects)
    assert way != "selector" or selects
    if way != "exact":
        assert min(k, allowed) <= width <= min(max_k, count)


@given(k=st.integers(1, 2048), count=sizes, allowed=sizes)
def test_an_independent_filter_leaves_enough_of_what_is_fetched(k, count, allowed):
    allowed = min(allowed, count)
    k = min(k, allowed)
    size = fetch_size(k, count, allowed)
    assert size == count or size * allowed / count >= k


def test_nothing_is_fetched_for_nobody():
    assert fetch_size(5, 100, 0) == 0


def test_the_three_ways():
    assert choose_way(100, 1_000_000, 500_000, max_k=2048, selects=False)[0] == "overfetch"
    assert choose_way(100, 1_000_000, 500_000, max_k=2048, selects=True) == ("selector", 116)
    assert choose_way(100, 1_000_000, 10_000, max_k=2048, selects=True)[0] == "exact"
    assert choose_way(10, 1_000_000, 90_000, max_k=2048, selects=False)[0] == "overfetch"
    assert choose_way(10, 1_000_000, 90_000, max_k=2048, selects=False, compares=True)[0] == "exact"
    assert choose_way(100, 1_000_000, 10_000, max_k=2048, selects=False)[0] == "exact"


@given(probes=st.integers(1, MAX_PROBES), lists=st.integers(1, 65_536), count=sizes, allowed=sizes)
def test_a_filter_reads_more_lists_but_never_too_many(probes, lists, count, allowed):
    probes, allowed = min(probes, lists), min(allowed, count)
    most = min(lists, MAX_PROBES)
    read = filtered_probes(probes, lists, count, allowed)
    assert probes <= read <= most
    if allowed < count:
        assert read == most or read >= probes * count / allowed
        assert filtered_probes(probes, lists, count, max(1, allowed // 2)) >= read


def test_few_tuned_lists_are_not_enough_under_a_filter():
    assert filtered_probes(2, 4096, 1_000_000, 500_000) == 64
    assert filtered_probes(64, 4096, 1_000_000, 500_000) == 256
    assert filtered_probes(2, 4096, 1_000_000, 1_000_000) == 2
    assert filtered_probes(0, 0, 1_000_000, 500_000) == 0
