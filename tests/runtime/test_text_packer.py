"""Requests of one text, and token ids as an array, are what the longer ways give."""

from __future__ import annotations

import time

import numpy as np
import pytest

from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from tests.runtime.row_model import row_scores

BUCKETS = [(1, 16), (4, 16), (4, 32)]


def compute(ids: Int32, mask: Int32, types: Int32 | None, output: Float32) -> None:
    output[:] = row_scores(ids, mask, types, output.shape[1])


@pytest.fixture
def scorer() -> _core.Scorer:
    return _core.Scorer(_core.HostExecutor(compute, BUCKETS, output_width=5))


@pytest.mark.parametrize("length", [0, 1, 9, 30, 60])
def test_a_text_alone_is_the_row_that_it_is_among_others(scorer: _core.Scorer, length: int) -> None:
    text = np.arange(2000, 2000 + length, dtype=np.int32)
    packer = _core.TextPacker(cls_id=101, sep_id=102, pad_id=0, max_tokens=32)
    alone = packer.prepare(scorer, text, None, 0, 0)
    among = scorer.prepare_texts([text], cls_id=101, sep_id=102, pad_id=0, max_tokens=32)
    for ticket in (alone, among):
        assert scorer.run(ticket, 30)
    assert alone.rows == 1
    np.testing.assert_array_equal(alone.scores(), among.scores())
    strided = np.repeat(text, 2)[::2]
    again = packer.prepare(scorer, strided, None, 3, 0)
    assert scorer.run(again, 30)
    np.testing.assert_array_equal(again.scores(), alone.scores())


def test_a_deadline_that_has_passed_leaves_the_text_unscored(scorer: _core.Scorer) -> None:
    packer = _core.TextPacker(cls_id=101, sep_id=102)
    text = np.array([2000], np.int32)
    late = packer.prepare(scorer, text, time.monotonic() - 1.0, 0, 0)
    assert scorer.run(late, 30)
    assert np.isnan(late.scores()).all()
    with pytest.raises(ValueError, match="deadline is NaN"):
        packer.prepare(scorer, text, float("nan"), 0, 0)


def test_a_text_that_is_none_is_refused(scorer: _core.Scorer) -> None:
    packer = _core.TextPacker(cls_id=101, sep_id=102)
    with pytest.raises(TypeError, match="text has dtype int64"):
        packer.prepare(scorer, np.array([1], np.int64), None, 0, 0)
    with pytest.raises(ValueError, match="text has 2 dimensions"):
        packer.prepare(scorer, np.ones((1, 2), np.int32), None, 0, 0)
    scorer.close()


def test_token_ids_are_an_array_of_the_first_ones() -> None:
    ids = [5, -1, 2**31 - 1, -(2**31), 0]
    for most in range(7):
        made = _core.token_ids(ids, most)
        assert made.dtype == np.int32
        assert made.flags.writeable
        np.testing.assert_array_equal(made, np.array(ids[:most], np.int32))
    for wrong in (2**31, "5", None):
        with pytest.raises(RuntimeError):
            _core.token_ids([1, wrong], 2)  # type: ignore[list-item]
