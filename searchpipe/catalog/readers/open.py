"""The reader for a file, by its name."""

from __future__ import annotations

from pathlib import Path

from searchpipe.catalog.readers.jsonl import JsonLines
from searchpipe.catalog.readers.parquet import ParquetRows
from searchpipe.catalog.readers.raw import RowReader
from searchpipe.catalog.readers.table import CsvTable
from searchpipe.errors import CatalogError

_JSON = (".jsonl", ".ndjson", ".jsonl.gz", ".ndjson.gz", ".json.gz", ".json")
_TABLE = (".csv", ".tsv", ".csv.gz", ".tsv.gz")


def open_rows(path: Path, *, max_row_bytes: int) -> RowReader:
    """Return a reader of the catalog file at ``path``.

    Raises:
        CatalogError: when there is no such file or its name says no known format.

    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise CatalogError(f"The catalog file {path} {what}.", cure="Name a file to index.")
    name = path.name.lower()
    if name.endswith(_JSON):
        return JsonLines(path, max_row_bytes=max_row_bytes)
    if name.endswith(_TABLE):
        return CsvTable(path, max_row_bytes=max_row_bytes)
    if name.endswith((".parquet", ".pq")):
        return ParquetRows(path, max_row_bytes=max_row_bytes)
    raise CatalogError(
        f"The format of {path} is not known.",
        cure="Use a name that ends in .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet.",
    )
