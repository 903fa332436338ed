"""Searches behind the encoder from a recording: the answers of those that FAISS puts on the stream itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.errors import EngineError
from searchpipe.recall.faiss_build import require_gpu_faiss
from searchpipe.recall.gpu_index import GpuIndex
from searchpipe.recall.lookup import Lookup
from searchpipe.recall.recorded import RecordedSearches
from searchpipe.recall.rule import IndexKind, choose_index
from tests.fakes.cuda_driver import FakeDriver, HostFunctions, real_driver_present

pytest.importorskip("faiss", reason="neither FAISS for GPUs nor faiss-cpu is installed")

COUNT, DIM, LISTS = 20_000, 32, 64
AFTER = 8  # of RecordedSearches


class Place:
    """Device memory for one vector, which an encoder is said to be writing."""

    def __init__(self, device: _core.Device) -> None:
        self._memory = _core.DeviceBuffer(device, 4 * DIM)
        self.address = self._memory.address
        self.shape, self.dtype = (DIM,), np.dtype(np.float32)
        self.host: Any = None

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "<f4", "data": (self.address, False), "version": 3}

    def write(self, vector: np.ndarray) -> Place:
        self._memory.write(vector)
        self.host = vector
        return self

    def follow(self, stream: int) -> bool:
        return True


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(4).standard_normal((COUNT, DIM)).astype(np.float32)


def index_of(kind: IndexKind, vectors: np.ndarray, stream: _core.Stream, **options: Any) -> GpuIndex:
    if real_driver_present():
        faiss = require_gpu_faiss()
    else:
        from tests.fakes import faiss_gpu as faiss
    lists = LISTS if kind != "flat" else 0
    plan = choose_index(COUNT, DIM, 1 << 30, kind=kind, lists=lists, probes=lists // 4)
    return GpuIndex(plan, vectors, stream=stream.handle, faiss=faiss, **options)


@pytest.fixture
def index(device: _core.Device, vectors: np.ndarray) -> Iterator[GpuIndex]:
    stream = _core.Stream(device)
    made = index_of("ivf-flat", vectors, stream)
    yield made
    made.close()
    stream.synchronize()


def searched(index: GpuIndex, place: Place, k: int) -> tuple[np.ndarray, np.ndarray]:
    lookup = Lookup(place, k)
    pending = index.begin(lookup)
    assert pending is not None
    assert pending.wait(20.0)
    return index.finish(lookup, pending.found())


def recordings(index: GpuIndex) -> RecordedSearches:
    assert index._landings is not None
    assert index._landings._recorded is not None
    return index._landings._recorded


def test_a_recorded_search_finds_what_faiss_finds(
    index: GpuIndex, device: _core.Device, vectors: np.ndarray
) -> None:
    random = np.random.default_rng(9)
    places = [Place(device) for _ in range(2)]
    for turn in range(60):
        query = random.standard_normal(DIM).astype(np.float32)
        k = 20 if turn % 3 else 50
        docs, scores = searched(index, places[turn % 2].write(query), k)
        plain = Lookup(query, k)
        expected, their = index.finish(plain, index.search_batch([plain])[0])
        np.testing.assert_array_equal(docs, expected)
        np.testing.assert_allclose(scores, their, rtol=0, atol=1e-5)
        np.testing.assert_allclose(scores, vectors[docs] @ query, rtol=0, atol=1e-4)
    assert not recordings(index).reason
    assert len(recordings(index)) == 4  # two places, two numbers of documents


def test_other_settings_are_other_searches(device: _core.Device, vectors: np.ndarray) -> None:
    stream = _core.Stream(device)
    index = index_of("ivf-flat", vectors, stream)
    query = np.random.default_rng(2).standard_normal(DIM).astype(np.float32)
    place = Place(device).write(query)
    for _ in range(2 * AFTER):
        before = searched(index, place, 200)[0]
    assert len(recordings(index)) == 1
    index.probes = 1
    assert len(recordings(index)) == 0
    for _ in range(2 * AFTER):
        after = searched(index, place, 200)[0]
        plain = Lookup(query, 200)
        np.testing.assert_array_equal(after, index.finish(plain, index.search_batch([plain])[0])[0])
    assert before.tolist() != after.tolist()
    index.close()
    stream.synchronize()


def test_it_can_be_left_to_faiss(device: _core.Device, vectors: np.ndarray) -> None:
    stream = _core.Stream(device)
    for index in (index_of("ivf-flat", vectors, stream, record=False), index_of("flat", vectors, stream)):
        assert index._landings is not None
        assert index._landings._recorded is None
        assert len(searched(index, Place(device).write(vectors[3]), 5)[0]) == 5
        index.close()
    stream.synchronize()


class Work:
    """A function on a stream, counted."""

    def __init__(self, stream: _core.Stream) -> None:
        self._functions, self._stream = HostFunctions(), stream
        self.given = self.done = 0

    def put(self) -> None:
        self.given += 1
        self._functions.put(self._stream.handle, self._ran)

    def _ran(self) -> None:
        self.done += 1


@pytest.fixture
def steered(fake: FakeDriver, device: _core.Device) -> Iterator[tuple[FakeDriver, _core.Stream, Work]]:
    stream = _core.Stream(device)
    yield fake, stream, Work(stream)
    stream.synchronize()  # the functions go with the test


def test_only_so_many_are_kept(steered: tuple[FakeDriver, _core.Stream, Work]) -> None:
    _, stream, work = steered
    recorded = RecordedSearches(0, stream.handle, limit=2, after=3)
    for turn in range(200):
        recorded.put(turn % 5, work.put)
    stream.synchronize()
    assert work.done == 200
    assert len(recorded) == 2
    assert work.given == 2 * 4 + 3 * 40
    recorded.forget()
    recorded.put(0, work.put)
    assert (len(recorded), work.given) == (0, 2 * 4 + 3 * 40 + 1)


def test_kinds_without_end_are_not_counted(steered: tuple[FakeDriver, _core.Stream, Work]) -> None:
    _, stream, work = steered
    recorded = RecordedSearches(0, stream.handle)
    for turn in range(3000):
        recorded.put(turn, work.put)
    assert len(recorded._seen) <= 64
    stream.synchronize()
    assert (work.given, work.done, len(recorded)) == (3000, 3000, 0)


@pytest.mark.parametrize("call", ["cuStreamBeginCapture", "cuGraphGetNodes", "cuGraphInstantiateWithFlags"])
def test_what_cannot_be_recorded_is_searched_as_before(
    steered: tuple[FakeDriver, _core.Stream, Work], call: str
) -> None:
    fake, stream, work = steered
    recorded = RecordedSearches(0, stream.handle, after=2)
    fake.fail_call(call)
    for _ in range(10):
        recorded.put("one", work.put)
    stream.synchronize()
    assert work.done == 10
    assert len(recorded) == 0
    assert call in recorded.reason


def test_a_search_that_fails_while_it_is_recorded_is_tried_once_more(
    steered: tuple[FakeDriver, _core.Stream, Work],
) -> None:
    _, stream, work = steered

    def search() -> None:
        if stream.capturing:
            raise EngineError("not in a capture")
        work.put()

    recorded = RecordedSearches(0, stream.handle, after=1)
    for _ in range(4):
        recorded.put("one", search)
    stream.synchronize()
    assert (work.done, recorded.reason) == (4, "not in a capture")
