"""Caches of versions that come and go."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from searchpipe.config import load_config
from searchpipe.live.check import check
from searchpipe.live.relay import Relay
from searchpipe.live.settings import CheckSettings, ShadowSettings, WatchSettings
from searchpipe.live.shadow import Shadow
from searchpipe.live.watcher import Watcher
from searchpipe.metrics.observer import Observers
from searchpipe.metrics.prometheus import watch
from searchpipe.page import Page
from tests.fakes.live_versions import QUERIES, config, content_of, identity_of, open_hashed, open_live

ON = {"cache": {"results_entries": 50}}
FULL = 60_000.0


def cached(score: float = 0.8, **live: Any) -> dict[str, Any]:
    return {**config(score, **live), **ON}


def test_no_page_of_another_version_under_swaps(builds: list[Path]) -> None:
    versions = [(build, score) for build in builds[:2] for score in (0.8, 0.2)]
    expected: dict[tuple[str, str], Any] = {}
    for build, score in versions:
        with open_hashed(build, load_config(config(score))) as plain:
            for text in QUERIES:
                page = plain.search(text, budget_ms=FULL)
                expected[identity_of(page), text] = content_of(page)
    assert len(set(map(str, expected.values()))) > len(QUERIES)

    wrong: list[Any] = []
    hits: set[str] = set()
    over = threading.Event()

    def look(text: str, page: Page) -> None:
        if page.cached:
            hits.add(identity_of(page))
        if not page.degraded and content_of(page) != expected[identity_of(page), text]:
            wrong.append((text, page))

    with open_live(builds[0], cached()) as live:

        def ask() -> None:
            while not over.is_set():
                for text in QUERIES:
                    look(text, live.search(text, budget_ms=FULL))

        async def ask_at_once() -> None:
            while not over.is_set():
                pages = await asyncio.gather(*(live.asearch(text, budget_ms=FULL) for text in QUERIES))
                for text, page in zip(QUERIES, pages, strict=True):
                    look(text, page)

        threads = [threading.Thread(target=ask) for _ in range(2)]
        threads.append(threading.Thread(target=lambda: asyncio.run(ask_at_once())))
        for thread in threads:
            thread.start()
        try:
            for turn in range(8):
                build, score = versions[(turn + 1) % len(versions)]
                report = live.swap(build, cached(score))
                page = live.search(QUERIES[0], budget_ms=FULL)
                assert identity_of(page) == report.identity
        finally:
            over.set()
            for thread in threads:
                thread.join()
    assert not wrong
    assert len(hits) == len(versions)


def test_a_version_begins_with_empty_caches_and_the_old_one_keeps_its_own(builds: list[Path]) -> None:
    registry = CollectorRegistry()

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"searchpipe_cache_{name}", {"cache": "results"})

    with open_live(builds[0], cached(keep_s=600.0)) as live:
        watch(live, registry, gpu=False)
        first = [live.search("red", budget_ms=FULL) for _ in range(2)]
        assert [page.cached for page in first] == [False, True]
        assert (value("hits_total"), value("misses_total"), value("entries")) == (1, 1, 1)
        live.swap(builds[1])
        assert (value("hits_total"), value("entries"), value("bytes")) == (0, 0, 0)
        second = live.search("red", budget_ms=FULL)
        assert not second.cached
        assert second.snapshot != first[0].snapshot
        live.rollback()
        again = live.search("red", budget_ms=FULL)
        assert again.cached
        assert again.hits == first[0].hits
        assert again.snapshot == first[0].snapshot


def test_settings_of_caches_make_no_other_version(builds: list[Path]) -> None:
    with open_live(builds[0], config()) as live:
        before = live.lineup.current.spec.identity
        report = live.swap(config=cached())
        assert report.identity == before
        assert live.caches["results"].max_entries == 50


def test_golden_queries_are_computed_on_both_sides(builds: list[Path]) -> None:
    settings = load_config(ON)
    with open_hashed(builds[0], settings) as live, open_hashed(builds[0], settings) as new:
        for text in QUERIES:
            live.search(text, budget_ms=FULL)
            new.search(text, budget_ms=FULL)
        asked: list[Page] = []

        def ask(text: str) -> Page:
            asked.append(live.search(text, budget_ms=FULL))
            return asked[-1]

        found = check(new, ask, QUERIES, CheckSettings(latency_slack_ms=60_000.0))
        assert found.compared == len(asked) == len(QUERIES)
        assert not any(page.cached for page in asked)
        assert new.caches["results"].hits == 0


def test_a_shadow_takes_no_times_from_cached_pages(builds: list[Path]) -> None:
    settings = load_config(ON)
    limits = ShadowSettings(share=1.0, seconds=30.0, queries=3, latency_slack_ms=60_000.0)
    with open_hashed(builds[0], settings) as live, open_hashed(builds[0], settings) as new:
        shadow = Shadow(new, limits)
        for budget in (FULL, FULL, FULL):
            shadow.offer("red", {"budget_ms": budget}, live.search("red", budget_ms=budget))
        found = shadow.run()
        assert found.compared == 3
        assert found.overlap == 1.0
        assert found.live_ms > 0
        assert len(shadow._live_ms) == len(shadow._new_ms) == 1
        assert (new.caches["results"].hits, new.caches["results"].entries) == (0, 0)


@pytest.mark.parametrize("kept", [False, True])
def test_a_trial_does_not_judge_cached_pages(builds: list[Path], kept: bool) -> None:
    watcher = Watcher(WatchSettings(), lambda: 0.0)
    watcher.serve(1)
    with open_hashed(builds[0], load_config(ON if kept else {})) as pipeline:
        pipeline.observe(Relay(1, watcher, Observers()))
        for _ in range(5):
            pipeline.search("red", budget_ms=FULL)
    assert watcher.now().samples == (1 if kept else 5)
