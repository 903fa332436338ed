"""From a source to the standard form: every kind of source, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

from searchpipe.engine import source_files
from searchpipe.engine.onnx_graph import load_model
from searchpipe.engine.step import StepOutput
from searchpipe.engine.steps import export
from searchpipe.engine.steps.export import ExportStep
from searchpipe.engine.steps.source import SourceStep
from searchpipe.errors import RecipeError
from tests.fakes.factory import recipe_of, run_steps
from tests.fakes.tiny_bert import TinyBert
from tests.fakes.tiny_onnx import TinyModel, save_graph
from tests.fakes.tiny_tokenizer import SPECIAL, WORDS, save_tokenizer

VOCABULARY = len(SPECIAL) + len(WORDS)
FEEDS = {
    "input_ids": np.array([[2, 5, 3, 6, 3, 0], [2, 7, 8, 3, 9, 3]]),
    "attention_mask": np.array([[1, 1, 1, 1, 1, 0], [1] * 6]),
    "token_type_ids": np.array([[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tokenizer(tmp_path / "tokenizer.json")
    return tmp_path


def bert() -> TinyBert:
    return TinyBert(vocab_size=VOCABULARY)


def exported(folder: Path, model: str, **tables: Any) -> dict[str, StepOutput]:
    settings = {"model": model, "max_tokens": 64, **tables.pop("source", {})}
    return run_steps([SourceStep(), ExportStep()], recipe_of(source=settings, **tables), folder)


def outputs(path: Path) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    kinds = {node.name: np.int32 if "int32" in node.type else np.int64 for node in session.get_inputs()}
    return session.run(None, {name: FEEDS[name].astype(kind) for name, kind in kinds.items()})[0]


def kinds_of(path: Path) -> list[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


@pytest.mark.parametrize("form", [{}, {"narrow": True}, {"old_norms": True}])
def test_every_form_becomes_the_standard_one(folder: Path, form: dict[str, bool]) -> None:
    source = bert().save_cross_encoder(folder / "model.onnx", **form)
    done = exported(folder, "model.onnx")["export"]
    np.testing.assert_allclose(outputs(done.files["fp32"]), outputs(source), atol=1e-5)
    np.testing.assert_allclose(outputs(done.files["fp32_cuda"]), outputs(source), atol=1e-4)
    model = onnx.load(str(done.files["fp32"]))
    onnx.checker.check_model(model, full_check=True)
    assert {entry.domain for entry in model.opset_import} <= {"", "com.microsoft"} or form == {}
    assert all(node.domain == "" for node in model.graph.node)
    assert kinds_of(done.files["fp32"]).count("LayerNormalization") == 5
    assert {node.type.tensor_type.elem_type for node in model.graph.input} == {onnx.TensorProto.INT32}
    assert len({node.name for node in model.graph.node}) == len(model.graph.node)
    constants = {tensor.name for tensor in model.graph.initializer}
    assert sum(n.op_type == "MatMul" and n.input[1] in constants for n in model.graph.node) == 14
    assert kinds_of(done.files["fp32_cuda"]).count("Attention") == 2
    assert (done.facts["attention_layers"], done.facts["attention_fused"]) == (2, 2)
    json.dumps(dict(done.facts))


def test_a_dynamically_quantised_source_is_made_float_again(folder: Path) -> None:
    plain = TinyModel(vocab_size=VOCABULARY, dim=16, outputs=1).save_cross_encoder(folder / "plain.onnx")
    quantize_dynamic(str(plain), str(folder / "model.onnx"), weight_type=QuantType.QInt8)
    done = exported(folder, "model.onnx")["export"]
    assert done.facts["source_is_quantised"]
    assert "MatMulInteger" not in kinds_of(done.files["fp32"])
    np.testing.assert_allclose(outputs(done.files["fp32"]), outputs(folder / "model.onnx"), atol=0.1)


def test_an_encoder_is_given_the_pooling_that_is_stated(folder: Path) -> None:
    source = TinyBert(vocab_size=VOCABULARY).save_encoder(folder / "model.onnx")
    with pytest.raises(RecipeError, match=r"3 dimensions.*source.pooling"):
        exported(folder, "model.onnx", task="query")
    done = exported(folder, "model.onnx", task="query", source={"pooling": "mean"})["export"]
    mask = FEEDS["attention_mask"][..., None]
    expected = (outputs(source) * mask).sum(1) / mask.sum(1)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(outputs(done.files["fp32"]), expected, atol=1e-5)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(folder: Path, share: float) -> None:
    source = bert().save_cross_encoder(folder / "model.onnx")
    content = source.read_bytes()
    source.write_bytes(content[: int(share * len(content))])
    with pytest.raises(RecipeError, match=r"model.onnx \(\d+ bytes\) is not a whole ONNX model"):
        exported(folder, "model.onnx")


def test_what_is_no_such_model_is_refused(folder: Path) -> None:
    bert().save_cross_encoder(folder / "model.onnx")
    with pytest.raises(RecipeError, match=r"has SHA-256 .* and the recipe says 00"):
        exported(folder, "model.onnx", source={"sha256": "00" * 32})
    with pytest.raises(RecipeError, match="no built-in model, ONNX file, folder or hub name"):
        exported(folder, "nonsense")
    with pytest.raises(RecipeError, match=r"There is no model .*other\.onnx"):
        exported(folder, "other.onnx")
    with pytest.raises(RecipeError, match=r"There is no tokenizer .*words\.json"):
        exported(folder, "model.onnx", source={"tokenizer": "words.json"})
    with pytest.raises(RecipeError, match="task is ranker, and the model takes input_ids"):
        exported(folder, "model.onnx", task="ranker")
    TinyBert(vocab_size=VOCABULARY).save_encoder(folder / "model.onnx")
    with pytest.raises(RecipeError, match="task pair cannot give logits of 3 dimensions"):
        exported(folder, "model.onnx")
    (folder / "empty").mkdir()
    with pytest.raises(RecipeError, match=r"needs config\.json and model\.safetensors"):
        exported(folder, "empty")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(RecipeError, match=r"no tokenizer\.json beside it"):
        exported(folder, "model.onnx")


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    TinyBert(vocab_size=VOCABULARY - 3).save_cross_encoder(folder / "model.onnx")
    with pytest.raises(RecipeError, match=f"knows {VOCABULARY} tokens, and the model has {VOCABULARY - 3}"):
        exported(folder, "model.onnx")


def test_an_export_that_differs_is_refused_with_the_figures(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert().save_cross_encoder(folder / "model.onnx")
    rewrite = export.base_form

    def wrong(model: Any) -> Any:
        made = rewrite(model)
        tensor = next(t for t in made.graph.initializer if t.name == "bert.pooler.dense.weight")
        value = onnx.numpy_helper.to_array(tensor) * np.float32(1.2)
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
        return made

    monkeypatch.setattr(export, "base_form", wrong)
    with pytest.raises(RecipeError, match=r"differs from its source: on inputs of 1 x 5.*at most 0\.001"):
        exported(folder, "model.onnx")


def test_a_feature_ranker_and_what_lies_beside_it(folder: Path) -> None:
    rng = np.random.default_rng(0)
    constants = {
        "table": rng.normal(size=(10, 4)),
        "dense_w": rng.normal(size=(3, 4)),
        "out_w": rng.normal(size=(4, 1)),
    }
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    nodes = [
        node("Gather", ["table", "categories"], ["rows"]),
        node("ReduceSum", ["rows", "axis"], ["summed"], keepdims=0),
        node("MatMul", ["dense", "dense_w"], ["projected"]),
        node("Add", ["summed", "projected"], ["hidden"]),
        node("MatMul", ["hidden", "out_w"], ["wide"]),
        node("Squeeze", ["wide", "axis"], ["logits"]),
    ]
    inputs = [info("categories", 7, ["rows", 2]), info("dense", 1, ["rows", 3])]
    tensors = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()]
    tensors.append(onnx.numpy_helper.from_array(np.array([1]), "axis"))
    save_graph(folder / "ranker.onnx", nodes, inputs, [info("logits", 1, ["rows"])], tensors)
    (folder / "ranker.json").write_text("{}")
    done = exported(folder, "ranker.onnx", task="ranker")
    assert set(done["source"].files) == {"model", "ranker.json"}
    assert done["source"].files["ranker.json"].parent == done["source"].files["model"].parent
    types = {
        n.name: n.type.tensor_type.elem_type for n in load_model(done["export"].files["fp32"]).graph.input
    }
    assert types == {"categories": onnx.TensorProto.INT64, "dense": onnx.TensorProto.FLOAT}
    assert set(done["export"].files) == {"fp32"}


def test_the_key_follows_the_content(folder: Path) -> None:
    from searchpipe.engine.step import Inputs

    bert().save_cross_encoder(folder / "model.onnx")
    inputs = Inputs(recipe_of(source={"model": "model.onnx"}), folder)
    before = SourceStep().key(inputs)
    assert SourceStep().key(inputs) == before
    TinyBert(vocab_size=VOCABULARY, seed=1).save_cross_encoder(folder / "model.onnx")
    assert SourceStep().key(inputs) != before


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("hf")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        num_labels=1,
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    save_tokenizer(folder / "tokenizer.json")
    return folder


def test_a_hugging_face_folder_is_exported_with_attention_that_fuses(
    folder: Path, hugging_face: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    import transformers

    done = exported(folder, str(hugging_face))["export"]
    assert done.facts["attention_fused"] == 2
    assert done.facts["agreement"]["fp32"]["relative"] < 1e-3
    model = transformers.BertForSequenceClassification.from_pretrained(hugging_face).eval()
    with torch.no_grad():
        expected = model(**{name: torch.from_numpy(value) for name, value in FEEDS.items()}).logits.numpy()
    np.testing.assert_allclose(outputs(done.files["fp32"]), expected, atol=1e-5)

    asked = []

    def download(name: str, **options: Any) -> str:
        asked.append((name, options["revision"]))
        return str(hugging_face)

    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    found = source_files.locate(recipe_of(source={"model": "team/model@v1"}).source, folder)
    assert asked == [("team/model", "v1")]
    assert set(found.files) == {"config.json", "model.safetensors", "tokenizer.json"}


def test_a_sentence_transformers_folder_states_its_pooling(folder: Path, hugging_face: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(hugging_face, folder / "st"))
    kinds = ["Transformer", "Pooling", "Normalize"]
    modules = [{"type": f"sentence_transformers.models.{k}", "path": f"1_{k}"} for k in kinds]
    (copy / "modules.json").write_text(json.dumps(modules))
    (copy / "1_Pooling").mkdir()
    for options, expected in (
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_mean_tokens": True}, "mean"),
    ):
        (copy / "1_Pooling" / "config.json").write_text(json.dumps(options))
        done = exported(folder, "st", task="query")
        assert done["source"].facts["pooling"] == expected == done["export"].facts["pooling"]
        assert outputs(done["export"].files["fp32"]).shape == (2, 16)
    (copy / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(RecipeError, match="pools by pooling_mode_max_tokens"):
        exported(folder, "st", task="query")
