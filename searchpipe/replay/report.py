"""A replay's report on disk: ``report.json`` and ``report.html``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile

import msgspec

from searchpipe.errors import LogError
from searchpipe.files import published, write_json
from searchpipe.replay.figures import Report


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where they were written."""

    json: Path
    html: Path


def write_report(out: Path, report: Report) -> ReportFiles:
    """Write both files into the folder ``out``, made if needed; each appears whole or not at all.

    Raises:
        LogError: they cannot be written.
    """
    from searchpipe.replay.report_html import report_html

    return write_files(out, "report", msgspec.to_builtins(report), report_html(report))


def make_folder(out: Path) -> None:
    """Make the folder of a report before the work that it is about.

    Raises:
        LogError: it cannot be made, or nothing can be written into it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=out, prefix=".searchpipe-"):
            pass
    except OSError as error:
        raise LogError(
            f"Cannot write the report into {out}: {error.strerror or error}.", cure="Name another --out."
        ) from error


def write_files(out: Path, name: str, content: object, html: str) -> ReportFiles:
    """Write ``NAME.json`` and ``NAME.html``.

    Raises:
        LogError: they cannot be written.
    """
    files = ReportFiles(out / f"{name}.json", out / f"{name}.html")
    try:
        write_json(files.json, content)
        with published(files.html) as file:
            file.write(html)
    except OSError as error:
        raise LogError(f"Cannot write the report into {out}: {error.strerror or error}.") from error
    return files
