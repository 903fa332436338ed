"""The search for a capacity, against targets whose capacity is known."""

from __future__ import annotations

import json
import random
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError
from searchpipe.replay.capacity import MIN_RATE, CapacitySettings, Run, find_capacity, holds_target
from searchpipe.replay.capacity_html import capacity_html, said
from searchpipe.replay.capacity_run import measure_capacity
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import LoadSettings
from searchpipe.replay.make_schema import schema_file
from searchpipe.replay.targets import ShedError
from searchpipe.replay.writer import write_log
from tests.fakes.replay_targets import FakeTarget, JumpClock, entries_of, page_of


def run_of(rate: float, p99: float | None, failed: float = 0.0, degraded: float = 0.0) -> Run:
    return Run(rate, 100, rate, rate, 1.0, p99, failed, degraded, 0.0)


@given(st.floats(0.1, 50_000), st.floats(0.1, 10_000), st.sampled_from([0.01, 0.05, 0.3]))
def test_a_steady_target_is_bracketed(capacity: float, start: float, tolerance: float) -> None:
    settings = CapacitySettings(p99_ms=10, start_rate=start, tolerance=tolerance, max_rate=1e5)
    runs = 0

    def probe(rate: float, number: int) -> Run:
        nonlocal runs
        assert number == runs
        runs += 1
        return run_of(rate, 5.0 if rate <= capacity else 50.0)

    found = find_capacity(probe, settings)
    assert found.rate is not None
    assert found.fails_at is not None
    assert found.rate <= capacity < found.fails_at
    assert found.fails_at / found.rate <= 1 + tolerance + 1e-9
    assert found.holding_runs == len(found.p99_ms) == 3
    assert runs < 120


@given(st.floats(1, 1000), st.integers(0, 50))
def test_a_noisy_target_ends_the_search_near_its_capacity(capacity: float, seed: int) -> None:
    dice = random.Random(seed)
    settings = CapacitySettings(p99_ms=10, start_rate=50)
    runs: list[Run] = []

    def probe(rate: float, number: int) -> Run:
        chance = 1 / (1 + (rate / capacity) ** 8)
        return run_of(rate, 5.0 if dice.random() < chance else 50.0)

    found = find_capacity(probe, settings, runs.append)
    assert len(runs) < 1000
    if found.rate is not None:
        assert found.holding_runs >= 2
        assert len(found.p99_ms) == 3
        assert found.rate < 4 * capacity


def test_the_ends() -> None:
    settings = CapacitySettings(p99_ms=10, start_rate=4, max_rate=100)
    everything = find_capacity(lambda rate, number: run_of(rate, 1.0), settings)
    assert (everything.rate, everything.fails_at) == (100, None)
    nothing = find_capacity(lambda rate, number: run_of(rate, None, failed=1.0), settings)
    assert (nothing.rate, nothing.fails_at) == (None, MIN_RATE)
    assert said(nothing, 10) == "No rate holds P99 <= 10 ms."
    assert "the highest rate that was tried" in said(everything, 10)


def test_what_holds() -> None:
    settings = CapacitySettings(p99_ms=10, max_failed_share=0.01, max_degraded_share=0.1)
    assert holds_target(run_of(1, 10.0, 0.01, 0.1), settings)
    assert not holds_target(run_of(1, 10.1), settings)
    assert not holds_target(run_of(1, None), settings)
    assert not holds_target(run_of(1, 1.0, failed=0.02), settings)
    assert not holds_target(run_of(1, 1.0, degraded=0.2), settings)


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="odd"):
        CapacitySettings(p99_ms=10, repeats=2)
    with pytest.raises(ConfigError, match="start_rate"):
        CapacitySettings(p99_ms=10, start_rate=10, max_rate=5)


def a_log(folder: Path) -> Path:
    write_log(folder / "log.jsonl", entries_of(50))
    return folder / "log.jsonl"


def test_a_search_with_real_load_and_its_report(tmp_path: Path) -> None:
    # Sheds all above 40 queries a second of its own clock, within any second.
    clock, came = JumpClock(), list[float]()

    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        now = clock.now()
        came.append(now)
        if sum(now - 1 < one <= now for one in came[-2000:]) > 40:
            raise ShedError("503")
        return page_of(["a"])

    settings = CapacitySettings(p99_ms=1e8, start_rate=10, max_rate=300, tolerance=1.0, repeats=1)
    report = measure_capacity(
        a_log(tmp_path),
        FakeTarget(answer),
        settings,
        run_s=4.0,
        warm_up_s=0.5,
        bounds=LoadSettings(max_in_flight=1, patience_s=3600),
        clock=clock,
    )
    content = json.loads(msgspec.json.encode(report))
    schema = json.loads(schema_file("capacity").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator(schema).validate(content)
    assert report.capacity.steps
    assert not report.interrupted
    assert all(run.queries > 0 for step in report.capacity.steps for run in step.runs)
    html = capacity_html(report)
    assert html.count("<svg") == 2


def test_ctrl_c_reports_what_was_seen(tmp_path: Path) -> None:
    seen: list[Run] = []

    def told(run: Run) -> None:
        seen.append(run)
        if len(seen) == 2:
            raise KeyboardInterrupt

    settings = CapacitySettings(p99_ms=1e8, start_rate=10, repeats=1)
    bounds = LoadSettings(patience_s=3600)
    report = measure_capacity(
        a_log(tmp_path), FakeTarget(), settings, run_s=2.0, bounds=bounds, told=told, clock=JumpClock()
    )
    assert report.interrupted
    assert report.capacity.rate == 20
    assert [step.rate for step in report.capacity.steps] == [10, 20]
