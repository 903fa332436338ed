"""Reading and writing logs: formats, broken lines, the order of time."""

from __future__ import annotations

import gzip
import json
import math
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.errors import LogError
from searchpipe.replay.entry import Entry, LineError, parse_row, parse_time
from searchpipe.replay.reader import LogReader, ReadSettings
from searchpipe.replay.writer import write_log
from tests.fakes.catalogs import write_jsonl

MOMENT = datetime(2026, 1, 5, 12, 30, 15, 250_000, tzinfo=UTC)
SECONDS = MOMENT.timestamp()


@pytest.mark.parametrize(
    "value",
    [
        SECONDS,
        SECONDS * 1e3,
        int(SECONDS * 1e6),
        int(SECONDS * 1e3) * 1_000_000,
        f"{SECONDS}",
        str(int(SECONDS * 1e3)),
        "2026-01-05T12:30:15.250Z",
        "2026-01-05 12:30:15.25",
        "2026-01-05T14:30:15.250+02:00",
    ],
)
def test_a_time_in_any_of_its_forms(value: object) -> None:
    assert parse_time(value) == pytest.approx(SECONDS, abs=1e-3)


@pytest.mark.parametrize(
    "value", [None, True, "", "yesterday", "nan", math.nan, math.inf, [1], "1e999", 10**400]
)
def test_what_is_no_time(value: object) -> None:
    with pytest.raises(LineError, match="timestamp"):
        parse_time(value)


def test_small_numbers_are_seconds_from_any_start() -> None:
    assert parse_time(0) == 0
    assert parse_time("12.5") == 12.5


def test_a_row_with_everything() -> None:
    row = {
        "timestamp": "2026-01-05T12:30:15.250Z",
        "query": "red shoes",
        "k": 5,
        "filters": {"price": {"lte": 50}},
        "budget_ms": 30,
        "clicks": ["a", 7, "a"],
        "labels": {"a": 1, "b": 0.1},
        "context": {"user": "u1"},
        "other": [1, 2],
    }
    entry = parse_row(row)
    assert entry == Entry(
        SECONDS,
        "red shoes",
        5,
        {"price": {"lte": 50}},
        30.0,
        ("a", "7"),
        {"a": 1.0, "b": 0.1},
        {"user": "u1"},
    )


def test_cells_of_a_table() -> None:
    row = {
        "ts": "7",
        "q": "x",
        "k": "3",
        "filters": '{"brand": "Acme"}',
        "clicks": "a|b",
        "labels": "a:1|b:c:0.5",
    }
    entry = parse_row(row)
    assert (entry.ts, entry.k, entry.filters) == (7.0, 3, {"brand": "Acme"})
    assert entry.clicks == ("a", "b")
    assert entry.labels == {"a": 1.0, "b:c": 0.5}
    assert parse_row({"ts": "7", "q": "x", "clicks": '["a|b"]', "labels": '{"a": 2}'}).clicks == ("a|b",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query": None}, "no query"),
        ({"query": "  "}, "query is"),
        ({"query": 7}, "query is 7"),
        ({"query": "x" * 20_000}, "20000 characters"),
        ({"ts": None}, "no timestamp"),
        ({"k": 0}, "k is 0"),
        ({"k": 1.5}, "k is 1.5"),
        ({"k": "many"}, "k is 'many'"),
        ({"budget_ms": 0}, "budget_ms"),
        ({"budget_ms": math.nan}, "budget_ms"),
        ({"filters": [1]}, "filters"),
        ({"filters": "{"}, "filters is no JSON"),
        ({"clicks": {"a": 1}}, "clicks"),
        ({"clicks": [None]}, "clicks"),
        ({"labels": {"a": "good"}}, "a gain"),
        ({"labels": {"a": -1}}, "negative"),
        ({"labels": "a"}, "labels"),
        ({"context": 3}, "context"),
    ],
)
def test_what_a_row_may_not_hold(change: dict[str, object], message: str) -> None:
    with pytest.raises(LineError, match=message):
        parse_row({"ts": 1, "query": "x", **change})


def test_a_row_without_time_where_none_is_needed() -> None:
    assert parse_row({"query": "x"}, needs_time=False).ts == 0.0


