"""A Hugging Face folder to ONNX by PyTorch's tracing exporter, with attention as the fusions know it."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.engine.agreement import Feeds, Run
from searchpipe.engine.onnx_graph import tools
from searchpipe.engine.recipe import Task
from searchpipe.engine.standard_form import OPSET
from searchpipe.errors import RecipeError

Pooling = Literal["mean", "cls", "none"]


@dataclass(frozen=True, slots=True)
class TorchModel:
    """A model that PyTorch holds; for one thread.

    Attributes:
        run: token ids to float32 scores [rows, labels] or hidden states [rows, tokens, width].
        inputs: names of what it takes.
        heads: attention heads of a layer.
        hidden: width of a layer.
        module: what is exported.
    """

    run: Run
    inputs: tuple[str, ...]
    heads: int
    hidden: int
    module: Any


def open_torch(folder: Path, task: Task) -> TorchModel:
    """Load a Hugging Face folder: a sequence classifier for pairs, the bare encoder for queries.

    Raises:
        RecipeError: the folder is not such a model.
        MissingDependencyError: torch or transformers is not installed.
    """
    torch, transformers = tools("torch", "transformers")
    kind = transformers.AutoModelForSequenceClassification if task == "pair" else transformers.AutoModel
    try:
        # Other attention than the eager one is traced into a form that no fusion knows.
        model = kind.from_pretrained(
            str(folder), attn_implementation="eager", local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises OSError, ValueError, KeyError, safetensors' own ...
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"{folder} is not a model that transformers loads: {reason}") from error
    model.eval()
    config = model.config
    inputs = ["input_ids", "attention_mask"]
    if int(getattr(config, "type_vocab_size", 0) or 0) > 1:
        inputs.append("token_type_ids")
    module = _wrapper(torch, model, tuple(inputs))

    def run(feeds: Feeds) -> Float32:
        with torch.no_grad():
            result = module(*(torch.from_numpy(feeds[name].astype(np.int64)) for name in inputs))
        found: Float32 = result.numpy().astype(np.float32)
        return found

    heads, hidden = int(config.num_attention_heads), int(config.hidden_size)
    return TorchModel(run, tuple(inputs), heads, hidden, module)


def export_torch(model: TorchModel, path: Path, task: Task) -> None:
    """Trace ``model`` into an ONNX file with dynamic rows and tokens, int64 inputs.

    Raises:
        RecipeError: PyTorch cannot export it.
    """
    (torch,) = tools("torch")
    example = tuple(torch.ones((2, 7), dtype=torch.int64) for _ in model.inputs)
    output = "logits" if task == "pair" else "last_hidden_state"
    axes = {name: {0: "rows", 1: "tokens"} for name in model.inputs}
    axes[output] = {0: "rows"} if task == "pair" else {0: "rows", 1: "tokens"}
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # the tracing exporter announces its successor
            torch.onnx.export(
                model.module,
                example,
                str(path),
                input_names=list(model.inputs),
                output_names=[output],
                dynamic_axes=axes,
                opset_version=OPSET,
                do_constant_folding=True,
                dynamo=False,
            )
    except Exception as error:  # torch raises its own and RuntimeError
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"PyTorch cannot export the model: {reason}") from error


def pooling_of(folder: Path) -> tuple[Pooling, bool] | None:
    """Pooling and normalisation that a sentence-transformers folder states; None if it states none.

    Raises:
        RecipeError: it asks for a pooling that is not known here.
    """
    try:
        modules = json.loads((folder / "modules.json").read_text("utf-8"))
        stated = next(item for item in modules if item["type"].endswith(".Pooling"))
        options = json.loads((folder / stated["path"] / "config.json").read_text("utf-8"))
    except (OSError, ValueError, KeyError, StopIteration):
        return None
    normalize = any(item["type"].endswith(".Normalize") for item in modules)
    chosen = [name for name, value in options.items() if name.startswith("pooling_mode_") and value is True]
    if isinstance(options.get("pooling_mode"), str):  # newer releases write a word
        chosen = [f"pooling_mode_{options['pooling_mode']}"]
    if chosen in (["pooling_mode_mean_tokens"], ["pooling_mode_mean"]):
        return "mean", normalize
    if chosen in (["pooling_mode_cls_token"], ["pooling_mode_cls"]):
        return "cls", normalize
    raise RecipeError(
        f"The model pools by {', '.join(chosen) or 'nothing'}; mean and cls are known.",
        cure="Export the model with its pooling as ONNX, and name that file.",
    )


def _wrapper(torch: Any, model: Any, inputs: tuple[str, ...]) -> Any:
    class Plain(torch.nn.Module):  # type: ignore[misc, name-defined, unused-ignore]
        """Tensors in, one tensor out, by position: what the exporter wants."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            result = self.model(**dict(zip(inputs, tensors, strict=True)))
            return result.logits if hasattr(result, "logits") else result.last_hidden_state

    return Plain().eval()
