"""Write the demo's input: a catalog, a query log and labelled queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from searchpipe.demo.products import generate_products
from searchpipe.demo.queries import DAY, LOG_DAYS, Shelves, generate_labels, generate_log
from searchpipe.errors import ConfigError
from searchpipe.files import published

MAX_PRODUCTS = 1 << 32  # product ids repeat beyond
MAX_SPAN_S = 3.2e9  # a century

Progress = Callable[[int], None]
"""Called with the number of products written so far."""


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Where the parts of the demo's input are, and how many rows each has."""

    products: Path
    query_log: Path
    queries: Path
    qrels: Path
    product_count: int
    log_count: int
    labelled_count: int


def write_demo(
    out: Path,
    *,
    products: int = 20_000,
    queries: int = 5_000,
    labelled: int = 200,
    seed: int = 7,
    log_span_s: float = LOG_DAYS * DAY,
    progress: Progress | None = None,
) -> DemoFiles:
    """Write ``products.jsonl``, ``query_log.jsonl``, ``queries.jsonl`` and ``qrels.tsv`` into ``out``.

    The same arguments give the same bytes on every machine. Products are written as they are
    made; about 0.5 kB for each stays in memory, for clicks and labels. Each file appears whole
    or not at all.

    Args:
        out: a folder, made if it does not exist.
        products: how many products, 1 to 2^32.
        queries: how many searches the log holds, 0 or more.
        labelled: how many labelled queries are wanted; a small catalog gives fewer.
        seed: of everything, 0 or more.
        log_span_s: seconds from the log's first moment to its last; a week unless told otherwise.
        progress: told after every 500 products and at the end.

    Raises:
        ConfigError: a number outside its limits.
        OSError: the files cannot be written.

    """
    for name, value, low in (("products", products, 1), ("queries", queries, 0), ("labelled", labelled, 0)):
        if not low <= value <= MAX_PRODUCTS:
            raise ConfigError(f"{name} is {value}; it must lie between {low} and {MAX_PRODUCTS}.")
    if seed < 0:
        raise ConfigError(f"seed is {seed}; it must be 0 or more.")
    if not 0 < log_span_s <= MAX_SPAN_S:
        raise ConfigError(f"log_span_s is {log_span_s}; it must be above 0 and at most {MAX_SPAN_S:g}.")
    out.mkdir(parents=True, exist_ok=True)
    catalog, log = out / "products.jsonl", out / "query_log.jsonl"
    texts, qrels = out / "queries.jsonl", out / "qrels.tsv"

    facts = []
    with published(catalog) as file:
        for row, known in generate_products(products, seed):
            _write_json(file, row)
            facts.append(known)
            if progress is not None and (len(facts) % 500 == 0 or len(facts) == products):
                progress(len(facts))
    shelves = Shelves(facts)

    logged = 0
    with published(log) as file:
        for row in generate_log(shelves, queries, seed, span_s=log_span_s):
            _write_json(file, row)
            logged += 1

    written = 0
    with published(texts) as text_file, published(qrels) as grade_file:
        for query, text, labels in generate_labels(shelves, labelled, seed):
            _write_json(text_file, {"id": query, "text": text})
            grade_file.writelines(f"{query}\t{product}\t{grade}\n" for product, grade in labels)
            written += 1
    return DemoFiles(catalog, log, texts, qrels, products, logged, written)


def _write_json(file: IO[str], row: dict[str, Any]) -> None:
    file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n")
