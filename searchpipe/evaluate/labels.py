"""Labelled queries: the texts that are searched for and the grades that people gave to products."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from searchpipe.errors import CatalogError

MAX_GRADE = 1000


@dataclass(frozen=True, slots=True)
class LabelledQueries:
    """Queries with grades, as they go into an evaluation. Immutable; safe from many threads.

    Attributes:
        texts: query id -> text, only queries with at least one label, in the order of the file.
        grades: query id -> product id -> grade (an integer, 0 = irrelevant).
        notes: name -> count of what the files held that cannot be used as it is:
            ``queries_without_labels`` (left out), ``labels_without_query`` (queries that the
            labels name and the query file lacks, left out), ``unknown_products`` (labels of
            products that the catalog lacks; kept, so they count as not found) and
            ``repeated_labels`` (the same pair with the same grade again, ignored).

    """

    texts: Mapping[str, str]
    grades: Mapping[str, Mapping[str, int]]
    notes: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.texts)


def load_labelled_queries(
    queries: Path, qrels: Path, *, known: Callable[[str], bool] | None = None
) -> LabelledQueries:
    """Read a query file and a file of grades; both may be gzipped (``.gz``).

    Args:
        queries: JSON lines with ``id`` and ``text`` (``.jsonl``/``.ndjson``), else tab-separated id and text.
        qrels: lines of query, product and grade separated by tabs, or TREC's
            ``query 0 product grade`` separated by white space. No header.
        known: tells whether the catalog has a product.

    Raises:
        CatalogError: a file cannot be read, a line is malformed, a query id is repeated, one pair
            has two grades, or nothing is left to evaluate. The message names file and line.

    """
    texts = _read_queries(queries)
    grades, repeated = _read_qrels(qrels)
    usable = {query: text for query, text in texts.items() if query in grades}
    kept = {query: grades[query] for query in usable}
    if not usable:
        raise CatalogError(
            f"None of the {len(texts)} queries of {queries} has a label in {qrels}.",
            cure="The first column of the labels must hold the ids of the query file.",
        )
    total = sum(len(row) for row in kept.values())
    unknown = 0 if known is None else sum(not known(product) for row in kept.values() for product in row)
    if total and unknown == total:
        raise CatalogError(
            f"The catalog holds none of the {total} labelled products of {qrels}.",
            cure="Evaluate on the snapshot that the labels were made for.",
        )
    notes = {
        "queries_without_labels": len(texts) - len(usable),
        "labels_without_query": len(grades.keys() - texts.keys()),
        "unknown_products": unknown,
        "repeated_labels": repeated,
    }
    return LabelledQueries(usable, kept, notes)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of each line that is not blank."""
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    raise CatalogError(f"{path}, line {number}: not UTF-8 ({error.reason}).") from error
                if line.strip():
                    yield number, line
    except (OSError, EOFError) as error:
        raise CatalogError(f"{path} cannot be read: {error}.") from error


def _read_queries(path: Path) -> dict[str, str]:
    name = path.name.removesuffix(".gz")
    parse = _json_query if name.endswith((".jsonl", ".ndjson", ".json")) else _tsv_query
    texts: dict[str, str] = {}
    for number, line in _lines(path):
        query, text = parse(f"{path}, line {number}", line)
        if query in texts:
            raise CatalogError(f"{path}, line {number}: query id {query!r} was used before.")
        texts[query] = text
    return texts


def _json_query(place: str, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CatalogError(f"{place}: not JSON ({error}).") from error
    query, text = (row.get("id"), row.get("text")) if isinstance(row, dict) else (None, None)
    if isinstance(query, int) and not isinstance(query, bool):
        query = str(query)
    if not isinstance(query, str) or not query or not isinstance(text, str):
        raise CatalogError(
            f'{place}: expected an object like {{"id": "1", "text": "red shoes"}}, got {line[:80]!r}.'
        )
    return query, text


def _tsv_query(place: str, line: str) -> tuple[str, str]:
    query, tab, text = line.partition("\t")
    if not tab or not query.strip():
        raise CatalogError(f"{place}: expected an id, a tab and a text, got {line[:80]!r}.")
    return query.strip(), text


def _read_qrels(path: Path) -> tuple[dict[str, dict[str, int]], int]:
    grades: dict[str, dict[str, int]] = {}
    repeated = 0
    for number, line in _lines(path):
        place = f"{path}, line {number}"
        cells = [cell.strip() for cell in line.split("\t")] if line.count("\t") == 2 else line.split()
        if len(cells) == 4:
            del cells[1]
        if len(cells) != 3 or not all(cells):
            raise CatalogError(f"{place}: expected query, product and grade, got {line[:80]!r}.")
        query, product, text = cells
        try:
            grade = int(text)
        except ValueError:
            raise CatalogError(f"{place}: grade {text[:40]!r} is not an integer.") from None
        if not -MAX_GRADE <= grade <= MAX_GRADE:
            raise CatalogError(f"{place}: grade {grade} is outside -{MAX_GRADE}..{MAX_GRADE}.")
        row = grades.setdefault(query, {})
        if product in row:
            if row[product] != grade:
                raise CatalogError(
                    f"{place}: product {product!r} has grade {grade} here and {row[product]} before, "
                    f"both for query {query!r}."
                )
            repeated += 1
        # Negative grades mark junk in some collections; to every measure they are irrelevant.
        row[product] = max(grade, 0)
    return grades, repeated
