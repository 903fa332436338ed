"""The gate step on real ONNX files: a tiny model, quantised well, badly, and broken."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from searchpipe.catalog import Snapshot
from searchpipe.engine.gates import speed
from searchpipe.engine.gates.labels import load_labels
from searchpipe.engine.recipe import Recipe
from searchpipe.engine.rows import PairRows
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.steps import gate
from searchpipe.engine.steps.gate import GateStep
from searchpipe.engine.traffic import open_traffic
from searchpipe.errors import RecipeError
from searchpipe.settings import convert
from tests.conftest import World
from tests.fakes.catalogs import write_jsonl
from tests.fakes.quantised import break_scales, quantise
from tests.fakes.tiny_onnx import TinyModel, save_graph

# Room for what does not matter to a test: timings of a busy machine above all.
EASY = {
    "queries": 40,
    "candidates": 24,
    "auc_loss": 0.02,
    "ndcg_loss": 0.05,
    "min_tau": 0.85,
    "worst_stratum_auc_loss": 0.05,
    "max_abs_diff": 1.0,
    "batch_diff": 1e-3,
    "bootstrap": 200,
    "speedup": 0.0,
    "stress_rate": 100.0,
    "stress_seconds": 0.4,
    "stress_p99_ms": 60_000.0,
}
QUALITY = ("auc_loss", "ndcg_loss", "kendall_tau", "worst_stratum_auc_loss")


@dataclass(frozen=True)
class Models:
    """A cross-encoder whose rarer words weigh more, and its int8 variants."""

    tokenizer: Path
    fp32: Path
    good: Path
    broken: Path
    head_only: Path


@pytest.fixture(scope="module")
def models(world: World, tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("gated")
    tokenizer = world.snapshot.parent / "tokenizer.json"
    traffic = open_traffic(world.files.query_log, world.snapshot)
    assert traffic.snapshot is not None
    rows = PairRows(traffic.snapshot, tokenizer, 64)
    model = TinyModel(vocab_size=vocabulary(tokenizer), dim=8, outputs=1, seed=2)
    every = [(q.text, int(doc)) for q in traffic.queries for doc in traffic.candidates(q, 24)]
    head = [(q.text, int(doc)) for q in traffic.queries[:1] for doc in traffic.candidates(q, 24)]
    seen = np.unique(batches(rows, head)[0]["input_ids"])
    unseen = np.setdiff1d(np.arange(len(model.words)), seen)
    # What the most frequent query never meets has larger activations.
    model.words[unseen] *= 4.0
    fp32 = model.save_cross_encoder(folder / "fp32.onnx")
    good = quantise(fp32, folder / "good.onnx", batches(rows, every))
    head_only = quantise(fp32, folder / "head.onnx", batches(rows, head))
    traffic.close()
    return Models(tokenizer, fp32, good, break_scales(good, folder / "broken.onnx"), head_only)


def vocabulary(tokenizer: Path) -> int:
    return len(json.loads(tokenizer.read_text("utf-8"))["model"]["vocab"])


def batches(rows: PairRows, pairs: Sequence[tuple[str, int]]) -> list[dict[str, np.ndarray]]:
    return [rows.feeds(pairs[start : start + 64])[0] for start in range(0, len(pairs), 64)]


def build_of(world: World, folder: Path, models: Models, files: dict[str, Path], **changes: Any) -> Build:
    gates = EASY | changes.pop("gates", {})
    recipe = {
        "name": "tiny",
        "task": changes.pop("task", "pair"),
        "source": {"model": "m.onnx", "max_tokens": 64},
        "precision": {"make": list(files)},
        "gates": gates,
    }
    given = {"log": world.files.query_log, "snapshot": world.snapshot} | changes
    inputs = Inputs(recipe=convert(recipe, Recipe), recipe_folder=folder, **given)
    profile = {
        "rows": [1, 16, 24],
        "tokens": [8, 32, 64],
        "buckets": [[16, 32], [24, 64]],
        "usage": [0.7, 0.3],
    }
    done = {
        "export": StepOutput({"fp32": models.fp32, "tokenizer": models.tokenizer}),
        "profile": StepOutput({}, profile),
        "convert": StepOutput(files),
    }
    return Build(inputs, folder, done, say=lambda line: None)


def gates_of(output: StepOutput, precision: str) -> dict[str, dict[str, Any]]:
    return {gate["name"]: gate for gate in output.facts["variants"][precision]["gates"]}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "BUDGET_S", 0.0)
    # The tiny models take int64, as ONNX Runtime on the CPU likes it.
    monkeypatch.setattr(gate, "gate_device", lambda task: "cpu")


def test_a_good_quantisation_passes_and_is_chosen(world: World, models: Models, tmp_path: Path) -> None:
    output = GateStep().run(build_of(world, tmp_path, models, {"fp32": models.fp32, "int8": models.good}))
    facts = output.facts
    failed = [
        (g["name"], g["reason"]) for v in facts["variants"].values() for g in v["gates"] if not g["passed"]
    ]
    assert failed == []
    assert facts["chosen"] == "int8"
    assert {name: v["passed"] for name, v in facts["variants"].items()} == {"fp32": True, "int8": True}
    gates = gates_of(output, "int8")
    assert {*QUALITY, "finite", "range", "max_abs_diff", "batch_independence", "speed"} < set(gates)
    assert set(gates_of(output, "fp32")).isdisjoint({*QUALITY, "speed", "max_abs_diff"})
    assert 0 < gates["auc_loss"]["value"] < 0.02
    assert gates["speed"]["details"]["against"] == "fp32"
    assert "CPU" in facts["variants"]["int8"]["runtime"]
    assert json.loads(output.files["gates"].read_text("utf-8")) == json.loads(json.dumps(facts))


@pytest.mark.parametrize("kind", ["broken", "head_only"])
def test_a_bad_quantisation_is_refused_with_the_worst_stratum(
    world: World, models: Models, tmp_path: Path, kind: str
) -> None:
    files = {"fp32": models.fp32, "int8": getattr(models, kind)}
    output = GateStep().run(build_of(world, tmp_path, models, files))
    assert output.facts["chosen"] == "fp32"
    gates = gates_of(output, "int8")
    for name in QUALITY:
        assert not gates[name]["passed"], name
        assert "=" in gates[name]["worst"]
        assert gates[name]["worst"] in gates[name]["reason"]
    assert gates["worst_stratum_auc_loss"]["value"] >= gates["auc_loss"]["value"]
    if kind == "head_only":
        strata = {row["stratum"]: row for row in gates["auc_loss"]["details"]["strata"]}
        assert "traffic=tail" in strata
        assert strata["traffic=tail"]["mean"] > 0.02


def test_a_model_that_gives_nan_is_refused_and_so_is_fp32_of_that_kind(
    world: World, models: Models, tmp_path: Path
) -> None:
    nan = tmp_path / "nan.onnx"
    loaded = onnx.load(str(models.fp32))
    for tensor in loaded.graph.initializer:
        if tensor.name == "linear":
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(np.nan), "linear")
            )
    onnx.save(loaded, str(nan))
    output = GateStep().run(build_of(world, tmp_path, models, {"fp32": models.fp32, "fp16": nan}))
    assert output.facts["chosen"] == "fp32"
    assert not gates_of(output, "fp16")["finite"]["passed"]
    assert "could not be evaluated" in gates_of(output, "fp16")["auc_loss"]["reason"]
    output = GateStep().run(build_of(world, tmp_path, models, {"fp32": nan, "int8": models.good}))
    assert output.facts["chosen"] is None


def test_a_score_that_depends_on_its_batch_is_refused(world: World, models: Models, tmp_path: Path) -> None:
    # The mean over the batch is taken off: what a dynamic quantisation's shared scale does, but plainer.
    loaded = onnx.load(str(models.fp32))
    graph = loaded.graph
    graph.node.extend(
        [
            helper.make_node("ReduceMean", [graph.output[0].name], ["mean"], axes=[0], keepdims=1),
            helper.make_node("Sub", [graph.output[0].name, "mean"], ["centred"]),
        ]
    )
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("centred", TensorProto.FLOAT, ["batch", 1]))
    onnx.save(loaded, str(tmp_path / "centred.onnx"))
    files = {"fp32": models.fp32, "fp16": tmp_path / "centred.onnx"}
    gates = gates_of(GateStep().run(build_of(world, tmp_path, models, files)), "fp16")
    assert not gates["batch_independence"]["passed"]
    assert gates["auc_loss"]["passed"]


def test_missing_and_unreadable_variants_fail_with_the_reason(
    world: World, models: Models, tmp_path: Path
) -> None:
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(models.good.read_bytes()[:500])
    build = build_of(world, tmp_path, models, {"fp32": models.fp32, "fp16": cut, "int8": models.good})
    build.done["convert"].files.pop("int8")
    output = GateStep().run(build)
    assert output.facts["chosen"] == "fp32"
    assert "cut.onnx" in gates_of(output, "fp16")["open"]["reason"]
    assert "convert made no int8 model" in gates_of(output, "int8")["open"]["reason"]


def test_a_variant_that_is_not_faster_is_refused(world: World, models: Models, tmp_path: Path) -> None:
    files = {"fp32": models.fp32, "int8": models.good}
    output = GateStep().run(build_of(world, tmp_path, models, files, gates={"speedup": 1000.0}))
    failed = [name for name, gate in gates_of(output, "int8").items() if not gate["passed"]]
    assert failed == ["speed"]
    assert output.facts["chosen"] == "fp32"


def test_a_refused_precision_is_no_rival(world: World, models: Models, tmp_path: Path) -> None:
    files = {"fp32": models.fp32, "fp16": models.broken, "int8": models.good}
    output = GateStep().run(build_of(world, tmp_path, models, files))
    assert not output.facts["variants"]["fp16"]["passed"]
    assert gates_of(output, "int8")["speed"]["details"]["against"] == "fp32"
    assert output.facts["chosen"] == "int8"


def test_labels_are_used_where_there_are_some(world: World, models: Models, tmp_path: Path) -> None:
    files = {"fp32": models.fp32, "int8": models.good}
    easy = {"auc_loss": 0.2, "ndcg_loss": 0.3, "worst_stratum_auc_loss": 0.4}
    output = GateStep().run(build_of(world, tmp_path, models, files, labels=world.files.qrels, gates=easy))
    assert 10 <= output.facts["labelled"] <= 20
    assert output.facts["queries"] == 40
    assert f"{output.facts['labelled']} labelled queries" in gates_of(output, "int8")["auc_loss"]["reason"]
    alone = GateStep().run(
        build_of(world, tmp_path, models, files, labels=world.files.qrels, log=None, gates=easy)
    )
    assert alone.facts["labelled"] == alone.facts["queries"] == world.files.labelled_count


def test_labels_are_read_in_both_forms(world: World, tmp_path: Path) -> None:
    by_text = load_labels(world.files.qrels)
    assert len(by_text) == world.files.labelled_count
    lines = [{"query": text, "labels": grades} for text, grades in by_text.items()]
    again = load_labels(write_jsonl(tmp_path / "labels.jsonl", lines))
    assert again == by_text
    with pytest.raises(RecipeError, match="No line of"):
        load_labels(write_jsonl(tmp_path / "none.jsonl", [{"query": "a"}]))
    (tmp_path / "qrels.tsv").write_text("1\tp\t3\n")
    with pytest.raises(RecipeError, match=r"Put queries\.jsonl beside it"):
        load_labels(tmp_path / "qrels.tsv")


def test_query_encoders_are_judged_by_their_cosines(world: World, models: Models, tmp_path: Path) -> None:
    encoder = TinyModel(vocab_size=vocabulary(models.tokenizer), dim=32, outputs=32, seed=1)
    fp32 = encoder.save_pooled_encoder(tmp_path / "encoder.onnx")
    encoder.words += np.random.default_rng(0).normal(0, 1.0, encoder.words.shape).astype(np.float32)
    noisy = encoder.save_pooled_encoder(tmp_path / "noisy.onnx")
    output = GateStep().run(
        build_of(world, tmp_path, models, {"fp32": fp32, "fp16": noisy, "int8": fp32}, task="query")
    )
    assert output.facts["chosen"] == "int8"
    assert not gates_of(output, "fp16")["auc_loss"]["passed"]
    assert gates_of(output, "int8")["max_abs_diff"]["value"] < 1e-6


class _Features:
    """What a ranker reads: here the document's number and the query's length."""

    def feeds(self, pairs: Sequence[tuple[str, int]]) -> dict[str, np.ndarray]:
        return {
            "categories": np.array([[doc % 7] for _, doc in pairs], np.int64),
            "dense": np.array([[doc / 400, len(text)] for text, doc in pairs], np.float32),
        }


def ranker(path: Path, noise: float = 0.0) -> Path:
    rng = np.random.default_rng(1)
    table = rng.normal(size=(7, 4)).astype(np.float32) + rng.normal(0, 1, (7, 4)).astype(np.float32) * noise
    constants = [
        numpy_helper.from_array(table, "table"),
        numpy_helper.from_array(rng.normal(size=(6, 1)).astype(np.float32), "weights"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    nodes = [
        helper.make_node("Gather", ["table", "categories"], ["embedded"]),
        helper.make_node("Squeeze", ["embedded", "axis"], ["row"]),
        helper.make_node("Concat", ["row", "dense"], ["features"], axis=1),
        helper.make_node("MatMul", ["features", "weights"], ["column"]),
        helper.make_node("Squeeze", ["column", "axis"], ["scores"]),
    ]
    inputs = [
        helper.make_tensor_value_info("categories", TensorProto.INT64, ["n", 1]),
        helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["n", 2]),
    ]
    outputs = [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n"])]
    return save_graph(path, nodes, inputs, outputs, constants)


def test_feature_rankers_are_judged_by_their_logits(world: World, models: Models, tmp_path: Path) -> None:
    fp32, noisy = ranker(tmp_path / "ranker.onnx"), ranker(tmp_path / "noisy.onnx", noise=1.0)
    build = build_of(world, tmp_path, models, {"fp32": fp32, "fp16": noisy, "int8": fp32}, task="ranker")
    output = GateStep(lambda snapshot, path: _Features()).run(build)
    assert output.facts["chosen"] == "int8"
    assert not gates_of(output, "fp16")["auc_loss"]["passed"]
    with pytest.raises(RecipeError, match="ranker's features"):
        GateStep().run(build)


def test_gates_need_ground_to_stand_on(world: World, models: Models, tmp_path: Path) -> None:
    for missing in ({"snapshot": None}, {"log": None}):
        with pytest.raises(RecipeError, match="--snapshot, --log, --labels"):
            GateStep().run(build_of(world, tmp_path, models, {"fp32": models.fp32}, **missing))


def test_the_key_follows_limits_and_inputs(world: World, models: Models, tmp_path: Path) -> None:
    step, files = GateStep(), {"fp32": models.fp32}
    key = step.key(build_of(world, tmp_path, models, files).inputs)
    assert key == step.key(build_of(world, tmp_path, models, files).inputs)
    assert key != step.key(build_of(world, tmp_path, models, files, gates={"min_tau": 0.5}).inputs)
    assert key != step.key(build_of(world, tmp_path, models, files, labels=world.files.qrels).inputs)
    assert key["onnxruntime"].startswith("onnxruntime")


def test_snapshots_stay_usable_afterwards(world: World, models: Models, tmp_path: Path) -> None:
    with Snapshot.open(world.snapshot) as snapshot:
        GateStep().run(build_of(world, tmp_path, models, {"fp32": models.fp32}))
        assert len(snapshot.fields(np.array([0]))) == 1
