"""How varied the first page is, whatever its relevance."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from searchpipe.arrays import Float32


class ProductFacts(Protocol):
    """What diversity figures need to know about products."""

    def vectors(self, ids: Sequence[str]) -> Float32:
        """Return the embeddings of ``ids``: float32 ``(len(ids), d)``."""

    def brands(self, ids: Sequence[str]) -> list[str | None]:
        """Return the brand of each of ``ids``, None where it has none."""


@dataclass(frozen=True, slots=True)
class PageDiversity:
    """Diversity of one ranking's first k products.

    Attributes:
        distance: intra-list distance (Ziegler et al. 2005): the mean of 1 - cosine over all
            pairs, 0 = all alike; NaN with fewer than two products.
        brands: number of different brands; a product without one counts as no brand.
        top_brand_share: share of the page taken by its most common brand, 0..1; NaN when empty.

    """

    distance: float
    brands: float
    top_brand_share: float


def names(k: int) -> tuple[str, str, str]:
    """Column names of the three figures at ``k``."""
    return f"distance@{k}", f"brands@{k}", f"top_brand_share@{k}"


def page_diversity(ids: Sequence[str], facts: ProductFacts) -> PageDiversity:
    """Measure the page that consists of ``ids``."""
    if not ids:
        return PageDiversity(float("nan"), 0.0, float("nan"))
    brands = Counter(brand.casefold() for brand in facts.brands(ids) if brand)
    share = max(brands.values(), default=0) / len(ids)
    return PageDiversity(intra_list_distance(facts.vectors(ids)), float(len(brands)), share)


def intra_list_distance(vectors: Float32) -> float:
    """Mean of 1 - cosine over all pairs of rows; NaN with fewer than two rows.

    A zero vector has cosine 0 with everything.
    """
    rows = np.asarray(vectors, np.float64)
    count = len(rows)
    if count < 2:
        return float("nan")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms > 0, norms, 1.0)
    # The sum over all ordered pairs without the diagonal, without forming the matrix.
    total: NDArray[np.float64] = unit.sum(axis=0)
    off_diagonal = float(total @ total - np.sum(unit * unit))
    return 1.0 - off_diagonal / (count * (count - 1))
