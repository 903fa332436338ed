from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from searchpipe.errors import SwapError
from searchpipe.metrics.prometheus import watch
from tests.fakes.live_versions import open_live


def test_versions_swaps_and_rollbacks_are_told(builds: list[Path]) -> None:
    registry = CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"searchpipe_{name}", labels)

    with open_live(builds[0]) as live:
        watch(live, registry, gpu=False)
        assert value("live_swaps_total") == 0
        report = live.swap(builds[1])
        live.search("red")
        with pytest.raises(SwapError):
            live.swap(config={"live": {}, "score": {"weight": 0.1}, "pipeline": {"max_query_chars": 1}})
        assert value("live_swaps_total") == 1
        assert value("live_refused_versions_total", code="swap_refused") == 1
        assert value("live_version_info", identity=report.identity, number="2") == 1
        assert value("live_overlap_ratio", by="check") == pytest.approx(report.check.overlap)
        assert value("live_compared_seconds", by="check", version="new") > 0  # type: ignore[operator]
        assert value("snapshot_info", version=builds[1].name) == 1
        assert value("queries_total", outcome="full") == 1  # golden queries are nobody's
        live.rollback()
        assert value("live_rollbacks_total", code="manual") == 1
        assert value("snapshot_info", version=builds[0].name) == 1
