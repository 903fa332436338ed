"""Small catalogs in files, and snapshots of them without real models."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from searchpipe.catalog import BuildReport, IndexSettings, Snapshot, build_snapshot
from tests.fakes.hashed_models import HashedEncoder, HashedTokenizer

PRODUCTS: tuple[dict[str, Any], ...] = (
    {
        "id": "a",
        "title": "Red running shoes",
        "brand": "Acme",
        "category": ["Shoes", "Running"],
        "price": 49.5,
        "rating": 4.5,
        "rating_count": 12,
        "color": "red",
        "text": "Light shoes for runners",
        "is_sale": True,
    },
    {
        "id": "b",
        "title": "Blue running shoes",
        "brand": "Acme",
        "category": ["Shoes", "Running"],
        "price": 80,
        "rating": 4.0,
        "color": "blue",
        "text": "",
        "is_sale": False,
    },
    {
        "id": "c",
        "title": "Garden hose",
        "brand": "Gartner",
        "category": ["Garden"],
        "price": 19.99,
        "text": "25 m",
    },
    {
        "id": "d",
        "title": "Leather boots",
        "category": ["Shoes", "Boots"],
        "price": 120.0,
        "rating": 3.5,
        "text": "Boots for walking, not for running",
    },
    {"id": "e", "title": "Toy car", "brand": "Zoom", "category": ["Toys"], "text": "A red car"},
)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any] | str | bytes]) -> Path:
    """One line a row; text and bytes are written as they are."""
    with path.open("wb") as file:
        for row in rows:
            if isinstance(row, Mapping):
                row = json.dumps(row, ensure_ascii=False)
            file.write((row.encode() if isinstance(row, str) else row) + b"\n")
    return path


def build(source: Path | list[Path], out: Path, **settings: Any) -> BuildReport:
    """Build with hashed models and the given index settings."""
    return build_snapshot(
        source, out, IndexSettings(**settings), encoder=HashedEncoder(), tokenizer=HashedTokenizer()
    )


def snapshot_of(folder: Path, rows: Iterable[Mapping[str, Any]] = PRODUCTS, **settings: Any) -> Snapshot:
    """Build and open a snapshot of ``rows`` below ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    build(write_jsonl(folder / "products.jsonl", rows), folder / "out", **settings)
    return Snapshot.open(folder / "out")
