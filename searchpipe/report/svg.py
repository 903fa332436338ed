"""Line, bar and histogram plots as inline SVG: no network, no scripts, readable without colours.

Series differ by dashes and markers, bars by hatching, and every plot carries a title and a
description for screen readers. Colours come from the page (``currentColor`` and CSS variables with
defaults), so that plots follow its light or dark scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from searchpipe.report.axes import Scale, number, span_of, ticks

WIDTH, HEIGHT = 640, 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 76, 18, 18, 52
_LINE_PX = 15
_DASHES = ("", "7 4", "2 3", "9 3 2 3", "1 5")
_COLOURS = ("#0b62a4", "#b3450a", "#31752f", "#6d3f96", "#5c5c5c")
_LABEL_CHARS = 26


@dataclass(frozen=True, slots=True)
class Series:
    """Points joined by a line, in the order given; those that are not finite leave a gap. Immutable."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place on the x axis that is pointed out by a vertical line with a text. Immutable."""

    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Words:
    """What a plot says beside its data. Immutable.

    Attributes:
        title: short.
        description: what there is to be seen, in a sentence, for who cannot see it.
        x: what the x axis counts, with its unit.
        y: what the y axis counts, with its unit.
    """

    title: str
    description: str
    x: str
    y: str


def line_plot(
    series: Sequence[Series], words: Words, *, marks: Sequence[Mark] = (), from_zero: bool = True
) -> str:
    """One or more lines over common axes; ``from_zero``: the y axis begins at zero.

    Raises:
        ValueError: a series has not as many x as y.
    """
    for one in series:
        if len(one.x) != len(one.y):
            raise ValueError(f"{one.name} has {len(one.x)} x and {len(one.y)} y")
    xs = [float(x) for one in series for x in one.x] + [mark.x for mark in marks]
    ys = [float(y) for one in series for y in one.y]
    frame = _Frame(span_of(xs, from_zero=False), span_of(ys, from_zero=from_zero), words)
    for place, one in enumerate(series):
        frame.add_line(one, place)
    names = [one.name for one in series] if len(series) > 1 else []
    frame.add_legend(names)
    frame.add_marks(marks, below=len(names))
    return frame.svg()


def histogram(
    edges: Sequence[float], counts: Sequence[float], words: Words, *, marks: Sequence[Mark] = ()
) -> str:
    """Bars from edge to edge.

    Raises:
        ValueError: there is not one edge more than counts.
    """
    if len(edges) != len(counts) + 1:
        raise ValueError(f"{len(counts)} counts need {len(counts) + 1} edges, not {len(edges)}")
    xs = [*map(float, edges), *(mark.x for mark in marks)]
    frame = _Frame(span_of(xs, from_zero=False), span_of(list(map(float, counts)), from_zero=True), words)
    for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True):
        frame.add_box(float(left), float(right), float(count), f"{number(left)} to {number(right)}")
    frame.add_marks(marks)
    return frame.svg()


def bar_plot(
    labels: Sequence[str],
    values: Sequence[float],
    words: Words,
    *,
    low: Sequence[float] | None = None,
    high: Sequence[float] | None = None,
    limit: float | None = None,
) -> str:
    """Horizontal bars with their values, long labels left of them.

    Args:
        labels: one a bar.
        values: as many; a bar that is not finite is left out, its label stays.
        words: ``words.x`` names the values.
        low: lower ends of intervals, drawn as whiskers with ``high``.
        high: upper ends.
        limit: a dashed line across all bars.

    Raises:
        ValueError: other numbers of values or ends than labels.
    """
    ends = [list(values) if end is None else list(end) for end in (low, high)]
    if not len(labels) == len(values) == len(ends[0]) == len(ends[1]):
        raise ValueError(f"{len(labels)} labels have {len(values)} values")
    row, left = 24, 14 + 7.5 * _LABEL_CHARS
    height = _TOP + row * max(1, len(labels)) + _BOTTOM
    every = [*map(float, values), *map(float, ends[0]), *map(float, ends[1])]
    span = span_of([*every, *([] if limit is None else [limit])], from_zero=True)
    steps = ticks(*span)
    scale = Scale(steps[0], steps[-1], left, WIDTH - 70)
    parts = [_grid_x(scale, steps, _TOP, height - _BOTTOM)]
    for place, (label, value) in enumerate(zip(labels, values, strict=True)):
        y = _TOP + row * place
        parts.append(_text(left - 8, y + 16, _short(label), anchor="end", full=label))
        if not math.isfinite(value):
            continue
        x, width = min(scale(0), scale(value)), abs(scale(value) - scale(0))
        parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{y + 4}" width="{max(width, 1):.1f}" height="{row - 8}">'
            f"<title>{escape(label)}: {number(value)}</title></rect>"
        )
        if low is not None or high is not None:
            parts.append(_whisker(scale(ends[0][place]), scale(ends[1][place]), y + row / 2))
        farthest = max(scale(value), scale(ends[1][place]), scale(0))
        parts.append(_text(farthest + 5, y + 16, number(value)))
    if limit is not None:
        x = scale(limit)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(_text(x, _TOP - 4, f"limit {number(limit)}", anchor="middle"))
    parts.append(_text((left + WIDTH - 70) / 2, height - 10, words.x, anchor="middle"))
    return _wrapped(parts, words, height)


