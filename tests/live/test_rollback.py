"""A version that does worse is taken back by itself, once, and what is followed stays away from it."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from searchpipe.errors import SwapError
from searchpipe.live.pipeline import LivePipeline
from searchpipe.live.record import Record
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from tests.fakes.hashed_stages import Hold, hashed_stages
from tests.fakes.live_versions import QUERIES, config, damage, open_hashed, open_live, publish

WATCH = {
    "seconds": 60.0,
    "min_samples": 10,
    "strikes": 2,
    "max_errors": 0.05,
    "max_degraded": 0.2,
    "p99_slack_ms": 60_000.0,
    "cool_down_s": 100.0,
}


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Faulty(Hold):
    """Works until it is broken."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = False

    def run(self, work: Work) -> None:
        if self.broken:
            raise RuntimeError("broken")


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def ask(live: LivePipeline, times: int = 12) -> str:
    for place in range(times):
        page = live.search(QUERIES[place % len(QUERIES)], budget_ms=60_000)
    return page.snapshot


@pytest.fixture
def fault() -> Faulty:
    return Faulty()


@pytest.fixture
def opener(builds: list[Path], fault: Faulty) -> Any:
    """Opens pipelines of which the first build's alone cannot break."""

    def opened(build: Path, settings: Any) -> Pipeline:
        from searchpipe.catalog.snapshot import Snapshot

        if build == builds[0]:
            return open_hashed(build, settings)
        snapshot = Snapshot.open(build)
        return Pipeline.open(snapshot, settings, replace={**hashed_stages(snapshot), "prerank": fault})

    return opened


@pytest.mark.parametrize("keep_s", [1000.0, 0.0], ids=["kept", "reopened"])
def test_what_degrades_is_taken_back(
    builds: list[Path], opener: Any, fault: Faulty, keep_s: float, tmp_path: Path
) -> None:
    clock = Clock()
    settings = config(watch=WATCH, keep_s=keep_s)
    with open_live(
        builds[0], settings, opener=opener, clock=clock, watch=False, state=tmp_path / "s"
    ) as live:
        ask(live)
        live.swap(builds[1])
        assert (live.lineup.previous is not None) == bool(keep_s)
        assert ask(live) == builds[1].name
        live.tick()
        fault.broken = True
        ask(live, 40)
        live.tick()
        assert ask(live, 1) == builds[1].name
        live.tick()
        assert ask(live, 1) == builds[0].name
        [event] = [event for event in live.history if event.step == "rolled_back"]
        assert event.code == "degraded"
        assert "degraded" in event.reason
        assert live.lineup.watcher.cooling_s == 100.0
        ask(live, 40)
        for _ in range(5):
            live.tick()
        assert ask(live, 1) == builds[0].name
        with pytest.raises(SwapError, match="no version before"):
            live.rollback()
        record = Record(tmp_path / "s", builds[0])
        assert record.good is not None
        assert record.good.build == builds[0]
        assert record.refuses(event.identity)
    assert all(version.closed for version in live.lineup.open_versions())


def test_a_trial_that_ends_well_makes_the_version_good(
    builds: list[Path], opener: Any, tmp_path: Path
) -> None:
    clock = Clock()
    with open_live(
        builds[0],
        config(watch=WATCH, keep_s=90.0),
        opener=opener,
        clock=clock,
        watch=False,
        state=tmp_path / "s",
    ) as live:
        live.swap(builds[1])
        clock.now = 59.0
        live.tick()
        assert Record(tmp_path / "s", builds[0]).good.build == builds[0]  # type: ignore[union-attr]
        clock.now = 60.0
        live.tick()
        assert Record(tmp_path / "s", builds[0]).good.build == builds[1]  # type: ignore[union-attr]
        assert live.lineup.previous is not None
        clock.now = 90.0
        live.tick()
        assert live.lineup.previous is None
        live.rollback("I changed my mind")
        assert ask(live, 1) == builds[0].name


def test_the_one_before_cannot_be_opened_again(builds: list[Path], opener: Any, fault: Faulty) -> None:
    settings = config(watch=WATCH, keep_s=0.0)
    with open_live(builds[0], settings, opener=opener, clock=Clock(), watch=False) as live:
        ask(live)
        live.swap(builds[1])
        damage(builds[0])
        fault.broken = True
        ask(live)
        live.tick()
        live.tick()
        assert ask(live, 1) == builds[1].name
        assert live.history[-1].step == "failed"
        assert live.history[-1].code == "corrupt_snapshot"


