from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.report.axes import Scale, number, span_of, ticks
from searchpipe.report.html import Raw, Section, facts, page, table, verdict
from searchpipe.report.svg import HEIGHT, WIDTH, Mark, Series, Words, bar_plot, histogram, line_plot

WORDS = Words('Waste & "padding"', "It falls <fast>.", "buckets", "waste, %")
finite = st.floats(-1e9, 1e9, allow_nan=False)
any_number = st.one_of(finite, st.sampled_from([math.nan, math.inf, -math.inf]))
SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str) -> ET.Element:
    root = ET.fromstring(svg)
    for element in root.iter():
        for name in ("x", "y", "cx", "cy", "x1", "x2", "y1", "y2", "width", "height"):
            value = element.get(name)
            assert value is None or math.isfinite(float(value)), (element.tag, name, value)
    return root


def words_in(root: ET.Element) -> list[str]:
    return ["".join(t.itertext()) for t in root.iter(f"{SVG}text")]


@settings(deadline=None)
@given(finite, finite)
def test_ticks_are_round_and_cover_the_range(one: float, two: float) -> None:
    low, high = min(one, two), max(one, two)
    steps = ticks(low, high)
    assert steps == sorted(steps)
    assert 2 <= len(steps) <= 13
    if high - low > 1e-6 * max(abs(low), abs(high), 1e-9):
        slack = (high - low) * 1e-6
        assert steps[0] <= low + slack
        assert steps[-1] >= high - slack
        leading = f"{steps[1] - steps[0]:.3e}"[0]
        assert leading in "1259"


def test_known_ticks() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.0, 0.013) == pytest.approx([0, 0.005, 0.01, 0.015])
    with pytest.raises(ValueError, match="cannot be drawn"):
        ticks(0, math.nan)


def test_numbers_are_short() -> None:
    assert [number(v) for v in (0, 3.2, 1234567.8, 0.0125, 12.345, 1e-12, math.nan, -5)] == [
        "0", "3.2", "1,234,568", "0.0125", "12.3", "1.00e-12", "nan", "-5",
    ]  # fmt: skip


def test_scales_map_ends_to_ends() -> None:
    scale = Scale(0, 10, 100, 300)
    assert [scale(value) for value in (0, 5, 10)] == [100, 200, 300]
    assert Scale(1, 1, 0, 10)(1) == 5
    assert span_of([math.nan], from_zero=True) == (0, 1)
    assert span_of([3, 5], from_zero=True) == (0, 5)
    assert span_of([3, 5], from_zero=False) == (3, 5)


def test_a_line_plot_says_what_it_shows() -> None:
    svg = line_plot(
        [Series("all", [1, 2, 3], [9, 4, 2]), Series("padding", [1, 2, 3], [3, 2, 1])],
        WORDS,
        marks=[Mark(2, "chosen")],
    )
    root = parsed(svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'Waste & "padding". It falls <fast>.'
    lines = list(root.iter(f"{SVG}polyline"))
    assert len(lines) == 2
    # Told apart without colours: dashes and markers differ.
    assert len({line.get("stroke-dasharray") for line in lines}) == 2
    assert len(list(root.iter(f"{SVG}circle"))) == 3 + 1
    assert {"all", "padding", "chosen", "buckets", "waste, %"} <= set(words_in(root))
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", svg)


@settings(deadline=None)
@given(st.lists(st.tuples(any_number, any_number), max_size=12))
def test_any_numbers_can_be_drawn(points: list[tuple[float, float]]) -> None:
    known = [(x, y) for x, y in points if math.isfinite(x)]
    parsed(line_plot([Series("s", [x for x, _ in known], [y for _, y in known])], WORDS))


def test_gaps_are_left_where_a_value_is_missing() -> None:
    root = parsed(line_plot([Series("s", [1, 2, 3, 4, 5], [1, 2, math.nan, 4, 5])], WORDS))
    assert len(list(root.iter(f"{SVG}polyline"))) == 2


def test_bars_of_a_histogram_are_as_high_as_their_counts() -> None:
    root = parsed(histogram([0, 10, 20, 30], [1, 4, 2], WORDS, marks=[Mark(15, "usual"), Mark(29, "most")]))
    heights = [float(bar.get("height")) for bar in root.iter(f"{SVG}rect")]
    assert heights[1] == pytest.approx(4 * heights[0], rel=0.01)
    assert heights[2] == pytest.approx(2 * heights[0], rel=0.01)
    assert all(
        0 <= float(bar.get("x")) <= WIDTH and 0 <= float(bar.get("y")) <= HEIGHT
        for bar in root.iter(f"{SVG}rect")
    )
    with pytest.raises(ValueError, match="need 4 edges"):
        histogram([0, 1], [1, 2, 3], WORDS)


def test_bars_show_values_intervals_and_the_limit() -> None:
    root = parsed(
        bar_plot(
            ["head", "traffic=" + "t" * 60, "none"],
            [0.01, -0.02, math.nan],
            WORDS,
            low=[0.0, -0.03, math.nan],
            high=[0.02, 0.0, math.nan],
            limit=0.015,
        )
    )
    assert len(list(root.iter(f"{SVG}rect"))) == 2
    assert len([p for p in root.iter(f"{SVG}path") if p.get("class") == "whisker"]) == 2
    assert {"0.01", "-0.02", "limit 0.015"} <= set(words_in(root))
    assert any("…" in text and "t" * 60 in text for text in words_in(root))
    with pytest.raises(ValueError, match="2 labels have 1 values"):
        bar_plot(["a", "b"], [1.0], WORDS)


def test_series_must_have_as_many_x_as_y() -> None:
    with pytest.raises(ValueError, match="s has 1 x and 2 y"):
        line_plot([Series("s", [1], [1, 2])], WORDS)


def test_pages_hold_everything_and_escape_what_they_are_given() -> None:
    html = page(
        "A <b> & c",
        "<p>lead</p>",
        [Section("one", "First", [table(["a", "b"], [["<x>", 1.5], [True, None]], caption="C & D")])],
    )
    assert "A &lt;b&gt; &amp; c" in html
    assert '<a href="#one">First</a>' in html
    assert '<section id="one">' in html
    assert "&lt;x&gt;" in html
    assert '<td class="number">1.5</td>' in html
    assert ">yes<" in html
    assert 'lang="en"' in html
    assert not re.search(r"(src|href)=\"(?!#)", html)


def test_facts_nest_and_fold() -> None:
    html = facts({"a_b": {"c": [1, 2]}, "long": list(range(20)), "rows": [{"x": 1}], "empty": []})
    assert "<dt>a b</dt>" in html
    assert "1, 2" in html
    assert html.count("<details>") == 2
    assert "none" in html


def test_verdicts_are_words() -> None:
    assert isinstance(verdict(True), Raw)
    assert "passed" in verdict(True).html
    assert "failed" in verdict(False).html
