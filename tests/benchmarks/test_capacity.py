"""The capacity benchmark's own parts: load, comparison, texts, batcher, processes of the systems."""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import capacity_gpu, peer_batched
from benchmarks.capacity_corpus import Texts, write_texts
from benchmarks.capacity_gpu import environment, interpreter, run_system
from benchmarks.capacity_policy import Held, Needs, Tally, Timing
from benchmarks.capacity_report import line_of, padding_waste, record, same_top
from benchmarks.capacity_search import Ranked, SystemTarget, hold_p99
from benchmarks.capacity_systems import BUDGET, FULL, Job, Result, Watched, best_variant
from benchmarks.peer_sentence import best
from benchmarks.report import Report
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.replay.capacity import Run
from searchpipe.replay.entry import Entry
from tests.conftest import World


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


class Slow(Lame):
    """So that it is no matter of the load which rate holds."""

    def ask(self, text: str) -> Ranked:
        threading.Event().wait(0.02)
        return super().ask(text)


BRIEF = Timing(run_s=0.1, warm_up_s=0.0, confirm_s=0.1, limit_s=1.0, saturated_s=0.1)


def test_a_query_that_was_not_scored_in_full_is_degraded() -> None:
    target = SystemTarget(Lame(), 2)
    assert not target.search(Entry(0.0, "fine")).degradations
    ((stage, _, amount),) = target.search(Entry(0.0, "lame")).degradations
    assert (stage, amount) == ("score", 0.5)
    assert target.tally == Tally(queries=2, pairs=3, shortened=1)
    assert target.missing_share == 0.25


def test_a_system_that_leaves_pairs_out_holds_nothing() -> None:
    found = hold_p99(Lame(), ["lame"], needs=Needs(1e4), candidates=2, seed=0, timing=BRIEF)
    assert found.rate == 0.0
    assert all(run.degraded_share == 0.5 for run in found.runs)


def test_it_may_leave_pairs_out_if_that_is_the_deal() -> None:
    watched = Watched(Lame(), gpu=False)
    needs = Needs(1e4, scored_share=0.5)
    found = hold_p99(Slow(), ["lame"], needs=needs, candidates=2, seed=0, timing=BRIEF, around=watched)
    assert found.rate > 0.0
    assert found.tally.pairs_per_query == 1.0
    assert found.tally.shortened_share == 1.0


def test_what_was_seen_is_kept_by_rate() -> None:
    class Counting(Lame):
        asked = 0.0

        def counts(self) -> dict[str, float]:
            return {"asked": self.asked}

    system = Counting()
    watched = Watched(system, gpu=False)

    def load(queries: int) -> int:
        system.asked += queries
        return queries

    assert [watched(float(rate), partial(load, rate)) for rate in (5, 7, 6)] == [5, 7, 6]
    assert watched.at(7.0).counts == {"asked": 7.0}
    assert watched.at(0.0).counts == {"asked": 6.0}
    assert watched.at(7.0).busy_share is None


def test_the_fastest_variant_is_kept_and_the_others_are_closed() -> None:
    class Pausing(Lame):
        def __init__(self, pause: float) -> None:
            self.pause, self.closed = pause, False

        def ask(self, text: str) -> Ranked:
            threading.Event().wait(self.pause)
            return super().ask(text)

        def close(self) -> None:
            self.closed = True

    slow, fast = Pausing(0.02), Pausing(0.001)

    def broken() -> Pausing:
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
    held = Held(
        rate,
        fails_at=1.03 * rate if rate else None,
        confirmed=Run(rate, 100, rate, rate, 10.0, 20.0, 0.0, 0.0, 0.1) if rate else None,
        tally=Tally(10, 19, 1) if system == BUDGET else Tally(10, 20),
        alone_ms=5.0,
        saturated=1.2 * max(rate, 10.0),
    )
    counts = {"rows": 900.0, "batches": 4.0, "real_tokens": 90.0, "padded_tokens": 100.0}
    return Result(
        system, "described", 1.0, held, top, counts if system == "searchpipe" else {}, 0.7, {}, 0.95
    )


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
    assert report.figures["gpu_busy_share"] == 0.7
    assert report.figures["saturated_gpu_busy_share"] == 0.95
    assert report.figures["ours_fails_at_qps"] == pytest.approx(309.0)
    assert report.figures["fully_scored_share"] == 1.0
    assert not [name for name in report.figures if "budget" in name]


def test_the_row_with_a_budget_stands_beside_the_comparison(tmp_path: Path) -> None:
    results = {
        name: a_result(name, rate, [[1]])
        for name, rate in {"searchpipe": 9.0, BUDGET: 12.0, FULL: 8.0}.items()
    }
    report = Report("capacity_gpu", "title")
    record(report, results, a_job(tmp_path, "searchpipe"))
    assert report.figures["ours_qps"] == 9.0
    assert {name: value for name, value in report.figures.items() if "budget" in name} == {
        "budget_qps": 12.0,
        "budget_p99_ms": 20.0,
        "budget_gpu_busy_share": 0.7,
        "budget_pairs_per_query": 1.9,
        "budget_shortened_share": 0.1,
    }
    assert any("90%" in note and "no part of the comparison" in note for note in report.as_dict()["notes"])
    assert "1.9 pairs a query, 10.0% shortened" in line_of(results[BUDGET])


def test_a_row_with_a_budget_that_holds_nothing_has_a_rate_alone(tmp_path: Path) -> None:
    report = Report("capacity_gpu", "title")
    record(report, {BUDGET: a_result(BUDGET, 0.0, [[1]])}, a_job(tmp_path, BUDGET))
    assert {name: value for name, value in report.figures.items() if "budget" in name} == {"budget_qps": 0.0}


def test_a_budget_asks_for_less_but_for_everyone(tmp_path: Path) -> None:
    assert a_job(tmp_path, "searchpipe").needs == Needs(30.0)
    assert a_job(tmp_path, BUDGET).needs == Needs(30.0, scored_share=0.9, failed_share=0.0)


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
