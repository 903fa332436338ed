"""Catalog files as streams of raw rows."""

from searchpipe.catalog.readers.open import open_rows
from searchpipe.catalog.readers.raw import RawRow, RowReader

__all__ = ["RawRow", "RowReader", "open_rows"]
