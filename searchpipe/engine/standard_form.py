"""One form for every model: standard operators, constants folded, names, int32 text inputs, pooling inside.

ONNX Runtime's CPU provider and TensorRT both take this form; the form with fused
attention is for ONNX Runtime on the GPU.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import numpy as np

from searchpipe.backends.onnx_prepare import PrepareOptions, append_pooling, take_int32
from searchpipe.engine.onnx_graph import count_ops, input_names, name_nodes, opset_of, tools
from searchpipe.errors import RecipeError

TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# LayerNormalization is a standard operator from this set on.
OPSET = 17
# Folding must not blow a model up: a table of 100,000 x 1024 float32 values.
_LARGEST_FOLD = 400 << 20
_NEVER_FOLD = {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli"}
_FUSED_DOMAIN = "com.microsoft"
_ATTENTION = {"Attention", "MultiHeadAttention"}


def standardise(model: Any, *, text: bool, pooling: PrepareOptions | None = None) -> Any:
    """Rewrite ``model`` (a float32 ``ModelProto``) into the standard form; the argument is left alone.

    Args:
        model: checked, of one graph.
        text: its inputs are token ids; they become int32.
        pooling: how an encoder's tokens become a vector; None for a model that gives its result itself.

    Raises:
        RecipeError: the operator set cannot be converted.
    """
    model = base_form(model)
    if text:
        finish_text(model, pooling)
    name_nodes(model)
    return model


def base_form(model: Any) -> Any:
    """Operator set 17 or newer, constants folded, LayerNorm as one node; inputs and outputs as they were."""
    onnx, version_converter = tools("onnx", "onnx.version_converter")
    if opset_of(model) < OPSET:
        try:
            model = version_converter.convert_version(model, OPSET)
        except Exception as error:  # onnx raises RuntimeError and others
            reason = " ".join(str(error).split())[:200]
            raise RecipeError(
                f"The model's operator set {opset_of(model)} cannot be converted to {OPSET}: {reason}.",
                cure=f"Export it with opset_version={OPSET}.",
            ) from error
    else:
        model = copy.deepcopy(model)
    fold_constants(onnx, model)
    model = _fuse_norms(model)
    name_nodes(model)
    return model


def finish_text(model: Any, pooling: PrepareOptions | None) -> None:
    """Make the text inputs int32 and pool inside, in place."""
    (onnx,) = tools("onnx")
    take_int32(onnx, model)
    if pooling is not None and pooling.pooling != "none":
        append_pooling(onnx, model, pooling)


def fuse_attention(base: Any, *, heads: int = 0, hidden: int = 0) -> tuple[Any, int]:
    """``base`` (of :func:`base_form`) with attention, LayerNorm and GELU as ONNX Runtime's own operators.

    Args:
        base: left alone.
        heads: attention heads; 0 if the graph tells.
        hidden: width; 0 if the graph tells.

    Returns:
        The model, and the number of attention layers that were recognised.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    with _quiet():
        optimized = optimize_model(
            copy.deepcopy(base),
            model_type="bert",
            num_heads=heads,
            hidden_size=hidden,
            opt_level=0,
            use_gpu=True,
            optimization_options=FusionOptions("bert"),
        )
    model = optimized.model
    if not any(entry.domain == _FUSED_DOMAIN for entry in model.opset_import):
        (onnx,) = tools("onnx")
        model.opset_import.append(onnx.helper.make_opsetid(_FUSED_DOMAIN, 1))
    return model, count_ops(model, _ATTENTION)


def fold_constants(onnx: Any, model: Any) -> None:
    """Compute once, in place, what depends on constants alone; weights stored narrower become float32.

    Without it a quantiser takes a weight behind a Cast for an activation.
    """
    graph = model.graph
    evaluator = tools("onnx.reference")[0].ReferenceEvaluator
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {node.name for node in graph.output}
    domains = list(model.opset_import)
    kept = []
    for node in graph.node:
        names = [name for name in node.input if name]
        constant = node.op_type == "Constant" or (names and all(name in tensors for name in names))
        if not constant or node.domain not in ("", "ai.onnx") or node.op_type in _NEVER_FOLD:
            kept.append(node)
            continue
        if outputs & set(node.output) or any(attribute.HasField("g") for attribute in node.attribute):
            kept.append(node)
            continue
        values = {name: onnx.numpy_helper.to_array(tensors[name]) for name in names}
        single = onnx.helper.make_model(
            onnx.helper.make_graph(
                [node],
                "constant",
                [
                    onnx.helper.make_tensor_value_info(name, tensors[name].data_type, list(value.shape))
                    for name, value in values.items()
                ],
                [onnx.ValueInfoProto(name=name) for name in node.output],
            ),
            opset_imports=domains,
        )
        try:
            results = [np.asarray(value) for value in evaluator(single).run(None, values)]
        except Exception:  # what the evaluator does not know stays a node
            kept.append(node)
            continue
        if sum(value.nbytes for value in results) > _LARGEST_FOLD:
            kept.append(node)
            continue
        for name, value in zip(node.output, results, strict=True):
            tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
            tensors[name] = tensor
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    needed = outputs | {name for node in kept for name in node.input}
    for node in kept:
        for attribute in node.attribute:
            needed |= _read_inside(attribute)
    del graph.node[:]
    graph.node.extend(copies)
    used = [tensor for name, tensor in tensors.items() if name in needed]
    used = [type(tensor).FromString(tensor.SerializeToString()) for tensor in used]
    del graph.initializer[:]
    graph.initializer.extend(used)


def is_text(model: Any) -> bool:
    """Whether the inputs are those of a text model."""
    return {"input_ids", "attention_mask"} <= set(input_names(model)) <= set(TEXT_INPUTS)


def _read_inside(attribute: Any) -> set[str]:
    """Names that a subgraph reads, of the outer graph or its own."""
    found: set[str] = set()
    graphs = [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]
    for graph in graphs:
        for node in graph.node:
            found |= set(node.input)
            for inner in node.attribute:
                found |= _read_inside(inner)
    return found


def _fuse_norms(model: Any) -> Any:
    """LayerNorm written as single operations becomes one node: it overflows in half precision otherwise."""
    tools("onnxruntime", "sympy")
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    for name in vars(options):
        if name.startswith("enable_") and name not in ("enable_layer_norm", "enable_shape_inference"):
            setattr(options, name, False)
    with _quiet():
        optimized = optimize_model(
            model, model_type="bert", num_heads=0, hidden_size=0, opt_level=0, optimization_options=options
        )
    return optimized.model


class _quiet:  # noqa: N801
    """Silences the optimizer's log, which tells of every fusion it tries."""

    def __enter__(self) -> None:
        self._logger = logging.getLogger("onnxruntime.transformers")
        self._level = self._logger.level
        self._logger.setLevel(logging.CRITICAL)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