def log_of(folder: Path, count: int, broken: set[int] = frozenset()) -> Path:  # type: ignore[assignment]
    rows = [
        "{" if number in broken else {"ts": 1000 + number / 10, "query": f"query {number}"}
        for number in range(1, count + 1)
    ]
    return write_jsonl(folder / "log.jsonl", rows)


def test_one_percent_of_broken_lines_is_counted_and_named(tmp_path: Path) -> None:
    reader = LogReader(log_of(tmp_path, 1000, set(range(50, 1000, 100))))
    assert len(list(reader)) == 990
    notes = reader.whole
    assert notes is not None
    assert (notes.lines, notes.entries, notes.broken) == (1000, 990, 10)
    assert [line.line for line in notes.first_broken] == list(range(50, 1000, 100))
    assert all("invalid JSON" in line.reason for line in notes.first_broken)
    assert notes.reasons == {"invalid JSON": 10}


def test_only_the_first_broken_lines_are_kept(tmp_path: Path) -> None:
    path = log_of(tmp_path, 300, set(range(1, 11)))
    reader = LogReader(path, ReadSettings(keep_broken=3))
    assert len(list(reader)) == 290
    assert [line.line for line in reader.notes.first_broken] == [1, 2, 3]
    assert reader.notes.broken == 10


def test_too_many_broken_lines_are_refused_and_the_limit_is_a_setting(tmp_path: Path) -> None:
    path = log_of(tmp_path, 100, set(range(1, 11)))
    with pytest.raises(LogError, match=r"10 of the first 100 lines .* 5\.0%.*line 1: invalid JSON"):
        list(LogReader(path))
    assert len(list(LogReader(path, ReadSettings(max_broken_share=0.1)))) == 90


def test_a_wrong_file_is_refused_before_it_was_read_to_its_end(tmp_path: Path) -> None:
    reader = LogReader(log_of(tmp_path, 5000, set(range(1, 5001))))
    with pytest.raises(LogError):
        list(reader)
    assert reader.notes.lines == 1000


def test_a_bad_start_of_a_good_log_is_no_reason_to_refuse_it(tmp_path: Path) -> None:
    assert len(list(LogReader(log_of(tmp_path, 3000, set(range(1, 101)))))) == 2900


@pytest.mark.parametrize("content", ["", "\n\n", '{"ts": 1}\n'])
def test_a_log_without_a_search_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(content)
    with pytest.raises(LogError, match=r"holds no search|lines of"):
        list(LogReader(path))


def test_files_that_are_no_logs(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="no such file"):
        LogReader(tmp_path / "nowhere.jsonl")
    (tmp_path / "log.csv").write_bytes(b"ts,query\rfoo,bar\n1,x\n")
    with pytest.raises(LogError, match="header line of"):
        list(LogReader(tmp_path / "log.csv"))
    (tmp_path / "log.exe").write_bytes(b"")
    with pytest.raises(LogError, match="format"):
        LogReader(tmp_path / "log.exe")


def test_csv_also_packed(tmp_path: Path) -> None:
    text = 'timestamp,query,clicks\n2026-01-05T12:30:15Z,"red, shoes",a|b\n2026-01-05T12:30:16Z,hose,\nbad\n'
    (tmp_path / "log.csv").write_text(text)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress(text.encode()))
    settings = ReadSettings(max_broken_share=0.5)
    for name in ("log.csv", "log.csv.gz"):
        reader = LogReader(tmp_path / name, settings)
        entries = list(reader)
        assert [entry.query for entry in entries] == ["red, shoes", "hose"]
        assert entries[0].clicks == ("a", "b")
        assert reader.notes.first_broken[0].line == 4


def test_a_packed_log_that_was_cut_short_is_replayed_up_to_there(tmp_path: Path) -> None:
    lines = b"".join(b'{"ts": %d, "query": "query %d"}\n' % (n, n * 7919) for n in range(40_000))
    path = tmp_path / "log.jsonl.gz"
    path.write_bytes(gzip.compress(lines)[:-80_000])
    reader = LogReader(path)
    entries = list(reader)
    assert 1000 < len(entries) < 40_000
    assert reader.notes.broken == 1
    assert "broken gzip" in reader.notes.first_broken[0].reason


def test_a_log_may_be_read_again(tmp_path: Path) -> None:
    reader = LogReader(log_of(tmp_path, 20))
    assert list(reader) == list(reader)
    assert reader.notes.entries == 20


