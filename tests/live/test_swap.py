"""A live pipeline answers on one version at a time, and keeps the old one when the new one is bad."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from searchpipe.errors import (
    ClosedError,
    ConfigError,
    QueryError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
    SwapError,
)
from searchpipe.live.record import HISTORY
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Work
from tests.fakes.hashed_stages import Hold, hashed_stages
from tests.fakes.live_versions import (
    QUERIES,
    config,
    content_of,
    damage,
    identity_of,
    open_hashed,
    open_live,
)

ONE_S = 1000.0


def oracle(builds: list[Path], settings: list[dict[str, Any]]) -> dict[tuple[str, str], Any]:
    """What each version answers, by its identity and the query."""
    from searchpipe.config import load_config

    found = {}
    for build in builds:
        for one in settings:
            with open_hashed(build, load_config(one)) as pipeline:
                for text in QUERIES:
                    page = pipeline.search(text, budget_ms=60_000)
                    assert not page.degraded
                    found[identity_of(page), text] = content_of(page)
    return found


class Watching:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.pages: list[Any] = []
        self.errors: list[Any] = []

    def answered(self, page: Any) -> None:
        self.pages.append(page)

    def refused(self, text: object, error: BaseException) -> None:
        self.errors.append(error)


def test_a_swap_changes_what_pages_say(builds: list[Path]) -> None:
    with open_live(builds[0]) as live:
        before = live.search("running shoes", budget_ms=ONE_S)
        report = live.swap(builds[1])
        after = live.search("running shoes", budget_ms=ONE_S)
        assert (before.snapshot, after.snapshot) == (builds[0].name, builds[1].name)
        assert report.identity == identity_of(after)
        assert 0 < report.check.overlap < 1
        assert live.snapshot is not None
        assert live.snapshot.version == builds[1].name
        live.swap(config=config(score=0.1))
        other = live.search("running shoes", budget_ms=ONE_S)
        assert other.snapshot == after.snapshot
        assert other.engine != after.engine
        assert f"serves: {identity_of(other)}" in live.describe()


def test_fifty_swaps_under_threads_and_tasks(builds: list[Path]) -> None:
    settings = [config(0.8), config(0.1)]
    right = oracle(builds, settings)
    assert len(set(map(str, right.values()))) > len(QUERIES) * 3
    wrong: list[Any] = []
    seen: set[str] = set()
    answered = [0]
    over = threading.Event()

    def judge(text: str, page: Any) -> None:
        seen.add(identity_of(page))
        answered[0] += 1
        if page.degraded or right[identity_of(page), text] != content_of(page):
            wrong.append((text, page))

    def hammer(offset: int) -> None:
        place = offset
        while not over.is_set():
            text = QUERIES[place % len(QUERIES)]
            place += 1
            try:
                judge(text, live.search(text, budget_ms=60_000))
            except Exception as error:
                wrong.append(error)

    async def tasks() -> None:
        async def one(text: str) -> None:
            while not over.is_set():
                try:
                    judge(text, await live.asearch(text, budget_ms=60_000))
                except Exception as error:
                    wrong.append(error)

        await asyncio.gather(*(one(text) for text in QUERIES[:3]))

    live = open_live(builds[0], settings[0])
    threads = [threading.Thread(target=hammer, args=(n,)) for n in range(3)]
    threads.append(threading.Thread(target=lambda: asyncio.run(tasks())))
    for thread in threads:
        thread.start()
    for place in range(50):
        live.swap(builds[place % 3], settings[place % 2])
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    open_ones = live.lineup.open_versions()
    live.close()
    assert all(version.closed for version in open_ones)
    assert not wrong, wrong[:3]
    assert len(seen) >= 6
    assert answered[0] > 50


def test_what_runs_ends_on_the_version_that_it_began_on(builds: list[Path]) -> None:
    hold = Hold()
    held: list[Any] = []

    def opener(build: Path, settings: Any) -> Pipeline:
        if build != builds[0]:
            return open_hashed(build, settings)
        from searchpipe.catalog.snapshot import Snapshot

        snapshot = Snapshot.open(build)
        return Pipeline.open(snapshot, settings, replace={**hashed_stages(snapshot), "prerank": waiting})

    class OnlyTheHeld(Hold):
        def run(self, work: Work) -> None:
            if work.query.text == "held":
                hold.run(work)

    waiting = OnlyTheHeld()
    live = open_live(builds[0], opener=opener)
    first = live.lineup.current
    asking = threading.Thread(target=lambda: held.append(live.search("held", budget_ms=60_000)))
    asking.start()
    assert hold.entered.acquire(timeout=30)
    live.swap(builds[1])
    assert live.search("red").snapshot == builds[1].name
    assert not first.wait_closed(0.05)
    assert live.load[0] == 1
    hold.go.set()
    asking.join(30)
    assert held[0].snapshot == builds[0].name
    assert held[0].hits
    assert first.wait_closed(30)
    live.close()


def test_too_many_that_do_not_end_stop_the_swaps(builds: list[Path]) -> None:
    live = open_live(builds[0], config(max_closing=1))
    leases = []
    for place in (1, 2):
        lease = live.lineup.lease()
        lease.__enter__()
        leases.append(lease)
        live.swap(builds[place])
    with pytest.raises(SwapError, match=r"live\.max_closing is 1"):
        live.swap(builds[0])
    for lease in leases:
        lease.__exit__(None, None, None)
    for version in live.lineup.open_versions()[1:]:
        assert version.wait_closed(30)
    live.swap(builds[0])
    live.close()


@pytest.mark.parametrize("kind", ["damaged", "gone", "config", "opener", "warm_up", "answers", "empty"])
def test_the_old_one_stays(builds: list[Path], kind: str, tmp_path: Path) -> None:
    class Raising(Hold):
        def run(self, work: Work) -> None:
            raise RuntimeError("no such row")

    class Nothing(Hold):
        def run(self, work: Work) -> None:
            work.candidates = work.candidates[:0] if work.candidates is not None else None

    def opener(build: Path, settings: Any) -> Pipeline:
        from searchpipe.catalog.snapshot import Snapshot

        if build == builds[0] or kind in ("damaged", "gone", "config"):
            return open_hashed(build, settings)
        if kind == "opener":
            raise MemoryError("no room")
        snapshot = Snapshot.open(build)
        stage = Nothing() if kind == "empty" else Raising()
        pipeline = Pipeline.open(snapshot, settings, replace={**hashed_stages(snapshot), "prerank": stage})
        if kind == "warm_up":
            pipeline.close()
        return pipeline

    errors: dict[str, type[Exception]] = {
        "damaged": SnapshotCorruptError,
        "gone": SnapshotNotFoundError,
        "config": ConfigError,
    }
    with open_live(builds[0], opener=opener, state=tmp_path / "state") as live:
        if kind == "damaged":
            damage(builds[1])
        target = tmp_path / "nowhere" if kind == "gone" else builds[1]
        settings = {"score": {"weight": 7.0}} if kind == "config" else None
        with pytest.raises(errors.get(kind, SwapError)) as caught:
            live.swap(target, settings)
        assert live.search("red").snapshot == builds[0].name
        assert len(live.lineup.open_versions()) == 1
        if kind != "config":
            assert live.history[-1].step == "failed"
            assert live.history[-1].code == caught.value.code  # type: ignore[attr-defined]
        assert live.reload() is None  # what was refused is not wanted


def test_observers_hear_callers_and_nobody_else(builds: list[Path]) -> None:
    watching = Watching()
    with open_live(builds[0], observers=[watching]) as live:
        later = Watching()
        live.observe(later)
        live.search("red")
        live.swap(builds[1])
        live.search("toy car")
        with pytest.raises(QueryError):
            live.search("")
    with pytest.raises(ClosedError):
        live.search("late")
    for one in (watching, later):
        assert [page.query for page in one.pages] == ["red", "toy car"]
        assert [error.code for error in one.errors] == ["bad_query", "closed"]


def test_reload_takes_on_what_is_published(catalog: Path, builds: list[Path], tmp_path: Path) -> None:
    from tests.fakes.live_versions import publish

    file = tmp_path / "searchpipe.toml"
    file.write_text("[live]\nkeep_s = 0.0\n[live.shadow]\nshare = 0.0\n[live.watch]\nseconds = 0.0\n")
    with open_live(catalog, file) as live:  # type: ignore[arg-type]
        assert live.reload() is None
        name = publish(catalog, 7)
        report = live.reload()
        assert report is not None
        assert live.search("red").snapshot == name
        file.write_text(file.read_text() + "[score]\nweight = 0.3\n")
        assert live.reload() is not None
        assert live.config.score.weight == 0.3
        file.write_text("[score]\nwait = 0.3\n")
        with pytest.raises(ConfigError, match="weight"):
            live.reload()
        assert live.config.score.weight == 0.3


def test_closing_ends_a_swap_that_is_under_way(
    builds: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reached, errors = threading.Event(), []

    def swap() -> None:
        try:
            live.swap(builds[1])
        except ClosedError as error:
            errors.append(error)

    shadow = {"share": 1.0, "seconds": 3600.0}
    live = open_live(
        builds[0],
        config(shadow=shadow),
        listener=lambda event: event.step == "shadowing" and reached.set(),
        state=tmp_path / "state",
    )
    swapping = threading.Thread(target=swap)
    swapping.start()
    assert reached.wait(30)
    live.close()
    live.close()
    swapping.join(30)
    assert len(errors) == 1
    assert all(version.closed for version in live.lineup.open_versions())
    assert "given_up" in [event.step for event in live.history]
    assert not live.lineup.history.count("failed")
    assert "failed" not in (tmp_path / "state" / HISTORY).read_text("utf-8")
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_version_is_closed_where_no_thread_can_be_begun(
    builds: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    live = open_live(builds[0])
    first = live.lineup.current
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        live.swap(builds[1])
        assert first.closed
        second = live.lineup.current
        live.close()
    assert second.closed


def test_a_forked_child_is_told(builds: list[Path]) -> None:
    code = f"""
from pathlib import Path
import pytest
from searchpipe.errors import ForkedError
from tests.fakes.killed_builds import in_child
from tests.fakes.live_versions import open_live

def child():
    for call in (lambda: live.search("red"), live.reload, lambda: live.swap(config={{}})):
        with pytest.raises(ForkedError):
            call()
    live.close()

with open_live(Path({str(builds[0])!r})) as live:
    assert in_child(child) == 0
    assert live.search("red").hits
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
