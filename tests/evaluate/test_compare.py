from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
from rich.console import Console

from searchpipe.arrays import Float32
from searchpipe.errors import ConfigError, MissingDependencyError
from searchpipe.evaluate import EvaluationSettings, LabelledQueries, Ranker, evaluate_variants
from searchpipe.evaluate.diversity import intra_list_distance, page_diversity
from searchpipe.evaluate.table import markdown_table, print_evaluation

QUERIES = [f"q{i}" for i in range(12)]
LABELS = LabelledQueries(
    {query: f"text {query}" for query in QUERIES},
    {query: {"good": 3, "fair": 2, "bad": 0} for query in QUERIES},
    {"queries_without_labels": 0, "unknown_products": 4},
)


def fixed(*products: str) -> Ranker:
    return lambda text, depth: [(product, -float(i)) for i, product in enumerate(products)][:depth]


class Facts:
    VECTORS: ClassVar = {"good": (1, 0), "fair": (0, 1), "bad": (1, 0), "other": (0, 0)}
    BRANDS: ClassVar = {"good": "Acme", "fair": "ACME", "bad": "Bolt", "other": None}

    def vectors(self, ids: Sequence[str]) -> Float32:
        return np.array([self.VECTORS[i] for i in ids], np.float32)

    def brands(self, ids: Sequence[str]) -> list[str | None]:
        return [self.BRANDS[i] for i in ids]


def test_variants_are_measured_and_compared_with_the_baseline() -> None:
    evaluation = evaluate_variants(
        {"worst": fixed("bad", "other"), "best": fixed("good", "fair"), "half": fixed("bad", "good")},
        LABELS,
        baseline="half",
        facts=Facts(),
    )
    best, half, worst = evaluation["best"], evaluation["half"], evaluation["worst"]
    assert best.figures["ndcg@10"].mean == pytest.approx(1.0)
    assert half.figures["mrr@10"].mean == pytest.approx(0.5)
    assert half.figures["recall@100"].mean == pytest.approx(0.5)
    assert half.figures["mrr@10"].comparison is None
    assert worst.figures["mrr@10"].comparison is not None
    assert best.figures["mrr@10"].comparison is not None
    assert worst.figures["mrr@10"].comparison.difference == pytest.approx(-0.5)
    # 12 equal differences: 2 of the 2^12 sign assignments are as extreme, times 2 comparisons.
    assert best.figures["mrr@10"].comparison.p_holm == pytest.approx(4 / 2**12)
    assert best.figures["mrr@10"].comparison.wins == 12
    assert worst.unjudged == pytest.approx(0.5)
    assert best.diversity == pytest.approx({"distance@10": 1.0, "brands@10": 1.0, "top_brand_share@10": 1.0})
    assert worst.diversity["top_brand_share@10"] == pytest.approx(0.5)


def test_depth_is_what_the_deepest_metric_needs_and_longer_answers_are_cut() -> None:
    depths = []

    def ranker(text: str, depth: int) -> list[tuple[str, float]]:
        depths.append(depth)
        return [(f"x{i}", 0.0) for i in range(depth)] + [("good", 0.0)]

    evaluation = evaluate_variants({"one": ranker}, LABELS)
    assert set(depths) == {100}
    assert evaluation["one"].figures["recall@100"].mean == 0.0


def test_json_has_every_figure_and_only_json_numbers() -> None:
    labels = LabelledQueries({"a": "a", "b": "b"}, {"a": {"bad": 0}, "b": {"good": 3}}, {})
    evaluation = evaluate_variants({"x": fixed("good"), "none": fixed()}, labels, facts=Facts())
    content = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert content["baseline"] == "x"
    assert content["per_query"]["x"]["ndcg@10"] == {"a": None, "b": 1.0}
    assert content["variants"]["x"]["metrics"]["ndcg@10"]["queries"] == 1
    assert content["variants"]["none"]["metrics"]["mrr@10"]["against_baseline"]["difference"] == -1.0
    assert content["variants"]["none"]["diversity"]["distance@10"] is None
    assert content["settings"]["metrics"]["gains"]["2"] == 0.1


def test_tables_name_variants_differences_and_notes() -> None:
    evaluation = evaluate_variants(
        {"base": fixed("bad", "good"), "better": fixed("good")}, LABELS, facts=Facts()
    )
    console = Console(file=io.StringIO(), width=200)
    print_evaluation(evaluation, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for expected in ("(baseline)", "+0.500**", "distance@10", "4 labels are of products"):
        assert expected in text
    assert "have no label" not in text
    rows = markdown_table(evaluation).splitlines()
    assert rows[0].startswith("| variant | ndcg@10 | recall@100 | mrr@10 | distance@10")
    assert len({row.count("|") for row in rows}) == 1
    print_evaluation(evaluate_variants({"only": fixed()}, LABELS), console)


@pytest.mark.parametrize(
    "arguments",
    [
        {"variants": {}},
        {"variants": {"a": fixed()}, "baseline": "b"},
        {"variants": {"a": fixed()}, "labels": LabelledQueries({}, {}, {})},
        {"variants": {"a": fixed("good", "good")}},
    ],
)
def test_evaluations_that_mean_nothing_are_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        evaluate_variants(**{"labels": LABELS, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [{"test": "sign"}, {"level": 0.0}, {"resamples": 1}])
def test_settings_are_checked(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        EvaluationSettings(**bad)  # type: ignore[arg-type]


def test_missing_package_is_told_before_anything_is_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_measures", None)

    def ranker(text: str, depth: int) -> list[tuple[str, float]]:
        raise AssertionError("searched")

    with pytest.raises(MissingDependencyError, match=r"searchpipe\[evaluate\]"):
        evaluate_variants({"a": ranker}, LABELS)


def test_progress_is_told_of_every_query() -> None:
    seen: list[tuple[str, int, int]] = []
    evaluate_variants({"a": fixed(), "b": fixed()}, LABELS, progress=lambda *now: seen.append(now))
    assert seen == [(name, i, 12) for name in "ab" for i in range(1, 13)]


def test_distance_equals_the_mean_over_pairs() -> None:
    vectors = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)
    vectors[3] = 0
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
    pairs = [1 - float(unit[i] @ unit[j]) for i in range(7) for j in range(i)]
    assert intra_list_distance(vectors) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert math.isnan(intra_list_distance(vectors[:1]))


def test_an_empty_page_and_products_without_brand() -> None:
    assert math.isnan(page_diversity([], Facts()).top_brand_share)
    page = page_diversity(["other"], Facts())
    assert (page.brands, page.top_brand_share) == (0.0, 0.0)
