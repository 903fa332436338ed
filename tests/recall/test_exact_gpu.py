"""The device's matrix finds what comparing all allowed documents on the host finds."""

from __future__ import annotations

import numpy as np
import pytest

from searchpipe.catalog.exact import exact_search
from searchpipe.device.facts import driver_facts
from searchpipe.errors import MissingDependencyError
from searchpipe.recall.exact_gpu import DeviceMatrix


@pytest.fixture(scope="module")
def matrix(vectors):
    pytest.importorskip("cupy", reason="cupy is not installed")
    if reason := driver_facts().reason:
        pytest.skip(f"no GPU: {reason}")
    return DeviceMatrix(vectors)


@pytest.mark.parametrize("share", [1.0, 0.3, 0.01, 0.0])
def test_the_best_allowed_are_among_the_found(matrix, vectors, queries, share):
    mask = np.random.default_rng(9).random(len(vectors)) < share
    for query in queries[:4]:
        found = matrix.search(query, 30, mask)
        best, _ = exact_search(vectors, query, 30, mask)
        assert found.dtype == np.int64
        assert mask[found].all()
        assert len(np.intersect1d(found, best)) >= 0.95 * len(best)
        assert len(np.unique(found)) == len(found)


def test_many_masks_take_their_turns(matrix, vectors, queries):
    masks = [np.arange(len(vectors)) % 20 == n for n in range(20)]
    for _ in range(2):
        for mask in masks:
            assert mask[matrix.search(queries[0], 5, mask)].all()
    assert len(matrix._masks) == 8


def test_without_cupy_the_extra_is_named(vectors):
    try:
        import cupy  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match=r"searchpipe\[gpu\]"):
            DeviceMatrix(vectors)
    else:
        pytest.skip("cupy is installed")
