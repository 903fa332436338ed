"""Words of scripts that separate them: split, joined at hyphens, and stemmed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import Stemmer

from searchpipe.errors import ConfigError

MAX_TERM_CHARACTERS = 64

# Letters and digits; outside ASCII also the vowel signs of Hebrew, Arabic and the
# scripts of India, which Python does not count as parts of a word.
_ASCII = "[a-z0-9]"
_ANY = r"(?:[^\W_]|[\u0591-\u05bd\u064b-\u0652\u0670\u0900-\u0963\u0980-\u0dff])"
# Numbers keep their decimal point, words with hyphens and apostrophes come whole.
_PATTERN = r"\d+(?:[.,]\d+)+{0}*|{0}+(?:['’\-&]{0}+)*"
_ASCII_WORD = re.compile(_PATTERN.format(_ASCII))
_ANY_WORD = re.compile(_PATTERN.format(_ANY))
_JOINT = re.compile(r"['’\-&]")
_QUANTITY = re.compile(r"(\d+(?:[.,]\d+)*)([^\W\d_]{1,4})")


class Words:
    """Splits folded text into stemmed terms. For one thread: Snowball's stemmers keep state.

    ``t-shirt`` gives t, shirt and tshirt; ``women's`` gives women; ``16oz``
    gives 16oz, 16 and oz. A word is indexed under its stem in every language.

    Raises:
        ConfigError: for a language that Snowball does not know.

    """

    def __init__(self, languages: Iterable[str]) -> None:
        known = Stemmer.algorithms()
        self._stemmers: list[Any] = []
        for language in languages:
            if language not in known:
                raise ConfigError(
                    f"There is no stemmer for {language!r}.", cure=f"Use one of {', '.join(known)}."
                )
            self._stemmers.append(Stemmer.Stemmer(language))

    def terms(self, text: str) -> list[str]:
        """Return the terms of ``text``, which is folded, in its order and with repetitions."""
        words: list[str] = []
        for word in (_ASCII_WORD if text.isascii() else _ANY_WORD).findall(text):
            if word.isalpha():
                words.append(word)
            else:
                words += _parts(word)
        words = [word if len(word) <= MAX_TERM_CHARACTERS else word[:MAX_TERM_CHARACTERS] for word in words]
        if not self._stemmers:
            return words
        stems = [stemmer.stemWords(words) for stemmer in self._stemmers]
        if len(stems) == 1:
            found: list[str] = stems[0]
            return found
        return [stem for variants in zip(*stems, strict=True) for stem in dict.fromkeys(variants)]


def _parts(word: str) -> list[str]:
    pieces = _JOINT.split(word)
    if len(pieces) > 1 and pieces[-1] == "s":
        pieces.pop()  # the English possessive
    if len(pieces) > 1:
        joined = "".join(pieces)
        return [*pieces, joined] if len(pieces) <= 3 else pieces
    quantity = _QUANTITY.fullmatch(pieces[0])
    return [pieces[0], *quantity.groups()] if quantity else pieces
