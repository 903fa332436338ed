from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.catalog import Snapshot
from searchpipe.engine.query_log import LoggedQuery, QueryCounter, read_query_log
from searchpipe.engine.strata import count_words, even_shares, main_category, merge_rare, traffic_strata
from searchpipe.engine.traffic import Traffic, open_traffic, read_traffic
from searchpipe.errors import RecipeError
from tests.conftest import World
from tests.fakes.catalogs import snapshot_of, write_jsonl


def counted(queries: list[LoggedQuery]) -> dict[str, int]:
    return {query.text: query.count for query in queries}


def test_spellings_of_one_query_are_counted_together(tmp_path: Path) -> None:
    log = write_jsonl(
        tmp_path / "log.jsonl",
        [{"query": "Red  Shoes"}, {"query": "red shoes", "count": 3}, {"query": "hose", "clicks": ["c"]}],
    )
    queries, notes = read_query_log(log)
    assert counted(queries) == {"Red Shoes": 4, "hose": 1}
    assert (notes.lines, notes.searches, notes.broken) == (3, 5, 0)


def test_broken_lines_are_counted_and_named(tmp_path: Path) -> None:
    lines: list = [{"query": f"q{n}"} for n in range(20)]
    lines[3:3] = ["{nothing", {"text": "no query"}, {"query": 7}, b'{"query": "\xff"}']
    lines += [{"query": "  "}, "", {"query": "z", "count": 0}]
    queries, notes = read_query_log(write_jsonl(tmp_path / "log.jsonl", lines))
    assert len(queries) == 20
    assert (notes.broken, notes.blank) == (5, 1)
    assert [number for number, _ in notes.examples] == [4, 5, 6, 7, 27]
    assert "query" in notes.examples[1][1]


def test_a_log_that_is_mostly_broken_is_refused(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", [{"query": "a"}, "b", {"q": "c"}])
    with pytest.raises(RecipeError, match=r"2 of 3 lines .*line 2: .*line 3: "):
        read_query_log(log)


@pytest.mark.parametrize("content", [b"", b'{"query": " "}\n'])
def test_a_log_without_queries_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match="holds no query"):
        read_query_log(path)


def test_a_log_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        read_query_log(tmp_path / "none.jsonl")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"query": "a"}\n' * 1000)[:-20])
    with pytest.raises(RecipeError, match="broken gzip"):
        read_query_log(cut)


def test_a_compressed_log_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"query": "a"}\n{"query": "b", "count": 2}\n'))
    assert counted(read_query_log(path)[0]) == {"b": 2, "a": 1}


def test_a_log_of_too_many_queries_is_sampled_and_its_head_is_found() -> None:
    counter = QueryCounter(limit=400)
    heavy = {f"heavy {n}": 2000 + n for n in range(10)}
    rng = np.random.default_rng(0)
    stream = [f"tail {n}" for n in range(20_000)] + [text for text, n in heavy.items() for _ in range(n)]
    for place in rng.permutation(len(stream)):
        counter.add(LoggedQuery(stream[place], 1))
    queries = counter.queries()
    assert len(queries) <= 600
    found = {query.text: query for query in queries}
    for text, count in heavy.items():
        assert found[text].weight == 1.0
        assert count - counter.error <= found[text].count <= count
    assert 0 < counter.error <= len(stream) * 4 / 400
    tail = [query for query in queries if query.text.startswith("tail")]
    assert all(query.count == 1 for query in tail)
    # The sample stands for about as many different queries as there were (a share of 1/64 or so of them).
    assert sum(query.weight for query in tail) == pytest.approx(20_000, rel=0.35)


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=400), st.integers(8, 20))
def test_memory_is_bounded_and_sampled_counts_are_exact(stream: list[int], limit: int) -> None:
    counter = QueryCounter(limit=limit)
    for number in stream:
        counter.add(LoggedQuery(str(number), 1))
    truth = Counter(map(str, stream))
    queries = counter.queries()
    assert len(queries) <= 2 * limit
    for query in queries:
        assert truth[query.text] - counter.error <= query.count <= truth[query.text]
    if len(truth) <= limit:
        assert counted(queries) == dict(truth)
        assert {query.weight for query in queries} == {1.0}


def test_head_torso_and_tail_by_the_share_of_searches() -> None:
    # Middles of their shares: 0.2, 0.55, 0.8 for the two of 10 together, 0.95 for those of 5.
    assert traffic_strata([40, 30, 10, 10, 5, 5], [1] * 6) == [
        "head",
        "torso",
        "tail",
        "tail",
        "tail",
        "tail",
    ]


def test_queries_seen_once_are_tail() -> None:
    assert traffic_strata([1, 1, 1], [1] * 3) == ["tail"] * 3
    assert traffic_strata([1000, 1], [1, 5000]) == ["head", "tail"]


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.randoms())
def test_strata_depend_on_counts_alone(counts: list[int], random) -> None:
    names = traffic_strata(counts, [1] * len(counts))
    order = list(range(len(counts)))
    random.shuffle(order)
    again = traffic_strata([counts[i] for i in order], [1] * len(counts))
    assert again == [names[i] for i in order]
    rank = {"head": 0, "torso": 1, "tail": 2}
    by_count = sorted(zip(counts, names, strict=True), key=lambda pair: -pair[0])
    assert [rank[name] for _, name in by_count] == sorted(rank[name] for name in names)


