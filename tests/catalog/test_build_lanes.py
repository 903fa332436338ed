"""A build's parts run side by side: same bytes, bounded chunks, errors and interrupts as in one thread."""

from __future__ import annotations

import threading
import time
import weakref
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from searchpipe.arrays import Float32
from searchpipe.backends.encoder import TextEncoder
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.catalog import BuildReport, IndexSettings, Snapshot, build_snapshot
from searchpipe.catalog.lanes import JOBS_HELD, Lane
from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.catalog.manifest import read_manifest
from searchpipe.catalog.progress import BuildProgress
from searchpipe.catalog.rows import Product, RowChecker
from searchpipe.config import load_config
from tests.fakes.catalogs import PRODUCTS, build, write_jsonl
from tests.fakes.hashed_models import HashedEncoder, HashedTokenizer


def rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{i}", "title": f"Product {i} w{i % 7}", "brand": f"b{i % 3}"} for i in range(count)]


class TwoCallsEncoder(HashedEncoder):
    """Says that it takes two calls at once, and holds the first of each pair until the second has come."""

    texts_in_flight = 20

    def __init__(self, calls: int) -> None:
        super().__init__()
        self._left = calls
        self._running = 0
        self._lock = threading.Lock()
        self._pair = threading.Barrier(2)
        self.most_at_once = 0

    def encode_texts(self, texts: Any, *, prefix: str = "") -> Float32:
        with self._lock:
            self._running += 1
            self.most_at_once = max(self.most_at_once, self._running)
        self._pair.wait(30)
        made = super().encode_texts(texts, prefix=prefix)
        with self._lock:
            self._running -= 1
        return made


def build_with(encoder: HashedEncoder, source: Path, out: Path, **settings: Any) -> BuildReport:
    return build_snapshot(
        source, out, IndexSettings(**settings), encoder=encoder, tokenizer=HashedTokenizer()
    )


