"""The short cut for plain text against the library's own way."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from searchpipe.models.plain_words import PlainWords
from searchpipe.models.shipped import engines_folder
from tests.fakes.tiny_tokenizer import SPECIAL, WORDS, save_tokenizer

REAL = engines_folder() / "bert-base-uncased.tokenizer.json"
WORD = st.sampled_from(
    ["running", "shoes", "size", "8", "iphone13", "Men's", "w/o", "[UNK]", "a" * 101, "x_y"]
)
PLAIN = st.text(string.printable[:95], max_size=40) | st.lists(WORD, max_size=8).map(" ".join)


def library(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def untouched(path: Path) -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@pytest.fixture(scope="module")
def real() -> tuple[Tokenizer, PlainWords]:
    tokenizer = untouched(REAL)
    plain = PlainWords.of(tokenizer)
    assert plain is not None
    return tokenizer, plain


@settings(max_examples=500, deadline=None)
@given(text=PLAIN)
def test_ids_are_those_of_the_library(real: tuple[Tokenizer, PlainWords], text: str) -> None:
    tokenizer, plain = real
    ids = plain.ids(text)
    if ids is None:
        assert "[" in text
    else:
        assert ids == library(tokenizer, text)


@settings(max_examples=200, deadline=None)
@given(
    text=st.lists(st.sampled_from([*WORDS, "Red", "HATS", "s", "##", "#", "[", "zz", "!"]), max_size=8).map(
        " ".join
    )
)
@pytest.mark.parametrize("lowercase", [True, False])
def test_case_is_kept_where_the_normalizer_keeps_it(text: str, lowercase: bool) -> None:
    tokenizer = tiny(normalizers.BertNormalizer(lowercase=lowercase))
    plain = PlainWords.of(tokenizer)
    assert plain is not None
    assert plain.ids(text) == library(tokenizer, text)


def test_words_are_forgotten_when_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("searchpipe.models.plain_words._KEPT", 3)
    tokenizer = untouched(REAL)
    plain = PlainWords.of(tokenizer)
    assert plain is not None
    for text in (
        "men's running shoes size 8",
        "running shoes",
        "x" * 101,
        "size 8 shoes",
        " men's  8 ",
        "",
    ) * 2:
        for _ in range(2):
            assert plain.ids(text) == library(tokenizer, text)
            assert len(plain._seen) <= 3
            assert "x" * 101 not in plain._seen


def test_ids_that_were_given_are_the_caller_s(real: tuple[Tokenizer, PlainWords]) -> None:
    first = real[1].ids("running")
    assert first
    first.append(7)
    assert real[1].ids("running") == first[:-1]


@pytest.mark.parametrize("text", ["caf\u00e9", "red\tshoe", "red\nshoe", "\u978b", "red\x7f"])
def test_other_text_is_the_library_s(real: tuple[Tokenizer, PlainWords], text: str) -> None:
    assert real[1].ids(text) is None


def test_text_that_may_hold_a_special_token_is_the_library_s(tmp_path: Path) -> None:
    content = json.loads(REAL.read_text("utf-8"))
    assert {token["content"][0] for token in content["added_tokens"]} == {"["}
    plain = PlainWords.of(Tokenizer.from_file(str(REAL)))
    assert plain is not None
    assert plain.ids("running [MASK] shoes") is None
    assert plain.ids("running ] shoes") is not None


def test_words_that_are_too_long_are_unknown(tmp_path: Path) -> None:
    long = "b" * 101
    tokenizer = untouched(save_tokenizer(tmp_path / "tokenizer.json", words=(*WORDS, long, "c" * 100)))
    plain = PlainWords.of(tokenizer)
    assert plain is not None
    assert plain.ids(f"{long} {'c' * 100}") == library(tokenizer, f"{long} {'c' * 100}")


def test_tokenizers_that_work_in_another_way_have_none() -> None:
    assert PlainWords.of(tiny(normalizers.Lowercase())) is None
    assert PlainWords.of(tiny(None)) is None
    assert PlainWords.of(tiny(normalizers.BertNormalizer(), pre_tokenizers.Whitespace())) is None
    other = Tokenizer(models.WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    other.normalizer, other.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    assert PlainWords.of(other) is None
    named = tiny(normalizers.BertNormalizer())
    named.add_tokens(["red hat"])
    assert PlainWords.of(named) is None


def tiny(normalizer: object, pre_tokenizer: object = None) -> Tokenizer:
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer or pre_tokenizers.BertPreTokenizer()
    return tokenizer
