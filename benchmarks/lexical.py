"""How fast is lexical recall, and does it find what tantivy finds?

    python -m benchmarks.lexical [--json FILE] [--products N] [--depth 300]

A generated catalog and the searches of its generated log. Both indexes get the same terms of the same fields
with the same boosts, and every query in turn; what is measured is from the terms of a query to arrays of
documents and scores, on one thread. tantivy is written by one thread and merges its segments as it likes; its
hits become arrays as its users make them. Seconds are those of the clock and, in figures named ``cpu``, of
the thread, which other load on the machine leaves alone.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Report, quantiles
from searchpipe._core import PostingsIndex, PostingsWriter
from searchpipe.arrays import Bool, Float32, Int32
from searchpipe.catalog.analysis import Analyzer, AnalyzerSpec
from searchpipe.catalog.lexical_writer import field_terms
from searchpipe.catalog.settings import IndexSettings
from searchpipe.demo.generate import write_demo

BOOSTS = IndexSettings().lexical_fields
MEMORY_MB = 256
QUERIES = 1000
BEST = 100
MASK_SHARE = 0.1

Document = list[list[str]]


def documents(products: Path, analyzer: Analyzer) -> Iterator[Document]:
    """The terms of each field of each product."""
    with products.open("rb") as lines:
        for line in lines:
            terms = field_terms(json.loads(line), BOOSTS, analyzer.document_terms)
            yield [terms[field] for field in BOOSTS]


class Ours:
    """The index that a snapshot has."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._path = folder / "postings.bin"
        self._writer = PostingsWriter(self._path, fields=len(BOOSTS), memory_bytes=MEMORY_MB << 20)
        self._boosts = list(BOOSTS.values())

    def add(self, document: Document) -> None:
        self._writer.append(document)

    def close(self) -> None:
        self._writer.close()
        self._index = PostingsIndex(self._path)

    def __len__(self) -> int:
        return len(self._index)

    def search(self, terms: list[str], k: int, mask: Bool | None = None) -> tuple[Int32, Float32]:
        return self._index.search(terms, boosts=self._boosts, k=k, mask=mask)


