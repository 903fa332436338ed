"""The capacity benchmark's own parts: search, comparison, texts, batcher, processes of the systems."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import capacity_gpu, peer_batched
from benchmarks.capacity_corpus import Texts, write_texts
from benchmarks.capacity_gpu import environment, interpreter, padding_waste, record, run_system, same_top
from benchmarks.capacity_search import TOLERANCE, Held, Ranked, SystemTarget, Timing, hold_p99, search
from benchmarks.capacity_systems import Job, Result, best_variant
from benchmarks.peer_sentence import best
from benchmarks.report import Report
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.replay.capacity import Run
from searchpipe.replay.entry import Entry
from tests.conftest import World

GOAL_MS = 30.0


def a_run(rate: float, p99_ms: float, *, degraded: float = 0.0) -> Run:
    return Run(rate, 100, rate, rate, p99_ms / 2, p99_ms, 0.0, degraded, 0.1)


class Ideal:
    """Holds up to ``capacity`` queries a second in short runs, up to ``longer`` in longer ones."""

    def __init__(self, capacity: float, longer: float | None = None, *, step_s: float = 0.0) -> None:
        self.capacity, self.longer = capacity, longer if longer is not None else capacity
        self.seen: list[tuple[float, float, int]] = []
        self.clock = 0.0
        self._step_s = step_s

    def __call__(self, rate: float, seconds: float, seed: int) -> Run:
        self.seen.append((rate, seconds, seed))
        self.clock += self._step_s
        limit = self.longer if seed else self.capacity
        return a_run(rate, GOAL_MS if rate <= limit else 2 * GOAL_MS)


def searched(system: Ideal, guess: float, *, limit_s: float = 1e9) -> Held:
    found = Held(saturated=guess)
    timing = Timing(run_s=1.0, confirm_s=9.0, limit_s=limit_s)
    search(found, system, p99_ms=GOAL_MS, seed=0, timing=timing, now=lambda: system.clock)
    return found


@given(capacity=st.floats(20.0, 2000.0), guess=st.floats(0.8, 3.0))
def test_the_search_finds_the_capacity(capacity: float, guess: float) -> None:
    found = searched(Ideal(capacity), guess * capacity)
    assert found.rate <= capacity <= found.rate * (1 + TOLERANCE) * 1.001
    assert found.confirmed is not None
    assert found.confirmed.holds
    assert not found.why


def test_a_rate_that_fails_the_longer_run_is_lowered() -> None:
    system = Ideal(100.0, longer=80.0)
    found = searched(system, 110.0)
    assert 80.0 / (1 + TOLERANCE) <= found.rate <= 80.0
    assert [seed for _, _, seed in system.seen].count(1) > 1
    assert all(seconds == 9.0 for _, seconds, seed in system.seen if seed)


def test_a_system_that_never_holds_has_no_capacity() -> None:
    found = searched(Ideal(0.0), 100.0)
    assert found.rate == 0.0
    assert found.confirmed is None
    assert "hold" in found.why


def test_a_capacity_over_the_search_is_told() -> None:
    found = searched(Ideal(1e6), 100.0)
    assert found.rate == pytest.approx(160.0)
    assert "still held" in found.why


def test_the_search_ends_when_its_time_is_over() -> None:
    found = searched(Ideal(100.0, step_s=10.0), 200.0, limit_s=25.0)
    assert len(found.runs) < 6
    assert "over" in found.why


class Lame:
    """Scores one of two pairs now and then."""

    threads = 2

    def ask(self, text: str) -> Ranked:
        return Ranked((1, 0), (2.0, 1.0), 1 if text == "lame" else 2)

    def counts(self) -> dict[str, float]:
        return {}

    def describe(self) -> str:
        return "lame"

    def close(self) -> None:
        return


def test_a_query_that_was_not_scored_in_full_is_degraded() -> None:
    target = SystemTarget(Lame(), 2)
    assert not target.search(Entry(0.0, "fine")).degradations
    ((stage, _, amount),) = target.search(Entry(0.0, "lame")).degradations
    assert (stage, amount) == ("score", 0.5)


def test_a_system_that_leaves_pairs_out_holds_nothing() -> None:
    timing = Timing(run_s=0.1, warm_up_s=0.0, confirm_s=0.1, limit_s=1.0)
    found = hold_p99(Lame(), ["lame"], p99_ms=1e4, candidates=2, seed=0, timing=timing)
    assert found.rate == 0.0
    assert all(run.degraded_share == 1.0 for run in found.runs)


def test_the_fastest_variant_is_kept_and_the_others_are_closed() -> None:
    class Slow(Lame):
        def __init__(self, pause: float) -> None:
            self.pause, self.closed = pause, False

        def ask(self, text: str) -> Ranked:
            threading.Event().wait(self.pause)
            return super().ask(text)

        def close(self) -> None:
            self.closed = True

    slow, fast = Slow(0.02), Slow(0.001)

    def broken() -> Slow:
        raise RuntimeError("no such setting")

    found, trials = best_variant({"slow": lambda: slow, "broken": broken, "fast": lambda: fast}, ["a"])
    assert found is fast
    assert slow.closed
    assert not fast.closed
    assert set(trials) == {"slow", "fast"}


def test_best_orders_by_score() -> None:
    found = best(np.array([7, 8, 9]), np.array([0.1, 0.3, 0.2], np.float32), most=2)
    assert found.documents == (8, 9)
    assert found.scored == 3


def test_the_texts_are_those_of_the_snapshots_documents(world: World, tmp_path: Path) -> None:
    with Snapshot.open(world.snapshot) as snapshot:
        folder = write_texts(snapshot, [world.files.products], tmp_path / "texts")
        ids = snapshot.id_of(np.arange(len(snapshot)))
    texts = Texts(folder)
    rows = [json.loads(line) for line in world.files.products.read_text("utf-8").splitlines()]
    titles = {row["id"]: row["title"] for row in rows}
    assert len(texts) == len(ids)
    for text, product in zip(texts.of(range(len(ids))), ids, strict=True):
        assert text.startswith(" ".join(titles[product].split()))


def test_a_product_without_a_source_is_refused(world: World, tmp_path: Path) -> None:
    lines = world.files.products.read_text("utf-8").splitlines()
    short = tmp_path / "short.jsonl"
    short.write_text("\n".join(lines[1:]))
    with Snapshot.open(world.snapshot) as snapshot, pytest.raises(SystemExit, match="none of its sources"):
        write_texts(snapshot, [short], tmp_path / "texts")


def test_the_batcher_answers_each_caller_with_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    class Search:
        queries = batches = real_tokens = padded_tokens = 0

        def __init__(self, _world: object) -> None:
            self.sizes: list[int] = []

        def answer(self, texts: Sequence[str]) -> list[Ranked]:
            if "bad" in texts:
                raise ValueError("bad")
            self.sizes.append(len(texts))
            return [Ranked((int(text),), (0.0,), 1) for text in texts]

    monkeypatch.setattr(peer_batched, "TorchSearch", Search)
    world: Any = None
    system = peer_batched.BatchedSystem(world, max_queries=4, workers=2)
    answers: dict[int, Ranked] = {}

    def ask(number: int) -> None:
        answers[number] = system.ask(str(number))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: found.documents for number, found in answers.items()} == {n: (n,) for n in range(40)}
    with pytest.raises(ValueError, match="bad"):
        system.ask("bad")
    system.close()
    system.close()


def a_job(tmp_path: Path, system: str) -> Job:
    return Job(
        system=system,
        catalog=str(tmp_path / "none"),
        texts=str(tmp_path),
        encoder="",
        cross_encoder="",
        queries=["a"],
        candidates=2,
        p99_ms=30.0,
        seed=0,
        gpu=False,
        timing=Timing(),
        out="",
    )


def test_a_system_that_fails_is_told_with_its_reason(tmp_path: Path) -> None:
    args = argparse.Namespace(sites=None, system_s=60.0)
    found = run_system(a_job(tmp_path, "searchpipe"), tmp_path, args)
    assert isinstance(found, str)
    assert "its process ended with 1" in found
    assert "Error" in found or "not found" in found


def test_a_systems_own_packages_go_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "infinity").mkdir()
    monkeypatch.setenv("PYTHONPATH", "before")
    assert environment("infinity", tmp_path)["PYTHONPATH"] == f"{tmp_path / 'infinity'}:before"
    assert environment("pytriton", tmp_path)["PYTHONPATH"] == "before"
    assert environment("infinity", None)["PYTHONPATH"] == "before"
    assert interpreter("infinity", tmp_path) == sys.executable
    python = tmp_path / "pytriton" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    packages = tmp_path / "pytriton" / "lib" / "python3.12" / "site-packages"
    packages.mkdir(parents=True)
    assert interpreter("pytriton", tmp_path) == str(python)
    assert environment("pytriton", tmp_path)["PYTHONPATH"] == f"{packages}:before"


def a_result(system: str, rate: float, top: list[list[int]]) -> Result:
    held = Held(rate, a_run(rate, 20.0) if rate else None, 5.0, 1.2 * max(rate, 10.0))
    counts = {"rows": 900.0, "batches": 4.0, "real_tokens": 90.0, "padded_tokens": 100.0}
    return Result(system, "described", 1.0, held, top, counts if system == "searchpipe" else {}, 0.95, {})


def test_the_figures_compare_with_the_best_peer(tmp_path: Path) -> None:
    results = {
        "searchpipe": a_result("searchpipe", 300.0, [[1, 2]]),
        "infinity": a_result("infinity", 50.0, [[2, 3]]),
        "sentence_transformers": a_result("sentence_transformers", 0.0, [[1, 2]]),
    }
    report = Report("capacity_gpu", "title")
    job = a_job(tmp_path, "searchpipe")
    record(report, results, job)
    assert report.figures["ours_qps"] == 300.0
    assert report.figures["best_peer_qps"] == 50.0
    assert report.figures["speedup_vs_best_peer"] == pytest.approx(6.0)
    assert report.figures["speedup_vs_best_saturated_peer"] == pytest.approx(5.0)
    assert report.figures["padding_waste"] == pytest.approx(0.1)
    assert report.figures["batch_fill"] == pytest.approx(900 / 8)
    assert report.figures["infinity_same_top10"] == 0.5


def test_peers_that_hold_nothing_give_no_speedup(tmp_path: Path) -> None:
    results = {
        name: a_result(name, rate, [[1]]) for name, rate in {"searchpipe": 9.0, "infinity": 0.0}.items()
    }
    report = Report("capacity_gpu", "title")
    record(report, results, a_job(tmp_path, "searchpipe"))
    assert report.figures["best_peer_qps"] == 0.0
    assert "speedup_vs_best_peer" not in report.figures


def test_shares() -> None:
    assert padding_waste({"real_tokens": 75.0, "padded_tokens": 100.0}) == 0.25
    assert same_top([[1, 2, 3, 4]], [[4, 5, 6, 7]]) == 0.25
    assert same_top([], []) == 0.0


def test_it_says_that_it_needs_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoGpu:
        available = False
        reason = "there is none"

    monkeypatch.setattr("sys.argv", ["capacity_gpu"])
    monkeypatch.setattr(capacity_gpu, "driver_facts", NoGpu)
    with pytest.raises(SystemExit, match="there is none"):
        capacity_gpu.main()
