"""Random choices that are the same on every Python version and platform."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar

T = TypeVar("T")


class Dice:
    """Seeded draws made from ``random.Random.random`` alone.

    That is the one method whose sequence Python promises to keep between versions; ``choice``,
    ``sample``, ``shuffle`` and ``gauss`` have changed before. One thread uses it.
    """

    def __init__(self, seed: int, stream: int = 0) -> None:
        """Start ``stream`` (0 <= stream < 2^64) of ``seed`` (>= 0): streams are independent of each other.

        Raises:
            ValueError: the seed is negative (Python seeds -n and n alike).

        """
        if seed < 0:
            raise ValueError(f"seed is {seed}; it must be 0 or more.")
        self._unit = random.Random((seed << 64) | stream).random

    def unit(self) -> float:
        """Draw a float, 0 <= x < 1."""
        return self._unit()

    def chance(self, probability: float) -> bool:
        """Draw True with ``probability``."""
        return self._unit() < probability

    def below(self, limit: int) -> int:
        """Draw an integer, 0 <= n < ``limit``."""
        return int(self._unit() * limit)

    def pick(self, items: Sequence[T]) -> T:
        """Draw one of ``items``."""
        return items[self.below(len(items))]

    def some(self, items: Sequence[T], count: int) -> list[T]:
        """Draw up to ``count`` different places of ``items``, in random order (Fisher-Yates)."""
        pool = list(items)
        count = min(count, len(pool))
        for place in range(count):
            other = place + self.below(len(pool) - place)
            pool[place], pool[other] = pool[other], pool[place]
        return pool[:count]

    def weighted(self, cumulative: Sequence[float]) -> int:
        """Draw an index by its share of ``cumulative`` weights (see :func:`zipf`)."""
        return min(bisect_right(cumulative, self._unit() * cumulative[-1]), len(cumulative) - 1)

    def normal(self) -> float:
        """Draw from a near-normal distribution, mean 0 and deviation 1, within -6..6 (Irwin-Hall).

        A sum of uniforms needs no logarithm or cosine, whose last bit differs between platforms.
        """
        return sum(self._unit() for _ in range(12)) - 6.0


def zipf(count: int, exponent: float = 1.0) -> list[float]:
    """Cumulative weights of ranks 1..``count``, each rank ** -``exponent``."""
    return list(accumulate((rank + 1) ** -exponent for rank in range(count)))


def cumulative(weights: Sequence[float]) -> list[float]:
    """Cumulative sums of ``weights``."""
    return list(accumulate(weights))
