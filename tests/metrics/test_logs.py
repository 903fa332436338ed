"""The query log and the slow-query log."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path

import pytest

from searchpipe.config import load_config
from searchpipe.errors import ConfigError, QueryError
from searchpipe.metrics.query_log import JsonFormatter, QueryLog
from searchpipe.metrics.settings import QueryLogSettings, SlowLogSettings
from searchpipe.metrics.slow_log import SlowLog
from searchpipe.pipeline import Pipeline
from tests.fakes.hashed_stages import hashed_pipeline
from tests.test_pipeline import page, recall


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, object]]:
    return [json.loads(JsonFormatter().format(record)) for record in caplog.records]


def test_a_share_of_the_answers_and_every_refusal(caplog: pytest.LogCaptureFixture) -> None:
    draws = iter([0.0, 0.5, 0.24, 0.25])
    log = QueryLog(QueryLogSettings(sample=0.25), draw=lambda: next(draws))
    with caplog.at_level(logging.INFO), Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(log)
        for n in range(4):
            pipeline.search(f"q{n}")
        with pytest.raises(QueryError):
            pipeline.search("\ud800" * 9999)
    first, second, refused = lines(caplog)
    assert (first["query"], second["query"]) == ("q0", "q2")
    assert first["hits"] == 5
    assert set(first["stages"]) == {"recall", "page"}
    assert refused["event"] == "refused"
    assert refused["code"] == "bad_query"
    assert len(refused["query"]) <= 256
    assert refused["level"] == "warning"


def test_texts_can_be_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO), Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(QueryLog(QueryLogSettings(sample=1.0, texts=False)))
        pipeline.search("secret")
        with pytest.raises(QueryError):
            pipeline.search("secret", k=0)
    assert len(caplog.records) == 2
    assert "secret" not in json.dumps(lines(caplog))


def test_who_left_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    go = threading.Event()

    async def main(pipeline: Pipeline) -> None:
        task = asyncio.create_task(pipeline.asearch("x"))
        await asyncio.sleep(0)
        task.cancel()
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    with caplog.at_level(logging.INFO), Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(QueryLog(QueryLogSettings(sample=0.0)))
        asyncio.run(main(pipeline))
    assert not caplog.records


def test_exceptions_are_part_of_the_line() -> None:
    try:
        raise ValueError("no")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "it %s", ("failed",), info)
    line = json.loads(JsonFormatter().format(record))
    assert line["event"] == "it failed"
    assert "ValueError: no" in line["exception"]


def test_slow_queries_are_written_whole(tmp_path: Path, snapshot_folder: Path) -> None:
    file = tmp_path / "logs" / "slow.jsonl"
    config = {"metrics": {"slow": {"file": str(file), "threshold_ms": 0.0001}}}
    with hashed_pipeline(snapshot_folder, config) as pipeline:
        answer = pipeline.search("red shoes", budget_ms=5000)
    [line] = [json.loads(text) for text in file.read_text().splitlines()]
    assert line["query"] == "red shoes"
    assert [span["stage"] for span in line["spans"]] == [span.stage for span in answer.trace.spans]
    assert line["ms"] == pytest.approx(answer.trace.total_ms, abs=0.01)


def test_fast_ones_are_not(tmp_path: Path) -> None:
    slow = SlowLog(SlowLogSettings(file=str(tmp_path / "slow"), threshold_ms=1e6))
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(slow)
        pipeline.search("x")
    slow.close()
    slow.close()
    assert (slow.written, slow.dropped) == (0, 0)


def test_the_files_are_bounded(tmp_path: Path) -> None:
    settings = SlowLogSettings(file=str(tmp_path / "slow"), threshold_ms=0.0001, max_bytes=4096, backups=2)
    slow = SlowLog(settings)
    with Pipeline([recall(), page()]) as pipeline:
        pipeline.observe(slow)
        for n in range(200):
            pipeline.search(f"query {n}")
            while slow.written + slow.dropped <= n:
                pass
    slow.close()
    assert slow.written == 200
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["slow", "slow.1", "slow.2"]
    assert all(file.stat().st_size <= 4096 for file in files)


def test_a_disk_that_cannot_follow_drops_and_never_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowLog(SlowLogSettings(file=str(tmp_path / "slow"), threshold_ms=0.0001))
    go = threading.Event()
    emit = slow._handler.emit
    monkeypatch.setattr(slow._handler, "emit", lambda record: (go.wait(30), emit(record)))
    with Pipeline([recall(), page()]) as pipeline:
        answer = pipeline.search("x")
        for _ in range(400):
            slow.answered(answer)
        go.set()
    slow.close()
    assert slow.dropped >= 400 - 257
    assert slow.written + slow.dropped == 400


def test_a_full_disk_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = SlowLog(SlowLogSettings(file=str(tmp_path / "slow"), threshold_ms=0.0001))

    def full(record: logging.LogRecord) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(slow._handler, "format", full)
    with Pipeline([recall(), page()]) as pipeline:
        slow.answered(pipeline.search("x"))
    slow.close()
    assert (slow.written, slow.dropped) == (0, 1)


def test_a_file_that_cannot_be_written_is_a_wrong_configuration(
    tmp_path: Path, snapshot_folder: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"metrics\.slow\.file"):
        hashed_pipeline(snapshot_folder, {"metrics": {"slow": {"file": str(tmp_path / "file" / "x")}}})


@pytest.mark.parametrize(
    "table", [{"log": {"sample": 2}}, {"slow": {"threshold_ms": 0}}, {"slow": {"fiel": "x"}}]
)
def test_settings_have_limits(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="metrics"):
        load_config({"metrics": table})
