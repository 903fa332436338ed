"""The analysis that a snapshot was built with, and that its queries therefore need."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Literal

import msgspec

from searchpipe.catalog.analysis.cjk import HAN_OR_KANA, KANA, UNSPACED, Unspaced
from searchpipe.catalog.analysis.fold import fold
from searchpipe.catalog.analysis.words import Words
from searchpipe.catalog.settings import CjkMode
from searchpipe.errors import MissingDependencyError

# Any of it that is larger cannot be a query, and must not cost its time.
MAX_QUERY_CHARACTERS = 4096
_JAPANESE_SHARE = 0.1


class AnalyzerSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What decides about the terms; kept in the manifest.

    Attributes:
        version: raised whenever the same spec gives other terms.
        languages: Snowball algorithms.
        cjk: ``zh`` (jieba), ``ja`` (Sudachi) or ``bigram``, for Han characters and kana.

    """

    version: Literal[1] = 1
    languages: tuple[str, ...] = ("english",)
    cjk: CjkMode = "bigram"


class Analyzer:
    """Turns text into terms. Safe from many threads.

    Raises:
        ConfigError: for an unknown language.
        MissingDependencyError: when the segmenter that the spec names is not installed.

    """

    def __init__(self, spec: AnalyzerSpec) -> None:
        self.spec = spec
        self._unspaced = Unspaced(spec.cjk)
        self._local = threading.local()
        self._words()

    def document_terms(self, text: str) -> list[str]:
        """Return the terms to index, in the order of the text and with repetitions."""
        return self._terms(fold(text), query=False)

    def query_terms(self, text: str, limit: int) -> list[str]:
        """Return the first ``limit`` distinct terms of a query; text over 4,096 characters is cut off."""
        return list(dict.fromkeys(self._terms(fold(text[:MAX_QUERY_CHARACTERS]), query=True)))[:limit]

    def _terms(self, text: str, *, query: bool) -> list[str]:
        words = self._words()
        if text.isascii() or not UNSPACED.search(text):
            return words.terms(text)
        terms: list[str] = []
        done = 0
        for run in UNSPACED.finditer(text):
            terms += words.terms(text[done : run.start()])
            terms += self._unspaced.terms(run.group(), query=query)
            done = run.end()
        return terms + words.terms(text[done:])

    def _words(self) -> Words:
        words: Words | None = getattr(self._local, "words", None)
        if words is None:
            words = self._local.words = Words(self.spec.languages)
        return words


def choose_cjk(texts: Iterable[str]) -> CjkMode | None:
    """Choose what should segment these texts: None as long as there is no Han character or kana among them.

    Japanese if at least a tenth of the texts with such characters has kana,
    else Chinese; bigrams where the segmenter is not installed.
    """
    any_cjk = with_kana = 0
    for text in texts:
        if not text.isascii() and HAN_OR_KANA.search(text):
            any_cjk += 1
            with_kana += KANA.search(text) is not None
    if not any_cjk:
        return None
    mode: CjkMode = "ja" if with_kana >= _JAPANESE_SHARE * any_cjk else "zh"
    try:
        Unspaced(mode)
    except MissingDependencyError:
        return "bigram"
    return mode
