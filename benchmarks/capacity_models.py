"""Both models as folders of Hugging Face and sentence-transformers, for the systems beside ours.

The weights are those that our engines multiply out of the int8 files. Made once into ``.bench/models/``.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu_models import CACHE, float_model, int8_model
from searchpipe.arrays import Float32

MAX_TOKENS = 128
_HIDDEN, _LAYERS, _HEADS, _VOCABULARY = 384, 6, 12, 30522
_PREFIX = "inner."


def cross_encoder_folder() -> Path:
    """The 12-layer cross-encoder; its tokenizer keeps at most 128 tokens of a pair."""
    folder = CACHE / "peer-cross-encoder"
    if not (folder / "config.json").exists():
        made = float_model("cross-encoder").folder
        unfinished = _unfinished(folder)
        for name in ("model.safetensors", "config.json"):
            shutil.copy(made / name, unfinished / name)
        _write_tokenizer(made / "tokenizer.json", unfinished)
        unfinished.rename(folder)
    return folder


def encoder_folder() -> Path:
    """The 6-layer encoder as a SentenceTransformer: mean pooling, unit length."""
    folder = CACHE / "peer-encoder"
    if not (folder / "config.json").exists():
        model = int8_model("encoder")
        unfinished = _unfinished(folder)
        write_encoder(model.model, unfinished)
        _write_tokenizer(model.tokenizer, unfinished)
        unfinished.rename(folder)
    return folder


def write_encoder(source: Path, out: Path) -> None:
    """The weights of an int8 ONNX encoder as a PyTorch model, with the modules of sentence-transformers."""
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=_VOCABULARY,
        hidden_size=_HIDDEN,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        intermediate_size=4 * _HIDDEN,
        architectures=["BertModel"],
    )
    model = transformers.BertModel(config, add_pooling_layer=False)
    weights = {name: torch.from_numpy(value) for name, value in encoder_weights(source).items()}
    model.load_state_dict(weights, strict=True)
    model.save_pretrained(out)
    modules = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    rows = [
        {"idx": place, "name": str(place), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for place, (path, kind) in enumerate(modules)
    ]
    (out / "modules.json").write_text(json.dumps(rows))
    (out / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    (out / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": _HIDDEN, "pooling_mode_mean_tokens": True}
    (out / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    (out / "2_Normalize").mkdir()


def encoder_weights(source: Path) -> dict[str, Float32]:
    """Parameter name of BertModel -> float32 value.

    A product's weights carry no name in the file: it is that of the bias added to the product.
    """
    onnx: Any = importlib.import_module("onnx")
    numpy_helper: Any = importlib.import_module("onnx.numpy_helper")
    graph = onnx.load(source).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}

    def value(name: str) -> Float32 | None:
        if name in stored:
            return np.array(stored[name], np.float32)
        if f"{name}_q" in stored:
            return np.asarray(stored[f"{name}_q"].astype(np.float32) * stored[f"{name}_scale"], np.float32)
        return None

    found: dict[str, Float32] = {}
    for name in stored:
        plain = name.removesuffix("_q")
        if plain.startswith(_PREFIX) and plain.endswith((".bias", ".weight")):
            weight = value(plain)
            assert weight is not None
            found[plain.removeprefix(_PREFIX)] = weight
    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for product, bias in (tuple(node.input), tuple(reversed(node.input))):
            if product in products and bias in stored and bias.startswith(_PREFIX):
                weight = value(products[product])
                assert weight is not None
                name = bias.removeprefix(_PREFIX).removesuffix(".bias") + ".weight"
                found[name] = np.ascontiguousarray(weight.T)
    return found


def _unfinished(folder: Path) -> Path:
    path = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def _write_tokenizer(source: Path, out: Path) -> None:
    """The tokenizer without the padding and truncation that its file may fix."""
    content = json.loads(source.read_text(encoding="utf-8"))
    content["padding"] = content["truncation"] = None
    (out / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    settings = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": MAX_TOKENS,
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "mask_token": "[MASK]",
    }
    (out / "tokenizer_config.json").write_text(json.dumps(settings))
    vocabulary = sorted(content["model"]["vocab"].items(), key=lambda item: item[1])
    (out / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), encoding="utf-8")
