"""Self-contained HTML pages: no scripts, nothing fetched, readable in print and without colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from searchpipe.report.axes import number

Cell = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Raw:
    """HTML that is put into a cell or section as it is; the caller has escaped what it holds."""

    html: str


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page: its heading and what is below, HTML already. ``id`` is what links name."""

    id: str
    heading: str
    parts: Sequence[str]


def page(title: str, lead: str, sections: Sequence[Section], *, language: str = "en") -> str:
    """A whole page with a table of contents; ``lead`` is HTML."""
    links = "".join(f'<li><a href="#{s.id}">{escape(s.heading)}</a></li>' for s in sections)
    body = "".join(
        f'<section id="{s.id}"><h2>{escape(s.heading)}</h2>{"".join(s.parts)}</section>' for s in sections
    )
    return (
        f'<!doctype html><html lang="{escape(language)}"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>"
        f'<header><h1>{escape(title)}</h1>{lead}</header><nav aria-label="Contents"><ul>{links}</ul></nav>'
        f"<main>{body}</main></body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Cell | Raw]], *, caption: str) -> str:
    """A table; numbers are right-aligned, the first cell of a row is its heading."""
    if not rows:
        return paragraph(f"{caption}: none.")
    heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = []
    for row in rows:
        cells = [_cell(cell) for cell in row]
        first = f'<th scope="row">{cells[0][0]}</th>'
        rest = "".join(f"<td{kind}>{text}</td>" for text, kind in cells[1:])
        lines.append(f"<tr>{first}{rest}</tr>")
    return (
        f'<div class="wide"><table><caption>{escape(caption)}</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def figure(svg: str, caption: str) -> str:
    """A plot with what it shows below."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def details(summary: str, content: str) -> str:
    """Something to be unfolded; ``content`` is HTML."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def verdict(passed: bool) -> Raw:
    """Passed or failed in words, with a sign."""
    return Raw('<b class="yes">✓ passed</b>' if passed else '<b class="no">✗ failed</b>')


def facts(values: Mapping[str, Any]) -> str:
    """Names and values; what holds more is nested, long lists are folded away."""
    lines = "".join(
        f"<dt>{escape(str(name).replace('_', ' '))}</dt><dd>{_nested(value)}</dd>"
        for name, value in values.items()
    )
    return f"<dl>{lines}</dl>" if lines else paragraph("Nothing was recorded.")


_FOLDED = 8


def _nested(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = facts(value)
        return details(f"{len(value)} entries", inner) if len(value) > _FOLDED else inner
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        if all(not isinstance(item, Mapping | list | tuple) for item in value):
            text = ", ".join(_cell(item)[0] for item in value)
            return details(f"{len(value)} entries", f"<p>{text}</p>") if len(value) > _FOLDED else text
        items = "".join(f"<li>{_nested(item)}</li>" for item in value)
        return details(f"{len(value)} entries", f"<ol>{items}</ol>")
    return _cell(value)[0]


def _cell(value: Cell | Raw) -> tuple[str, str]:
    """HTML of a cell, and its attributes."""
    if isinstance(value, Raw):
        return value.html, ""
    if value is None:
        return "–", ""
    if isinstance(value, bool):
        return ("yes" if value else "no"), ""
    if isinstance(value, int | float):
        return number(float(value)), ' class="number"'
    return escape(str(value)), ""


_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem}"
    "h1{font-size:1.6rem;margin-bottom:.3rem}h2{font-size:1.25rem;margin-top:2.2rem;"
    "border-bottom:1px solid currentColor}"
    "nav ul{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.3rem 1.2rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0;font-size:.92rem}"
    "caption{text-align:left;font-weight:600;padding:.3rem 0}"
    "th,td{border:1px solid color-mix(in srgb,currentColor 30%,transparent);padding:.25rem .55rem;"
    "text-align:left;vertical-align:top}"
    "td.number{text-align:right;font-variant-numeric:tabular-nums}"
    "thead th{background:color-mix(in srgb,currentColor 9%,transparent)}"
    "dt{font-weight:600}dd{margin:0 0 .4rem 1.2rem;overflow-wrap:anywhere}"
    "figure{margin:1rem 0}figcaption{font-size:.92rem}svg{max-width:100%;height:auto}"
    ".yes{color:#1d6b2c}.no{color:#a3170f;text-decoration:underline}"
    "@media (prefers-color-scheme:dark){.yes{color:#7ed491}.no{color:#ff9d94}}"
    "@media print{nav{display:none}details{display:block}}"
)
