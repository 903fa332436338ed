"""The dashboard and the alerts ask for metrics that exist, with labels that they have."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from searchpipe.metrics.prometheus import watch
from searchpipe.pipeline import Pipeline
from searchpipe.serve.app import create_app

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana" / "searchpipe.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
_NAME = re.compile(r"\bsearchpipe_[a-z0-9_]+")
_SELECTED = re.compile(r"\b(searchpipe_[a-z0-9_]+)\{([^}]*)\}")
_SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "info": ("_info",)}


@pytest.fixture(scope="module")
def names() -> set[str]:
    """Every sample that there can be, by the collectors' own word."""
    registry = CollectorRegistry()
    from tests.test_pipeline import page, recall

    with Pipeline([recall(), page()]) as pipeline:
        create_app(pipeline, registry=registry)
        watch(pipeline, registry)
        families = [
            family for collector in list(registry._collector_to_names) for family in collector.describe()
        ]
    return {family.name + suffix for family in families for suffix in _SUFFIXES.get(family.type, ("",))}


def panels() -> list[dict[str, Any]]:
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def expressions() -> list[str]:
    found = [target["expr"] for panel in panels() for target in panel["targets"]]
    return found + [rule["expr"] for rule in rules()]


def test_every_metric_that_is_asked_for_exists(names: set[str]) -> None:
    assert len(expressions()) >= 20
    for expression in expressions():
        asked = set(_NAME.findall(expression))
        assert asked, expression
        assert asked <= names, (expression, asked - names)


def test_what_the_issue_is_about_is_on_the_dashboard() -> None:
    shown = " ".join(expressions())
    for metric in (
        *(
            "searchpipe_query_seconds_bucket",
            "searchpipe_stage_seconds_bucket",
            "searchpipe_queue_seconds_bucket",
        ),
        *(
            "searchpipe_engine_padded_tokens_total",
            "searchpipe_engine_rows_total",
            "searchpipe_scored_pairs_bucket",
        ),
        *("searchpipe_degradations_total", "searchpipe_engine_fallbacks_total", "searchpipe_errors_total"),
        *("searchpipe_gpu_memory_used_bytes", "searchpipe_gpu_utilisation_ratio", "searchpipe_snapshot_info"),
        *("searchpipe_engine_info", "searchpipe_http_shed_total"),
        *("searchpipe_breaker_state", "searchpipe_breaker_trips_total", "searchpipe_engine_returns_total"),
    ):
        assert metric in shown


def test_brackets_are_balanced_and_rates_have_a_range() -> None:
    for expression in expressions():
        for opening, closing in ("()", "{}", "[]"):
            assert expression.count(opening) == expression.count(closing), expression
        for match in re.finditer(r"\b(?:rate|increase)\(", expression):
            assert re.match(r"[^()]*\[[^\]]+\]\)", expression[match.end() :]), expression


def test_panels_do_not_overlap_and_have_ids() -> None:
    everything = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    cells: set[tuple[int, int]] = set()
    for panel in everything:
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & mine, panel["title"]
        cells |= mine


def test_alerts_say_what_to_do() -> None:
    assert len({rule["alert"] for rule in rules()}) == len(rules()) >= 8
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert re.fullmatch(r"\d+[smh]", rule["for"])
