"""Byte strings read in place, and what is read ahead of its use."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe import _core

MIB = 1 << 20


def blobs(items: list[bytes]) -> _core.Blobs:
    ends = np.cumsum([0, *map(len, items)], dtype=np.int64)
    return _core.Blobs(np.frombuffer(b"".join(items), np.uint8), ends)


@given(st.data(), st.lists(st.text(max_size=8), min_size=1, max_size=20))
def test_strings_are_those_that_were_given(data: st.DataObject, texts: list[str]) -> None:
    held = blobs([text.encode() for text in texts])
    wanted = data.draw(st.lists(st.integers(0, len(texts) - 1), max_size=10))
    for dtype in (np.int32, np.int64, np.uint8):
        docs = np.array(wanted, dtype)
        assert held.texts(docs) == [texts[doc] for doc in wanted]
        assert held.texts(np.repeat(docs, 2)[::2]) == [texts[doc] for doc in wanted]
    assert [held.one(doc) for doc in wanted] == [texts[doc].encode() for doc in wanted]
    rows = blobs([json.dumps({"t": text}).encode() for text in texts])
    assert json.loads(rows.json_list(np.array(wanted, np.int32))) == [{"t": texts[doc]} for doc in wanted]
    assert len(held) == len(texts)


@pytest.mark.parametrize("number", [-1, 2, 1 << 40, -(1 << 40)])
def test_a_number_that_does_not_exist_is_refused(number: int) -> None:
    held = blobs([b"a", b"b"])
    for call in (held.texts, held.json_list):
        with pytest.raises(IndexError, match=f"document {number} is outside 0..1"):
            call(np.array([0, number]))
    with pytest.raises(IndexError):
        held.one(number)
    assert held.touch(np.array([0, number, 1])) == 3  # whoever wants it will say so


def test_other_numbers_are_refused() -> None:
    held = blobs([b"a", b"b"])
    for docs in (np.zeros((2, 2), np.int32), np.zeros((2, 2), np.int64), np.int64(1)):
        with pytest.raises(ValueError, match="dimensions, not 1"):
            held.texts(docs)  # type: ignore[arg-type]


def test_what_is_no_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        blobs([b"\xff"]).texts(np.zeros(1, np.int32))


def test_ends_must_fit_the_bytes() -> None:
    data = np.zeros(4, np.uint8)
    for ends in ([], [0, 3], [1, 4]):
        with pytest.raises(ValueError, match="build the snapshot again"):
            _core.Blobs(data, np.array(ends, np.int64))
    with pytest.raises(TypeError, match="ends has dtype int32"):
        _core.Blobs(data, np.array([0, 4], np.int32))


@pytest.mark.parametrize("ends", [[0, 9, 4], [0, -3, 4], [0, 3, 2, 4]])
def test_damaged_ends_read_nothing_outside(ends: list[int]) -> None:
    held = _core.Blobs(np.zeros(4, np.uint8), np.array(ends, np.int64))
    docs = np.arange(len(held), dtype=np.int32)
    with pytest.raises(RuntimeError, match="damaged"):
        held.texts(docs)
    assert held.touch(docs, seconds=1.0) == len(docs)


def test_what_is_read_ahead_is_bounded() -> None:
    long = blobs([b"x" * (64 << 10)] * 64)  # of each 4 KiB count
    assert long.touch(np.arange(64, dtype=np.int32), seconds=1.0) == 64
    many = blobs([b"x" * 4096] * 400)
    assert many.touch(np.arange(400, dtype=np.int32), seconds=1.0) == MIB // (4096 + 16)
    assert many.touch(np.arange(400, dtype=np.int32), seconds=0.0) == 0
    assert many.touch(np.empty(0, np.int32)) == 0
    for seconds in (-1.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            many.touch(np.arange(4, dtype=np.int32), seconds=seconds)


def test_rows_that_are_read_ahead_are_bounded() -> None:
    vectors = np.zeros((2000, 256), np.float32)
    docs = np.arange(2000, dtype=np.int32)
    assert _core.touch_rows(vectors, docs, seconds=1.0) == MIB // 1024
    assert _core.touch_rows(vectors, docs, seconds=0.0) == 0
    strange = np.array([-1, 2000, 5, np.iinfo(np.int32).max], np.int32)
    assert _core.touch_rows(vectors, strange, seconds=1.0) == 4
    assert (
        _core.touch_rows(np.zeros((3, 1 << 19), np.float32), np.arange(3, dtype=np.int32), seconds=1.0) == 0
    )
    with pytest.raises(TypeError, match="float32"):
        _core.touch_rows(vectors.astype(np.float64), docs)
    with pytest.raises(ValueError, match="C-contiguous"):
        _core.touch_rows(vectors[:, ::2], docs)


def test_arrays_are_kept_for_as_long_as_they_are_read() -> None:
    docs = np.zeros(1, np.int32)
    held = blobs([b"kept" * 5000])
    for _ in range(50):
        np.ones(20_000, np.uint8)  # would take the place of what is not held
        assert held.texts(docs) == ["kept" * 5000]
