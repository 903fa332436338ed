from __future__ import annotations

import builtins
import sys
import threading
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.catalog.analysis import Analyzer, AnalyzerSpec
from searchpipe.catalog.analysis.analyzer import choose_cjk
from searchpipe.catalog.analysis.fold import _ACCENTS, _STROKES, fold
from searchpipe.catalog.analysis.words import _WORD, Words
from searchpipe.errors import ConfigError, MissingDependencyError


def analyzer(*languages: str, cjk: Any = "bigram") -> Analyzer:
    return Analyzer(AnalyzerSpec(languages=languages, cjk=cjk))


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("CAFÉ", "cafe"),
        ("Straße", "strasse"),
        ("ＡＢＣ１２", "abc12"),
        ("Łódź Ærø", "lodz aero"),
        ("İstanbul", "istanbul"),
        ("Ἀθῆναι", "αθηναι"),
        ("й", "й"),
        ("か\u3099", "が"),
        ("ｶﾞ", "ガ"),
        ("e\u0301", "e"),
    ],
)
def test_folding(text: str, folded: str) -> None:
    assert fold(text) == folded


@pytest.mark.parametrize(
    ("language", "document", "query"),
    [
        ("english", "Running shoes for women", "womens running shoe"),
        ("english", "Men's T-Shirt, 16oz", "tshirt"),
        ("english", "Water bottle 16 oz", "16oz"),
        ("english", "iPhone case", "IPHONE CASES"),
        ("german", "Kinderbücher und Schuhe", "schuh kinderbuch"),
        ("german", "Grüne Gießkannen", "gruene GIESSKANNE"),
        ("french", "Chaussures légères d'été", "chaussure legere"),
        ("french", "Crème brûlée", "creme brulee"),
        ("spanish", "Zapatillas de niños", "zapatilla nino"),
        ("russian", "Детские книги", "детская книга"),
    ],
)
def test_every_european_query_shares_a_term_with_its_document(
    language: str, document: str, query: str
) -> None:
    found = analyzer(language)
    assert set(found.query_terms(query, 64)) & set(found.document_terms(document))


def test_words_are_split_joined_and_kept() -> None:
    terms = analyzer().document_terms("Women's T-shirt, 16oz & 1.5 L H&M 3-in-1 _x_")
    assert " ".join(terms) == "women t shirt tshirt 16oz 16 oz 1.5 l h m hm 3 in 1 3in1 x"


def test_several_languages_index_the_stems_of_each() -> None:
    found = analyzer("english", "german")
    assert found.query_terms("houses", 9) == ["hous"]
    assert found.query_terms("katzen", 9) == ["katzen", "katz"]
    assert set(found.query_terms("katze", 9)) & set(found.document_terms("katzen"))


def test_unknown_languages_are_refused() -> None:
    with pytest.raises(ConfigError, match="no stemmer for 'klingon'"):
        analyzer("klingon")


@pytest.mark.parametrize(
    ("document", "query"),
    [
        ("蓝牙无线降噪耳机", "无线耳机"),
        ("女士夏季连衣裙 M码", "连衣裙"),
        ("中华人民共和国地图", "共和国"),
        ("儿童绿茶杯", "茶"),
        ("华为 Mate60 手机壳", "手机壳 mate60"),
    ],
)
def test_chinese_queries_find_their_document(document: str, query: str) -> None:
    found = analyzer("english", cjk="zh")
    terms = set(found.query_terms(query, 64))
    assert len(terms & set(found.document_terms(document))) > len(terms) / 2


def test_chinese_is_cut_into_words_rather_than_pairs() -> None:
    terms = analyzer(cjk="zh").query_terms("无线耳机降噪", 64)
    assert "降噪" in terms
    assert "机降" not in terms


@pytest.mark.parametrize(
    ("document", "query"),
    [
        ("防水スマートウォッチ", "スマートウォッチ"),
        ("附属のケーブル", "付属ケーブル"),
        ("ワイヤレスイヤホン 高音質", "イヤホン"),
        ("ﾜｲﾔﾚｽｲﾔﾎﾝ", "ワイヤレス"),
        ("子供用の自転車", "自転車"),
        ("食べるラー油", "食べた"),
        ("湯呑み茶碗", "茶"),
    ],
)
def test_japanese_queries_find_their_document(document: str, query: str) -> None:
    found = analyzer("english", cjk="ja")
    assert set(found.query_terms(query, 64)) & set(found.document_terms(document))


def test_japanese_particles_are_no_terms_unless_alone() -> None:
    found = analyzer(cjk="ja")
    assert "の" not in found.document_terms("子供用の自転車")
    assert found.query_terms("から", 64)


