"""From a raw row to a product with checked fields, or the reason why it is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from searchpipe.catalog.readers import RawRow
from searchpipe.catalog.settings import CANONICAL_COLUMNS, ColumnKind, IndexSettings
from searchpipe.catalog.values import clean_text, is_missing, to_bool, to_categories, to_category, to_number

MAX_ID_BYTES = 512
_TEXTS = ("title", "text")


class RowError(ValueError):
    """A row that cannot become a product; carries the id where the row has one."""

    def __init__(self, reason: str, product_id: str = "") -> None:
        super().__init__(reason)
        self.product_id = product_id


@dataclass(slots=True)
class Product:
    """One product.

    Attributes:
        id: unique within the catalog.
        values: canonical name (or the catalog's own, for other fields) -> value.
            ``title`` and ``text`` are always there; missing columns are not.

    """

    id: str
    values: dict[str, Any]


class RowChecker:
    """Maps and checks the fields of rows. Safe to share among threads."""

    def __init__(self, settings: IndexSettings) -> None:
        names = {name: getattr(settings.fields, name) for name in settings.fields.__struct_fields__}
        self._source_of = names
        self._known = frozenset(names) | frozenset(names.values())
        self._separators = settings.list_separators
        kinds: dict[str, Any] = {**CANONICAL_COLUMNS, **settings.columns}
        # An ignored canonical field is still shown and indexed as text, in its usual form.
        self._columns: list[tuple[str, str, ColumnKind]] = [
            (name, names.get(name, name), CANONICAL_COLUMNS[name] if kind == "ignore" else kind)
            for name, kind in kinds.items()
            if kind != "ignore" or name in CANONICAL_COLUMNS
        ]

    def check(self, row: RawRow) -> Product:
        """Return the product in ``row``.

        Raises:
            RowError: with the reason why there is none.

        """
        if row.data is None:
            raise RowError(row.problem)
        product_id = self._id(row.data.get(self._source_of["id"]))
        try:
            values = self._texts(row.data)
            for name, source, kind in self._columns:
                value = row.data.get(source)
                if value is None:
                    continue
                try:
                    converted = self._convert(kind, value)
                except ValueError as error:
                    raise RowError(f"{name}: {error}") from None
                if not is_missing(converted):
                    values[name] = converted
        except RowError as error:
            raise RowError(str(error), product_id) from None
        for name, value in row.data.items():
            known = name in self._known or name in values
            if not (known or is_missing(value) or isinstance(value, bytes)):
                values[name] = clean_text(value) if isinstance(value, str) else value
        return Product(product_id, values)

    def _id(self, value: Any) -> str:
        name = self._source_of["id"]
        if is_missing(value):
            raise RowError(f"no id (field {name!r})")
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            raise RowError(f"id: text or a whole number is expected, not {type(value).__name__}")
        found = clean_text(value)
        if found != value.strip():
            raise RowError("id: contains characters that cannot be stored")
        if len(found.encode()) > MAX_ID_BYTES:
            raise RowError(f"id: longer than {MAX_ID_BYTES} bytes", found[:64])
        return found

    def _texts(self, data: dict[str, Any]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name in _TEXTS:
            value = data.get(self._source_of[name])
            if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
                value = "\n".join(value)
            if is_missing(value):
                value = ""
            if not isinstance(value, str):
                raise RowError(f"{name}: text is expected, not {type(value).__name__}")
            values[name] = clean_text(value)
        if not values["title"]:
            raise RowError(f"no title (field {self._source_of['title']!r})")
        return values

    def _convert(self, kind: ColumnKind, value: Any) -> Any:
        if kind == "number":
            return to_number(value)
        if kind == "bool":
            number = to_bool(value)
            return None if number != number else bool(number)
        return to_category(value) if kind == "category" else to_categories(value, self._separators)
