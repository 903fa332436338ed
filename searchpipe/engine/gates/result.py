"""The outcome of one gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from searchpipe.errors import SearchpipeError


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate of one variant. Immutable.

    Attributes:
        name: of the gate.
        passed: whether the variant may be used as far as this gate goes.
        value: what was measured; None if it could not be.
        limit: what it was held against; None if it could not be measured.
        reason: what was compared, in words; why, if the gate failed.
        interval: of the value, at the recipe's confidence.
        worst: the stratum that did worst, as ``name=value``; empty for none.
        details: more figures, for the report.
        waived: it failed, and the recipe allows that (``gates.allow``).
    """

    name: str
    passed: bool
    value: float | None = None
    limit: float | None = None
    reason: str = ""
    interval: tuple[float, float] | None = None
    worst: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    waived: bool = False

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; what is not finite becomes null."""
        return {
            "name": self.name,
            "passed": self.passed,
            "value": _finite(self.value),
            "limit": _finite(self.limit),
            "reason": self.reason,
            "interval": [_finite(end) for end in self.interval] if self.interval else None,
            "worst": self.worst,
            "details": _plain(self.details),
            "waived": self.waived,
        }


def not_evaluated(name: str, why: str) -> GateResult:
    """A gate that could not be evaluated: it failed."""
    return GateResult(name, False, reason=f"could not be evaluated: {why}")


def evaluated(name: str, evaluate: Callable[[], GateResult]) -> GateResult:
    """Run ``evaluate``; whatever it raises fails the gate, with the reason."""
    try:
        return evaluate()
    except SearchpipeError as error:
        return not_evaluated(name, str(error))
    except Exception as error:  # a runtime's own kinds, memory: an unevaluated gate is a failed one
        return not_evaluated(name, f"{type(error).__name__}: {error}")


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return _finite(value)
    return value
