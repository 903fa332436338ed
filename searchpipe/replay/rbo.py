"""How alike two rankings are: rank-biased overlap."""

from __future__ import annotations

from collections.abc import Sequence

from searchpipe.errors import ConfigError


def rbo(first: Sequence[str], second: Sequence[str], p: float = 0.9) -> float:
    """Extrapolated rank-biased overlap, RBO_ext (Webber, Moffat, Zobel, TOIS 2010, equation 32).

    1 for equal rankings, 0 for disjoint ones. The first 10 places have 86% of the weight at
    ``p`` = 0.9. Rankings may be of unequal length; two empty ones are equal.

    Args:
        first: ids, best first, each once.
        second: likewise.
        p: persistence, 0 < p < 1: the chance that a reader goes on to the next place.

    Raises:
        ConfigError: p is outside its limits.
    """
    if not 0 < p < 1:
        raise ConfigError(f"The persistence of RBO is {p}; it must lie between 0 and 1.")
    short, long = (first, second) if len(first) <= len(second) else (second, first)
    s, n = len(short), len(long)
    if s == n and all(one == other for one, other in zip(first, second, strict=True)):
        return 1.0  # exactly, whatever the rounding below
    if not s:
        return 0.0
    seen_short: set[str] = set()
    seen_long: set[str] = set()
    overlap = overlap_at_s = 0
    total = 0.0
    weight = 1.0
    for depth in range(1, n + 1):
        weight *= p
        place = depth - 1
        item = long[place]
        if depth <= s:
            other = short[place]
            if other == item:
                overlap += 1
            else:
                overlap += (item in seen_short) + (other in seen_long)
            seen_short.add(other)
        else:
            overlap += item in seen_short
        seen_long.add(item)
        if depth == s:
            overlap_at_s = overlap
        total += overlap / depth * weight
        if depth > s:
            total += overlap_at_s * (depth - s) / (s * depth) * weight
    value = (1 - p) / p * total + ((overlap - overlap_at_s) / n + overlap_at_s / s) * weight
    return min(1.0, max(0.0, value))
