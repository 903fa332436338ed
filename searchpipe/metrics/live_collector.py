"""The versions of a live pipeline, read when Prometheus asks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from searchpipe.metrics.collector import Collector

if TYPE_CHECKING:
    from searchpipe.live.pipeline import LivePipeline

_COMPARED = (
    ("searchpipe_live_overlap_ratio", "Rank-biased overlap of its pages with those before.", "overlap"),
    ("searchpipe_live_score_difference", "Mean absolute difference of scores.", "score_difference"),
    ("searchpipe_live_compared_queries", "Queries that were compared.", "compared"),
    ("searchpipe_live_failed_queries", "Of the shadow: queries that failed.", "failed"),
    ("searchpipe_live_dropped_queries", "Of the shadow: queries that its full queue left out.", "dropped"),
)


class LiveCollector(Collector):
    """A collector for the versions of one live pipeline."""

    def __init__(self, live: LivePipeline) -> None:
        super().__init__(live)
        self._live = live

    def _fill(self, families: dict[str, Any]) -> None:
        lineup, history = self._live.lineup, self._live.lineup.history
        serving = lineup.current
        families["searchpipe_live_version"].add_metric(
            [], {"identity": serving.spec.identity, "number": str(serving.number)}
        )
        families["searchpipe_live_versions_open"].add_metric([], len(lineup.open_versions()))
        families["searchpipe_live_on_trial"].add_metric([], float(lineup.watcher.on_trial))
        families["searchpipe_live_swaps"].add_metric([], sum(history.count("switched").values()))
        for code, number in history.count("failed").items():
            families["searchpipe_live_refused_versions"].add_metric([code], number)
        for code, number in history.count("rolled_back").items():
            families["searchpipe_live_rollbacks"].add_metric([code], number)
        last = self._live.last_swap
        if last is not None:
            families["searchpipe_live_last_swap_seconds"].add_metric([], last.seconds)
            for by, found in (("check", last.check), ("shadow", last.shadow)):
                if found is not None:
                    self._add(families, by, found)

    @staticmethod
    def _add(families: dict[str, Any], by: str, found: Any) -> None:
        for name, _, attribute in _COMPARED:
            value = float(getattr(found, attribute))
            if not math.isnan(value):
                families[name].add_metric([by], value)
        for version, ms in (("new", found.new_ms), ("live", found.live_ms)):
            if not math.isnan(ms):
                families["searchpipe_live_compared_seconds"].add_metric([by, version], ms / 1e3)

    def _families(self) -> list[Any]:
        core = self._core
        return [
            core.InfoMetricFamily("searchpipe_live_version", "The version that serves."),
            core.GaugeMetricFamily("searchpipe_live_versions_open", "Open versions; 1 when nothing changes."),
            core.GaugeMetricFamily("searchpipe_live_on_trial", "1 while a new version is on trial."),
            core.CounterMetricFamily("searchpipe_live_swaps", "Versions that were taken on."),
            core.CounterMetricFamily(
                "searchpipe_live_refused_versions", "Versions that were not taken on.", labels=["code"]
            ),
            core.CounterMetricFamily(
                "searchpipe_live_rollbacks", "Versions that were taken back.", labels=["code"]
            ),
            core.GaugeMetricFamily("searchpipe_live_last_swap_seconds", "Of the last version taken on."),
            core.GaugeMetricFamily(
                "searchpipe_live_compared_seconds",
                "Of the last version taken on: median (check) or ninth decile (shadow) of its latency.",
                labels=["by", "version"],
            ),
            *(
                core.GaugeMetricFamily(name, f"Of the last version taken on. {text}", labels=["by"])
                for name, text, _ in _COMPARED
            ),
        ]
