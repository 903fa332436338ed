"""The source as float32 ONNX in the factory's standard form, checked against the source."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.backends.onnx_prepare import PrepareOptions
from searchpipe.engine import export_torch
from searchpipe.engine.agreement import (
    FLOAT_TOLERANCE,
    QUANTISED_TOLERANCE,
    Feeds,
    Run,
    open_run,
    require_agreement,
    table_feeds,
    text_feeds,
)
from searchpipe.engine.onnx_graph import (
    count_ops,
    input_names,
    load_model,
    name_nodes,
    opset_of,
    save_model,
    tools,
)
from searchpipe.engine.standard_form import base_form, finish_text, fold_constants, fuse_attention, is_text
from searchpipe.engine.step import Build, Inputs, StepOutput
from searchpipe.engine.versions import versions_of
from searchpipe.errors import ModelError, RecipeError

# Raise it when the form that is written changes.
_FORM = 1
_DYNAMIC = {"DynamicQuantizeLinear", "MatMulInteger", "ConvInteger"}


class ExportStep:
    """Writes ``fp32`` (standard operators) and, for text models, ``fp32_cuda``; no state, any thread.

    ``fp32_cuda`` has attention as ONNX Runtime's own operators, for its CUDA provider; it is left
    out where no attention was recognised.
    """

    name = "export"
    needs: tuple[str, ...] = ("source",)

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """Depends on the task, the longest row and the versions of the tools."""
        return {
            "form": _FORM,
            "task": inputs.recipe.task,
            "max_tokens": inputs.recipe.source.max_tokens,
            "pooling": inputs.recipe.source.pooling,
            "seed": inputs.seed,
            **versions_of("onnx", "onnxruntime", "torch", "transformers"),
        }

    def run(self, build: Build) -> StepOutput:
        """Export, rewrite and compare.

        Raises:
            RecipeError: the model cannot be exported, is not of the recipe's task, or gives other values.
        """
        recipe, source = build.inputs.recipe, build.done["source"]
        with tempfile.TemporaryDirectory(prefix=".export-", dir=build.folder) as scratch:
            reference, model, heads, hidden, tolerance = _read(source, recipe.task, Path(scratch))
            build.say(f"export: {len(model.graph.node)} nodes read; rewriting")
            base = base_form(model)
            if (recipe.task != "ranker") != is_text(base):
                names = ", ".join(input_names(base))
                raise RecipeError(
                    f"The recipe's task is {recipe.task}, and the model takes {names}.",
                    cure="Text models take input_ids, attention_mask and, optionally, token_type_ids.",
                )
            pooling = _pooling(source.facts, base) if recipe.task == "query" else None
            files: dict[str, Path] = {}
            plain = type(base).FromString(base.SerializeToString())
            if recipe.task != "ranker":
                finish_text(plain, pooling)
            name_nodes(plain)
            files["fp32"] = save_model(plain, build.folder / "fp32.onnx")
            layers = count_ops(base, {"Softmax"})
            fused = 0
            if recipe.task != "ranker" and layers:
                fast, fused = fuse_attention(base, heads=heads, hidden=hidden)
                if fused:
                    finish_text(fast, pooling)
                    name_nodes(fast)
                    files["fp32_cuda"] = save_model(fast, build.folder / "fp32_cuda.onnx")
            feeds = _feeds(build, base)
            expected = reference if pooling is None else _pooled(reference, pooling)
            agreements = {
                role: require_agreement(
                    f"The {role} export", expected, open_run(path)[0], feeds, tolerance=tolerance
                )
                for role, path in files.items()
            }
        _check_output(recipe.task, plain)
        if "tokenizer" in source.files:
            files["tokenizer"] = Path(
                shutil.copyfile(source.files["tokenizer"], build.folder / "tokenizer.json")
            )
        for role, agreement in agreements.items():
            told = f"{agreement.max_diff:.2g}, {agreement.relative:.2g} of the spread"
            build.say(f"export: {role} differs from the source by at most {told}")
        facts = {
            "opset": opset_of(plain),
            "nodes": len(plain.graph.node),
            "parameters": sum(int(np.prod(tensor.dims)) for tensor in plain.graph.initializer),
            "inputs": input_names(plain),
            "output": plain.graph.output[0].name,
            "pooling": pooling.pooling if pooling else "none",
            "attention_layers": layers,
            "attention_fused": fused,
            "source_is_quantised": tolerance == QUANTISED_TOLERANCE,
            "agreement": {role: agreement.facts() for role, agreement in agreements.items()},
            "versions": versions_of("onnx", "onnxruntime", "torch", "transformers"),
        }
        return StepOutput(files, facts)


def _read(source: StepOutput, task: Any, scratch: Path) -> tuple[Run, Any, int, int, float]:
    """The source as a function, as float32 ONNX, its heads and width where known, and the tolerance."""
    if source.facts["kind"] == "huggingface":
        opened = export_torch.open_torch(source.files["config.json"].parent, task)
        path = scratch / "traced.onnx"
        export_torch.export_torch(opened, path, task)
        return opened.run, load_model(path), opened.heads, opened.hidden, FLOAT_TOLERANCE
    path = source.files["model"]
    model = load_model(path)
    dynamic = count_ops(model, _DYNAMIC) > 0
    (onnx,) = tools("onnx")
    fold_constants(onnx, model)
    if dynamic or count_ops(model, {"IsNaN"}):
        from searchpipe.backends.dequantize import dequantize

        save_model(model, scratch / "folded.onnx")
        try:
            dequantize(scratch / "folded.onnx", scratch / "float.onnx")
            model = load_model(scratch / "float.onnx")
        except ModelError as error:
            # Attention in a form that no fusion knows is slower, and right; int8 cannot be calibrated anew.
            if dynamic:
                raise RecipeError(f"The source is quantised for the CPU: {error}") from error
    return open_run(path)[0], model, 0, 0, QUANTISED_TOLERANCE if dynamic else FLOAT_TOLERANCE


def _pooling(facts: Mapping[str, Any], base: Any) -> PrepareOptions | None:
    """How tokens become a vector; None for an encoder that pools by itself."""
    rank = len(base.graph.output[0].type.tensor_type.shape.dim)
    if rank == 2:
        return None
    stated = facts["pooling"]
    if stated not in ("mean", "cls"):
        raise RecipeError(
            f"The encoder's output has {rank} dimensions, and nothing says how to pool them.",
            cure='Set source.pooling to "mean" or "cls".',
        )
    return PrepareOptions(pooling=stated, normalize=bool(facts["normalize"]))


def _pooled(run: Run, options: PrepareOptions) -> Run:
    def pooled(feeds: Feeds) -> Float32:
        hidden = run(feeds)
        mask = feeds["attention_mask"].astype(np.float32)[..., None]
        vectors = hidden[:, 0] if options.pooling == "cls" else (hidden * mask).sum(1) / mask.sum(1)
        if options.normalize:
            vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        found: Float32 = vectors.astype(np.float32)
        return found

    return pooled


def _feeds(build: Build, base: Any) -> list[Feeds]:
    """Inputs to compare on, int64."""
    seed = build.inputs.seed
    if build.inputs.recipe.task == "ranker":
        return list(table_feeds(base, seed))
    from searchpipe.models.tokenizer import TextTokenizer

    tokenizer = TextTokenizer(build.done["source"].files["tokenizer"], max_tokens=8)
    rows = _embedding_rows(base)
    if rows and tokenizer.vocab_size > rows:
        raise RecipeError(
            f"The tokenizer knows {tokenizer.vocab_size} tokens, and the model has {rows} word vectors.",
            cure="Name the model's own tokenizer in source.tokenizer.",
        )
    special = (tokenizer.cls_id, tokenizer.sep_id, tokenizer.pad_id)
    longest = build.inputs.recipe.source.max_tokens
    return list(text_feeds(input_names(base), tokenizer.vocab_size, special, longest, seed))


def _embedding_rows(model: Any) -> int:
    sizes = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if len(tensor.dims) == 2}
    names = {"input_ids"}
    for node in model.graph.node:
        if node.op_type == "Cast" and node.input[0] in names:
            names.add(node.output[0])
        if node.op_type == "Gather" and node.input[1] in names and node.input[0] in sizes:
            return int(sizes[node.input[0]])
    return 0


def _check_output(task: str, model: Any) -> None:
    output = model.graph.output[0]
    shape = [dim.dim_value or None for dim in output.type.tensor_type.shape.dim]
    known = {
        "pair": len(shape) == 1 or (len(shape) == 2 and shape[1] in (None, 1, 2)),
        "query": len(shape) == 2,
    }
    if not known.get(task, len(shape) == 1 or (len(shape) == 2 and shape[1] in (None, 1))):
        raise RecipeError(
            f"A model for the task {task} cannot give {output.name} of {len(shape)} dimensions {shape}.",
            cure="pair: one logit a row; query: one vector a row; ranker: one logit a row.",
        )
