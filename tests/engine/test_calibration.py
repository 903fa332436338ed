"""What int8 is calibrated on: drawn by strata, checked for cover, never constant."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.engine.calibration import (
    Sample,
    draw,
    read_samples,
    require_cover,
    split,
    write_samples,
)
from searchpipe.engine.recipe import CalibrationSettings, Task
from searchpipe.engine.step import StepOutput
from searchpipe.engine.steps import calibrate
from searchpipe.engine.steps.calibrate import CalibrateStep
from searchpipe.engine.steps.export import ExportStep
from searchpipe.engine.steps.source import SourceStep
from searchpipe.errors import RecipeError
from tests.conftest import World
from tests.fakes.factory import recipe_of, run_steps
from tests.fakes.tiny_bert import TinyBert
from tests.fakes.tiny_tokenizer import SPECIAL


@dataclass(frozen=True)
class Query:
    text: str
    strata: dict[str, str]


@dataclass(frozen=True)
class Log:
    """Traffic of queries alone."""

    queries: list[Query] = field(default_factory=list)

    def pairs(self, seed: int, n_rows: int) -> list[Any]:
        raise AssertionError("queries alone have no pairs")


def log_of(**sizes: int) -> Log:
    names = [(name, place) for name, size in sizes.items() for place in range(size)]
    return Log([Query(f"{name} {place}", {"traffic": name}) for name, place in names])


SETTINGS = CalibrationSettings(strata=("traffic",), min_per_stratum=8)


@given(
    sizes=st.dictionaries(
        st.sampled_from(["head", "torso", "tail", "other"]), st.integers(1, 40), min_size=1
    ),
    rows=st.integers(1, 200),
    seed=st.integers(0, 99),
)
def test_queries_are_drawn_in_turn_from_every_stratum(sizes: dict[str, int], rows: int, seed: int) -> None:
    log = log_of(**sizes)
    drawn = draw(log, "query", rows, seed)
    assert drawn == draw(log, "query", rows, seed)
    assert len({sample.query for sample in drawn}) == len(drawn) == min(rows, sum(sizes.values()))
    counts = Counter(sample.strata["traffic"] for sample in drawn)
    for name, size in sizes.items():
        # Nobody has two more than one that had queries left.
        assert counts[name] == size or counts[name] >= max(counts.values()) - 1


def test_head_queries_alone_are_refused_with_the_figures() -> None:
    log = log_of(head=100, torso=60, tail=400)
    heads = [Sample(query.text, -1, query.strata) for query in log.queries[:100]]
    with pytest.raises(RecipeError, match=r"traffic tail: 0, traffic torso: 0\).*8 of the 100 rows"):
        require_cover(heads, log.queries, SETTINGS)
    covered = draw(log, "query", 60, 7)
    assert require_cover(covered, log.queries, SETTINGS) == {"traffic": {"head": 20, "tail": 20, "torso": 20}}


def test_constant_rows_are_refused() -> None:
    rows = [Sample("red shoes", 3, {"traffic": "head"})] * 95 + [Sample("hat", 1, {"traffic": "head"})] * 5
    with pytest.raises(RecipeError, match="Only 2 of 100 calibration rows are different"):
        require_cover(rows, [], SETTINGS)


def test_too_few_samples_are_refused_with_the_figures() -> None:
    samples = draw(log_of(head=5, tail=20), "query", 1000, 7)
    with pytest.raises(RecipeError, match=r"needs 100 different rows .* give 25"):
        split(samples, 100)
    kept, held = split(samples, 20)
    assert (len(kept), len(held)) == (20, 5)
    assert not {s.query for s in kept} & {s.query for s in held}


def test_samples_are_written_down(tmp_path: Path) -> None:
    samples = [Sample("größe 42", 7, {"traffic": "tail"}), Sample('a "b"\n', -1, {})]
    path = write_samples(tmp_path / "samples.jsonl", samples)
    assert read_samples(path) == samples
    assert json.loads(path.read_text().splitlines()[0])["query"] == "größe 42"
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RecipeError, match="is no file of samples"):
        read_samples(path)


@dataclass(frozen=True)
class Built:
    """An exported tiny model, ready to be calibrated on the small world's traffic."""

    world: World
    done: dict[str, StepOutput]

    def calibrate(self, folder: Path, *, step: CalibrateStep | None = None, **settings: Any) -> StepOutput:
        tables = {"calibration": settings} if settings else {}
        return run_steps(
            [step or CalibrateStep(cache=folder / "cache")],
            recipe_of(source={"model": "unused", "max_tokens": 64}, **tables),
            folder,
            log=self.world.files.query_log,
            snapshot=self.world.snapshot,
            done=self.done,
        )["calibrate"]


