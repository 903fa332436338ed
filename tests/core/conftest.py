"""What several tests of the postings index search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from searchpipe._core import PostingsIndex
from tests.core.postings_file import write


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> PostingsIndex:
    """Three blocks and a bit, of words from every 2nd to every 20,000th document, with many ties."""
    rng = np.random.default_rng(11)
    count = 200_000
    shares = [0.5, 0.3, 0.1, 0.03, 0.01, 0.003, 0.0005, 0.00005]
    chosen = [rng.random(count) < share for share in shares]
    repeats = rng.integers(1, 4, count)
    # A word of the last documents only, and one of a single block.
    chosen.append(np.arange(count) >= count - 50)
    chosen.append((np.arange(count) // 65536 == 1) & (rng.random(count) < 0.2))
    # Crowded into a sixteenth of every block.
    chosen.append((np.arange(count) % 65536 // 4096 == 5) & (rng.random(count) < 0.6))
    documents: list[Any] = [
        [
            [f"w{word}" for word, has in enumerate(row) for _ in range(repeat if has else 0)],
            ["x"] if row[0] else [],
        ]
        for row, repeat in zip(np.stack(chosen, 1).tolist(), repeats.tolist(), strict=True)
    ]
    folder = tmp_path_factory.mktemp("large")
    return write(folder / "index", documents, 2, memory_bytes=4 << 20)
