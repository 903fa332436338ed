"""tokenize: the query's text to the token ids of the models' vocabulary."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from searchpipe.arrays import Int32
from searchpipe.stages.base import Work


class Tokenizer(Protocol):
    """What the stage needs of a tokenizer; :class:`searchpipe.models.tokenizer.TextTokenizer` is one."""

    unk_id: int

    def ids(self, text: str) -> Int32:
        """Token ids of ``text`` without special tokens, int32 ``(n,)``; any thread."""
        ...


class Tokenize:
    """Fills ``tokens``. A query of which the vocabulary knows nothing leaves it empty, and says so."""

    name = "tokenize"
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ("tokens",)
    essential = False

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def run(self, work: Work) -> None:
        """Tokenize the query's text."""
        text = work.query.text
        with work.step(self.name, max(1, len(text))):
            ids = self._tokenizer.ids(text)
        if not np.any(ids != self._tokenizer.unk_id):
            work.degrade("unknown_tokens", "dense recall and scoring")
            return
        work.tokens = ids
        work.decision = f"{len(ids)} tokens"

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return "HF tokenizers, one vocabulary for the encoder and the scorer"
