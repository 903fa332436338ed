"""What admission control decided, for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe.admission import Admission


def admission_families(core: Any) -> list[Any]:
    """The families, without samples; ``core`` is ``prometheus_client.core``."""
    return [
        core.CounterMetricFamily(
            "searchpipe_admitted", "Calls of asearch that began, by service.", labels=["service"]
        ),
        core.CounterMetricFamily(
            "searchpipe_shed", "Calls of asearch turned away because they would be late.", labels=["where"]
        ),
        core.CounterMetricFamily("searchpipe_forecasts", "Answers whose completion had been predicted."),
        core.CounterMetricFamily(
            "searchpipe_forecast_seconds",
            "From call to answer: predicted with the lightest service, actual, and the absolute difference.",
            labels=["what"],
        ),
    ]


def add_admission(families: dict[str, Any], policy: Admission | None) -> None:
    """The samples of one policy; none before the first call of ``asearch``."""
    if policy is None:
        return
    for service, number in policy.admitted.items():
        families["searchpipe_admitted"].add_metric([service], number)
    for where, number in policy.shed.items():
        families["searchpipe_shed"].add_metric([where], number)
    forecasts = policy.forecasts
    families["searchpipe_forecasts"].add_metric([], forecasts.count)
    for what, seconds in (
        ("predicted", forecasts.predicted_s),
        ("actual", forecasts.actual_s),
        ("difference", forecasts.error_s),
    ):
        families["searchpipe_forecast_seconds"].add_metric([what], seconds)
