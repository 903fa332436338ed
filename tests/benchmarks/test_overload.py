"""The overload benchmark in a short mode: its structure and its arithmetic, never its times."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overload import Phase, parser, recovery_s, run
from benchmarks.overload_server import cpu_s
from benchmarks.report import Report
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.pipeline import Pipeline
from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Answer, Outcome
from tests.fakes.hashed_stages import hashed_stages
from tests.serve.conftest import snapshot_folder

__all__ = ["snapshot_folder"]

_ENTRY = Entry(ts=0.0, query="shoes")


def hashed(snapshot: Path, config: dict[str, Any]) -> Pipeline:
    """Opened in the other process."""
    opened = Snapshot.open(snapshot)
    return Pipeline.open(opened, config, replace=hashed_stages(opened))


def answered(at: float, ms: float, *degradations: tuple[str, str, float]) -> Outcome:
    return Outcome(_ENTRY, "answered", at, at, at + ms / 1e3, Answer((), ms, 50.0, degradations))


def shed(at: float) -> Outcome:
    return Outcome(_ENTRY, "shed", at, at, at, code="overloaded")


def test_the_whole_run_in_a_few_seconds(snapshot_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "overload.json"
    short = [
        "--seconds",
        "0.3",
        "--back-s",
        "1.2",
        "--warm-up-s",
        "0.2",
        "--rate",
        "40",
        "--without-admission",
    ]
    args = parser().parse_args([*short, "--json", str(file)])
    report = Report.from_args("overload", "short", args=args)
    run(report, args, (snapshot_folder, ["red shoes", "tent"]), hashed)
    figures = json.loads(file.read_text())["figures"]
    for name in ("1x", "2x", "5x", "back", "plain_1x", "plain_2x", "plain_5x"):
        assert figures[f"goodput_{name}"] >= 0
        assert 0 <= figures[f"shed_share_{name}"] <= 1
        assert figures[f"longest_queue_{name}"] <= 64
        assert figures[f"cores_{name}"] > 0
        assert figures[f"generator_cores_{name}"] > 0
    assert {"goodput_ratio_2x", "goodput_ratio_5x", "recovery_s", "memory_growth_mib"} <= set(figures)
    assert figures["capacity_qps"] == 40
    assert 0 <= figures["goodput_5x_to_best_seen"] <= 1
    assert (figures["hung_calls"], figures["lost_calls"]) == (0, 0)


def test_the_capacity_is_searched(snapshot_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that answers in time below 30 a second and late above."""
    from benchmarks import overload

    class Fake:
        def load(self, queries: list[str], rate: float, seconds: float, seed: int) -> list[Outcome]:
            del queries, seed
            return [answered(n / rate, 20.0 if rate < 30 else 70.0) for n in range(int(rate * seconds))]

        def facts(self) -> dict[str, Any]:
            return {"cpu_s": 0.0}

    args = parser().parse_args(["--probe-s", "2", "--start-rate", "5"])
    found = overload.Bench(Fake(), [], args).capacity()  # type: ignore[arg-type]
    assert found.rate is not None
    assert 30 / 1.06 <= found.rate < 30


def test_a_phase_counts_what_is_good_and_what_was_given_up() -> None:
    outcomes = [
        answered(0.0, 49.0, ("score", "admission", 1.0), ("score", "admission", 0.5)),
        answered(0.1, 51.0, ("encode", "busy", 1.0)),
        shed(0.2),
        shed(0.3),
    ]
    phase = Phase("1x", 4.0, 1.0, outcomes, {}, 50.0)
    assert phase.goodput == 1.0
    assert (phase.share("shed"), phase.share("error")) == (0.5, 0.0)
    assert phase.given_up() == {"score: admission": 0.5, "encode: busy": 0.5}
    assert (phase.degraded("admission"), phase.degraded("deadline")) == (0.5, 0.0)
    nothing = Phase("5x", 1.0, 1.0, [], {}, 50.0)
    assert (nothing.goodput, nothing.p99_ms, nothing.share("shed"), nothing.given_up()) == (0.0, 0.0, 0.0, {})


def test_the_way_back_ends_with_the_first_second_in_time() -> None:
    good = [answered(n / 100, 10.0) for n in range(1000)]
    assert recovery_s(good, 10.0, 50.0) == 0.0
    late = [answered(n / 100, 80.0) if n < 150 else outcome for n, outcome in enumerate(good)]
    assert recovery_s(late, 10.0, 50.0) == pytest.approx(1.5, abs=0.11)
    refused = [shed(n / 100) if n < 150 else outcome for n, outcome in enumerate(good)]
    assert recovery_s(refused, 10.0, 50.0) == pytest.approx(1.5, abs=0.11)
    assert recovery_s([shed(n / 100) for n in range(1000)], 10.0, 50.0) == 10.0


def test_processor_time_of_another_process_is_read() -> None:
    begin = time.process_time()
    while time.process_time() < begin + 0.05:
        pass
    assert cpu_s(os.getpid()) == pytest.approx(time.process_time(), abs=0.1)
    assert cpu_s(2**30) == 0.0
