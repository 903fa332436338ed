"""Which precision is used, from what each passed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from searchpipe.engine.gates.result import GateResult
from searchpipe.engine.recipe import PRECISIONS, Precision

NEVER_WAIVED = frozenset({"open", "finite", "range"})
"""A variant that does not run or gives no numbers is of no use to anybody, whatever a recipe allows."""


def waive(gates: Iterable[GateResult], allowed: Iterable[str]) -> list[GateResult]:
    """``gates`` with those that failed and that the recipe allows to fail marked so."""
    names = frozenset(allowed) - NEVER_WAIVED
    return [replace(gate, waived=True) if not gate.passed and gate.name in names else gate for gate in gates]


def passes(gates: Sequence[GateResult]) -> bool:
    """Whether there are gates, and each was passed or is allowed to fail."""
    return bool(gates) and all(gate.passed or gate.waived for gate in gates)


def choose_precision(results: Mapping[str, Sequence[GateResult]]) -> Precision | None:
    """The lowest precision that passed every gate, fp32 like the others; None if none did.

    Args:
        results: precision -> its gates; one without gates did not pass.
    """
    return next((p for p in reversed(PRECISIONS) if passes(results.get(p, ()))), None)