class Tantivy:
    """A tantivy index."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        folder.mkdir()
        self._tantivy = tantivy
        self._folder = folder
        builder = tantivy.SchemaBuilder()
        builder.add_unsigned_field("ordinal", fast=True)
        for field in BOOSTS:
            builder.add_text_field(field, tokenizer_name="terms", index_option="freq")
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema, path=str(folder))
        splitter = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        self._index.register_tokenizer("terms", splitter)
        self._writer = self._index.writer(MEMORY_MB << 20, 1)
        self._count = 0

    def add(self, document: Document) -> None:
        row = self._tantivy.Document()
        row.add_unsigned("ordinal", self._count)
        for field, terms in zip(BOOSTS, document, strict=True):
            row.add_text(field, " ".join(terms))
        self._writer.add_document(row)
        self._count += 1

    def close(self) -> None:
        self._writer.commit()
        self._writer.wait_merging_threads()
        self._index.reload()
        self._searcher = self._index.searcher()
        meta = json.loads((self._folder / "meta.json").read_bytes())
        self._ordinals = [self._ordinals_of(n, part["max_doc"]) for n, part in enumerate(meta["segments"])]
        self.segments = len(self._ordinals)

    def _ordinals_of(self, segment: int, size: int) -> Int32:
        addresses = [self._tantivy.DocAddress(segment, place) for place in range(size)]
        return np.array(self._searcher.fast_field_values("ordinal", addresses), np.int32)

    def search(self, terms: list[str], k: int) -> tuple[Int32, Float32]:
        tantivy = self._tantivy
        parts = []
        for term in terms:
            for field, boost in BOOSTS.items():
                query = tantivy.Query.term_query(self._schema, field, term, "freq")
                parts.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, boost)))
        hits = self._searcher.search(tantivy.Query.boolean_query(parts), k, count=False).hits
        scores = np.array([score for score, _ in hits], np.float32)
        docs = np.array([address.doc for _, address in hits], np.int64)
        segments = np.array([address.segment_ord for _, address in hits], np.int64)
        ordinals = np.empty(len(docs), np.int32)
        for segment, table in enumerate(self._ordinals):
            mine = segments == segment
            ordinals[mine] = table[docs[mine]]
        return ordinals, scores


def build(indexes: list[Any], given: Iterable[Document]) -> list[float]:
    """Seconds that each of ``indexes`` takes to index ``given`` and to finish."""
    seconds = [0.0] * len(indexes)
    stream = iter(given)
    while batch := list(islice(stream, 1000)):
        for place, index in enumerate(indexes):
            begin = time.perf_counter()
            for document in batch:
                index.add(document)
            seconds[place] += time.perf_counter() - begin
    for place, index in enumerate(indexes):
        begin = time.perf_counter()
        index.close()
        seconds[place] += time.perf_counter() - begin
    return seconds


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def run(
    report: Report, given: Iterable[Document], queries: list[list[str]], depth: int, folder: Path
) -> None:
    """Build both indexes from ``given``, ask both every query, and report."""
    ours, theirs = Ours(folder / "ours"), Tantivy(folder / "tantivy")
    ours_s, theirs_s = build([ours, theirs], given)
    report.figure("build_s", ours_s, unit="s")
    report.figure("tantivy_build_s", theirs_s, unit="s")
    report.figure("index_mb", folder_bytes(folder / "ours") / 1e6, unit="MB")
    report.figure("tantivy_index_mb", folder_bytes(folder / "tantivy") / 1e6, unit="MB")
    report.note(f"tantivy has {theirs.segments} segment(s).")

    mask = np.random.default_rng(report.seed).random(len(ours)) < MASK_SHARE
    searches: dict[str, Callable[[list[str]], Any]] = {
        "ours": lambda terms: ours.search(terms, depth),
        "ours, a tenth allowed": lambda terms: ours.search(terms, depth, mask),
        "tantivy": lambda terms: theirs.search(terms, depth),
    }
    wall: dict[str, list[float]] = {name: [] for name in searches}
    cpu: dict[str, list[float]] = {name: [] for name in searches}
    for measured in (False, True):  # the first round reads the files
        for name, search in searches.items():
            for terms in queries:
                begin, cpu_begin = time.perf_counter(), time.thread_time()
                search(terms)
                cpu_end, end = time.thread_time(), time.perf_counter()
                if measured:
                    wall[name].append(end - begin)
                    cpu[name].append(cpu_end - cpu_begin)
    for name, goals in (("ours", ("< 1", "< 4")), ("ours, a tenth allowed", ("", "")), ("tantivy", ("", ""))):
        key = name.replace(", a tenth allowed", "_masked")
        found, busy = report.times(name, wall[name]), quantiles(cpu[name])
        for point, goal in zip(("p50", "p99"), goals, strict=True):
            report.figure(f"{key}_{point}_ms", 1e3 * found[point], unit="ms", goal=goal)
            report.figure(f"{key}_cpu_{point}_ms", 1e3 * busy[point], unit="ms", goal=goal)
    agreement = [
        np.intersect1d(best, ours.search(terms, BEST)[0]).size / max(len(best), 1)
        for terms in queries
        if len(best := theirs.search(terms, BEST)[0])
    ]
    report.figure(f"top{BEST}_agreement", float(np.mean(agreement)))
    report.note(
        f"{len(ours):,} products, {len(queries)} queries, the best {depth}. tantivy rounds the lengths of "
        "fields above 40 terms and breaks ties its own way, so that not all of its best are ours."
    )


def main() -> None:
    """Measure and report."""
    title = "How fast is lexical recall, and does it find what tantivy finds?"
    parser = Report.parser("lexical", title, seed=1)
    parser.add_argument("--products", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument("--depth", type=int, default=300, help="documents asked for (default: %(default)s)")
    args = parser.parse_args()
    report = Report.from_args("lexical", title, packages=("tantivy",), args=args)
    analyzer = Analyzer(AnalyzerSpec())
    with tempfile.TemporaryDirectory(prefix="searchpipe-lexical-") as name:
        folder = Path(name)
        demo = write_demo(folder, products=args.products, queries=QUERIES, labelled=0, seed=args.seed)
        with demo.query_log.open("rb") as log:
            queries = [analyzer.query_terms(json.loads(line)["query"], 64) for line in log]
        run(report, documents(demo.products, analyzer), queries, args.depth, folder)
    report.finish()


if __name__ == "__main__":
    main()
