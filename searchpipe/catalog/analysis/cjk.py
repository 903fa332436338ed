"""Words of scripts that are written without spaces."""

from __future__ import annotations

import re
import threading
from typing import Any, Protocol

from searchpipe.catalog.analysis.words import MAX_TERM_CHARACTERS
from searchpipe.catalog.optional import require

_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
# Hangul syllables and the scripts of Thailand, Laos, Myanmar and Cambodia.
_OTHER = "\uac00-\ud7a3\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"

UNSPACED = re.compile(f"[{_HAN}{_KANA}]+|[{_OTHER}]+")
HAN_OR_KANA = re.compile(f"[{_HAN}{_KANA}]")
KANA = re.compile(f"[{_KANA}]")
_HAN_OR_KANA_RUN = re.compile(f"[{_HAN}{_KANA}]+")
_HAN_RUN = re.compile(f"[{_HAN}]+|[{_KANA}]+")

# Sudachi refuses more than 49,149 bytes at once; both slow down on long runs.
_LONGEST_RUN = 2000


class Segmenter(Protocol):
    """Cuts runs of one script family into words. Safe from many threads."""

    def document(self, run: str) -> list[str]:
        """Terms to index, more of them than a query asks for."""
        ...

    def query(self, run: str) -> list[str]:
        """Terms to look for."""
        ...


class Bigrams:
    """Overlapping pairs of characters; documents also have the single ones, so that one is found."""

    def document(self, run: str) -> list[str]:
        return [*run, *_pairs(run)] if len(run) > 1 else [run]

    def query(self, run: str) -> list[str]:
        return _pairs(run) if len(run) > 1 else [run]


class Chinese:
    """jieba's words for Han characters, bigrams for kana.

    Longer words come with the shorter ones in them; documents also have the characters.

    Raises:
        MissingDependencyError: without the package rjieba.

    """

    def __init__(self) -> None:
        self._jieba: Any = require("rjieba", "cjk")
        self._bigrams = Bigrams()

    def document(self, run: str) -> list[str]:
        terms: list[str] = []
        for part in _HAN_RUN.findall(run):
            if KANA.match(part):
                terms += self._bigrams.document(part)
                continue
            words = self._jieba.cut_for_search(part)
            terms += words
            # Only what one-character words do not cover yet.
            terms += [letter for word in self._jieba.cut(part) if len(word) > 1 for letter in word]
        return terms

    def query(self, run: str) -> list[str]:
        terms: list[str] = []
        for part in _HAN_RUN.findall(run):
            terms += self._bigrams.query(part) if KANA.match(part) else self._jieba.cut_for_search(part)
        return terms


class Japanese:
    """Sudachi's short units in their normalised form (so that spellings of one word agree).

    Particles and auxiliaries are dropped. Documents also have the characters of Han words.

    Raises:
        MissingDependencyError: without the packages sudachipy and sudachidict-core.

    """

    _DROPPED = frozenset({"助詞", "助動詞", "補助記号", "空白"})

    def __init__(self) -> None:
        self._sudachi: Any = require("sudachipy", "cjk")
        require("sudachidict_core", "cjk")
        self._dictionary: Any = self._sudachi.Dictionary()
        # A tokenizer serves one thread at a time; the dictionary behind it is shared.
        self._local = threading.local()

    def document(self, run: str) -> list[str]:
        words = self._words(run)
        letters = [letter for word in words if len(word) > 1 for letter in word if not KANA.match(letter)]
        return words + letters

    def query(self, run: str) -> list[str]:
        return self._words(run)

    def _words(self, run: str) -> list[str]:
        tokenizer = getattr(self._local, "tokenizer", None)
        if tokenizer is None:
            make = getattr(self._dictionary, "tokenizer", None) or self._dictionary.create
            tokenizer = self._local.tokenizer = make(mode=self._sudachi.SplitMode.A)
        found = list(tokenizer.tokenize(run))
        words = [word.normalized_form() for word in found if word.part_of_speech()[0] not in self._DROPPED]
        # A query such as "から" is a particle alone: better found literally than not at all.
        return words or [word.normalized_form() for word in found]


class Unspaced:
    """Segments every run of an unspaced script in a text, by what fits the script. Safe from many threads."""

    def __init__(self, mode: str) -> None:
        self._bigrams = Bigrams()
        self._han: Segmenter = Chinese() if mode == "zh" else Japanese() if mode == "ja" else self._bigrams

    def terms(self, run: str, *, query: bool) -> list[str]:
        """Return the terms of one match of :data:`UNSPACED`."""
        segmenter = self._han if _HAN_OR_KANA_RUN.match(run) else self._bigrams
        terms: list[str] = []
        for start in range(0, len(run), _LONGEST_RUN):
            piece = run[start : start + _LONGEST_RUN]
            terms += segmenter.query(piece) if query else segmenter.document(piece)
        return [term[:MAX_TERM_CHARACTERS].strip() for term in terms if term.strip()]


def _pairs(run: str) -> list[str]:
    return [run[start : start + 2] for start in range(len(run) - 1)]
