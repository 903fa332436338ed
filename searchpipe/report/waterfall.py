"""A waterfall as inline SVG: bars that begin where their part of the whole begins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from searchpipe.report.axes import Scale, number, ticks
from searchpipe.report.svg import PLOT_STYLE, WIDTH, Words

_LEFT, _RIGHT, _TOP, _BOTTOM = 150, 70, 12, 46
_ROW = 24


@dataclass(frozen=True, slots=True)
class Part:
    """One bar: from ``start``, ``length`` long, with a thin tail to ``start + tail``. Immutable."""

    name: str
    start: float
    length: float
    tail: float = math.nan


def waterfall(parts: Sequence[Part], words: Words) -> str:
    """One row a part, in the order given; ``words.x`` names the axis. Empty without parts."""
    known = [part for part in parts if math.isfinite(part.start) and math.isfinite(part.length)]
    if not known:
        return ""
    ends = [part.start + max(part.length, part.tail if math.isfinite(part.tail) else 0.0) for part in known]
    steps = ticks(0.0, max(*ends, 1e-6))
    scale = Scale(steps[0], steps[-1], _LEFT, WIDTH - _RIGHT)
    height = _TOP + _ROW * len(known) + _BOTTOM
    drawn = []
    for step in steps:
        x = scale(step)
        drawn.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        drawn.append(_text(x, height - _BOTTOM + 16, number(step), "middle"))
    for place, part in enumerate(known):
        y = _TOP + _ROW * place
        x, end = scale(part.start), scale(part.start + part.length)
        label = part.name if len(part.name) <= 20 else part.name[:19] + "…"
        drawn.append(_text(_LEFT - 8, y + 16, label, "end"))
        told = f"{part.name}: {number(part.length)} from {number(part.start)}"
        if math.isfinite(part.tail) and part.tail > part.length:
            far = scale(part.start + part.tail)
            drawn.append(f'<path class="whisker" d="M{end:.1f} {y + 12}H{far:.1f}M{far:.1f} {y + 8}v8"/>')
            end, told = max(end, far), f"{told}, up to {number(part.tail)}"
        drawn.append(
            f'<rect class="bar" x="{x:.1f}" y="{y + 4}" '
            f'width="{max(scale(part.start + part.length) - x, 1):.1f}" height="{_ROW - 8}">'
            f"<title>{escape(told)}</title></rect>"
        )
        drawn.append(_text(end + 6, y + 16, number(part.length), "start"))
    drawn.append(_text((_LEFT + WIDTH - _RIGHT) / 2, height - 8, words.x, "middle"))
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(words.title)}. {escape(words.description)}" xmlns="http://www.w3.org/2000/svg">'
        f"<style>{PLOT_STYLE}</style>{''.join(drawn)}</svg>"
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="word" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
