"""Numbers of a variant: finite, in range, near fp32, and the same whoever shares the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.engine.gates.evaluation import EvalQuery
from searchpipe.engine.gates.result import GateResult, evaluated, not_evaluated
from searchpipe.engine.gates.variants import Variant
from searchpipe.engine.recipe import GateSettings
from searchpipe.engine.rows import Pair

LARGEST_HALF = 65504.0
"""Largest float16: what fp32's scores may be, for half precision to hold them at all."""

_SAMPLED_PAIRS = 16


def numeric_gates(
    variant: Variant,
    queries: Sequence[EvalQuery],
    reference: Sequence[Float32],
    scores: Sequence[Float32],
    settings: GateSettings,
    *,
    max_tokens: int,
) -> list[GateResult]:
    """All of them; ``reference`` is ``scores`` itself for fp32, which is compared with nothing then."""
    return [
        finite_gate(scores),
        range_gate(scores, None if reference is scores else reference, settings.max_abs_diff),
        *([] if reference is scores else [difference_gate(queries, reference, scores, settings)]),
        evaluated(
            "batch_independence",
            lambda: independence_gate(variant, queries, settings.batch_diff, max_tokens=max_tokens),
        ),
    ]


def finite_gate(scores: Sequence[Float32]) -> GateResult:
    """No score may be NaN or infinite."""
    bad = sum(int(np.count_nonzero(~np.isfinite(row))) for row in scores)
    total = sum(map(len, scores))
    return GateResult("finite", bad == 0, bad, 0, f"{bad} of {total} scores are NaN or infinite")


def range_gate(scores: Sequence[Float32], reference: Sequence[Float32] | None, slack: float) -> GateResult:
    """Scores must differ, and lie where fp32's do: its largest absolute score, and ``slack`` more."""
    values = np.concatenate(scores)
    known = values[np.isfinite(values)]
    if not len(known):
        return not_evaluated("range", "no score is finite")
    largest = float(np.abs(known).max())
    limit, whose = LARGEST_HALF, "the largest half-precision number"
    if reference is not None:
        sound = np.concatenate(reference)
        sound = sound[np.isfinite(sound)]
        if not len(sound):
            return not_evaluated("range", "no score of fp32 is finite")
        limit = float(np.abs(sound).max()) + slack
        whose = "fp32's largest and max_abs_diff more"
    details = {"lowest": float(known.min()), "highest": float(known.max())}
    if float(np.ptp(known)) == 0.0:
        reason = f"all {len(known)} scores are {known[0]:g}"
        return GateResult("range", False, largest, limit, reason, details=details)
    return GateResult(
        "range", largest <= limit, largest, limit, f"largest absolute score, against {whose}", details=details
    )


def difference_gate(
    queries: Sequence[EvalQuery],
    reference: Sequence[Float32],
    scores: Sequence[Float32],
    settings: GateSettings,
) -> GateResult:
    """No score may be further from fp32's than the recipe allows; names the stratum of the furthest."""
    gaps = [np.abs(two.astype(np.float64) - one) for one, two in zip(reference, scores, strict=True)]
    furthest = [float(np.nan_to_num(gap, nan=np.inf).max()) for gap in gaps]
    place = int(np.argmax(furthest))
    value = furthest[place]
    if not np.isfinite(value):
        return not_evaluated("max_abs_diff", "scores hold NaN or infinity")
    every = np.concatenate(gaps)
    means: dict[str, list[float]] = {}
    for query, gap in zip(queries, gaps, strict=True):
        for name, stratum in query.strata.items():
            means.setdefault(f"{name}={stratum}", []).append(float(gap.mean()))
    worst = max(means, key=lambda name: float(np.mean(means[name])))
    return GateResult(
        "max_abs_diff",
        value <= settings.max_abs_diff,
        value,
        settings.max_abs_diff,
        f"largest difference to fp32 over {len(every)} pairs, met by the query {queries[place].text!r}",
        worst=worst,
        details={"mean": float(every.mean()), "p99": float(np.quantile(every, 0.99))},
    )


def independence_gate(
    variant: Variant, queries: Sequence[EvalQuery], limit: float, *, max_tokens: int
) -> GateResult:
    """A pair's score alone, with other mates, and with more padding."""
    step = max(1, len(queries) // _SAMPLED_PAIRS)
    chosen = queries[::step][:_SAMPLED_PAIRS]
    pairs: list[Pair] = [(q.text, int(q.docs[place % len(q.docs)])) for place, q in enumerate(chosen)]
    alone = np.array([variant.score([pair])[0] for pair in pairs])
    halves = np.empty(len(pairs), np.float32)
    for first in range(min(2, len(pairs))):
        halves[first::2] = variant.score(pairs[first::2])
    found = {
        "all together": variant.score(pairs),
        "with other mates": halves,
        "in reverse order": variant.score(pairs[::-1])[::-1],
        "padded": np.array([variant.score([pair], width=max_tokens)[0] for pair in pairs]),
    }
    gaps = {name: float(np.abs(scores - alone).max()) for name, scores in found.items()}
    if not all(np.isfinite(list(gaps.values()))):
        return not_evaluated("batch_independence", "scores hold NaN or infinity")
    worst = max(gaps, key=lambda name: gaps[name])
    return GateResult(
        "batch_independence",
        gaps[worst] <= limit,
        gaps[worst],
        limit,
        f"largest change of a score by its batch, over {len(pairs)} pairs; most when {worst}",
        details=gaps,
    )
