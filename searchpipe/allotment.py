"""What admission control gives a query: a service, and how good its predictions were."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Service(enum.IntEnum):
    """How much is done for a query, the most first."""

    FULL = 0
    SHORTENED = 1
    UNSCORED = 2
    LIGHTEST = 3

    @property
    def label(self) -> str:
        """Its name in metrics."""
        return self.name.lower()


@dataclass(slots=True, eq=False)
class Allotment:
    """What a query that begins may use.

    Attributes:
        service: see :class:`Service`.
        limit_s: seconds from its start within which optional work must be done; ``inf`` for no limit.
        began: when, on the policy's clock.
        planned_s: seconds that the policy has planned for it.
    """

    service: Service
    limit_s: float
    began: float
    planned_s: float


@dataclass(slots=True)
class Forecasts:
    """How good the predictions were: sums over the queries that were predicted and ended, in seconds."""

    count: int = 0
    predicted_s: float = 0.0
    actual_s: float = 0.0
    error_s: float = 0.0
