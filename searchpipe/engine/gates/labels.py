"""Relevance labels by query text, for the quality gates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from searchpipe.engine.query_log import read_query_log
from searchpipe.errors import CatalogError, RecipeError
from searchpipe.evaluate.labels import load_labelled_queries
from searchpipe.evaluate.metrics import ESCI_GAINS, MetricSettings

Labels = Mapping[str, Mapping[str, int]]
"""Query text -> product id -> grade."""

_QUERY_FILES = ("queries.jsonl", "queries.jsonl.gz", "queries.tsv", "queries.tsv.gz")
_JSON = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz")


def load_labels(path: Path) -> dict[str, dict[str, int]]:
    """Read a file of labels.

    Either JSON Lines ``{"query": text, "labels": {product: grade}}``, or grades as
    :func:`searchpipe.evaluate.labels.load_labelled_queries` takes them, with the texts in
    ``queries.jsonl`` (or .tsv, or .gz) in the same folder.

    Raises:
        RecipeError: a file is missing, malformed, or has no label.
    """
    if path.name.endswith(_JSON):
        logged, _ = read_query_log(path, max_broken_share=0.0)
        labels = {query.text: dict(query.labels) for query in logged if query.labels}
        if not labels:
            raise RecipeError(f'No line of {path} has labels: {{"query": "...", "labels": {{"id": 3}}}}.')
        return labels
    for name in _QUERY_FILES:
        queries = path.with_name(name)
        if queries.is_file():
            break
    else:
        raise RecipeError(
            f"The labels in {path} name queries by id, and there is no file of their texts.",
            cure=f"Put {_QUERY_FILES[0]} beside it.",
        )
    try:
        found = load_labelled_queries(queries, path)
    except CatalogError as error:
        raise RecipeError(str(error)) from error
    by_text: dict[str, dict[str, int]] = {}
    for query, text in found.texts.items():
        by_text.setdefault(" ".join(text.split()), {}).update(found.grades[query])
    return by_text


def metric_settings(grades: set[int]) -> MetricSettings:
    """Gains and the least relevant grade for labels with these grades.

    Grades up to 3 are taken for those of the Shopping Queries data (exact 1, substitute 0.1, complement
    0.01; relevant from 2); of another scale the grade is the gain, and every grade above 0 is relevant.
    """
    if grades <= set(ESCI_GAINS):
        return MetricSettings()
    return MetricSettings(gains={0: 0.0} | {grade: float(grade) for grade in grades}, relevant_grade=1)
