"""Which precision is used, from what each passed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchpipe.engine.gates.result import GateResult
from searchpipe.engine.recipe import PRECISIONS, Precision

NUMERIC = frozenset({"open", "finite", "range", "batch_independence"})
"""All that fp32, with which the others are compared, must pass to be used."""


def choose_precision(results: Mapping[str, Sequence[GateResult]]) -> Precision | None:
    """The lowest precision that passed every gate; fp32 if its numbers are sound; else None.

    Args:
        results: precision -> its gates; one without gates did not pass.
    """
    for precision in reversed(PRECISIONS[1:]):
        gates = results.get(precision, ())
        if gates and all(gate.passed for gate in gates):
            return precision
    reference = results.get("fp32", ())
    numeric = [gate for gate in reference if gate.name in NUMERIC]
    return "fp32" if numeric and all(gate.passed for gate in numeric) else None
