"""Where values lie on a plot: scales, round ticks, and how numbers are written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Ends nearer than that are one value: a step between them would vanish in rounding.
_SAME = 1e-9
_TINY = 1e-100


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps ``[low, high]`` to ``[start, end]`` (pixels), linearly. Immutable."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Pixels of ``value``."""
        span = self.high - self.low
        return self.start + (self.end - self.start) * ((value - self.low) / span if span else 0.5)


def ticks(low: float, high: float, about: int = 6) -> list[float]:
    """Round numbers that cover ``[low, high]``: steps of 1, 2 or 5 times a power of ten.

    The first is at most ``low`` and the last at least ``high``.

    Raises:
        ValueError: an end is not finite.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(f"an axis from {low} to {high} cannot be drawn")
    size = max(abs(low), abs(high))
    if high - low <= max(_SAME * size, _TINY):
        size = size if size > _TINY else 1.0
        low, high = low - size / 2, low + size / 2
    rough = (high - low) / max(1, about - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999999)
    first = math.floor(low / step + 1e-9)
    last = math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def span_of(values: Sequence[float], *, from_zero: bool) -> tuple[float, float]:
    """Least and largest finite value, zero included if asked for; 0 to 1 where there is none."""
    known = [value for value in values if math.isfinite(value)]
    if not known:
        return 0.0, 1.0
    low, high = min(known), max(known)
    return (min(low, 0.0), max(high, 0.0)) if from_zero else (low, high)


def number(value: float) -> str:
    """A number as people write it, in at most 4 digits: 1,234,567 and 0.0125 and 3.2."""
    if not math.isfinite(value):
        return str(value)
    if value == 0:
        return "0"
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    digits = max(0, 3 - math.floor(math.log10(abs(value))) - 1)
    if digits > 8:
        return f"{value:.2e}"
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
