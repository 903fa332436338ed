from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from searchpipe.engine.gates.result import GateResult, not_evaluated
from searchpipe.engine.recipe import Recipe
from searchpipe.engine.report_data import Report
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.steps.profile import ProfileStep
from searchpipe.engine.steps.report import ReportStep
from searchpipe.settings import convert
from tests.conftest import World

VOID = {"meta", "br"}


class Outline(HTMLParser):
    """Checks that elements are closed in order, and keeps ids and links."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        given = dict(attrs)
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if "href" in given else []
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        return

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def outline(html: str) -> Outline:
    found = Outline()
    found.feed(html)
    found.close()
    assert found.open == []
    return found


STRATA = [
    {"stratum": "traffic=head", "queries": 20, "mean": 0.001, "low": 0.0, "high": 0.002},
    {"stratum": "traffic=tail", "queries": 20, "mean": 0.02, "low": 0.01, "high": 0.03},
]
SPEED = {
    "against": "fp32",
    "shapes": [
        {
            "rows": 8,
            "tokens": 32,
            "share": 0.7,
            "above_ms": 4.0,
            "variant_ms": 2.0,
            "speedup": 2.0,
            "repeats": 9,
        }
    ],
}
LOAD = {
    "p50_ms": 3.0,
    "p99_ms": 9.0,
    "idle_p50_ms": 2.5,
    "rate": 50.0,
    "requests": 250,
    "rows": 8,
    "seconds": 5.0,
}


def gates() -> dict[str, Any]:
    fp32 = [
        GateResult("finite", True, 0, 0),
        GateResult("stress_p99_ms", True, 9.0, 10.0, "P99", details=LOAD),
    ]
    int8 = [
        GateResult("auc_loss", True, 0.001, 0.003, "mean loss of AUC", (0.0, 0.002), "traffic=tail"),
        GateResult(
            "worst_stratum_auc_loss", False, 0.02, 0.01, "traffic=tail loses more than 0.01", (0.01, 0.03),
            "traffic=tail", {"strata": STRATA},
        ),
        GateResult("speed", True, 2.0, 1.0, "2.00 times as fast as fp32", (1.9, 2.1), details=SPEED),
        not_evaluated("memory_mib", "no <memory>"),
    ]  # fmt: skip
    return {
        "variants": {
            "fp32": {
                "passed": True,
                "gates": [g.to_json() for g in fp32],
                "runtime": "CPU",
                "bytes": 4 << 20,
            },
            "int8": {
                "passed": False,
                "gates": [g.to_json() for g in int8],
                "runtime": "CPU",
                "bytes": 1 << 20,
            },
        },
        "chosen": "fp32",
        "queries": 40,
        "labelled": 0,
        "pairs": 900,
        "device": "cpu",
    }


@pytest.fixture(scope="module")
def profile(world: World, tmp_path_factory: pytest.TempPathFactory) -> StepOutput:
    folder = tmp_path_factory.mktemp("profile")
    done = {"export": StepOutput({"tokenizer": world.snapshot.parent / "tokenizer.json"})}
    return ProfileStep().run(Build(inputs_of(world), folder, done, say=lambda line: None))


def inputs_of(world: World) -> Inputs:
    recipe = {"name": "tiny", "task": "pair", "source": {"model": "m.onnx", "max_tokens": 64}}
    return Inputs(
        recipe=convert(recipe, Recipe),
        recipe_folder=Path("engines"),
        log=world.files.query_log,
        snapshot=world.snapshot,
    )


def full(profile: StepOutput) -> dict[str, StepOutput]:
    calibrate = {
        "method": "entropy",
        "strata": {"traffic": {"head": 400, "tail": 600}},
        "shares": {"traffic": {"head": 0.55, "torso": 0.2, "tail": 0.25}},
        "ranges": {f"t{n}": {"amax": float(n)} for n in range(20)},
    }
    effect = {"error": 0.2, "correlation": 0.99}
    sensitivity = {
        "rows": 256,
        "groups": [
            {"name": "layer.0", "products": ["a", "b"], "alone": effect, "without": effect},
            {"name": "layer.1", "products": ["c"], "alone": effect | {"error": 0.4}, "without": None},
        ],
        "proposal": ["^layer.1$"],
        "path": [],
    }
    plans = {
        "runtime": "tensorrt_rtx",
        "reason": "",
        "plans": {"fp16": {"bytes": 1 << 21, "seconds": 3.5, "version": "1.7", "model": "fp16.onnx"}},
        "errors": {"int8": "no kernel"},
    }
    return {
        "source": StepOutput(facts={"kind": "onnx", "sha256": "ab" * 32}),
        "export": StepOutput(facts={"opset": 17}),
        "profile": profile,
        "calibrate": StepOutput(facts=calibrate),
        "convert": StepOutput(facts={"made": ["fp32", "int8"]}),
        "sensitivity": StepOutput(facts=sensitivity),
        "plan": StepOutput(facts=plans),
        "gate": StepOutput(facts=gates()),
    }


def run(world: World, folder: Path, done: dict[str, StepOutput]) -> StepOutput:
    return ReportStep().run(Build(inputs_of(world), folder, done, say=lambda line: None))


def test_the_json_is_what_its_schema_says(world: World, profile: StepOutput, tmp_path: Path) -> None:
    output = run(world, tmp_path, full(profile))
    text = output.files["json"].read_bytes()
    report = msgspec.json.decode(text, type=Report)
    assert report.gates.chosen == "fp32"
    assert report.gates.variants["int8"].gates[1].worst == "traffic=tail"
    assert report.gates.variants["int8"].gates[3].value is None
    assert report.profile["buckets"] == profile.facts["buckets"]
    assert report.recipe["gates"]["auc_loss"] == 0.003
    assert report.versions["numpy"] == np.__version__
    assert report.machine["processor"]
    assert report.inputs["log"] == "query_log.jsonl"
    assert str(tmp_path.parent) not in text.decode()
    # The written schema names every part.
    schema = msgspec.json.schema(Report)
    assert set(schema["$defs"]["Report"]["required"]) == set(json.loads(text))


def test_the_page_is_whole_and_fetches_nothing(world: World, profile: StepOutput, tmp_path: Path) -> None:
    html = run(world, tmp_path, full(profile)).files["html"].read_text("utf-8")
    found = outline(html)
    sections = ["precisions", "gates", "strata", "speed", "profile", "calibration", "sensitivity", "plans"]
    assert found.ids[: len(sections)] == sections
    assert {link.removeprefix("#") for link in found.links} == set(found.ids)
    assert all(link.startswith("#") for link in found.links)
    assert not re.search(r"<script|<link|src=|@import|url\(", html)
    assert html.count("<svg") == html.count("aria-label=") - 1 == 6
    for told in (
        "fp32 is used",
        "traffic=tail loses more than 0.01",
        "no &lt;memory&gt;",
        "✗ failed",
        "int8 was not built: no kernel",
        "0.01 to 0.03",
        "layer.1",
    ):
        assert told in html
    assert str(tmp_path.parent) not in html


def test_a_refused_build_says_so(world: World, profile: StepOutput, tmp_path: Path) -> None:
    done = full(profile)
    done["gate"] = StepOutput(facts=gates() | {"chosen": None})
    html = run(world, tmp_path, done).files["html"].read_text("utf-8")
    assert "refused: no precision may be used" in html


def test_steps_that_were_skipped_leave_their_reasons(world: World, tmp_path: Path) -> None:
    done = {
        "calibrate": StepOutput(facts={"skipped": "precision.make has no int8"}),
        "sensitivity": StepOutput(facts={"skipped": "no int8"}),
        "plan": StepOutput(
            facts={"runtime": None, "reason": "TensorRT is not installed.", "plans": {}, "errors": {}}
        ),
        "gate": StepOutput(facts=gates()),
    }
    html = run(world, tmp_path, done).files["html"].read_text("utf-8")
    outline(html)
    assert "precision.make has no int8" in html
    assert "No plan was built: TensorRT is not installed." in html
    assert "No shapes were computed." in html


def test_an_empty_build_has_a_report(world: World, tmp_path: Path) -> None:
    html = run(world, tmp_path, {}).files["html"].read_text("utf-8")
    outline(html)
    assert "No gate was evaluated." in html


def test_the_step_needs_all_that_it_shows() -> None:
    assert set(ReportStep.needs) == {
        "source", "export", "profile", "calibrate", "convert", "sensitivity", "plan", "gate",
    }  # fmt: skip
