"""Whether a difference between two variants on the same queries is more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from searchpipe.errors import ConfigError, MissingDependencyError

Test = Literal["randomization", "t"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A variant against the baseline, over the queries where both have a value.

    Attributes:
        difference: mean of variant minus baseline.
        p: two-sided p value, not corrected.
        p_holm: p value corrected for all comparisons made with the same metric.
        wins, losses, ties: queries where the variant is better, worse, equal (within 1e-9).

    """

    difference: float
    p: float
    p_holm: float
    wins: int
    losses: int
    ties: int


def check_test(name: str) -> Test:
    """Return ``name`` as a test.

    Raises:
        ConfigError: there is no such test.

    """
    if name == "t":
        return "t"
    if name == "randomization":
        return "randomization"
    raise ConfigError(f'test is {name!r}; it must be "randomization" or "t".')


def bootstrap_interval(
    values: NDArray[np.float64], *, level: float = 0.95, resamples: int = 5000, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over queries (Efron 1979).

    Args:
        values: float64 ``(n,)``; NaN are left out.
        level: share of the distribution inside the interval, 0 < level < 1.
        resamples: how often n queries are drawn with replacement.
        seed: of the draws; the same seed gives the same interval.

    Returns:
        Lower and upper end; both NaN without values.

    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; it must lie between 0 and 1.")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; it must be at least 1.")
    values = values[~np.isnan(values)]
    if values.size == 0:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(resamples, np.float64)
    # In blocks, so that 100,000 queries do not need resamples x queries numbers at once.
    block = max(1, 2_000_000 // values.size)
    for start in range(0, resamples, block):
        rows = min(block, resamples - start)
        means[start : start + rows] = values[rng.integers(values.size, size=(rows, values.size))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_p(
    differences: NDArray[np.float64], *, test: Test = "randomization", resamples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p value of paired differences having mean zero.

    ``"randomization"`` flips signs at random (Fisher's paired randomisation test; exact when
    2^n <= resamples), which assumes no distribution (Smucker et al., CIKM 2007); ``"t"`` is
    Student's paired t test.

    Raises:
        MissingDependencyError: scipy is not installed.

    """
    check_test(test)
    differences = differences[~np.isnan(differences)]
    # Equal rankings can differ in the last bit of a mean; and without this a t test is 0 / 0.
    if differences.size < 2 or np.all(np.abs(differences) < 1e-12):
        return 1.0
    stats = _import_stats()
    if test == "t":
        if np.ptp(differences) < 1e-12:
            return 0.0
        return float(stats.ttest_1samp(differences, 0.0).pvalue)

    def mean(values: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
        return np.asarray(np.mean(values, axis=axis))

    result = stats.permutation_test(
        (differences,),
        mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, 2_000_000 // differences.size),
        random_state=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for making several comparisons (Holm 1979, step-down); same order."""
    count = len(p_values)
    corrected = [0.0] * count
    worst = 0.0
    for place, index in enumerate(sorted(range(count), key=lambda i: p_values[i])):
        worst = max(worst, min(1.0, (count - place) * p_values[index]))
        corrected[index] = worst
    return corrected


def compare(
    variants: Sequence[NDArray[np.float64]],
    baseline: NDArray[np.float64],
    *,
    test: Test = "randomization",
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """Compare each variant's values per query with the baseline's; all float64 ``(n,)``."""
    gaps = [values - baseline for values in variants]
    raw = [paired_p(gap, test=test, resamples=resamples, seed=seed) for gap in gaps]
    comparisons = []
    for gap, p, corrected in zip(gaps, raw, holm(raw), strict=True):
        gap = gap[~np.isnan(gap)]
        wins, losses = int(np.sum(gap > 1e-9)), int(np.sum(gap < -1e-9))
        mean = float(gap.mean()) if gap.size else 0.0
        comparisons.append(Comparison(mean, p, corrected, wins, losses, int(gap.size) - wins - losses))
    return comparisons


def _import_stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError(
            "Significance tests need the package scipy, which is not installed.",
            cure='Install it with: pip install "searchpipe[evaluate]".',
        ) from error
    return stats
