"""Products as training reads them: texts, fields and token ids, without a snapshot."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Int32
from searchpipe.catalog.template import TextTemplate
from searchpipe.errors import CatalogError
from searchpipe.models.tokenizer import TextTokenizer

PAIR_TEXT = "{title} {brand} {text}"
"""What the cross-encoder reads of a product: the default of ``index.pair_text``."""


@dataclass(frozen=True, slots=True)
class Product:
    """What queries are made from."""

    id: str
    title: str
    text: str
    brand: str
    color: str
    category: tuple[str, ...]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a JSON Lines file, gzipped if its name ends so.

    Raises:
        CatalogError: the file cannot be read, or a line is not a JSON object.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open() as file:
            rows = [json.loads(line) for line in file if line.strip()]
    except (OSError, ValueError) as error:
        raise CatalogError(f"{path} cannot be read: {error}", cure="Give JSON Lines.") from error
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise CatalogError(f"{path} does not hold a JSON object a line.")
    return rows


def read_products(paths: Sequence[Path], template: str = PAIR_TEXT) -> tuple[list[Product], list[str]]:
    """Products and the text of each that the models read."""
    render = TextTemplate(template).render
    products, texts = [], []
    for path in paths:
        for row in read_lines(path):
            category = row.get("category") or ()
            products.append(
                Product(
                    str(row["id"]),
                    str(row.get("title") or ""),
                    str(row.get("text") or ""),
                    str(row.get("brand") or ""),
                    str(row.get("color") or ""),
                    tuple(str(level) for level in ((category,) if isinstance(category, str) else category)),
                )
            )
            texts.append(render(row))
    return products, texts


@dataclass(frozen=True, slots=True)
class Tokens:
    """Token ids: int32 ``(n, longest)``, 0 behind each text's end, and lengths int32 ``(n,)``."""

    ids: Int32
    lengths: Int32

    def __len__(self) -> int:
        return len(self.lengths)


def tokenize(tokenizer: TextTokenizer, texts: Sequence[str]) -> Tokens:
    """Ids of each text, cut at the tokenizer's ``max_tokens``."""
    rows = tokenizer.ids_many(texts, parallel=True)
    lengths = np.array([len(row) for row in rows], np.int32)
    ids = np.zeros((len(rows), max(1, int(lengths.max(initial=0)))), np.int32)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = row
    return Tokens(ids, lengths)
