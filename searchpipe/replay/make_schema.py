"""``python -m searchpipe.replay.make_schema``: write the reports' JSON schemas beside this file anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from searchpipe.files import write_json
from searchpipe.replay.capacity import capacity_schema
from searchpipe.replay.compare_figures import comparison_schema
from searchpipe.replay.figures import report_schema
from searchpipe.replay.writer import log_schema

SCHEMAS: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    "report": report_schema,
    "compare": comparison_schema,
    "capacity": capacity_schema,
    "log": log_schema,
}


def schema_file(name: str) -> Path:
    """Where the schema ``name`` of :data:`SCHEMAS` is checked in."""
    return Path(__file__).with_name(f"{name}.schema.json")


def main() -> None:
    """Write them all."""
    for name, schema in SCHEMAS.items():
        write_json(schema_file(name), schema())


if __name__ == "__main__":
    main()
