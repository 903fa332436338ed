"""tokenize: the query's text to the token ids of the models' vocabulary."""

from __future__ import annotations

from typing import Protocol

from searchpipe.arrays import Int32
from searchpipe.stages.base import Work


class Tokenizer(Protocol):
    """What the stage needs of a tokenizer; :class:`searchpipe.models.tokenizer.TextTokenizer` is one."""

    unk_id: int

    def ids(self, text: str) -> Int32:
        """Token ids of ``text`` without special tokens, int32 ``(n,)``; any thread."""
        ...


class Tokenize:
    """Fills ``tokens`` and ``pair_tokens``, once if the encoder and the scorer read the same ids.

    A query of which a vocabulary knows nothing leaves the slot empty, and says so.

    Args:
        encoder: the encoder's tokenizer.
        scorer: the cross-encoder's tokenizer, which also made the documents' tokens; None if it is
            the same as the encoder's.
        prefix: what the encoder expects before a query.
    """

    name = "tokenize"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("tokens", "pair_tokens")
    essential = False

    def __init__(self, encoder: Tokenizer, scorer: Tokenizer | None = None, *, prefix: str = "") -> None:
        self._encoder = encoder
        self._scorer = scorer
        self._prefix = prefix

    def run(self, work: Work) -> None:
        """Tokenize the query's text."""
        text = work.query.text
        with work.step(self.name, max(1, len(text))):
            plain = self._encoder.ids(text)
            prefixed = self._encoder.ids(self._prefix + text) if self._prefix else plain
            pair = plain if self._scorer is None else self._scorer.ids(text)
        known = _knows(plain, self._encoder.unk_id)
        if known:
            work.tokens = prefixed
        if known if self._scorer is None else _knows(pair, self._scorer.unk_id):
            work.pair_tokens = pair
        if work.tokens is None or work.pair_tokens is None:
            work.degrade("unknown_tokens", "dense recall and scoring")
        work.decision = f"{len(pair)} tokens"

    def describe(self) -> str:
        """One line: what it does with which settings."""
        own = "one vocabulary" if self._scorer is None else "a vocabulary each"
        return f"HF tokenizers, {own} for encoder and scorer"


def _knows(ids: Int32, unknown: int) -> bool:
    """Whether any is a token of the vocabulary; mostly the first one is."""
    return len(ids) > 0 and (int(ids[0]) != unknown or bool((ids != unknown).any()))