class _Frame:
    """Axes, grid and what is drawn between them. For one thread."""

    def __init__(self, x_span: tuple[float, float], y_span: tuple[float, float], words: Words) -> None:
        self._words = words
        x_steps, y_steps = ticks(*x_span, 8), ticks(*y_span)
        self._x = Scale(x_steps[0], x_steps[-1], _LEFT, WIDTH - _RIGHT)
        self._y = Scale(y_steps[0], y_steps[-1], HEIGHT - _BOTTOM, _TOP)
        self._parts = [_grid_x(self._x, x_steps, _TOP, HEIGHT - _BOTTOM)]
        for step in y_steps:
            y = self._y(step)
            self._parts.append(
                f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            )
            self._parts.append(_text(_LEFT - 7, y + 4, number(step), anchor="end"))
        middle = (_TOP + HEIGHT - _BOTTOM) / 2
        self._parts.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 10, words.x, anchor="middle"))
        self._parts.append(
            f'<text class="word" text-anchor="middle" transform="translate(16 {middle}) rotate(-90)">'
            f"{escape(words.y)}</text>"
        )

    def add_line(self, series: Series, place: int) -> None:
        """A line with markers: a circle, square, triangle or cross."""
        colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
        style = f'stroke="{colour}"' + (f' stroke-dasharray="{dash}"' if dash else "")
        run: list[str] = []
        for x, y in [*zip(series.x, series.y, strict=True), (math.nan, math.nan)]:
            if math.isfinite(x) and math.isfinite(y):
                run.append(f"{self._x(x):.1f},{self._y(y):.1f}")
                self._parts.append(
                    _marker(place, self._x(x), self._y(y), colour, f"{series.name}: {number(x)}, {number(y)}")
                )
            elif run:
                self._parts.append(f'<polyline class="line" {style} points="{" ".join(run)}"/>')
                run = []

    def add_box(self, left: float, right: float, value: float, name: str) -> None:
        """A bar from ``left`` to ``right`` on the x axis."""
        x, width = self._x(left), self._x(right) - self._x(left)
        y, base = self._y(value), self._y(0)
        self._parts.append(
            f'<rect class="bar" x="{x:.1f}" y="{min(y, base):.1f}" width="{max(width - 1, 0.5):.1f}" '
            f'height="{abs(base - y):.1f}"><title>{escape(name)}: {number(value)}</title></rect>'
        )

    def add_marks(self, marks: Sequence[Mark], below: int = 0) -> None:
        """Dashed verticals; their texts step down, ``below`` so many lines, to cover nothing."""
        for place, mark in enumerate(marks):
            x = self._x(mark.x)
            self._parts.append(
                f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
            )
            late = x > (WIDTH + _LEFT) / 2
            self._parts.append(
                _text(
                    x - 4 if late else x + 4,
                    _TOP + 11 + _LINE_PX * (below + place),
                    mark.text,
                    anchor="end" if late else "start",
                )
            )

    def add_legend(self, names: Sequence[str]) -> None:
        """Line and marker beside each name, top right."""
        widest = max(map(len, names), default=0)
        x = max(_LEFT + 10.0, WIDTH - _RIGHT - 46 - 6.6 * widest)
        for place, name in enumerate(names):
            y = _TOP + 12 + _LINE_PX * place
            colour, dash = _COLOURS[place % len(_COLOURS)], _DASHES[place % len(_DASHES)]
            self._parts.append(
                f'<line class="line" x1="{x:.1f}" x2="{x + 30:.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                f'stroke-dasharray="{dash or "none"}"/>'
            )
            self._parts.append(_marker(place, x + 15, y, colour, name))
            self._parts.append(_text(x + 36, y + 4, name))

    def svg(self) -> str:
        """The plot."""
        return _wrapped(self._parts, self._words, HEIGHT)


def _grid_x(scale: Scale, steps: Sequence[float], top: float, bottom: float) -> str:
    parts = []
    for step in steps:
        x = scale(step)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 16, number(step), anchor="middle"))
    return "".join(parts)


def _marker(place: int, x: float, y: float, colour: str, told: str) -> str:
    title = f"<title>{escape(told)}</title>"
    style = f'fill="{colour}" stroke="{colour}"'
    kind = place % 4
    if kind == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" {style}>{title}</circle>'
    shape = (
        "",
        f"M{x - 3:.1f} {y - 3:.1f}h6v6h-6z",
        f"M{x:.1f} {y - 4:.1f}l4 7h-8z",
        f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6",
    )[kind]
    return f'<path d="{shape}" {style}>{title}</path>'


def _whisker(low: float, high: float, y: float) -> str:
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return (
        f'<path class="whisker" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 4:.1f}v8'
        f'M{high:.1f} {y - 4:.1f}v8"/>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start", full: str = "") -> str:
    hint = f"<title>{escape(full)}</title>" if full and full != text else ""
    return f'<text class="word" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}{hint}</text>'


def _short(text: str) -> str:
    return text if len(text) <= _LABEL_CHARS else text[: _LABEL_CHARS - 1] + "…"


def _wrapped(parts: Sequence[str], words: Words, height: float) -> str:
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img" '
        f'aria-label="{escape(words.title)}. {escape(words.description)}" xmlns="http://www.w3.org/2000/svg">'
        f"<style>{PLOT_STYLE}</style>{''.join(parts)}</svg>"
    )


PLOT_STYLE = (
    ".plot .word{font:12px system-ui,sans-serif;fill:currentColor}"
    ".plot .grid{stroke:currentColor;stroke-opacity:.15}"
    ".plot .line{fill:none;stroke-width:2}"
    ".plot .bar{fill:#0b62a4;fill-opacity:.75;stroke:currentColor;stroke-width:.5}"
    ".plot .mark{stroke:currentColor;stroke-width:1.5;stroke-dasharray:6 4}"
    ".plot .whisker{stroke:currentColor;stroke-width:1.5;fill:none}"
)
"""Of a plot's own parts; comes with each, so that one can be cut out of its page."""
