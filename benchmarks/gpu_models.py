"""The models of the GPU benchmarks in float32: rebuilt from the built-in int8 files, exported to ONNX.

No package has the float32 weights, so they are the 8-bit ones times their scales. Everything is made
once into ``.bench/models/``. Where no package index can be reached, put the files into one folder and
name it in ``SEARCHPIPE_GPU_MODELS``: ``cross/{model.onnx,tokenizer.json}`` and ``encoder/model.onnx``.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.report import shared_folder
from searchpipe.models.settings import LocalModel

CACHE = Path(__file__).resolve().parent.parent / ".bench" / "models"
VARIABLE = "SEARCHPIPE_GPU_MODELS"
Kind = Literal["cross-encoder", "encoder"]
_OPSET = 17


@dataclass(frozen=True, slots=True)
class FloatModel:
    """A model in float32.

    Attributes:
        folder: in the layout of Hugging Face, with the tokenizer.
        local: its ONNX export, as the engines take it.
    """

    folder: Path
    local: LocalModel


def float_model(kind: Kind) -> FloatModel:
    """Rebuild and export, unless that was done before; needs PyTorch and transformers.

    Raises:
        SystemExit: something that it needs is missing.
    """
    model, tokenizer = _int8_files(kind)
    folder = CACHE / kind
    if not (folder / "model.safetensors").exists():
        unfinished = CACHE / f".{kind}.{os.getpid()}"
        unfinished.mkdir(parents=True)
        try:
            (_rebuild_cross_encoder if kind == "cross-encoder" else _rebuild_encoder)(model, unfinished)
            shutil.copy(tokenizer, unfinished / "tokenizer.json")
            _export(unfinished, kind)
            shutil.rmtree(folder, ignore_errors=True)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return FloatModel(folder, _local(kind, folder / "model.onnx", folder / "tokenizer.json"))


def int8_model(kind: Kind) -> LocalModel:
    """The built-in model as it is, for the CPU."""
    return _local(kind, *_int8_files(kind))


def _int8_files(kind: Kind) -> tuple[Path, Path]:
    """The int8 ONNX file and the tokenizer; both models use the vocabulary of bert-base-uncased."""
    named = os.environ.get(VARIABLE)
    if named:
        tokenizer = Path(named, "cross", "tokenizer.json")
        model = Path(named, "cross" if kind == "cross-encoder" else "encoder", "model.onnx")
        for path in (model, tokenizer):
            if not path.exists():
                raise SystemExit(f"{VARIABLE} names {named}, which has no {path.relative_to(named)}.")
        return model, tokenizer
    from searchpipe.models import resolve
    from searchpipe.models.settings import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER

    found = resolve(DEFAULT_CROSS_ENCODER if kind == "cross-encoder" else DEFAULT_ENCODER)
    return found.model, found.tokenizer


def _local(kind: Kind, model: Path, tokenizer: Path) -> LocalModel:
    from searchpipe.models.cache import sha256_of

    encoder = kind == "encoder"
    return LocalModel(
        name="minilm-l6-fp32" if encoder else "minilm-l12-cross-fp32",
        kind=kind,
        model=model,
        tokenizer=tokenizer,
        sha256=sha256_of(model),
        max_tokens=256 if encoder else 512,
        pooling="mean" if encoder else "none",
        normalize=encoder,
        query_prefix="",
        document_prefix="",
    )


def _rebuild_cross_encoder(model: Path, out: Path) -> None:
    script = shared_folder("models", "rebuild_fp32.py")
    if script is None:
        raise SystemExit("shared/models/rebuild_fp32.py was not found; name the folder in SEARCHPIPE_SHARED.")
    subprocess.run([sys.executable, str(script), str(model.parent), str(out)], check=True)


def _rebuild_encoder(model: Path, out: Path) -> None:
    torch, transformers = _import("torch"), _import("transformers")
    weights = {name: torch.from_numpy(value) for name, value in encoder_weights(model).items()}
    bert = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=30522,
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intermediate_size=1536,
        ),
        add_pooling_layer=False,
    )
    bert.load_state_dict(weights, strict=True)
    bert.eval().save_pretrained(out)


def encoder_weights(path: Path) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Weights of a BertModel by their names, from an ONNX file that holds 8-bit weights and their scales.

    Matrices have no name in the file; each is called after the bias that is added to its product.
    """
    onnx = _import("onnx")
    graph = onnx.load(str(path)).graph
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scaled = {
        name.removesuffix("_q"): stored[name].astype(np.float32) * stored[name.removesuffix("_q") + "_scale"]
        for name in stored
        if name.endswith("_q")
    }
    adds: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type == "Add":
            for name in node.input:
                adds[name] = list(node.input)
    found = {
        name: value
        for name, value in stored.items()
        if name.endswith((".bias", "LayerNorm.weight", "token_type_embeddings.weight"))
    }
    found |= {name: value for name, value in scaled.items() if name.endswith("embeddings.weight")}
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in scaled:
            bias = next(name for name in adds[node.output[0]] if name.endswith(".bias"))
            found[bias.removesuffix("bias") + "weight"] = scaled[node.input[1]].T
    return {
        name.removeprefix("inner."): np.ascontiguousarray(value, np.float32) for name, value in found.items()
    }


def _export(folder: Path, kind: Kind) -> None:
    """Write ``model.onnx``: int64 inputs of any shape; attention as products, which the fusion knows."""
    torch, transformers = _import("torch"), _import("transformers")
    if kind == "cross-encoder":
        make, output = transformers.AutoModelForSequenceClassification, "logits"
    else:
        make, output = transformers.AutoModel, "last_hidden_state"
    model = make.from_pretrained(folder, attn_implementation="eager").eval()
    if kind == "encoder":
        model.pooler = None
    names = ["input_ids", "attention_mask", "token_type_ids"]
    sample = torch.ones(2, 8, dtype=torch.int64)

    class Plain(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def forward(self, ids: Any, mask: Any, types: Any) -> Any:
            return model(input_ids=ids, attention_mask=mask, token_type_ids=types)[0]

    wrapped = Plain()
    wrapped.inner = model
    axes = {name: {0: "rows", 1: "tokens"} for name in names}
    axes[output] = {0: "rows"} if kind == "cross-encoder" else {0: "rows", 1: "tokens"}
    with torch.no_grad():
        torch.onnx.export(
            wrapped,
            (sample, sample, torch.zeros_like(sample)),
            str(folder / "model.onnx"),
            input_names=names,
            output_names=[output],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,
        )


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise SystemExit(f"The models are rebuilt with {name}, which is not installed: {error}.") from error
