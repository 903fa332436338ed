from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from searchpipe.errors import CatalogError
from searchpipe.evaluate.labels import load_labelled_queries

QUERIES = (
    '{"id": "1", "text": "red shoes"}\n\n{"id": 2, "text": "lámpara"}\n{"id": "3", "text": "unlabelled"}\n'
)
QRELS = "1\ta\t3\n1\tb\t0\n2\ta\t2\n9\ta\t1\n2\ta\t2\n"


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_queries_and_grades_are_joined_and_the_rest_is_counted(tmp_path: Path, suffix: str) -> None:
    labels = load_labelled_queries(
        write(tmp_path, f"q.jsonl{suffix}", QUERIES),
        write(tmp_path, f"qrels.tsv{suffix}", QRELS),
        known=lambda product: product == "a",
    )
    assert dict(labels.texts) == {"1": "red shoes", "2": "lámpara"}
    assert dict(labels.grades) == {"1": {"a": 3, "b": 0}, "2": {"a": 2}}
    assert labels.notes == {
        "queries_without_labels": 1,
        "labels_without_query": 1,
        "unknown_products": 1,
        "repeated_labels": 1,
    }


def test_trec_qrels_tab_separated_queries_and_windows_line_ends(tmp_path: Path) -> None:
    labels = load_labelled_queries(
        write(tmp_path, "q.tsv", "\ufeff7\tred\tshoes\r\n8\tblue\r\n"),
        write(tmp_path, "qrels.txt", "7 0 a 1\r\n8 Q0 b -1\r\n"),
    )
    assert dict(labels.texts) == {"7": "red\tshoes", "8": "blue"}
    assert dict(labels.grades) == {"7": {"a": 1}, "8": {"b": 0}}


@pytest.mark.parametrize(
    ("queries", "qrels", "message"),
    [
        ("{oops\n", QRELS, "line 1: not JSON"),
        ('{"id": "1", "text": "x"}\n["1", "x"]\n', QRELS, "line 2: expected an object"),
        ('{"id": "1"}\n', QRELS, "line 1: expected an object"),
        ('{"id": true, "text": "x"}\n', QRELS, "line 1: expected an object"),
        ('{"id": "1", "text": "x"}\n{"id": 1, "text": "y"}\n', QRELS, "line 2: query id '1' was used"),
        (b'{"id": "1", "text": "\xff"}\n', QRELS, "line 1: not UTF-8"),
        (QUERIES, "1\ta\t3\n1\tb\n", "line 2: expected query, product and grade"),
        (QUERIES, "1\ta\tgood\n", "line 1: grade 'good' is not an integer"),
        (QUERIES, "1\ta\t5000\n", "line 1: grade 5000 is outside"),
        (QUERIES, "1\ta\t3\n1\ta\t2\n", "line 2: product 'a' has grade 2 here and 3 before"),
        (QUERIES, "77\ta\t3\n", "None of the 3 queries"),
        ("", QRELS, "None of the 0 queries"),
        (QUERIES, "1\tzzz\t3\n", "holds none of the 1 labelled products"),
    ],
)
def test_bad_files_are_refused_with_the_place(
    tmp_path: Path, queries: str | bytes, qrels: str, message: str
) -> None:
    paths = write(tmp_path, "q.jsonl", queries), write(tmp_path, "qrels.tsv", qrels)
    with pytest.raises(CatalogError, match=message):
        load_labelled_queries(*paths, known=lambda product: product in "ab")


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    good = write(tmp_path, "qrels.tsv", QRELS)
    with pytest.raises(CatalogError, match="cannot be read"):
        load_labelled_queries(tmp_path / "missing.jsonl", good)
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(QUERIES.encode())[:-9])
    with pytest.raises(CatalogError, match="cannot be read"):
        load_labelled_queries(tmp_path / "broken.jsonl.gz", good)
    (tmp_path / "plain.jsonl.gz").write_bytes(QUERIES.encode())
    with pytest.raises(CatalogError, match="cannot be read"):
        load_labelled_queries(tmp_path / "plain.jsonl.gz", good)
