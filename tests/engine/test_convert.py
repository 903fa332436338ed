"""Half precision and int8: what stays in float32, and that the files run and mean what they should."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, numpy_helper

from searchpipe.engine.agreement import text_feeds
from searchpipe.engine.int8 import quantisable, quantise
from searchpipe.engine.onnx_graph import load_model
from searchpipe.engine.ranges import measure, write_table
from searchpipe.engine.recipe import CalibrationSettings, PrecisionSettings
from searchpipe.engine.sensitivity import effect
from searchpipe.engine.step import StepOutput
from searchpipe.engine.steps.convert import ConvertStep
from searchpipe.engine.steps.export import ExportStep
from searchpipe.engine.steps.source import SourceStep
from searchpipe.errors import RecipeError
from tests.fakes.factory import recipe_of, run_steps
from tests.fakes.quantised import break_scales
from tests.fakes.tiny_bert import TinyBert
from tests.fakes.tiny_tokenizer import save_tokenizer

NAMES = ("input_ids", "attention_mask", "token_type_ids")
VOCABULARY = 60
CALIBRATION = CalibrationSettings(method="max")


def feeds(seed: int) -> list[dict[str, np.ndarray]]:
    return list(text_feeds(NAMES, VOCABULARY, (2, 3, 0), 48, seed))


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, StepOutput]:
    folder = tmp_path_factory.mktemp("calibrated")
    save_tokenizer(folder / "tokenizer.json")
    TinyBert(vocab_size=VOCABULARY).save_cross_encoder(folder / "model.onnx")
    done = run_steps([SourceStep(), ExportStep()], recipe_of(source={"model": "model.onnx"}), folder)
    table = measure(done["export"].files["fp32"], feeds(1), CALIBRATION)
    done["calibrate"] = StepOutput({"table": write_table(table, folder / "table.json")})
    return done


def converted(calibrated: Mapping[str, StepOutput], folder: Path, **precision: Any) -> StepOutput:
    recipe = recipe_of(source={"model": "model.onnx"}, precision=precision)
    return run_steps([ConvertStep()], recipe, folder, done=calibrated)["convert"]


def outputs(path: Path, *, seed: int = 2) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rows = [{name: value.astype(np.int32) for name, value in feed.items()} for feed in feeds(seed)]
    found = [session.run(None, row)[0] for row in rows]
    assert all(part.dtype == np.float32 for part in found)
    return np.concatenate(found)


def types_of(path: Path) -> dict[str, int]:
    model = onnx.shape_inference.infer_shapes(load_model(path))
    found = {info.name: info.type.tensor_type.elem_type for info in model.graph.value_info}
    return found | {tensor.name: tensor.data_type for tensor in model.graph.initializer}


def test_every_file_runs_and_ranks_as_float32_does(
    calibrated: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    made = converted(calibrated, tmp_path)
    assert set(made.files) == {"fp32", "fp32_cuda", "fp16", "fp16_cuda", "int8", "int8_tensorrt"}
    reference = outputs(made.files["fp32"])
    limits = {"fp32_cuda": 1e-4, "fp16": 0.01, "fp16_cuda": 0.01, "int8": 0.2, "int8_tensorrt": 0.2}
    for role, limit in limits.items():
        found = effect(reference, outputs(made.files[role]))
        assert found.error < limit, role
        assert found.correlation > 0.97, role
    sizes = {role: path.stat().st_size for role, path in made.files.items()}
    assert sizes["fp16"] < sizes["fp32"]
    assert made.facts["fp16"]["share_of_weights"] > 0.9
    assert made.facts["files"]["int8"]["bytes"] == sizes["int8"]


def test_what_the_recipe_keeps_is_float32(calibrated: Mapping[str, StepOutput], tmp_path: Path) -> None:
    made = converted(calibrated, tmp_path, make=["fp32", "fp16"], keep_fp32=[r"layer\.1\.intermediate"])
    assert set(made.files) == {"fp32", "fp32_cuda", "fp16", "fp16_cuda"}
    path = made.files["fp16"]
    types = types_of(path)
    half, full = TensorProto.FLOAT16, TensorProto.FLOAT
    for node in load_model(path).graph.node:
        kinds = {types[name] for name in node.input if types.get(name) in (half, full)}
        if node.op_type == "Cast":
            continue
        assert len(kinds) <= 1, f"{node.name} mixes types"
        kept = (
            node.op_type in ("LayerNormalization", "Softmax")
            or "layer.1.intermediate" in node.name
            or "classifier" in node.name
            or node.name.endswith((".scaled", ".masked"))
        )
        assert not kept or kinds == {full}, node.name
    weights = {name: kind for name, kind in types.items() if name.endswith("dense.weight")}
    assert weights.pop("bert.encoder.layer.1.intermediate.dense.weight") == full
    assert set(weights.values()) == {half}
    model = load_model(path)
    assert [node.type.tensor_type.elem_type for node in model.graph.input] == [TensorProto.INT32] * 3
    assert model.graph.output[0].type.tensor_type.elem_type == full


def test_a_softmax_in_half_precision_when_the_recipe_says_so(
    calibrated: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    made = converted(calibrated, tmp_path, make=["fp32", "fp16"], keep_ops_fp32=[], keep_last=False)
    types = types_of(made.files["fp16"])
    for node in load_model(made.files["fp16"]).graph.node:
        if node.op_type in ("Softmax", "LayerNormalization") or node.name.endswith("classifier.product"):
            assert types[node.input[0]] == TensorProto.FLOAT16


@pytest.mark.parametrize("setting", ["keep_fp32", "exclude_int8"])
def test_an_expression_that_fits_nothing_is_refused(
    calibrated: Mapping[str, StepOutput], tmp_path: Path, setting: str
) -> None:
    with pytest.raises(RecipeError, match=r"No node's name fits 'layer\.7'"):
        converted(calibrated, tmp_path, **{setting: ["layer.7"]})
    with pytest.raises(RecipeError, match="is not a regular expression"):
        converted(calibrated, tmp_path, **{setting: ["("]})


def test_int8_is_symmetric_by_column_and_rounds_nothing_else(
    calibrated: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    made = converted(calibrated, tmp_path, exclude_int8=["pooler"])
    assert len(made.facts["int8"]["products"]) == 12
    for role, scale_type in (("int8", np.float32), ("int8_tensorrt", np.float16)):
        model = load_model(made.files[role])
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        kinds = {node.output[0]: node for node in model.graph.node}
        weights = 0
        for node in model.graph.node:
            if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
                assert tensors[node.input[1]].dtype == scale_type
                assert tensors[node.input[2]].dtype == np.int8
                assert not tensors[node.input[2]].any()
            if node.op_type == "DequantizeLinear" and node.input[0] in tensors:
                weights += 1
                stored = tensors[node.input[0]]
                assert tensors[node.input[1]].shape == (stored.shape[1],)
                assert np.abs(stored.astype(int)).max(axis=0).tolist() == [127] * stored.shape[1]
        assert weights == 12
        rounded = {name for name, node in kinds.items() if node.op_type == "DequantizeLinear"}
        readers = [node for node in model.graph.node if rounded & set(node.input)]
        assert {node.op_type for node in readers} == {"MatMul"}
        assert not any("pooler" in node.name or "classifier" in node.name for node in readers)


def test_a_broken_quantisation_shows_in_its_scores(
    calibrated: Mapping[str, StepOutput], tmp_path: Path
) -> None:
    made = converted(calibrated, tmp_path)
    reference = outputs(made.files["fp32"])
    good = effect(reference, outputs(made.files["int8"]))
    broken = effect(reference, outputs(break_scales(made.files["int8"], tmp_path / "broken.onnx")))
    assert good.error < 0.2
    assert broken.error > 5 * good.error
    assert broken.correlation < good.correlation - 0.05


def test_what_never_varied_stays_in_float32(calibrated: Mapping[str, StepOutput], tmp_path: Path) -> None:
    source = calibrated["export"].files["fp32"]
    model = load_model(source)
    table = measure(source, feeds(1), CALIBRATION)
    names = quantisable(model, PrecisionSettings(), table)
    assert len(names) == 13
    import msgspec

    name = "bert.encoder.layer.0.gelu"
    ranges = {tensor: found for tensor, found in table.ranges.items() if tensor != name}
    dead = msgspec.structs.replace(table, ranges=ranges, dead=(name,))
    assert len(quantisable(model, PrecisionSettings(), dead)) == 12
    lost = msgspec.structs.replace(table, ranges=ranges)
    with pytest.raises(RecipeError, match=r"no range for bert\.encoder\.layer\.0\.gelu"):
        quantisable(model, PrecisionSettings(), lost)
    with pytest.raises(RecipeError, match="leaves no product for int8"):
        quantisable(model, PrecisionSettings(exclude_int8=("",)), table)


def test_one_product_alone_can_be_int8(calibrated: Mapping[str, StepOutput], tmp_path: Path) -> None:
    source = calibrated["export"].files["fp32"]
    table = measure(source, feeds(1), CALIBRATION)
    names = quantisable(load_model(source), PrecisionSettings(), table)
    path = quantise(source, table, names[:1], tmp_path / "one.onnx")
    ops = [node.op_type for node in load_model(path).graph.node]
    assert (ops.count("QuantizeLinear"), ops.count("DequantizeLinear")) == (1, 2)
    assert not list(tmp_path.glob(".*"))
