"""What a packed batch's model finds in device memory: bit for bit what the host would have written."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from searchpipe import _core
from searchpipe.arrays import Int32
from tests.fakes.cuda_driver import FakeDriver
from tests.runtime.device_reader import DeviceReader
from tests.runtime.row_model import CLS, PACKED_PTX, SEP

INVALID_PTX = 218
LONGEST = 24
ROWS, TOKENS = 6, 100
QUERY_TOKENS = 6
PACKER = _core.PairPacker(
    cls_id=CLS, sep_id=SEP, max_query_tokens=QUERY_TOKENS, max_doc_tokens=LONGEST, max_tokens=LONGEST
)


@dataclass(frozen=True)
class Row:
    """Token ids, and how many of them come before the first of type 1."""

    ids: list[int]
    split: int


def written(rows: Sequence[Row], bucket: tuple[int, int], longest: int, inputs: int) -> list[Int32]:
    """The inputs in the engine's order, written row by row."""
    count, tokens = bucket
    ids, positions, types = (np.zeros(tokens, np.int32) for _ in range(3))
    ends, firsts = np.zeros(count + 1, np.int32), np.zeros(count, np.int32)
    offset: list[int] = []
    end = 0
    for place, row in enumerate(rows):
        begin, end = end, end + len(row.ids)
        ids[begin:end] = row.ids
        positions[begin:end] = range(len(row.ids))
        types[begin + row.split : end] = 1
        firsts[place] = begin
        ends[place + 1] = end
        offset.extend(place * longest + at for at in range(len(row.ids)))
    ends[len(rows) + 1 :] = end
    for place in range(count):
        used = len(rows[place].ids) if place < len(rows) else 0
        offset.extend(place * longest + at for at in range(used, longest))
    return [ids, positions, ends, firsts, np.array(offset, np.int32), types][:inputs]


@dataclass
class Opened:
    engine: _core.GraphEngine
    ring: _core.StagingRing
    scorer: _core.Scorer
    reader: DeviceReader
    inputs: int

    def found(self) -> list[Int32]:
        (bucket,) = self.engine.buckets
        rows, tokens = bucket
        sizes = [tokens, tokens, rows + 1, rows, rows * self.engine.longest_row, tokens][: self.inputs]
        addresses, _ = self.engine.addresses(*bucket)
        stream = self.engine.stream
        return [self.reader.read(stream, at, size) for at, size in zip(addresses, sizes, strict=True)]

    def assert_found(self, rows: Sequence[Row]) -> None:
        (bucket,) = self.engine.buckets
        wanted = written(rows, bucket, self.engine.longest_row, self.inputs)
        for at, (array, expected) in enumerate(zip(self.found(), wanted, strict=True)):
            np.testing.assert_array_equal(array, expected, err_msg=f"input {at}")


def open_engine(
    device: _core.Device, bucket: tuple[int, int], longest: int, inputs: int, capture: bool
) -> Opened:
    kernel = _core.Kernel(device, PACKED_PTX, "packed_row_scores")
    engine = _core.GraphEngine(device, [bucket], inputs=inputs, longest_row=longest)

    def enqueue(_index: int, at: tuple[int, int], arrays: list[int], output: int, stream: int) -> None:
        types = arrays[5] if inputs == 6 else 0
        kernel.launch(stream, 1, at[0], [*arrays[:5], types, output, at[0], longest, 1])

    engine.set_enqueue(enqueue)
    engine.prepare(capture=capture)
    ring = _core.StagingRing([engine])
    return Opened(engine, ring, _core.Scorer(ring), DeviceReader(), inputs)


@pytest.fixture(params=[(6, True), (5, True), (6, False)], ids=["typed", "untyped", "not captured"])
def opened(request: pytest.FixtureRequest, device: _core.Device) -> Iterator[Opened]:
    inputs, capture = request.param
    one = open_engine(device, (ROWS, TOKENS), LONGEST, inputs, capture)
    yield one
    one.scorer.close()
    one.engine.close()
    one.reader.close()


@pytest.fixture
def documents(tmp_path_factory: pytest.TempPathFactory) -> _core.TokenStore:
    """Document n has n tokens."""
    path = tmp_path_factory.mktemp("documents") / "tokens"
    writer = _core.TokenStoreWriter(path)
    for length in range(LONGEST + 1):
        writer.append(np.arange(1000, 1000 + length, dtype=np.int32))
    writer.close()
    return _core.TokenStore(path)


def texts_of(lengths: Sequence[int]) -> list[Int32]:
    return [np.arange(500, 500 + length, dtype=np.int32) for length in lengths]


def text_rows(texts: Sequence[Int32]) -> list[Row]:
    rows = [Row([CLS, *text.tolist(), SEP], len(text) + 2) for text in texts]
    return sorted(rows, key=lambda row: -len(row.ids))


def pair_rows(query: Int32, documents: _core.TokenStore, docs: Sequence[int]) -> list[Row]:
    before = [CLS, *query.tolist()[:QUERY_TOKENS], SEP]
    room = LONGEST - 1 - len(before)
    rows = [Row([*before, *documents.tokens(doc).tolist()[:room], SEP], len(before)) for doc in docs]
    return sorted(rows, key=lambda row: -len(row.ids))


def fitting(lengths: list[int]) -> list[int]:
    """Of rows with so many tokens besides [CLS] and [SEP], those that one bucket takes."""
    return [length for at, length in enumerate(lengths) if sum(lengths[: at + 1]) + 2 * (at + 1) <= TOKENS]