def test_every_chunk_size_and_number_of_calls_gives_the_same_files(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", rows(80))
    plain = read_manifest(build(source, tmp_path / "one", chunk_rows=100).path).files
    for chunk_rows in (1, 7, 10):
        report = build(source, tmp_path / f"c{chunk_rows}", chunk_rows=chunk_rows)
        assert read_manifest(report.path).files == plain
    encoder = TwoCallsEncoder(8)
    report = build_with(encoder, source, tmp_path / "two", chunk_rows=10)
    assert encoder.most_at_once == 2
    assert read_manifest(report.path).files == plain


def test_two_calls_at_once_never_pass_what_the_encoder_takes(tmp_path: Path) -> None:
    encoder = HashedEncoder()
    running = []
    most = []
    encode = encoder.encode_texts

    def watched(texts: Any, *, prefix: str = "") -> Float32:
        running.append(len(texts))
        most.append(sum(running))
        made = encode(texts, prefix=prefix)
        running.remove(len(texts))
        return made

    encoder.encode_texts = watched  # type: ignore[method-assign]
    encoder.texts_in_flight = 19  # type: ignore[attr-defined]
    build_with(encoder, write_jsonl(tmp_path / "p.jsonl", rows(60)), tmp_path / "out", chunk_rows=10)
    assert max(most) == 10


def test_few_chunks_are_in_memory_however_slow_the_encoder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    seen: list[int] = []

    class Watched(Product):
        __slots__ = ("__weakref__",)
        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def check(self: Any, row: Any) -> Product:
        product = original(self, row)
        watched = Watched(product.id, product.values)
        alive.add(watched)
        seen.append(len(alive))
        return watched

    original = RowChecker.check
    monkeypatch.setattr(RowChecker, "check", check)
    release = threading.Event()

    class Slow(HashedEncoder):
        def encode_texts(self, texts: Any, *, prefix: str = "") -> Float32:
            release.wait(0.02)
            return super().encode_texts(texts, prefix=prefix)

    build_with(Slow(), write_jsonl(tmp_path / "p.jsonl", rows(200)), tmp_path / "out", chunk_rows=10)
    # What the lane holds, and the chunk that is read.
    assert max(seen) <= 10 * (JOBS_HELD + 1) + 1
    assert len(seen) == 200


@pytest.mark.parametrize("after", [1, 4])
def test_an_interrupt_leaves_nothing_and_the_old_snapshot(tmp_path: Path, after: int) -> None:
    out = tmp_path / "out"
    first = build(write_jsonl(tmp_path / "p.jsonl", PRODUCTS), out).name
    told: list[BuildProgress] = []

    def interrupt(progress: BuildProgress) -> None:
        told.append(progress)
        if len(told) == after:
            raise KeyboardInterrupt

    before = set(threading.enumerate())
    with pytest.raises(KeyboardInterrupt):
        build_snapshot(
            write_jsonl(tmp_path / "q.jsonl", rows(200)),
            out,
            IndexSettings(chunk_rows=10),
            progress=interrupt,
            encoder=HashedEncoder(),
            tokenizer=HashedTokenizer(),
        )
    assert set(threading.enumerate()) == before
    assert SnapshotFolder(out).current() == first
    assert [child.name for child in (out / "builds").iterdir()] == [first]


def test_an_interrupt_does_not_wait_for_the_chunk_that_is_encoded(
    tmp_path: Path, world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, ran = threading.Event(), []

    def run(engine: OnnxCpuEngine, feeds: Any) -> Any:
        begun.set()
        time.sleep(0.005)
        ran.append(len(feeds["input_ids"]))
        return whole(engine, feeds)

    def interrupt(_: BuildProgress) -> None:
        assert begun.wait(30)
        raise KeyboardInterrupt

    whole = OnnxCpuEngine.run
    monkeypatch.setattr(OnnxCpuEngine, "run", run)
    monkeypatch.setattr(TextEncoder, "_batches", lambda _, lengths: ([row] for row in range(len(lengths))))
    source = write_jsonl(tmp_path / "p.jsonl", rows(500))
    models = load_config(world.config).models
    with pytest.raises(KeyboardInterrupt):
        build_snapshot(source, tmp_path / "out", models=models, progress=interrupt)
    assert 0 < len(ran) < 400  # of 500 that take 2.5 s


def test_what_one_part_raises_ends_the_build_before_all_rows_are_read(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = build(write_jsonl(tmp_path / "p.jsonl", PRODUCTS), out).name
    told: list[BuildProgress] = []

    class Broken(HashedTokenizer):
        def ids_many(self, texts: Any) -> Any:
            raise ZeroDivisionError("tokens")

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError, match="tokens"):
        build_snapshot(
            write_jsonl(tmp_path / "q.jsonl", rows(200)),
            out,
            IndexSettings(chunk_rows=10),
            progress=told.append,
            encoder=HashedEncoder(),
            tokenizer=Broken(),
        )
    assert {progress.phase for progress in told} == {"read"}
    assert max(progress.rows for progress in told) < 200
    assert set(threading.enumerate()) == before
    assert [child.name for child in (out / "builds").iterdir()] == [first]
    with Snapshot.open(out) as snapshot:
        assert snapshot.count == len(PRODUCTS)


def test_a_lane_keeps_order_holds_few_jobs_and_drops_those_that_wait() -> None:
    done: list[int] = []
    go = threading.Event()
    begun = threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(30)
        done.append(0)

    with ExitStack() as owner:
        lane = Lane("test", owner)
        lane.put(slow)
        lane.put(lambda: done.append(1))
        blocked = threading.Thread(target=lambda: lane.put(lambda: done.append(2)))
        blocked.start()
        assert begun.wait(30)
        assert blocked.is_alive()
        go.set()
        blocked.join(30)
        lane.wait()
    assert done == [0, 1, 2]
    done.clear()
    go.clear()
    begun.clear()
    with ExitStack() as owner:
        lane = Lane("test", owner)
        lane.put(slow)
        lane.put(lambda: done.append(1))
        assert begun.wait(30)
        threading.Timer(0.05, go.set).start()
    assert done == [0]