@pytest.fixture(scope="module")
def built(world: World, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("exported")
    tokenizer = world.snapshot.parent / "tokenizer.json"
    vocabulary = json.loads(tokenizer.read_text())["model"]["vocab"]
    assert set(SPECIAL) <= set(vocabulary)
    TinyBert(vocab_size=len(vocabulary)).save_cross_encoder(folder / "model.onnx")
    recipe = recipe_of(source={"model": "model.onnx", "tokenizer": str(tokenizer), "max_tokens": 64})
    return Built(world, run_steps([SourceStep(), ExportStep()], recipe, folder))


def test_samples_come_from_traffic_and_cover_it(built: Built, tmp_path: Path) -> None:
    found = built.calibrate(tmp_path)
    assert found.facts["rows"] == 48
    assert found.facts["holdout"] == 16
    assert not found.facts["cached"]
    assert set(found.facts["strata"]) == {"traffic", "category", "length"}
    assert all(number > 0 for values in found.facts["strata"].values() for number in values.values())
    assert found.facts["tensors"] == 2 * 4 + 2  # a layer's four inputs of products, pooler, classifier
    json.dumps(dict(found.facts))
    again = built.calibrate(tmp_path / "again")
    assert again.files["samples"].read_bytes() == found.files["samples"].read_bytes()


def test_a_table_is_reused_for_the_same_content_alone(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = built.calibrate(tmp_path / "a", step=CalibrateStep(cache=cache))
    measured: list[str] = []
    measure = calibrate.measure

    def counted(*arguments: Any, **options: Any) -> Any:
        measured.append("ran")
        return measure(*arguments, **options)

    monkeypatch.setattr(calibrate, "measure", counted)
    second = built.calibrate(tmp_path / "b", step=CalibrateStep(cache=cache))
    assert not measured
    assert second.facts["cached"]
    assert second.files["table"].read_bytes() == first.files["table"].read_bytes()
    small = {"batches": 12, "batch_rows": 4, "min_per_stratum": 1}
    for changed in (
        {"method": "max"},
        {"method": "percentile", "seed": 8},
        {"method": "percentile", "percentile": 99.0},
    ):
        other = built.calibrate(tmp_path / "c", step=CalibrateStep(cache=cache), **small, **changed)
        assert not other.facts["cached"]
    assert len(measured) == 3
    # A damaged table is measured anew.
    (cache / f"{first.facts['key']}.json").write_text("{")
    third = built.calibrate(tmp_path / "d", step=CalibrateStep(cache=cache))
    assert not third.facts["cached"]
    assert third.files["table"].read_bytes() == first.files["table"].read_bytes()


def test_a_bad_draw_is_refused_by_the_step(built: Built, tmp_path: Path) -> None:
    def tail_only(traffic: Any, task: Task, rows: int, seed: int) -> list[Sample]:
        return [s for s in draw(traffic, task, 20 * rows, seed) if s.strata["traffic"] == "tail"][:rows]

    def constant(traffic: Any, task: Task, rows: int, seed: int) -> list[Sample]:
        return [*draw(traffic, task, rows, seed)[:12], *[draw(traffic, task, 1, seed)[0]] * (rows - 12)]

    with pytest.raises(RecipeError, match=r"too few rows of \d+ strata .*traffic (head|torso): 0"):
        built.calibrate(tmp_path, step=CalibrateStep(draw=tail_only))
    with pytest.raises(RecipeError, match=r"too few rows|calibration rows are different"):
        built.calibrate(tmp_path, step=CalibrateStep(draw=constant))
    with pytest.raises(RecipeError, match=r"needs 400,000 different rows .* give [\d,]+\."):
        built.calibrate(tmp_path, batches=100_000, batch_rows=4)
    with pytest.raises(RecipeError, match=r"each needs 40 of the 48 rows"):
        built.calibrate(tmp_path, batches=12, batch_rows=4, min_per_stratum=40)


def test_without_a_log_there_is_no_calibration(built: Built, tmp_path: Path) -> None:
    recipe = recipe_of(source={"model": "unused"})
    with pytest.raises(RecipeError, match="no query log or no snapshot"):
        run_steps([CalibrateStep()], recipe, tmp_path, snapshot=built.world.snapshot, done=built.done)
    without = recipe_of(source={"model": "unused"}, precision={"make": ["fp32", "fp16"]})
    found = run_steps([CalibrateStep()], without, tmp_path, done=built.done)["calibrate"]
    assert found.facts == {"skipped": "precision.make has no int8"}
