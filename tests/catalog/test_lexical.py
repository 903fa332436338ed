from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog import Snapshot
from searchpipe.errors import QueryError
from tests.fakes.catalogs import snapshot_of

WORDS = [f"word{number}" for number in range(60)]


def many_rows(count: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(3)
    chosen = rng.zipf(1.4, size=(count, 8)) % len(WORDS)
    return [
        {
            "id": f"p{row}",
            "title": " ".join(WORDS[word] for word in words[:3]),
            "text": " ".join(WORDS[w] for w in words),
        }
        for row, words in enumerate(chosen)
    ]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    with snapshot_of(tmp_path_factory.mktemp("large"), many_rows(3000)) as opened:
        yield opened


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snapshot]:
    fields = {"title": 1.0, "brand": 0.5, "category": 0.3, "color": 0.3, "all": 1.0}
    with snapshot_of(tmp_path_factory.mktemp("small"), lexical_fields=fields) as opened:
        yield opened


def best_of(docs: Int32, scores: Float32, k: int, mask: Bool) -> list[tuple[int, float]]:
    return [(int(doc), float(score)) for doc, score in zip(docs, scores, strict=True) if mask[doc]][:k]


def test_the_products_that_say_it_are_found(small: Snapshot) -> None:
    docs, scores = small.lexical.search("red running shoe", 10)
    assert small.id_of(docs)[0] == "a"
    assert set(small.id_of(docs)) == {"a", "b", "d", "e"}
    assert docs.dtype == np.int32
    assert scores.dtype == np.float32
    assert (np.diff(scores) <= 0).all()


def test_every_field_is_searched_and_weighed(small: Snapshot) -> None:
    assert small.id_of(small.lexical.search("gartner", 5)[0]) == ["c"]
    assert small.id_of(small.lexical.search("toys", 5)[0]) == ["e"]
    both = small.lexical.search("red", 5, boosts={"color": 1.0})
    assert small.id_of(both[0]) == ["a"]
    doubled = small.lexical.search("red", 5, boosts={"color": 2.0})
    np.testing.assert_allclose(doubled[1], 2 * both[1], rtol=1e-5)
    assert len(small.lexical.search("red", 5, boosts={"color": 0.0, "all": -1.0})[0]) == 0
    with pytest.raises(QueryError, match=r"no lexical field 'colour'.*title"):
        small.lexical.search("red", 5, boosts={"colour": 1.0})
    for boost in (1e6, float("inf"), float("nan")):
        with pytest.raises(QueryError, match=r"boost of 'color'.*below 1e\+06"):
            small.lexical.search("red", 5, boosts={"color": boost})


@pytest.mark.parametrize(
    "text", ["", "  ", "😀", "\x00", "\ud800", "qqqq zzzz", "AND OR NOT", '"', "title:(", "a*"]
)
def test_no_text_is_a_syntax_error(small: Snapshot, text: str) -> None:
    docs, scores = small.lexical.search(text, 5)
    assert len(docs) == len(scores) <= 5


def test_k_is_bounded_by_the_catalog(small: Snapshot) -> None:
    assert len(small.lexical.search("shoes", 10**12)[0]) == 3
    assert len(small.lexical.search("shoes", 0)[0]) == 0
    assert len(small.lexical.search("shoes", -1)[0]) == 0


def test_the_order_of_scores_does_not_depend_on_k(large: Snapshot) -> None:
    docs, scores = large.lexical.search("word1 word2 word9", 3000)
    few, few_scores = large.lexical.search("word1 word2 word9", 20)
    np.testing.assert_array_equal(scores[:20], few_scores)
    np.testing.assert_array_equal(docs[:20], few)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.3, 0.9, 1.0])
def test_filters_give_the_best_of_the_allowed(large: Snapshot, share: float) -> None:
    mask = np.random.default_rng(5).random(large.count) < share
    for query in ("word1 word2", "word3 word40 word59", "word0"):
        everything = large.lexical.search(query, large.count)
        for k in (1, 10, 500):
            docs, scores = large.lexical.search(query, k, mask=mask)
            expected = best_of(*everything, k, mask)
            assert mask[docs].all()
            np.testing.assert_allclose(scores, [score for _, score in expected], rtol=1e-5)


def test_a_filter_against_the_ranking_still_gets_k(large: Snapshot) -> None:
    docs, _ = large.lexical.search("word1", large.count)
    mask = np.zeros(large.count, np.bool_)
    mask[docs[-5:]] = True  # the worst five, far below what is fetched first
    assert set(large.lexical.search("word1", 5, mask=mask)[0].tolist()) == set(docs[-5:].tolist())


def test_a_mask_of_another_length_is_refused(small: Snapshot) -> None:
    with pytest.raises(QueryError, match="3 entries"):
        small.lexical.search("shoes", 5, mask=np.ones(3, np.bool_))


def test_documents_in_chinese_and_japanese_are_found_through_a_snapshot(tmp_path: Path) -> None:
    chinese = [
        {"id": "ear", "title": "蓝牙无线降噪耳机", "brand": "华为"},
        {"id": "dress", "title": "女士夏季连衣裙", "text": "轻薄透气"},
        {"id": "cup", "title": "儿童绿茶杯"},
    ]
    with snapshot_of(tmp_path / "zh", chinese) as snapshot:
        assert snapshot.manifest.analyzer.cjk == "zh"
        for query, wanted in (("无线耳机", "ear"), ("连衣裙", "dress"), ("茶", "cup"), ("华为", "ear")):
            assert snapshot.id_of(snapshot.lexical.search(query, 1)[0]) == [wanted]
    japanese = [
        {"id": "watch", "title": "防水スマートウォッチ"},
        {"id": "cable", "title": "附属の充電ケーブル"},
        {"id": "bike", "title": "子供用の自転車"},
    ]
    with snapshot_of(tmp_path / "ja", japanese) as snapshot:
        assert snapshot.manifest.analyzer.cjk == "ja"
        for query, wanted in (("ｽﾏｰﾄｳｫｯﾁ", "watch"), ("付属ケーブル", "cable"), ("自転車", "bike")):
            assert snapshot.id_of(snapshot.lexical.search(query, 1)[0]) == [wanted]


def test_documents_in_german_and_french_are_found_through_a_snapshot(tmp_path: Path) -> None:
    rows = [
        {"id": "books", "title": "Kinderbücher für Mädchen"},
        {"id": "can", "title": "Gießkanne aus Zink"},
        {"id": "shoes", "title": "Chaussures légères d'été"},
    ]
    with snapshot_of(tmp_path, rows, languages=("german", "french")) as snapshot:
        for query, wanted in (("kinderbuch", "books"), ("GIESSKANNEN", "can"), ("chaussure legere", "shoes")):
            assert snapshot.id_of(snapshot.lexical.search(query, 1)[0]) == [wanted]


def test_many_threads_get_what_one_gets(large: Snapshot) -> None:
    queries = [f"{first} {second}" for first, second in pairwise(WORDS)]
    expected = [large.lexical.search(query, 50)[0].tolist() for query in queries]
    wrong: list[str] = []

    def work() -> None:
        for query, docs in zip(queries, expected, strict=True):
            if large.lexical.search(query, 50)[0].tolist() != docs:
                wrong.append(query)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
