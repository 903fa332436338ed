"""What every system beside ours is given: the same models, texts and vectors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.capacity_corpus import FlatIndex, Texts


@dataclass(frozen=True, slots=True)
class PeerWorld:
    """Open for the life of one process.

    Attributes:
        encoder, cross_encoder: folders of the models.
        texts: what the cross-encoder reads of each document.
        index: exact search over all vectors.
        candidates: documents to recall and score for each query.
        max_tokens: of a pair.
        gpu: whether models and index are on GPU 0.
    """

    encoder: Path
    cross_encoder: Path
    texts: Texts
    index: FlatIndex
    candidates: int
    max_tokens: int
    gpu: bool

    @property
    def device(self) -> str:
        """As PyTorch names it."""
        return "cuda" if self.gpu else "cpu"
