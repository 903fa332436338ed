"""How wrong predictions of a query's end were lately, and what is kept free for that."""

from __future__ import annotations

from searchpipe.allotment import Forecasts, Service

_BACK_RISE, _BACK_FALL = 0.3, 0.1
"""Weights of one more way back above and below the mean: a loop that was busy once may be so again."""
_ERROR_WEIGHT = 0.05
"""Of one more error of a prediction."""
_MOST_ERROR_S = 1.0
_LEAST_HEADROOM, _MOST_HEADROOM = 0.3, 0.7
"""Share of its budget within which a newcomer must be predicted to be done."""
_LATE = 0.02
"""Share of light answers that may be late: those that need not be pay for it with more refusals."""
_STEP = 0.02
"""By which one late answer takes from the headroom."""


class ForecastErrors:
    """Learns from every answer. ``compare`` is called with the policy's lock; ``returned`` on any loop.

    Attributes:
        way_back_s: from a query's end to the moment its caller goes on, lately: a busy event loop takes its
            time, and the caller's budget with it.
        underestimate_s: by how much the end was predicted too early lately, because threads wait for a core
            or for Python's lock.
        headroom: share of its budget within which a newcomer must be predicted to be done. It falls with
            each light answer that is late and rises with each that is not, so that it settles where
            1 in 50 is late: a quantile by stochastic approximation (Robbins and Monro 1951).
        forecasts: of the time from arrival to end.
    """

    def __init__(self) -> None:
        self.way_back_s = self.underestimate_s = 0.0
        self.headroom = _MOST_HEADROOM
        self.forecasts = Forecasts()

    def late_s(self, end: float, now: float, due: float) -> float:
        """Seconds by which an end is predicted to be later than it should be for one that comes now."""
        return end - now - self.headroom * (due - now)

    def returned(self, seconds: float) -> None:
        """A caller went on so long after its query's end."""
        weight = _BACK_RISE if seconds > self.way_back_s else _BACK_FALL
        self.way_back_s += weight * (seconds - self.way_back_s)

    def answered(self, *, late: bool) -> None:
        """A caller who could have had a light answer in time went on with one, late or not."""
        change = -_STEP if late else _STEP * _LATE / (1 - _LATE)
        self.headroom = min(max(_LEAST_HEADROOM, self.headroom + change), _MOST_HEADROOM)

    def compare(self, predicted_s: float, actual_s: float, service: Service = Service.LIGHTEST) -> None:
        """How a prediction turned out, both from the arrival on.

        What was predicted is the end with the ``LIGHTEST`` service: of a richer one that took longer
        nothing is learnt, of one that did not that the prediction is too high.
        """
        if service is Service.LIGHTEST or actual_s < predicted_s:
            learnt = self.underestimate_s + _ERROR_WEIGHT * (actual_s - predicted_s)
            self.underestimate_s = min(max(0.0, learnt), _MOST_ERROR_S)
        self.forecasts.count += 1
        self.forecasts.predicted_s += predicted_s
        self.forecasts.actual_s += actual_s
        self.forecasts.error_s += abs(actual_s - predicted_s)
