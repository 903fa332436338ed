"""Words of scripts that separate them: split, joined at hyphens, and stemmed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import chain
from typing import Any

import Stemmer

from searchpipe.errors import ConfigError

MAX_TERM_CHARACTERS = 64
_MAX_KNOWN = 32_768

# Letters and digits, and the vowel signs of Hebrew, Arabic and the scripts of India,
# which Python does not count as parts of a word.
_LETTER = r"(?:[^\W_]|[\u0591-\u05bd\u064b-\u0652\u0670\u0900-\u0963\u0980-\u0dff])"
# Numbers keep their decimal point, words with hyphens and apostrophes come whole.
_WORD = re.compile(rf"\d+(?:[.,]\d+)+{_LETTER}*|{_LETTER}+(?:['’\-&]{_LETTER}+)*")
_JOINT = re.compile(r"['’\-&]")
_QUANTITY = re.compile(r"(\d+(?:[.,]\d+)*)([^\W\d_]{1,4})")


class Words:
    """Splits folded text into stemmed terms. For one thread: Snowball's stemmers keep state.

    ``t-shirt`` gives t, shirt and tshirt; ``women's`` gives women; ``16oz``
    gives 16oz, 16 and oz. A word is indexed under its stem in every language.
    Up to 32,768 strings between white space are kept with their terms, some 10 MB.

    Raises:
        ConfigError: for a language that Snowball does not know.

    """

    def __init__(self, languages: Iterable[str]) -> None:
        known = Stemmer.algorithms()
        stemmers: list[Any] = []
        for language in languages:
            if language not in known:
                raise ConfigError(
                    f"There is no stemmer for {language!r}.", cure=f"Use one of {', '.join(known)}."
                )
            stemmers.append(Stemmer.Stemmer(language))
            stemmers[-1].maxCacheSize = 0  # whole strings are kept here instead
        self._terms_of = _KnownTerms(stemmers)

    def terms(self, text: str) -> list[str]:
        """Return the terms of ``text``, which is folded, in its order and with repetitions."""
        # No word has white space in it, and a catalog has the same strings again and again.
        return list(chain.from_iterable(map(self._terms_of.__getitem__, text.split())))


class _KnownTerms(dict[str, tuple[str, ...]]):
    """String without white space -> its terms, made when first asked for."""

    def __init__(self, stemmers: list[Any]) -> None:
        super().__init__()
        self._stemmers = stemmers

    def __missing__(self, string: str) -> tuple[str, ...]:
        words: list[str] = []
        for word in [string] if string.isascii() and string.isalpha() else _WORD.findall(string):
            words += [word] if word.isalpha() else _parts(word)
        words = [word[:MAX_TERM_CHARACTERS] for word in words]
        stems = [stemmer.stemWords(words) for stemmer in self._stemmers] or [words]
        terms = tuple(
            stems[0]
            if len(stems) == 1
            else [stem for variants in zip(*stems, strict=True) for stem in dict.fromkeys(variants)]
        )
        if len(string) <= MAX_TERM_CHARACTERS:
            if len(self) >= _MAX_KNOWN:
                self.clear()
            self[string] = terms
        return terms


def _parts(word: str) -> list[str]:
    pieces = _JOINT.split(word)
    if len(pieces) > 1 and pieces[-1] == "s":
        pieces.pop()  # the English possessive
    if len(pieces) > 1:
        joined = "".join(pieces)
        return [*pieces, joined] if len(pieces) <= 3 else pieces
    quantity = _QUANTITY.fullmatch(pieces[0])
    return [pieces[0], *quantity.groups()] if quantity else pieces