names = st.sampled_from(["log.jsonl", "log.csv", "log.jsonl.gz", "log.csv.gz"])
pieces = st.sampled_from(
    [
        b'{"ts":1,"query":"x"}',
        b"\n",
        b"ts,query\n",
        b"1,x\n",
        b'"',
        b"\x00",
        b"\xff\xfe",
        b"\x1f\x8b",
        b"[" * 3000,
    ]
)


@given(names, st.one_of(st.binary(max_size=300), st.lists(pieces, max_size=12).map(b"".join)))
def test_no_bytes_can_crash_the_reader(name: str, content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        reader = LogReader(path, ReadSettings(max_broken_share=1.0))
        try:
            entries = list(reader)
        except LogError:
            assert not reader.notes.entries
        else:
            assert len(entries) == reader.notes.entries > 0


# Few letters: the whole of Unicode is slow to draw from, and none of it matters here.
short = st.text('a1|:{}[]"é. -', max_size=6)
plain = st.none() | st.booleans() | st.integers() | st.floats() | short
values = plain | st.lists(plain, max_size=3) | st.dictionaries(short, plain, max_size=3)
keys = st.sampled_from(["ts", "query", "k", "filters", "budget_ms", "clicks", "labels", "context", "text"])


@given(st.dictionaries(keys, values))
def test_a_row_is_an_entry_or_a_line_error(row: dict[str, object]) -> None:
    try:
        entry = parse_row({"ts": 1, "query": "x", **row})
    except LineError:
        return
    assert math.isfinite(entry.ts)
    assert entry.query.strip()
    assert entry.k is None or entry.k >= 1
    assert all(gain >= 0 for gain in (entry.labels or {}).values())


entries = st.builds(
    Entry,
    ts=st.integers(0, 10**9).map(float),
    query=st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip())),
    k=st.none() | st.integers(1, 1000),
    filters=st.none() | st.just({"brand": "Acme"}),
    budget_ms=st.none() | st.floats(0.5, 1000),
    clicks=st.lists(st.text(min_size=1, max_size=5), max_size=3, unique=True).map(tuple),
    labels=st.none()
    | st.dictionaries(st.text(min_size=1, max_size=5), st.floats(0, 3), min_size=1, max_size=3),
)


@given(st.lists(entries, min_size=1, max_size=5), st.booleans())
def test_what_is_written_is_read(found: list[Entry], packed: bool) -> None:
    found.sort(key=lambda entry: entry.ts)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("log.jsonl.gz" if packed else "log.jsonl")
        assert write_log(path, found) == len(found)
        assert list(LogReader(path)) == found


def test_lone_surrogates_are_written_as_question_marks(tmp_path: Path) -> None:
    write_log(tmp_path / "log.jsonl", [Entry(1.0, "shoe \ud83d")])
    assert [entry.query for entry in LogReader(tmp_path / "log.jsonl")] == ["shoe ?"]


def test_a_log_that_fails_on_the_way_leaves_nothing(tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield Entry(1.0, "x")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError):
        write_log(tmp_path / "log.jsonl", broken())
    with pytest.raises(LogError, match="cannot be written as"):
        write_log(tmp_path / "log.parquet", [])
    with pytest.raises(LogError, match="Cannot write"):
        write_log(tmp_path / "nowhere" / "log.jsonl", [])
    assert list(tmp_path.iterdir()) == []


def test_same_entries_same_bytes(tmp_path: Path) -> None:
    for name in ("a.jsonl.gz", "b.jsonl.gz"):
        write_log(tmp_path / name, [Entry(1.0, "x")])
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_the_demo_log_is_readable(tmp_path: Path) -> None:
    from searchpipe.demo import write_demo

    files = write_demo(tmp_path, products=50, queries=80, labelled=0, log_span_s=40)
    reader = LogReader(files.query_log)
    found = list(reader)
    assert len(found) == 80
    assert reader.notes.broken == reader.notes.out_of_order == 0
    assert 20 < found[-1].ts - found[0].ts <= 40
    assert any(entry.clicks for entry in found)
    assert any(entry.context for entry in found)
    raw = [json.loads(line) for line in files.query_log.read_text().splitlines()]
    assert [entry.query for entry in found] == [row["query"] for row in raw]
    assert msgspec.json.decode(msgspec.json.encode(found[0]), type=Entry) == found[0]
