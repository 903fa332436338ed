"""An encoder and a tokenizer without any model: words are hashed."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from searchpipe.arrays import Float32, Int32


class HashedTokenizer:
    """A token id per word, the same in every process."""

    vocab_size = 30_000

    def ids_many(self, texts: Sequence[str]) -> list[Int32]:
        return [
            np.array([_hash(word) % self.vocab_size for word in _words(text)], np.int32) for text in texts
        ]


class HashedEncoder:
    """Adds up one random direction per word: texts that share words are near each other."""

    def __init__(self, dim: int = 16) -> None:
        self.dim = dim
        self.encoded: list[str] = []

    def encode_texts(self, texts: Sequence[str], *, prefix: str = "") -> Float32:
        self.encoded += texts
        vectors = np.full((len(texts), self.dim), 1e-3, np.float32)
        for row, text in enumerate(texts):
            for word in _words(prefix + text):
                vectors[row] += (
                    np.random.default_rng(_hash(word)).standard_normal(self.dim).astype(np.float32)
                )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return (vectors / norms).astype(np.float32)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _hash(word: str) -> int:
    return zlib.crc32(word.encode("utf-8", "replace"))
