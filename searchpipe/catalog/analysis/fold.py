"""One spelling for what readers take for the same: width, case and accents."""

from __future__ import annotations

import re
import unicodedata

# Letters that Unicode does not decompose, although readers type them without the stroke.
_STROKES = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ё": "е"}
)


class _AccentTable(dict[int, str]):
    """Letter -> letter without accents, for Latin and Greek, filled as letters are met.

    Marks of other scripts stay: in kana, Cyrillic or Devanagari they tell letters apart.
    """

    def __missing__(self, code: int) -> str:
        letter = chr(code)
        parts = unicodedata.normalize("NFD", letter)
        folded = letter
        if len(parts) > 1 and unicodedata.name(parts[0], "").startswith(("LATIN", "GREEK")):
            folded = parts[0]
        elif 0x300 <= code <= 0x36F:
            folded = ""
        self[code] = folded
        return folded


_ACCENTS = _AccentTable()
# Only these change; translating a whole text costs several times what finding them does.
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def fold(text: str) -> str:
    """NFKC, case folding, and no accents on Latin and Greek letters."""
    if text.isascii():
        return text.lower()
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Case folding can undo the composition (of the dotted capital I, for one).
    return _NOT_ASCII.sub(_without_accents, unicodedata.normalize("NFKC", folded))


def _without_accents(letters: re.Match[str]) -> str:
    return letters.group().translate(_STROKES).translate(_ACCENTS)
