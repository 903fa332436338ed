"""The sweep finds what int8 hurts, proposes to leave it out, and keeps to its budget."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from searchpipe.engine.onnx_graph import load_model, weighted_products
from searchpipe.engine.sensitivity import Sweep, effect, group_products, spearman, sweep
from searchpipe.engine.steps.calibrate import CalibrateStep
from searchpipe.engine.steps.convert import ConvertStep
from searchpipe.engine.steps.export import ExportStep
from searchpipe.engine.steps.sensitivity import SensitivityStep
from searchpipe.engine.steps.source import SourceStep
from tests.conftest import World
from tests.fakes.factory import recipe_of, run_steps
from tests.fakes.tiny_bert import TinyBert

RNG = np.random.default_rng(0)
REFERENCE = RNG.normal(size=200).astype(np.float32)
NOISE = {name: RNG.normal(size=200).astype(np.float32) for name in "abcd"}
WEIGHT = {"a": 0.01, "b": 0.6, "c": 0.05, "d": 0.02}


class Clock:
    """Every variant takes ten seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.scored: list[tuple[str, ...]] = []

    def __call__(self) -> float:
        return self.now

    def score(self, products: Sequence[str]) -> np.ndarray:
        self.now += 10.0
        self.scored.append(tuple(products))
        return REFERENCE + sum(WEIGHT[name] * NOISE[name] for name in products)


def swept(clock: Clock, seconds: float) -> Sweep:
    groups = {name: [name] for name in "abcd"}
    return sweep(
        list("abcd"), groups, REFERENCE, clock.score, seconds=seconds, clock=clock, say=lambda _line: None
    )


def test_the_worst_product_is_named_and_left_out() -> None:
    found = swept(Clock(), 1e9)
    assert [group.name for group in found.groups] == ["b", "c", "d", "a"]
    assert found.proposal == ("b",)
    assert found.complete
    assert found.path[0][0] == "b"
    assert found.path[0][1].correlation > 0.995 > found.full.correlation
    worst = found.groups[0]
    assert worst.alone is not None
    assert worst.without is not None
    assert worst.alone.error == pytest.approx(0.6, rel=0.2)
    assert worst.without.error < 0.1


@given(seconds=st.floats(1.0, 80.0))
def test_nothing_is_started_after_the_budget(seconds: float) -> None:
    clock = Clock()
    found = swept(clock, seconds)
    # The variant with every product is always measured; another may still run when time is up.
    assert clock.now < max(seconds, 10.0) + 10.0
    measured = [group for group in found.groups if group.alone is not None]
    assert len(measured) == min(4, len(clock.scored) - 1)
    assert found.complete == (len(clock.scored) == 6)


def test_a_good_quantisation_needs_no_proposal() -> None:
    found = sweep(
        ["a"], {"a": ["a"]}, REFERENCE, Clock().score, seconds=1e9, clock=Clock(), say=lambda _line: None
    )
    assert not found.proposal
    assert found.complete


@given(st.lists(st.integers(-5, 5), min_size=2, max_size=40), st.integers(0, 9))
def test_spearman_is_scipys(values: list[int], seed: int) -> None:
    other = np.random.default_rng(seed).integers(-3, 3, len(values))
    if len(set(values)) < 2 or len(set(other.tolist())) < 2:
        assert spearman(np.array(values), other) == 0.0
        return
    assert spearman(np.array(values), other) == pytest.approx(spearmanr(values, other).statistic, abs=1e-9)


def test_vectors_are_compared_by_their_cosines() -> None:
    vectors = RNG.normal(size=(20, 8)).astype(np.float32)
    scaled = effect(vectors, 3.0 * vectors)
    assert scaled.error < 1e-6
    assert scaled.correlation == pytest.approx(1.0)
    assert effect(vectors, np.full_like(vectors, np.nan)).correlation == -1.0
    assert effect(vectors, vectors[::-1]).correlation < 0.9


def test_products_are_grouped_by_layer_and_by_kind(tmp_path: Path) -> None:
    model = load_model(TinyBert(vocab_size=20).save_cross_encoder(tmp_path / "model.onnx"))
    products = [node.name for node in weighted_products(model)]
    groups = group_products(model, products, 24)
    assert set(groups) == {
        "layer 0", "layer 1", "n:bert.pooler.dense.product", "n:classifier.product",
        *(f"all layers' attention.self.{part}" for part in ("query", "key", "value")),
        "all layers' attention.output.dense", "all layers' intermediate.dense", "all layers' output.dense",
    }  # fmt: skip
    assert len(groups["layer 1"]) == 6
    assert all(len(members) == 2 for name, members in groups.items() if name.startswith("all"))
    few = group_products(model, products, 7)
    assert len(few) == 7
    everything = {name for members in few.values() for name in members}
    assert everything == set(products)


def test_the_step_sweeps_a_real_model_on_held_out_rows(world: World, tmp_path: Path) -> None:
    import json

    tokenizer = world.snapshot.parent / "tokenizer.json"
    words = json.loads(tokenizer.read_text())["model"]["vocab"]
    TinyBert(vocab_size=len(words)).save_cross_encoder(tmp_path / "model.onnx")
    recipe = recipe_of(source={"model": "model.onnx", "tokenizer": str(tokenizer), "max_tokens": 64})
    steps = [
        SourceStep(),
        ExportStep(),
        CalibrateStep(cache=tmp_path / "cache"),
        ConvertStep(),
        SensitivityStep(),
    ]
    done = run_steps(steps, recipe, tmp_path, log=world.files.query_log, snapshot=world.snapshot)
    facts = done["sensitivity"].facts
    assert facts["rows"] == 16
    assert facts["complete"]
    assert {group["name"] for group in facts["groups"]} >= {"layer 0", "layer 1"}
    assert facts["full"]["error"] > 0.0
    # Everything in int8 is never much better than its worst part.
    assert facts["full"]["error"] > 0.5 * max(group["alone"]["error"] for group in facts["groups"])
    lines = done["sensitivity"].files["table"].read_text().splitlines()
    assert len(lines) == 1 + len(facts["groups"])
    assert not list((tmp_path / "sensitivity").glob(".*"))

    off = recipe_of(source={"model": "model.onnx"}, sensitivity={"enabled": False})
    skipped = run_steps([SensitivityStep()], off, tmp_path, done=done)["sensitivity"]
    assert skipped.facts == {"skipped": "sensitivity.enabled is false"}
