"""What the systems beside ours search: texts and vectors of a snapshot, in its order."""

from __future__ import annotations

import gzip
import importlib
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np

from searchpipe.arrays import Float32, Int64
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.catalog.template import TextTemplate

PAIR_TEXT = "{title} {text:40}"
"""What a cross-encoder reads of a product, here as in the snapshot."""

_BLOCK = 65_536


class Texts:
    """The pair text of each document, from one file that is mapped; any thread may read."""

    def __init__(self, folder: Path) -> None:
        self._starts: Int64 = np.load(folder / "starts.npy", mmap_mode="r")
        self._bytes = np.memmap(folder / "texts.bin", np.uint8, mode="r")

    def __len__(self) -> int:
        return len(self._starts) - 1

    def of(self, rows: Iterable[int]) -> list[str]:
        """The texts of ``rows``."""
        starts, content = self._starts, self._bytes
        return [content[starts[row] : starts[row + 1]].tobytes().decode() for row in rows]


def write_texts(snapshot: Snapshot, sources: Iterable[Path], folder: Path) -> Path:
    """Write the pair texts of ``snapshot``'s documents into ``folder`` unless they are there; returns it.

    Args:
        snapshot: built from ``sources``.
        sources: JSON Lines files, perhaps gzipped.
        folder: made here, all at once.

    Raises:
        SystemExit: the snapshot holds a product that no source has.
    """
    if (folder / "starts.npy").exists():
        return folder
    ids = snapshot.id_of(np.arange(len(snapshot)))
    texts = dict(_rendered(sources))
    folder.mkdir(parents=True, exist_ok=True)
    starts = np.zeros(len(ids) + 1, np.int64)
    with (folder / "texts.bin").open("wb") as file:
        for row, product in enumerate(ids):
            text = texts.get(product)
            if text is None:
                raise SystemExit(f"The product {product} of the snapshot is in none of its sources.")
            starts[row + 1] = starts[row] + file.write(text.encode())
    temporary = folder / "starts.part"
    with temporary.open("wb") as out:
        np.save(out, starts)
    temporary.replace(folder / "starts.npy")
    return folder


def _rendered(sources: Iterable[Path]) -> Iterator[tuple[str, str]]:
    template = TextTemplate(PAIR_TEXT)
    decoder = msgspec.json.Decoder(dict[str, Any])
    for source in sources:
        with _opened(source) as file:
            for line in file:
                if line.strip():
                    product = decoder.decode(line)
                    yield str(product["id"]), template.render(product)


def _opened(path: Path) -> IO[bytes]:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")  # type: ignore[return-value]
    return path.open("rb")


class FlatIndex:
    """FAISS over all vectors, exact, inner product, in half precision on a GPU; any thread may search.

    A FAISS index on a GPU serves one thread at a time, so searches take turns.

    Args:
        snapshot: whose vectors are copied.
        gpu: on GPU 0, else on the CPU.
    """

    def __init__(self, snapshot: Snapshot, *, gpu: bool) -> None:
        faiss: Any = importlib.import_module("faiss")
        dim = snapshot.dense.dim
        self._lock = threading.Lock()
        if gpu:
            self._resources = faiss.StandardGpuResources()
            self._resources.setTempMemory(512 << 20)
            settings = faiss.GpuIndexFlatConfig()
            settings.useFloat16 = True
            settings.device = 0
            self._index: Any = faiss.GpuIndexFlatIP(self._resources, dim, settings)
        else:
            self._index = faiss.IndexFlatIP(dim)
        for start in range(0, len(snapshot), _BLOCK):
            rows = np.arange(start, min(len(snapshot), start + _BLOCK))
            self._index.add(np.ascontiguousarray(snapshot.vectors(rows), np.float32))

    def search(self, vectors: Float32, k: int) -> Int64:
        """The ``k`` nearest of each vector ``(n, dim)``: int64 ``(n, k)``, best first."""
        with self._lock:
            _, found = self._index.search(np.ascontiguousarray(vectors, np.float32), k)
        rows: Int64 = found
        return rows