def test_words_are_counted_in_every_script() -> None:
    assert count_words("Nike's red-shoe, 10") == 5
    assert count_words("赤い靴") == 3
    assert count_words("") == 0


def test_the_category_is_the_one_of_most_documents(tmp_path: Path) -> None:
    with snapshot_of(tmp_path) as snapshot:
        assert main_category(snapshot, np.array([2, 0, 1], np.int32)) == "Shoes"
        assert main_category(snapshot, np.array([2, 0], np.int32)) == "Garden"
        assert main_category(snapshot, np.array([], np.int32)) == "none"
        assert main_category(snapshot, np.array([0], np.int32), "price") == "none"


def test_rare_categories_are_one_stratum() -> None:
    assert merge_rare(["a"] * 60 + ["b"] * 1 + ["c"] * 39, [1.0] * 100)[60] == "other"
    assert merge_rare(["a"] * 60 + ["b"] * 1 + ["c"] * 39, [1.0] * 60 + [5.0] + [1.0] * 39)[60] == "b"


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=12), st.integers(0, 200))
def test_even_shares_fill_what_there_is(sizes: list[int], total: int) -> None:
    given_rows = even_shares(sizes, total)
    assert given_rows.sum() == min(total, sum(sizes))
    assert all(given_rows <= np.array(sizes, int))
    largest = max(given_rows, default=0)
    # A group that got less than another by more than one is full.
    assert all(rows == size or rows >= largest - 1 for rows, size in zip(given_rows, sizes, strict=True))


@pytest.fixture(scope="module")
def traffic(world: World):
    found = open_traffic(world.files.query_log, world.snapshot)
    yield found
    found.close()


def test_queries_of_the_demo_have_every_stratum(world: World, traffic: Traffic) -> None:
    log = Counter(" ".join(text.split()).casefold() for text in world.queries)
    assert {query.text.casefold(): query.count for query in traffic.queries} == dict(log)
    for query in traffic.queries:
        assert set(query.strata) == {"traffic", "category", "length"}
    shares = traffic.shares()
    assert all(sum(of_name.values()) == pytest.approx(1.0) for of_name in shares.values())
    assert len(shares["category"]) > 3


def test_pairs_are_of_recalled_documents_and_seeded(traffic: Traffic) -> None:
    pairs = traffic.pairs(3, 500)
    assert pairs == traffic.pairs(3, 500)
    assert pairs != traffic.pairs(4, 500)
    assert len({(pair.query_text, pair.doc) for pair in pairs}) == len(pairs) == 500
    by_text = {query.text: query for query in traffic.queries}
    for pair in pairs[:50]:
        assert pair.strata == by_text[pair.query_text].strata
        assert pair.doc in traffic.candidates(by_text[pair.query_text])


def test_every_stratum_of_the_traffic_is_in_the_pairs(traffic: Traffic) -> None:
    pairs = traffic.pairs(1, 600)
    for name, values in traffic.shares().items():
        drawn = Counter(pair.strata[name] for pair in pairs)
        assert min(drawn[value] for value in values) >= 2


def test_pairs_end_where_the_snapshot_ends(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", [{"query": "running"}, {"query": "garden"}, {"query": "zzz"}])
    traffic = read_traffic(log, snapshot_of(tmp_path / "s"))
    pairs = traffic.pairs(0, 1000)
    # Neighbours of the first document fill the list: every product is a candidate, of the two that match.
    assert Counter(pair.query_text for pair in pairs) == {"running": 5, "garden": 5}


def test_filters_bound_the_candidates(tmp_path: Path) -> None:
    rows = [
        {"query": "running", "filters": {"color": "red"}},
        {"query": "shoes", "filters": {"no such column": 1}},
    ]
    traffic = read_traffic(write_jsonl(tmp_path / "log.jsonl", rows), snapshot_of(tmp_path / "s"))
    found = {query.text: traffic.candidates(query).tolist() for query in traffic.queries}
    assert found["running"] == [0]
    assert len(found["shoes"]) == 5


def test_fewer_queries_are_drawn_evenly_of_the_strata(tmp_path: Path) -> None:
    rows = [{"query": f"head {n}", "count": 1000} for n in range(10)]
    rows += [{"query": f"torso {n}", "count": 100} for n in range(50)]
    rows += [{"query": f"tail {n}"} for n in range(4000)]
    traffic = read_traffic(write_jsonl(tmp_path / "log.jsonl", rows), None, max_queries=60)
    kept = Counter(query.strata["traffic"] for query in traffic.queries)
    assert kept == {"head": 10, "torso": 25, "tail": 25}
    assert sum(query.weight for query in traffic.queries) == pytest.approx(4060)
    assert traffic.shares()["traffic"]["head"] == pytest.approx(10_000 / 19_000)


def test_pairs_need_a_snapshot(tmp_path: Path) -> None:
    log = write_jsonl(tmp_path / "log.jsonl", [{"query": "a", "labels": {"p": 3}}])
    traffic = read_traffic(log, None)
    assert traffic.queries[0].labels == {"p": 3}
    with pytest.raises(RecipeError, match="snapshot"):
        traffic.pairs(0, 10)
    with pytest.raises(RecipeError, match="--log"):
        open_traffic(None, None)


def test_a_snapshot_is_closed_when_the_log_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(json.dumps({"query": ""}) + "\n")
    with pytest.raises(RecipeError):
        open_traffic(tmp_path / "log.jsonl", world.snapshot)
    with Snapshot.open(world.snapshot) as snapshot:
        assert snapshot.count == 400