@pytest.mark.parametrize(
    ("document", "query"),
    [("蓝牙无线耳机", "无线"), ("蓝牙无线耳机", "机"), ("무선 이어폰", "이어폰"), ("หูฟังไร้สาย", "ไร้สาย")],
)
def test_pairs_serve_scripts_without_a_segmenter(document: str, query: str) -> None:
    found = analyzer(cjk="bigram")
    assert set(found.query_terms(query, 64)) <= set(found.document_terms(document))


def test_kana_in_a_chinese_catalog_is_still_found() -> None:
    found = analyzer(cjk="zh")
    assert set(found.query_terms("ポケモン", 64)) <= set(found.document_terms("ポケモン 卡片"))


def test_hindi_words_stay_whole() -> None:
    assert analyzer("hindi").document_terms("हिन्दी किताब")[0].startswith("हिन्द")


def test_the_catalog_decides_between_chinese_and_japanese() -> None:
    assert choose_cjk(["shoes", "Schuhe"]) is None
    assert choose_cjk(["shoes", "耳机", "手机壳"]) == "zh"
    assert choose_cjk(["東京", "イヤホン"]) == "ja"
    assert choose_cjk(["耳机"] * 50 + ["イヤホン"]) == "zh"


def test_without_the_segmenters_pairs_are_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def blocked(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.split(".")[0] in ("rjieba", "sudachipy"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr("builtins.__import__", blocked)
    for name in ("rjieba", "sudachipy"):
        monkeypatch.setitem(sys.modules, name, None)
    assert choose_cjk(["耳机"]) == "bigram"
    assert choose_cjk(["イヤホン"]) == "bigram"
    with pytest.raises(MissingDependencyError, match=r"searchpipe\[cjk\]"):
        analyzer(cjk="zh")


@pytest.mark.parametrize("text", ["", "   ", "😀🎉", "\x00\x01\x02", "\ud800\udfff", "!!! ???", "_ _"])
@pytest.mark.parametrize("mode", ["zh", "ja", "bigram"])
def test_text_without_words_has_no_terms(text: str, mode: str) -> None:
    assert analyzer("english", cjk=mode).query_terms(text, 64) == []


def test_a_query_of_a_megabyte_is_cut_and_its_terms_are_bounded() -> None:
    found = analyzer("english", cjk="ja")
    assert len(found.query_terms(" ".join(map(str, range(200_000))), 64)) == 64
    assert len(found.query_terms("東京" * 500_000, 64)) <= 64
    assert all(len(term) <= 64 for term in found.query_terms("x" * 1_000_000, 64))


@settings(max_examples=40, deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_any_text_gives_terms_that_the_index_can_hold(text: str) -> None:
    for mode in ("zh", "ja"):
        found = analyzer("english", "german", cjk=mode)
        terms = found.document_terms(text)
        assert all(term and not any(c.isspace() for c in term) for term in terms), terms
        assert all(term.encode() for term in terms)
        assert len(found.query_terms(text, 5)) <= 5


def test_one_analyzer_serves_many_threads() -> None:
    found = analyzer("english", cjk="ja")
    expected = found.document_terms("running shoes 防水スマートウォッチ")
    wrong: list[list[str]] = []

    def work() -> None:
        for _ in range(30):
            terms = found.document_terms("running shoes 防水スマートウォッチ")
            if terms != expected:
                wrong.append(terms)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@given(st.lists(st.text("ab's’-&.,01é\u0301 \t\x1c\x85\u2003_/", max_size=40), min_size=1, max_size=8))
def test_what_is_known_of_a_string_is_what_a_scan_of_the_whole_text_finds(texts: list[str]) -> None:
    words = Words(())
    for text in texts:
        expected = [
            piece
            for word in _WORD.findall(text)
            for piece in ([word] if word.isalpha() else words.terms(word))
        ]
        assert words.terms(text) == words.terms(text) == expected


def test_known_strings_are_bounded_and_not_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("searchpipe.catalog.analysis.words._MAX_KNOWN", 10)
    words = Words(("english",))
    for number in range(100):
        assert words.terms(f"shoes{number} running") == [f"shoes{number}", "run"]
        assert len(words._terms_of) <= 10
    long = "x" * 65
    assert words.terms(long) == [long[:64]]
    assert long not in words._terms_of


@given(st.text(max_size=60))
def test_letters_are_folded_wherever_they_stand(text: str) -> None:
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assert fold(text) == folded.translate(_STROKES).translate(_ACCENTS)
