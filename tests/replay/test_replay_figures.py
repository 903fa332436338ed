"""What is counted of a replay, and its report."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import ConfigError, LogError
from searchpipe.replay.entry import Entry
from searchpipe.replay.figures import Report
from searchpipe.replay.load import LoadSettings
from searchpipe.replay.make_schema import SCHEMAS, schema_file
from searchpipe.replay.outcome import Kind, Outcome
from searchpipe.replay.quality import quality_of
from searchpipe.replay.recorder import Recorder
from searchpipe.replay.report import write_report
from searchpipe.replay.report_html import report_html
from searchpipe.replay.run import Callers, ReplayPlan, replay
from searchpipe.replay.schedule import Ramp, Recorded
from searchpipe.replay.scorer import ScorerCounts, scorer_figures
from searchpipe.replay.strata import find_strata
from searchpipe.replay.targets import ShedError
from searchpipe.replay.writer import write_log
from tests.fakes.replay_targets import FakeTarget, JumpClock, entries_of, page_of


def outcome(at: float, ms: float, kind: Kind = "answered", text: str = "x", **page: object) -> Outcome:
    answer = page_of(["a", "b"], **page) if kind == "answered" else None  # type: ignore[arg-type]
    code = "" if kind == "answered" else "code"
    return Outcome(Entry(0.0, text), kind, at, at, at + ms / 1e3, answer, code)


def test_goodput_counts_the_budget_from_the_intended_start() -> None:
    recorder = Recorder()
    # The pipeline itself took 5 ms each time: what is late is late by waiting.
    for ms in (10, 49, 51, 500):
        recorder.observe(outcome(0.0, ms))
    whole = recorder.whole(2.0)
    assert (whole.answered, whole.within_budget, whole.goodput_per_s) == (4, 2, 1.0)
    assert whole.latency_ms.max == pytest.approx(500)
    assert whole.service_ms.max == pytest.approx(5)
    strict = Recorder(goal_ms=20)
    strict.observe(outcome(0.0, 10))
    strict.observe(outcome(0.0, 49))
    assert strict.whole(1.0).within_budget == 1


def test_what_waited_is_in_the_latency_and_what_was_refused_is_not() -> None:
    recorder = Recorder()
    for kind, ms in (("answered", 10), ("dropped", 9000), ("timeout", 8000), ("shed", 1), ("error", 1)):
        recorder.observe(outcome(0.0, ms, kind))  # type: ignore[arg-type]
    whole = recorder.whole(1.0)
    assert whole.latency_ms.count == 3
    assert whole.latency_ms.max == pytest.approx(9000)
    assert (whole.shed, whole.errors, whole.timeouts, whole.dropped) == (1, 1, 1, 1)
    assert recorder.errors == {f"{kind}: code": 1 for kind in ("dropped", "timeout", "shed", "error")}


def test_the_warm_up_is_cut() -> None:
    recorder = Recorder(warm_up_s=1.0)
    recorder.observe(outcome(0.99, 9999))
    recorder.observe(outcome(1.0, 10))
    assert recorder.warm_up_queries == 1
    assert recorder.whole(1.0).latency_ms.max == pytest.approx(10)


def test_degradations_and_stages() -> None:
    recorder = Recorder()
    twice = (("score", "shortened", 0.2), ("score", "shortened", 0.6), ("encode", "busy", 1.0))
    recorder.observe(outcome(0.0, 10, degradations=twice))
    recorder.observe(outcome(0.0, 10, spans=(("recall", 2.0, 7.0),)))
    assert recorder.whole(1.0).degraded_share == 0.5
    score, *_ = sorted(recorder.degradations(), key=lambda row: row.stage, reverse=True)
    assert (score.stage, score.queries, score.share) == ("score", 1, 0.5)
    assert score.amount == pytest.approx(0.6)
    recall, page = recorder.stages()
    assert (recall.stage, recall.ms.count, page.stage, page.ms.count) == ("recall", 2, "page", 1)
    assert recall.start_ms == pytest.approx(1.0)
    assert recall.ms.mean == pytest.approx(5.0)


def test_names_from_a_broken_target_do_not_fill_the_memory() -> None:
    recorder = Recorder()
    for number in range(1000):
        spans = ((f"stage {number}", 0.0, 1.0),)
        recorder.observe(outcome(0.0, 1, spans=spans, degradations=((f"s{number}", "r", 1.0),)))
    assert len(recorder.stages()) <= 256
    assert len(recorder.degradations()) <= 257
    assert sum(row.queries for row in recorder.degradations()) == 1000


def test_strata_by_the_log_itself() -> None:
    entries = [
        Entry(float(n), text)
        for n, text in enumerate(["Head  query"] * 60 + ["torso"] * 25 + list("abcdefghijklmno"))
    ]
    strata = find_strata(entries)
    assert {strata.of(Entry(0.0, text)) for text in ("head query", "HEAD query")} == {"head"}
    assert strata.of(Entry(0.0, "torso")) == "torso"
    assert strata.of(Entry(0.0, "c")) == strata.of(Entry(0.0, "never seen")) == "tail"
    recorder = Recorder(strata=strata)
    for entry in entries:
        recorder.observe(Outcome(entry, "answered", 0.0, 0.0, 0.01, page_of(["a"])))
    assert {name: group.queries for name, group in recorder.strata(1.0).items()} == {
        "head": 60,
        "torso": 25,
        "tail": 15,
    }


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 100)), max_size=50))
def test_the_timeline_stays_short_and_loses_nothing(found: list[tuple[float, float]]) -> None:
    recorder = Recorder()
    for at, ms in found:
        recorder.observe(outcome(at, ms))
    timeline = recorder.timeline(6000.0)
    assert len(timeline) <= 120
    assert sum(i.arrived_per_s * i.width_s for i in timeline) == pytest.approx(len(found))
    assert sum(i.answered_per_s * i.width_s for i in timeline) == pytest.approx(len(found))
    assert [i.at_s for i in timeline] == sorted({i.at_s for i in timeline})


ids = st.lists(st.sampled_from("abcdefghijklmn"), unique=True, max_size=14)
labels = st.dictionaries(st.sampled_from("abcdefghijklmnop"), st.integers(0, 3), min_size=1)


@given(ids, labels)
def test_quality_is_that_of_trec_eval(page: list[str], grades: dict[str, int]) -> None:
    measures = pytest.importorskip("ir_measures")
    found = quality_of(page, grades, ())
    if not any(grades.values()):
        assert math.isnan(found.ndcg)
        return
    run = {"q": {product: float(-place) for place, product in enumerate(page)}}
    if not page:
        assert (found.ndcg, found.recall) == (0.0, 0.0)
        return
    expected = measures.calc_aggregate([measures.nDCG @ 10, measures.R @ 100], {"q": grades}, run)
    assert found.ndcg == pytest.approx(expected[measures.nDCG @ 10])
    assert found.recall == pytest.approx(expected[measures.R @ 100])


def test_reciprocal_rank_of_clicks() -> None:
    assert quality_of(["a", "b", "c"], None, ("c", "b")).rr == 0.5
    assert quality_of(["a"], None, ("z",)).rr == 0.0
    assert math.isnan(quality_of(["a"], {"a": 1.0}, ()).rr)


def a_report(folder: Path, target: FakeTarget | None = None, plan: ReplayPlan | None = None) -> Report:
    entries = [
        msgspec.structs.replace(entry, clicks=("b",), labels={"b": 1.0, "c": 0.5})
        for entry in entries_of(200)
    ]
    write_log(folder / "log.jsonl", entries)
    plan = plan or ReplayPlan(Recorded(2.0), bounds=LoadSettings(patience_s=3600))
    return replay(folder / "log.jsonl", target or FakeTarget(), plan, clock=JumpClock())


def test_a_whole_replay(tmp_path: Path) -> None:
    report = a_report(tmp_path)
    assert report.whole.queries == report.whole.answered == 200
    assert report.whole.quality.rr == 0.5
    assert report.whole.quality.labelled == 200
    assert sum(group.queries for group in report.strata.values()) == 200
    assert report.snapshots == {"v1": 200}
    assert report.log.entries == 200
    assert report.duration_s >= 9.95
    assert not report.interrupted
    assert report.scorer is None


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_the_schemas_are_current(name: str) -> None:
    kept = json.loads(schema_file(name).read_text(encoding="utf-8"))
    assert kept == SCHEMAS[name](), "run python -m searchpipe.replay.make_schema"
    jsonschema.Draft202012Validator.check_schema(kept)


def mixed(entry: Entry):  # type: ignore[no-untyped-def]
    if entry.query == "query 3":
        raise ShedError("503")
    if entry.query == "query 4":
        raise RuntimeError("<script>")
    return page_of(["a"], degradations=(("score", "shortened", 0.5),), budget_ms=math.inf)


def test_the_report_validates_and_its_page_is_whole(tmp_path: Path) -> None:
    report = a_report(tmp_path, FakeTarget(mixed))
    files = write_report(tmp_path / "out", report)
    content = json.loads(files.json.read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(json.loads(schema_file("report").read_text(encoding="utf-8")))
    validator.validate(content)
    assert msgspec.convert(content, Report) == report
    with pytest.raises(jsonschema.ValidationError):
        validator.validate({**content, "whole": {**content["whole"], "queries": "many"}})
    html = files.html.read_text(encoding="utf-8")
    assert html.count("<svg") == 6
    for heading in ("Latency", "Throughput", "Stages", "Degradations", "Quality", "Batches and padding"):
        assert f"<h2>{heading}</h2>" in html
    assert "score: shortened" in html
    assert not re.search(r"<script|<link|src=|https?://(?!www\.w3\.org/2000/svg)", html)


def test_a_replay_without_an_answer_is_reported_too(tmp_path: Path) -> None:
    def never(entry: Entry):  # type: ignore[no-untyped-def]
        raise ShedError("429")

    report = a_report(tmp_path, FakeTarget(never))
    assert report.whole.answered == 0
    assert report.whole.latency_ms.p99 is None
    assert "<h1>" in report_html(report)
    json.dumps(msgspec.to_builtins(report), allow_nan=False)


def test_a_ramp_repeats_the_log(tmp_path: Path) -> None:
    plan = ReplayPlan(Ramp(10, 50, 20.0), repeat=True, strata=False, bounds=LoadSettings(patience_s=3600))
    report = a_report(tmp_path, plan=plan)
    assert 450 < report.whole.queries < 750
    assert report.log.lines == 200
    assert report.strata == {}


def test_closed_loop(tmp_path: Path) -> None:
    report = a_report(tmp_path, plan=ReplayPlan(Callers(4)))
    assert report.whole.answered == 200


def test_plans_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="never ends"):
        ReplayPlan(Recorded(), repeat=True)
    with pytest.raises(ConfigError, match="warm-up"):
        ReplayPlan(Recorded(), warm_up_s=-1)
    with pytest.raises(ConfigError, match="callers"):
        Callers(0)


def test_a_report_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LogError, match="Cannot write"):
        write_report(tmp_path / "out", a_report(tmp_path))


def test_padding_of_a_scorer() -> None:
    names = ("requests", "batches", "rows", "real_tokens", "padded_tokens", "late_rows", "failed_batches")
    before = ScorerCounts(dict.fromkeys(names, 10))
    after = ScorerCounts(dict(zip(names, (20, 15, 50, 310, 410, 10, 11), strict=True)))
    figures = scorer_figures(before, after)
    assert figures is not None
    assert (figures.requests, figures.rows_per_batch, figures.padding_share) == (10, 8.0, 0.25)
    assert scorer_figures(after, before) is None
    assert scorer_figures(None, after) is None
