"""Comparison of two sides: overlap, paired differences, verdict, sides, report."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError
from searchpipe.replay.compare import ComparePlan, compare_sides
from searchpipe.replay.compare_figures import ComparisonReport
from searchpipe.replay.compare_html import comparison_html
from searchpipe.replay.entry import Entry
from searchpipe.replay.make_schema import schema_file
from searchpipe.replay.paired import mean_difference, quantile_difference
from searchpipe.replay.rbo import rbo
from searchpipe.replay.sample import sample_entries
from searchpipe.replay.sides import parse_side
from searchpipe.replay.targets import TargetError
from searchpipe.replay.verdict import Thresholds
from searchpipe.replay.writer import write_log
from tests.fakes.replay_targets import FakeTarget, JumpClock, entries_of, page_of

rankings = st.lists(st.integers(0, 15).map(str), unique=True, max_size=12)
persistence = st.floats(0.05, 0.98)


def extrapolated(first: list[str], second: list[str], p: float) -> float:
    """Equation 32 as it is printed, term by term."""
    short, long = sorted((first, second), key=len)
    s, n = len(short), len(long)

    def x(d: int) -> int:
        return len(set(short[:d]) & set(long[:d]))

    seen = sum(x(d) / d * p**d for d in range(1, n + 1))
    unseen = sum(x(s) * (d - s) / (s * d) * p**d for d in range(s + 1, n + 1))
    return (1 - p) / p * (seen + unseen) + ((x(n) - x(s)) / n + x(s) / s) * p**n


@given(rankings, rankings, persistence)
def test_rbo_is_the_published_formula(first: list[str], second: list[str], p: float) -> None:
    value = rbo(first, second, p)
    assert value == pytest.approx(rbo(second, first, p))
    assert -1e-9 <= value <= 1 + 1e-9
    if first and second:
        assert value == pytest.approx(extrapolated(first, second, p))
    else:
        assert value == (1.0 if first == second else 0.0)


@given(rankings, persistence)
def test_rbo_of_equal_and_of_disjoint_rankings(first: list[str], p: float) -> None:
    assert rbo(first, first, p) == pytest.approx(1.0)
    if first:
        assert rbo(first, [f"other {item}" for item in first], p) == 0.0


def test_rbo_weighs_the_first_places_most() -> None:
    page = list("abcdefghij")
    at_the_top = ["x", *page[1:]]
    at_the_end = [*page[:-1], "x"]
    assert rbo(page, at_the_top) < rbo(page, at_the_end) < 1
    with pytest.raises(ConfigError):
        rbo(page, page, 1.0)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    a = rng.lognormal(2, 1, 800)
    b = a + 1.0
    mean = mean_difference(a, b, higher_is_better=False)
    # The spread of a and b is large, that of their pairs is nothing.
    assert mean.difference == pytest.approx(1.0)
    assert mean.low == pytest.approx(1.0)
    assert mean.high == pytest.approx(1.0)
    assert (mean.better, mean.worse, mean.equal) == (0, 800, 0)
    median = quantile_difference(a, b, 0.5)
    assert median.low is not None
    assert median.high is not None
    assert median.low <= 1.0 + 1e-9
    assert median.high >= 1.0 - 1e-9
    assert mean_difference(a, np.full(800, np.nan), higher_is_better=True).queries == 0


def side_of(order: list[str], seconds: float, clock: JumpClock) -> FakeTarget:
    def answer(entry: Entry):  # type: ignore[no-untyped-def]
        clock.advance(seconds)
        if entry.query == "query 5" and order[0] == "z":
            raise TargetError("500")
        return page_of(order)

    return FakeTarget(answer)


def compared(
    folder: Path, b_order: list[str], b_seconds: float = 0.02, labelled: bool = True, **limits: float
) -> ComparisonReport:
    entries = [
        msgspec.structs.replace(e, labels={"a": 1.0} if labelled else None, clicks=("b",))
        for e in entries_of(140)
    ]
    write_log(folder / "log.jsonl", entries)
    clock = JumpClock()
    targets = side_of(["a", "b", "c"], 0.01, clock), side_of(b_order, b_seconds, clock)
    plan = ComparePlan(warm_up=10, thresholds=Thresholds(**limits))
    return compare_sides(folder / "log.jsonl", ("A", "B"), targets, plan, clock=clock)


def test_a_side_that_is_slower_and_worse(tmp_path: Path) -> None:
    report = compared(
        tmp_path, ["b", "a", "c"], max_p99_increase=0.5, max_ndcg_loss=0.1, min_rbo=0.99, max_rr_loss=0.0
    )
    whole = report.whole
    assert whole.queries == 130
    assert report.warm_up_queries == 10
    assert whole.latency_p99.relative == pytest.approx(1.0, rel=1e-3)
    assert whole.ndcg_at_10.difference == pytest.approx(1 / np.log2(3) - 1)
    assert whole.rr.difference == pytest.approx(0.5)
    assert whole.overlap.same_pages == 0
    assert {c.name: (c.passed, c.certain) for c in report.checks} == {
        "failed_increase": (True, True),
        "p99_increase": (False, True),
        "ndcg_loss": (False, True),
        "rr_loss": (True, True),
        "rbo": (False, True),
    }
    assert not report.passed
    assert len(report.changed) == 20
    assert [item.id for item in report.changed[0].b] == ["b", "a", "c"]
    assert sum(group.queries for group in report.strata.values()) == 130


def test_a_side_that_is_the_same_passes(tmp_path: Path) -> None:
    report = compared(tmp_path, ["a", "b", "c"], 0.01, max_p99_increase=0.05, max_ndcg_loss=0.0, min_rbo=1.0)
    assert report.passed
    assert report.changed == []
    assert report.whole.overlap.same_pages == 130


def test_a_side_that_fails_queries_does_not_pass(tmp_path: Path) -> None:
    report = compared(tmp_path, ["z", "a", "b"])
    assert report.b.failed == {"error: 500": 19}
    assert report.whole.latency_mean.queries == 111
    assert [check.name for check in report.checks if not check.passed] == ["failed_increase"]


def test_limits_that_the_log_cannot_decide_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no query of the log has labels"):
        compared(tmp_path, ["a"], labelled=False, max_ndcg_loss=0.1)


def test_both_sides_are_asked_in_random_order_by_the_seed(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", entries_of(60))

    def order(seed: int) -> str:
        asked: list[str] = []

        def told(name: str):  # type: ignore[no-untyped-def]
            def answer(entry: Entry):  # type: ignore[no-untyped-def]
                asked.append(name)
                return page_of(["a"])

            return FakeTarget(answer)

        plan = ComparePlan(seed=seed, warm_up=0)
        compare_sides(tmp_path / "log.jsonl", ("A", "B"), (told("A"), told("B")), plan, clock=JumpClock())
        assert all({one, two} == {"A", "B"} for one, two in zip(asked[::2], asked[1::2], strict=True))
        return "".join(asked[::2])

    first = order(1)
    assert first == order(1)
    assert first != order(2)
    assert 15 < first.count("A") < 45


def test_the_comparison_validates_and_shows_pages_side_by_side(tmp_path: Path) -> None:
    report = compared(tmp_path, ["b", "a", "<c>"])
    schema = json.loads(schema_file("compare").read_text(encoding="utf-8"))
    content = json.loads(msgspec.json.encode(report))
    jsonschema.Draft202012Validator(schema).validate(content)
    html = comparison_html(report)
    assert "Product &lt;c&gt;" in html
    assert "there 2" in html
    assert "only here" in html


@given(st.integers(0, 60), st.integers(1, 30), st.integers(0, 3))
def test_a_sample_is_in_order_and_no_larger_than_wanted(count: int, most: int, seed: int) -> None:
    drawn = sample_entries(entries_of(count), most, seed)
    assert len(drawn) == min(count, most)
    assert [e.ts for e in drawn] == sorted({e.ts for e in drawn})


def test_a_sample_is_even() -> None:
    hits = np.zeros(10)
    for seed in range(600):
        for entry in sample_entries(entries_of(10, gap_s=1.0), 3, seed):
            hits[int(entry.ts - 1000)] += 1
    assert np.all(np.abs(hits / 600 - 0.3) < 0.1)


def test_sides_are_made_of_parts(tmp_path: Path) -> None:
    toml = tmp_path / "base.toml"
    toml.write_text("[score]\ndepth = 30\n[recall]\ndepth = 100\n")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    plain = parse_side(str(toml), snapshot=folder)
    assert plain.config == {"score": {"depth": 30}, "recall": {"depth": 100}}
    parts = f'{toml},score.depth=20,recall.sources=["lexical", "dense"],engine:minilm@2,{folder}'
    side = parse_side(parts)
    assert side.snapshot == folder
    assert side.config == {
        "score": {"depth": 20},
        "recall": {"depth": 100, "sources": ["lexical", "dense"]},
        "models": {"scorer": "engine:minilm@2"},
    }
    assert parse_side("diversify.method=dpp", snapshot=folder, config=toml).config == {
        "score": {"depth": 30},
        "recall": {"depth": 100},
        "diversify": {"method": "dpp"},
    }
    assert parse_side("http://127.0.0.1:8080").url == "http://127.0.0.1:8080"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nowhere", "no TOML file"),
        ("nowhere.toml", "Cannot read"),
        ("score.depht=3", "depth"),
        ("score.depth=0", "score.depth"),
        ("http://x,score.depth=3", "URL and more"),
    ],
)
def test_sides_that_are_none(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_side(text, snapshot=tmp_path)
    with pytest.raises(ConfigError, match="names no snapshot"):
        parse_side("score.depth=3")