LENGTHS = st.lists(st.integers(0, LONGEST - 2), min_size=1, max_size=ROWS)
# One engine for all examples: what a batch leaves behind is what the next one finds.
SHARED = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SHARED
@example([[22, 22, 22, 22], [0], [22, 22, 20, 12, 12], [0, 0, 0, 0, 0, 0]])
@example([[15, 15, 15, 15, 14, 14], [22]])  # every row, every token; then most of it is not there
@given(st.lists(LENGTHS, min_size=1, max_size=4))
def test_rows_of_text(opened: Opened, batches: list[list[int]]) -> None:
    for lengths in map(fitting, batches):
        texts = texts_of(lengths)
        ticket = opened.scorer.submit_texts(texts, cls_id=CLS, sep_id=SEP, max_tokens=LONGEST)
        assert ticket.wait(30)
        opened.assert_found(text_rows(texts))


@SHARED
@example([([1], [24, 24, 24, 24]), ([], [0]), ([1, 2, 3, 4, 5, 6, 7], [0, 0, 0, 0, 0, 0])])
@example([([1] * 6, [7, 7, 7, 7, 8, 7]), ([1], [1])])  # every row, every token but one
@given(
    st.lists(
        st.tuples(st.lists(st.integers(200, 300), max_size=QUERY_TOKENS + 2), LENGTHS), min_size=1, max_size=4
    )
)
def test_pairs(
    opened: Opened, documents: _core.TokenStore, batches: list[tuple[list[int], list[int]]]
) -> None:
    for ids, docs in batches:
        query = np.array(ids, np.int32)
        rows = pair_rows(query, documents, docs)
        while sum(len(row.ids) for row in rows) > TOKENS:
            docs = docs[:-1]
            rows = pair_rows(query, documents, docs)
        ticket = opened.scorer.submit_pairs(PACKER, documents, query, np.array(docs, np.int32))
        assert ticket.wait(30)
        opened.assert_found(rows)


def test_pairs_and_texts_of_one_batch(opened: Opened, documents: _core.TokenStore, fake: FakeDriver) -> None:
    fake.hold()
    query = np.array([200, 201], np.int32)
    first = [opened.scorer.submit_texts(texts_of([22] * 4), cls_id=CLS, sep_id=SEP) for _ in range(3)]
    while opened.scorer.stats().batches_in_flight < 3:  # one a slot: what comes now waits and is merged
        time.sleep(0.001)
    pairs = opened.scorer.submit_pairs(PACKER, documents, query, np.array([3, 9], np.int32))
    # As many tokens: two batches would cost as much as one to the last bit, and one is preferred.
    texts = opened.scorer.submit_texts(texts_of([10, 8]), cls_id=CLS, sep_id=SEP)
    fake.hold(False)
    assert all(ticket.wait(30) for ticket in [*first, pairs, texts])
    assert opened.scorer.stats().batches == 4
    opened.assert_found([*pair_rows(query, documents, [3, 9]), *text_rows(texts_of([10, 8]))])


def test_what_a_bucket_is_prepared_with_is_complete(opened: Opened) -> None:
    ids, _, ends = opened.found()[:3]
    assert ends[-1] == TOKENS
    rows = [Row([1] * length, length) for length in np.diff(ends).tolist() if length > 0]
    np.testing.assert_array_equal(ids, np.ones(TOKENS))
    opened.assert_found(rows)


@pytest.mark.parametrize("longest", [1, 129, 512])
def test_rows_of_other_lengths_than_a_block_of_threads(device: _core.Device, longest: int) -> None:
    opened = open_engine(device, (3, 2 * longest), longest, 6, capture=True)
    ends = opened.found()[2]
    opened.assert_found([Row([1] * n, n) for n in np.diff(ends).tolist() if n > 0])
    opened.scorer.close()
    opened.reader.close()


def test_only_what_the_device_cannot_tell_is_sent(opened: Opened) -> None:
    def aligned(elements: int) -> int:
        return -(-4 * elements // 256) * 256

    sent = aligned(TOKENS) + aligned(ROWS + 1) + (aligned(ROWS) if opened.inputs == 6 else 0)
    assert opened.ring.pinned_bytes == opened.ring.device_bytes == opened.ring.slots * (sent + 4 * ROWS)


def test_a_driver_that_refuses_the_kernel(device: _core.Device, fake: FakeDriver) -> None:
    fake.fail_call("cuModuleLoadData", times=1, code=INVALID_PTX)
    with pytest.raises(_core.CudaError, match=r"cuModuleLoadData\(packed_places\) failed"):
        _core.GraphEngine(device, [(ROWS, TOKENS)], inputs=6, longest_row=LONGEST)
    assert fake.device_bytes() == 0
    fake.fail_call("cuModuleLoadData", times=1, code=INVALID_PTX)
    _core.GraphEngine(device, [(4, 16)])  # padded rows need none
    fake.reset()
    _core.GraphEngine(device, [(ROWS, TOKENS)], inputs=6, longest_row=LONGEST)


def test_a_graph_without_the_model_is_none(device: _core.Device) -> None:
    engine = _core.GraphEngine(device, [(ROWS, TOKENS)], inputs=6, longest_row=LONGEST)
    engine.set_enqueue(lambda *_: None)
    engine.prepare()
    (report,) = engine.reports
    assert not report.captured
    assert "no work was put on the stream" in report.reason


def test_the_kernel_is_the_first_node_of_the_graph(opened: Opened) -> None:
    (report,) = opened.engine.reports
    assert report.graph_nodes == (2 if report.captured else 0)
