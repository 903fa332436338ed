"""Token ids of plain text, word by word: what a BERT tokenizer gives, without its passes over the text."""

from __future__ import annotations

import json
import re
import string
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_WORDS = re.compile("[A-Za-z0-9]+|[^A-Za-z0-9 ]")
"""In printable ASCII: what BERT's pre-tokenizer splits at blanks and around each punctuation mark."""

_KEPT = 8192
"""Words whose ids are remembered: some 3 MB at most. Of what people search for, most words come again."""


class PlainWords:
    """The ids of printable ASCII, in which normalizing is lower case and nothing else. Any thread may call.

    For a text of a few words the library spends most of its time on alignments between the text and its
    normal form, which nobody asks for here. The vocabulary and the model are the library's own; what they
    gave for a word between two blanks is remembered.

    Args:
        tokenizer: a WordPiece model behind BERT's normalizer and pre-tokenizer.
        lowercase: whether its normalizer changes to lower case.
        marks: first characters of its added tokens, which are looked for before words are.
    """

    __slots__ = ("_known", "_longest", "_lowercase", "_marks", "_pieces", "_seen")

    def __init__(self, tokenizer: Tokenizer, *, lowercase: bool, marks: frozenset[str]) -> None:
        model = tokenizer.model
        self._lowercase = lowercase
        self._marks = tuple(sorted(marks))
        self._longest: int = model.max_input_chars_per_word
        self._known: Callable[[str], int | None] = tokenizer.token_to_id
        self._pieces = model.tokenize
        self._seen: dict[str, list[int]] = {}  # emptied when full; read and written one item at a time

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> PlainWords | None:
        """The short cut of a tokenizer; None if it has none because it works in another way."""
        whole = json.loads(tokenizer.to_str())
        kinds = [(whole.get(part) or {}).get("type") for part in ("normalizer", "pre_tokenizer", "model")]
        if kinds != ["BertNormalizer", "BertPreTokenizer", "WordPiece"]:
            return None
        marks = frozenset(token["content"][:1] for token in whole.get("added_tokens") or ())
        if not marks <= frozenset(string.punctuation):  # else a word might begin one, or its normal form
            return None
        return cls(tokenizer, lowercase=whole["normalizer"]["lowercase"], marks=marks)

    def ids(self, text: str) -> list[int] | None:
        """Ids without special tokens; None for text that is not plain, or may hold an added token."""
        seen, found = self._seen, []
        for word in text.split(" "):
            ids = seen.get(word)
            if ids is None:
                ids = self._look_up(word)
                if ids is None:
                    return None
            found += ids
        return found

    def _look_up(self, word: str) -> list[int] | None:
        """Ids of what stands between two blanks, remembered from now on; None as of the whole text."""
        if not (word.isascii() and word.isprintable()):
            return None
        for mark in self._marks:
            if mark in word:
                return None
        known, found = self._known, []
        for part in _WORDS.findall(word.lower() if self._lowercase else word):
            # The longest match comes first, so that a word of the vocabulary is one token.
            one = known(part)
            if one is not None and len(part) <= self._longest:
                found.append(one)
            else:
                found += [piece.id for piece in self._pieces(part)]
        if len(word) <= self._longest:
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[word] = found
        return found
