"""Whether a variant beats the precision above it, on the shapes that the profile found."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from searchpipe.engine.gates.result import GateResult
from searchpipe.engine.gates.variants import Variant
from searchpipe.runtime.buckets import Bucket

SHAPES = 4
"""Buckets measured: those that most of the work is done in."""

LONGEST_RUN_S = 0.5
"""A shape that takes longer is measured with fewer rows, which a machine this slow would run it with."""

BUDGET_S = 20.0
_FEWEST, _MOST = 5, 31
_SMALL_ROWS = 4
_RESAMPLES = 1000

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class ShapeTimes:
    """Seconds of interleaved runs of one shape: float64 ``(repeats,)`` each; ``share`` of the work."""

    shape: Bucket
    share: float
    above: NDArray[np.float64]
    variant: NDArray[np.float64]

    @property
    def ratios(self) -> NDArray[np.float64]:
        """Times faster, a repeat each."""
        return self.above / np.maximum(self.variant, 1e-9)


def measure(
    variant: Variant,
    above: Variant,
    shapes: Sequence[Bucket],
    shares: Sequence[float],
    *,
    budget_s: float | None = None,
    clock: Clock = time.perf_counter,
) -> list[ShapeTimes]:
    """Time both on the shapes with the largest shares, in turns: what else the machine does hits both.

    Args:
        variant: the one judged.
        above: what it must beat.
        shapes: buckets of the profile.
        shares: of the work, as many.
        budget_s: of all measurements together, 20 s if None; each shape has 5 to 31 repeats.
        clock: seconds, rising.

    Raises:
        EngineError: a run failed.
    """
    budget = BUDGET_S if budget_s is None else budget_s
    order = sorted(range(len(shapes)), key=lambda place: -shares[place])[:SHAPES]
    used = [place for place in order if shares[place] > 0] or order[:1]
    chosen: dict[Bucket, float] = {}
    for place in used:
        shape = _affordable(above, shapes[place], clock)
        chosen[shape] = chosen.get(shape, 0.0) + max(shares[place], 1e-9)
    return [
        _timed(variant, above, shape, share, budget / len(chosen), clock) for shape, share in chosen.items()
    ]


def speed_gate(
    times: Sequence[ShapeTimes], limit: float, confidence: float, above: str, seed: int
) -> GateResult:
    """Judge by the median ratio of each shape, averaged geometrically by the shapes' shares.

    Must be above ``limit``; a tie is no win.
    """
    shares = np.array([t.share for t in times])
    value = _mean([float(np.median(t.ratios)) for t in times], shares)
    rng = np.random.default_rng(seed)
    resampled = [
        np.median(t.ratios[rng.integers(len(t.ratios), size=(_RESAMPLES, len(t.ratios)))], axis=1)
        for t in times
    ]
    means = np.exp(shares @ np.log(np.array(resampled)) / shares.sum())
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    passed = value > limit
    rows = [
        {
            "rows": t.shape[0],
            "tokens": t.shape[1],
            "share": t.share,
            "above_ms": 1e3 * float(np.median(t.above)),
            "variant_ms": 1e3 * float(np.median(t.variant)),
            "speedup": float(np.median(t.ratios)),
            "repeats": len(t.ratios),
        }
        for t in times
    ]
    reason = f"{value:.2f} times as fast as {above}"
    return GateResult(
        "speed",
        passed,
        value,
        limit,
        reason if passed else f"{reason}; it must be more than {limit:g}",
        (float(low), float(high)),
        details={"against": above, "shapes": rows},
    )


def _affordable(above: Variant, shape: Bucket, clock: Clock) -> Bucket:
    """``shape`` with as many rows as run within :data:`LONGEST_RUN_S`, halved as often as needed."""
    rows, tokens = shape
    few = min(_SMALL_ROWS, rows)
    above.run_shape(few, tokens)
    began = clock()
    above.run_shape(few, tokens)
    seconds = (clock() - began) / few
    while rows > few and rows * seconds > LONGEST_RUN_S:
        rows = max(rows // 2, few)
    return rows, tokens


def _timed(
    variant: Variant, above: Variant, shape: Bucket, share: float, budget_s: float, clock: Clock
) -> ShapeTimes:
    both = (above, variant)
    for engine in both:
        engine.run_shape(*shape)
    seconds: tuple[list[float], list[float]] = ([], [])
    began = clock()
    while len(seconds[0]) < _MOST and (len(seconds[0]) < _FEWEST or clock() - began < budget_s):
        # Each goes first every other time: the second finds the other's data in the caches.
        for place in (0, 1) if len(seconds[0]) % 2 == 0 else (1, 0):
            start = clock()
            both[place].run_shape(*shape)
            seconds[place].append(clock() - start)
    return ShapeTimes(shape, share, np.array(seconds[0]), np.array(seconds[1]))


def _mean(ratios: Sequence[float], shares: NDArray[np.float64]) -> float:
    return float(np.exp(np.average(np.log(ratios), weights=shares)))
