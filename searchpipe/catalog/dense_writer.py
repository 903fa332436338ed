"""Writes the document vectors and, where there are many, a FAISS index of them."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.catalog.dense import DenseInfo
from searchpipe.catalog.optional import require
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.storage import ArrayWriter, open_array
from searchpipe.errors import CatalogError

_BATCH = 16_384
# FAISS asks for at least 39 training vectors a list and uses no more than 256.
_TRAINING_PER_LIST = 64
_FEWEST_PER_LIST = 39
_SEED = 17


class DenseWriter:
    """Vectors appended in the order of their ordinals. For one thread."""

    def __init__(self, folder: Path, settings: IndexSettings, dim: int, owner: ExitStack) -> None:
        self._folder = folder
        self._settings = settings
        self._dim = dim
        folder.mkdir()
        self._vectors = ArrayWriter(folder / "vectors.f32", np.float32, owner)

    def append(self, vectors: Float32) -> None:
        """Append float32 ``(n, dim)``.

        Raises:
            CatalogError: for vectors of another size, or NaN or infinity in them.

        """
        if vectors.ndim != 2 or vectors.shape[1] != self._dim:
            raise CatalogError(
                f"The encoder gave vectors of shape {vectors.shape} instead of (n, {self._dim})."
            )
        if not np.isfinite(vectors).all():
            raise CatalogError(
                "The encoder gave NaN or infinity for a product.",
                cure="Use another model, or a wider precision.",
            )
        self._vectors.append(vectors)

    def close(self) -> DenseInfo:
        """Finish the matrix, and build the index that the settings ask for."""
        self._vectors.close()
        count = self._vectors.size // self._dim
        kind = self._settings.dense_kind(count)
        if kind == "flat":
            return DenseInfo(kind=kind, dim=self._dim)
        vectors = open_array(self._vectors.path, np.float32, (count, self._dim))
        faiss = require("faiss", "cpu")
        index, info = self._hnsw(faiss) if kind == "hnsw" else self._ivf(faiss, vectors)
        for start in range(0, count, _BATCH):
            index.add(np.ascontiguousarray(vectors[start : start + _BATCH]))
        try:
            faiss.write_index(index, str(self._folder / "index.faiss"))
        except RuntimeError as error:
            raise CatalogError(
                f"The vector index cannot be written: {error}.", cure="Check that the disk has room."
            ) from error
        return info

    def _hnsw(self, faiss: Any) -> tuple[Any, DenseInfo]:
        settings = self._settings
        code = faiss.ScalarQuantizer.QT_fp16
        index = faiss.IndexHNSWSQ(self._dim, code, settings.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = settings.hnsw_build_effort
        index.train(np.zeros((1, self._dim), np.float32))  # float16 codes have nothing to learn
        info = DenseInfo(kind="hnsw", dim=self._dim, hnsw_search_effort=settings.hnsw_search_effort)
        return index, info

    def _ivf(self, faiss: Any, vectors: Float32) -> tuple[Any, DenseInfo]:
        count = len(vectors)
        lists = self._settings.ivf_lists or round(4 * math.sqrt(count))
        lists = max(1, min(lists, count // _FEWEST_PER_LIST))
        probes = self._settings.ivf_probes or max(8, lists // 32)
        quantizer = faiss.IndexFlatIP(self._dim)
        code = faiss.ScalarQuantizer.QT_fp16
        # Not by residual: float16 of the vector itself is closer than of a sum of two parts.
        index = faiss.IndexIVFScalarQuantizer(
            quantizer, self._dim, lists, code, faiss.METRIC_INNER_PRODUCT, False
        )
        chosen = np.random.default_rng(_SEED).choice(
            count, min(count, lists * _TRAINING_PER_LIST), replace=False
        )
        index.train(np.ascontiguousarray(vectors[np.sort(chosen)]))
        probes = min(probes, lists)
        return index, DenseInfo(kind="ivf", dim=self._dim, ivf_lists=lists, ivf_probes=probes)
