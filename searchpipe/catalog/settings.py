"""What a catalog's fields are called and how a snapshot is made from them: the ``[index]`` table."""

from __future__ import annotations

from typing import Literal

import msgspec

from searchpipe.catalog.template import TextTemplate
from searchpipe.errors import ConfigError

ColumnKind = Literal["number", "bool", "category", "categories"]
DenseKind = Literal["flat", "hnsw", "ivf"]
CjkMode = Literal["zh", "ja", "bigram"]

CANONICAL_COLUMNS: dict[str, ColumnKind] = {
    "brand": "category",
    "category": "categories",
    "color": "category",
    "price": "number",
    "rating": "number",
    "rating_count": "number",
}

_LEXICAL_FIELDS = {"all": 1.0, "title": 0.5, "brand": 0.25}


class FieldMap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The catalog's own key of every field that searchpipe knows; all others keep their names."""

    id: str = "id"
    title: str = "title"
    text: str = "text"
    brand: str = "brand"
    category: str = "category"
    color: str = "color"
    price: str = "price"
    rating: str = "rating"
    rating_count: str = "rating_count"


class IndexSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to build a snapshot; immutable, so safe to share among threads.

    Attributes:
        fields: the catalog's own keys.
        columns: kind of a feature column by name, or ``"ignore"``. Columns
            that are not named here get their kind from the first rows.
        display: fields that hits carry; None means all but the id and the text.
        list_separators: characters that split a string where a list is
            expected (``"Toys > Games"``).
        max_row_bytes: a longer row is rejected, unread.
        max_reject_share: a larger share of bad rows (0 to 1) stops the build.
        languages: Snowball algorithms; each word is indexed under the stems of all of them.
        cjk: what segments Chinese and Japanese; ``"auto"`` looks at the catalog.
        lexical_fields: field -> boost of its BM25 score. ``all`` stands for
            title, brand, category, color and text as one field.
        max_query_terms: terms of a query that are searched, in their order.
        dense_text: template of the text that is encoded; ``{text:25}`` means
            the first 25 words.
        pair_text: template of the document that the cross-encoder reads.
        max_pair_tokens: document tokens kept for the cross-encoder.
        dense_index: ``"auto"`` is flat below ``flat_below`` products, IVF from
            ``ivf_from`` and HNSW between them.
        hnsw_links: neighbours of a node (M).
        hnsw_build_effort: efConstruction.
        hnsw_search_effort: efSearch, at least k.
        ivf_lists: number of lists; 0 is 4 times the square root of the count.
        ivf_probes: lists read by a query; 0 is one in 32, at least 8.
        chunk_rows: rows held in memory at once.
        lexical_memory_mb: MiB of postings that the lexical writer holds before it writes them to a
            temporary file.
        keep_builds: published builds kept, the current one included.

    """

    fields: FieldMap = FieldMap()
    columns: dict[str, ColumnKind | Literal["ignore"]] = {}
    display: tuple[str, ...] | None = None
    list_separators: str = ">|"
    max_row_bytes: int = 1 << 20
    max_reject_share: float = 0.05
    languages: tuple[str, ...] = ("english",)
    cjk: Literal["auto"] | CjkMode = "auto"
    lexical_fields: dict[str, float] = msgspec.field(default_factory=lambda: dict(_LEXICAL_FIELDS))
    max_query_terms: int = 64
    dense_text: str = "{title}, {brand}, {category}, {color}. {text:25}"
    pair_text: str = "{title} {brand} {text}"
    max_pair_tokens: int = 192
    dense_index: Literal["auto"] | DenseKind = "auto"
    flat_below: int = 50_000
    ivf_from: int = 1_000_000
    hnsw_links: int = 32
    hnsw_build_effort: int = 80
    hnsw_search_effort: int = 128
    ivf_lists: int = 0
    ivf_probes: int = 0
    chunk_rows: int = 512
    lexical_memory_mb: int = 256
    keep_builds: int = 2

    def __post_init__(self) -> None:
        for name, low, high in _LIMITS:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f"index.{name} is {value}; it must be from {low} to {high}.")
        for name, boost in self.lexical_fields.items():
            if not 0 < boost < 1e6:
                raise ConfigError(f"index.lexical_fields.{name} is {boost}; a boost must be above 0.")
        if not self.lexical_fields:
            raise ConfigError("index.lexical_fields is empty.", cure="Name at least one field.")
        for name in ("dense_text", "pair_text"):
            TextTemplate(getattr(self, name))

    def dense_kind(self, count: int) -> DenseKind:
        """Return the kind of vector index for ``count`` products."""
        if self.dense_index != "auto":
            return self.dense_index
        if count < self.flat_below:
            return "flat"
        return "hnsw" if count < self.ivf_from else "ivf"


_LIMITS: tuple[tuple[str, float, float], ...] = (
    ("max_row_bytes", 1024, 1 << 30),
    ("max_reject_share", 0.0, 1.0),
    ("max_query_terms", 1, 1024),
    ("max_pair_tokens", 8, 8192),
    ("hnsw_links", 4, 256),
    ("hnsw_build_effort", 8, 4096),
    ("hnsw_search_effort", 8, 65536),
    ("ivf_lists", 0, 1 << 20),
    ("ivf_probes", 0, 1 << 20),
    ("chunk_rows", 1, 1 << 20),
    ("lexical_memory_mb", 16, 4000),
    ("keep_builds", 1, 1000),
)
