"""Seeded input of the GPU benchmarks: judged query-product pairs, and a million clustered vectors."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import shared_folder
from searchpipe.arrays import Float32, Int32

CANDIDATES = 256
QUERIES = 84
TEXT_WORDS = 40
_BLOCK = 65_536
_VECTORS_OF_A_CENTRE = 250
_CENTRES_OF_A_TOPIC = 10
_TOPIC_SPREAD, _CENTRE_SPREAD, _QUERY_SPREAD = 0.6, 0.7, 0.5


@dataclass(frozen=True, slots=True)
class Task:
    """Scoring: for each query, which of the documents to score.

    Attributes:
        queries: texts.
        documents: texts: title and the first words of the description.
        candidates: int32 ``(queries, 256)``: the judged documents first, then random others.
    """

    queries: list[str]
    documents: list[str]
    candidates: Int32


def esci_folder() -> Path:
    """The folder of the ESCI-US data.

    Raises:
        SystemExit: it is not there.
    """
    folder = shared_folder("data", "esci-us")
    if folder is None:
        raise SystemExit(
            "The ESCI-US data was not found: put it into shared/data/esci-us beside the checkout, "
            "or name the folder shared in SEARCHPIPE_SHARED."
        )
    return folder


def esci_products() -> list[dict[str, Any]]:
    """The products, in the order of the file."""
    with gzip.open(esci_folder() / "products.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def scoring_task(seed: int, *, queries: int = QUERIES, candidates: int = CANDIDATES) -> Task:
    """The first ``queries`` development queries, or all, each with ``candidates`` documents."""
    folder = esci_folder()
    products = esci_products()
    place = {product["id"]: n for n, product in enumerate(products)}
    with gzip.open(folder / "queries.jsonl.gz", "rt", encoding="utf-8") as file:
        asked = [json.loads(line) for line in file][:queries]
    judged: dict[str, list[int]] = {}
    with gzip.open(folder / "qrels.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        for query, product, _grade in csv.reader(file, delimiter="\t"):
            if product in place:
                judged.setdefault(query, []).append(place[product])
    chosen = np.empty((len(asked), candidates), np.int32)
    for row, query in enumerate(asked):
        rng = np.random.default_rng([seed, row])
        known = np.array(judged.get(query["id"], [])[:candidates], np.int32)
        others = np.setdiff1d(np.arange(len(products), dtype=np.int32), known)
        filler = rng.choice(others, candidates - len(known), replace=False)
        chosen[row] = np.concatenate([known, filler])
    return Task([query["text"] for query in asked], [document_text(product) for product in products], chosen)


def document_text(product: dict[str, Any]) -> str:
    """What a cross-encoder reads of a product: the title and the first 40 words of the text."""
    words = (product.get("text") or "").split()[:TEXT_WORDS]
    return f"{product['title']} {' '.join(words)}".strip()


@dataclass(frozen=True, slots=True)
class Vectors:
    """Recall: unit vectors, and queries near some of them; all float32.

    Attributes:
        documents: ``(count, dim)``.
        queries: ``(n, dim)``, for measuring.
        tuning: ``(n, dim)``, others, for choosing settings.
    """

    documents: Float32
    queries: Float32
    tuning: Float32


def clustered_vectors(count: int, dim: int, seed: int, *, queries: int = 512) -> Vectors:
    """Unit vectors around centres that lie around topics, as embeddings do; about 5 s a million."""
    rng = np.random.default_rng(seed)
    centres = max(1, count // _VECTORS_OF_A_CENTRE)
    topics = _around(rng, np.zeros((max(1, centres // _CENTRES_OF_A_TOPIC), dim), np.float32), 1.0)
    middles = _around(rng, topics[rng.integers(0, len(topics), centres)], _TOPIC_SPREAD)
    documents = np.empty((count, dim), np.float32)
    for start in range(0, count, _BLOCK):
        stop = min(count, start + _BLOCK)
        documents[start:stop] = _around(rng, middles[rng.integers(0, centres, stop - start)], _CENTRE_SPREAD)
    near = documents[rng.integers(0, count, 2 * queries)]
    asked = _around(rng, near, _QUERY_SPREAD)
    return Vectors(documents, asked[:queries], asked[queries:])


def _around(rng: np.random.Generator, points: Float32, spread: float) -> Float32:
    """Unit vectors at about ``spread`` from each point, in a random direction."""
    noise = rng.standard_normal(points.shape, np.float32)
    moved: Float32 = points + noise * np.float32(spread / np.sqrt(points.shape[1]))
    moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    return moved
