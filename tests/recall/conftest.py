"""Clustered vectors, and the FAISS under test: the real one on a GPU, else the fake over faiss-cpu."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from searchpipe.errors import MissingDependencyError
from searchpipe.recall.faiss_build import require_gpu_faiss


def clustered(count: int, dim: int, *, clusters: int = 40, seed: int = 7) -> np.ndarray:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((clusters, dim))
    vectors = centres[rng.integers(0, clusters, count)] + 0.6 * rng.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32)


@pytest.fixture(scope="session")
def faiss_gpu() -> Any:
    try:
        return require_gpu_faiss()
    except MissingDependencyError:
        pytest.importorskip("faiss", reason="neither FAISS for GPUs nor faiss-cpu is installed")
        from tests.fakes import faiss_gpu

        return faiss_gpu


@pytest.fixture(scope="session")
def vectors() -> np.ndarray:
    return clustered(4000, 32)


@pytest.fixture(scope="session")
def queries(vectors: np.ndarray) -> np.ndarray:
    rng = np.random.default_rng(11)
    near = vectors[rng.choice(len(vectors), 32, replace=False)] + 0.1 * rng.standard_normal((32, 32))
    return (near / np.linalg.norm(near, axis=1, keepdims=True)).astype(np.float32)