def test_a_rollback_that_the_end_of_the_process_makes_fail(
    builds: list[Path], opener: Any, fault: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(watch=WATCH, keep_s=0.0)
    with open_live(builds[0], settings, opener=opener, clock=Clock(), watch=False) as live:
        ask(live)
        live.swap(builds[1])
        damage(builds[0])
        fault.broken = True
        ask(live)
        live.tick()
        monkeypatch.setattr("searchpipe.live.swapper.ending", lambda: True)
        live.tick()
        assert (live.history[-1].step, live.history[-1].code) == ("given_up", "closed")
        assert not live.lineup.history.count("failed")


def test_a_rollback_behind_an_unproven_version_goes_to_the_last_good_one(
    builds: list[Path], opener: Any, fault: Faulty
) -> None:
    settings = config(watch=WATCH, keep_s=1000.0)
    with open_live(builds[0], settings, opener=opener, clock=Clock(), watch=False) as live:
        ask(live)
        live.swap(builds[1])
        live.swap(builds[2])  # the second had not shown anything yet
        fault.broken = True
        ask(live)
        live.tick()
        live.tick()
        assert ask(live, 1) == builds[0].name


def test_followed_pointers_are_taken_on_and_bad_ones_left_alone(
    catalog: Path, builds: list[Path], opener: Any, fault: Faulty
) -> None:
    watch = {**WATCH, "every_s": 0.02, "cool_down_s": 0.2}
    over = threading.Event()
    with open_live(catalog, config(watch=watch, keep_s=1000.0), opener=opener) as live:
        live.follow()
        live.follow()

        def callers() -> None:
            while not over.is_set():
                ask(live)

        calling = threading.Thread(target=callers)
        calling.start()
        wait_until(lambda: live.lineup.watcher.now().samples > 20)
        second = publish(catalog, 21)
        wait_until(lambda: ask(live, 1) == second)
        wait_until(lambda: live.lineup.watcher.now().samples > 20)
        fault.broken = True
        wait_until(lambda: any(event.step == "rolled_back" for event in live.history))
        fault.broken = False
        time.sleep(0.4)  # several looks, also after the cool-down
        assert ask(live, 1) == builds[2].name
        third = publish(catalog, 22)
        wait_until(lambda: ask(live, 1) == third)
        over.set()
        calling.join(30)
        assert [event.step for event in live.history].count("rolled_back") == 1


def test_a_pointer_to_nothing_is_said_and_tried_again(catalog: Path, builds: list[Path]) -> None:
    with open_live(catalog) as live:
        live.follow()
        (catalog / "CURRENT").write_text("nowhere\n")
        wait_until(lambda: live.history[-1].code == "no_snapshot" or live.history[-1].code == "bad_snapshot")
        assert ask(live, 1) == builds[2].name
        (catalog / "CURRENT").write_text(f"{builds[1].name}\n")
        wait_until(lambda: ask(live, 1) == builds[1].name)


def test_a_request_to_reload_reads_the_file_again(catalog: Path, tmp_path: Path) -> None:
    file = tmp_path / "searchpipe.toml"
    text = "[live]\npoll_s = 3600.0\n[live.shadow]\nshare = 0.0\n[live.watch]\nseconds = 0.0\n"
    file.write_text(text)
    with open_live(catalog, file) as live:  # type: ignore[arg-type]
        live.follow()
        file.write_text(text + "[score]\nweight = 0.2\n")
        live.request_reload()
        wait_until(lambda: live.config.score.weight == 0.2)


def test_an_engine_is_followed_by_what_is_promoted(
    tmp_path: Path, monkeypatch: Any, builds: list[Path]
) -> None:
    from searchpipe.engine.registry import Registry
    from searchpipe.engine.signing import Trust
    from searchpipe.live.spec import Wanted
    from tests.fakes.engines import engine_files, engine_manifest

    for name, value in (("SEARCHPIPE_STORE", str(tmp_path / "store")), ("CUDA_VISIBLE_DEVICES", "")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("SEARCHPIPE_ENGINE_KEY", raising=False)
    registry = Registry(tmp_path / "store", trust=Trust())
    files = engine_files(tmp_path / "made")
    registry.check_in(engine_manifest(files), files)
    wanted = Wanted.read(builds[0], {"models": {"scorer": "engine:tiny"}})
    before = wanted.pointers()
    registry.promote("tiny", "v1")
    assert wanted.pointers() != before
    assert wanted.pin().config.models.scorer == "engine:tiny@v1"
