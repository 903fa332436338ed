"""Rows longest first, equal ones in the caller's order: counted for lengths of texts, compared for others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from searchpipe import _core


@pytest.mark.parametrize("lengths", [[], [3], [2, 5, 2, 5, 0, 5], [5000, 1, 9000, 1, 5000, 0, 9000]])
def test_order(tmp_path: Path, lengths: list[int]) -> None:
    writer = _core.TokenStoreWriter(tmp_path / "tokens")
    for length in lengths:
        writer.append(np.ones(length, np.int32))
    writer.close()
    store = _core.TokenStore(tmp_path / "tokens")
    packer = _core.PairPacker(
        cls_id=1, sep_id=2, max_query_tokens=4, max_doc_tokens=10_000, max_tokens=20_000
    )
    layout = packer.layout(np.array([7], np.int32), store, np.arange(len(lengths), dtype=np.int32))
    assert layout.permutation.tolist() == sorted(range(len(lengths)), key=lambda doc: -lengths[doc])
