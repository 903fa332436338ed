"""Half precision where it is safe: a mixed-precision rewrite of ONNX; inputs and outputs stay."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchpipe.engine.onnx_graph import (
    last_projection,
    matching,
    name_nodes,
    pooling_nodes,
    softmax_inputs,
    tools,
)
from searchpipe.engine.recipe import PrecisionSettings
from searchpipe.engine.versions import onnxruntime_version
from searchpipe.errors import RecipeError

FLOAT_INSIDE = frozenset({"LayerNormalization", "SkipLayerNormalization", "EmbedLayerNormalization"})
"""Norms that ONNX Runtime's CUDA provider computes in float32 whatever they read and write.

LayerNormalization always did; the fused ones summed in half precision until pull request 28682
of microsoft/onnxruntime (May 2026). A cast to float32 and back around each buys nothing there, and
moves every activation through memory twice more.
"""

_FUSED_DOMAIN = "com.microsoft"
# Places of float outputs where it is not the first alone; the others are masks and statistics.
_FLOAT_OUTPUTS = {"EmbedLayerNormalization": (0, 2), "SkipLayerNormalization": (0, 3)}
_SUMS_IN_FLOAT = (1, 28)  # the first release that surely has it


@dataclass(frozen=True, slots=True)
class Fp32Choice:
    """What stays in float32: names of nodes, and operator types."""

    nodes: frozenset[str]
    operators: frozenset[str]


def kept_fp32(model: Any, settings: PrecisionSettings, *, patterns_must_fit: bool = True) -> Fp32Choice:
    """What the recipe keeps in float32: its lists, what feeds a kept softmax, pooling, the last projection.

    Args:
        model: in the standard or the fused form.
        settings: ``[precision]``.
        patterns_must_fit: refuse a regular expression that fits no node (fused nodes have other names).

    Raises:
        RecipeError: an expression is not valid or fits no node.
    """
    patterns = settings.keep_fp32
    nodes = matching(model, patterns) if patterns_must_fit else set()
    if not patterns_must_fit:
        for pattern in patterns:
            try:
                nodes |= matching(model, (pattern,))
            except RecipeError:
                continue
    nodes |= pooling_nodes(model)
    if settings.keep_last:
        nodes |= last_projection(model)
    if "Softmax" in settings.keep_ops_fp32:
        nodes |= softmax_inputs(model)
    return Fp32Choice(frozenset(nodes), frozenset(settings.keep_ops_fp32))


def for_cuda(keep: Fp32Choice, version: str = "") -> Fp32Choice:
    """``keep`` for ONNX Runtime's CUDA provider: without the norms that are float32 inside all the same.

    Args:
        keep: of :func:`kept_fp32`.
        version: of ONNX Runtime; the installed one if empty. An older one keeps the casts.
    """
    parts = re.findall(r"\d+", version or onnxruntime_version())[:2]
    if len(parts) < 2 or (int(parts[0]), int(parts[1])) < _SUMS_IN_FLOAT:
        return keep
    return Fp32Choice(keep.nodes, keep.operators - FLOAT_INSIDE)


def to_fp16(model: Any, keep: Fp32Choice) -> Any:
    """``model`` with weights and activations in half precision but for ``keep``; the argument is used up.

    Inputs and outputs keep their types. Values too small for half precision become its smallest, too
    large ones its largest: masks of -3.4e38 stay masks.

    Raises:
        RecipeError: the converter fails.
    """
    onnx, float16 = tools("onnx", "onnxruntime.transformers.float16")
    # Q and DQ take their types from their scales, see int8.
    blocked = {*float16.DEFAULT_OP_BLOCK_LIST, *keep.operators}
    _type_fused(onnx, model)
    try:
        converted = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=sorted(blocked), node_block_list=sorted(keep.nodes)
        )
    except Exception as error:  # the converter raises ValueError, AssertionError, onnx its own
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"The model cannot be converted to half precision: {reason}.") from error
    _drop_twins(converted)
    _drop_cast_pairs(onnx, converted)
    _sort(converted)
    name_nodes(converted)
    _require_runnable(converted)
    return converted


def _type_fused(onnx: Any, model: Any) -> None:
    """Say which outputs of ONNX Runtime's own operators are float32, in place.

    ONNX infers no types for them, and the converter casts only what it knows to be a float.
    """
    if all(entry.domain != _FUSED_DOMAIN for entry in model.opset_import):
        # ONNX Runtime's optimizer leaves it out; shape inference refuses what nobody declared.
        model.opset_import.append(onnx.helper.make_opsetid(_FUSED_DOMAIN, 1))
    known = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        if node.domain != _FUSED_DOMAIN:
            continue
        for place in _FLOAT_OUTPUTS.get(node.op_type, (0,)):
            name = node.output[place] if place < len(node.output) else ""
            if name and name not in known:
                kind = onnx.TensorProto.FLOAT
                model.graph.value_info.append(onnx.helper.make_tensor_value_info(name, kind, None))


def _require_runnable(model: Any) -> None:
    """Refuse a model whose types do not fit: the converter knows no operators but the usual ones."""
    (onnxruntime,) = tools("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    try:
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions share no base below Exception
        reason = " ".join(str(error).split())[:300]
        raise RecipeError(f"In half precision the model does not load: {reason}") from error


def share_in_fp16(model: Any) -> float:
    """Share of the weights that are half precision."""
    sizes = {1: 0, 10: 0}
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            number = 1
            for dim in tensor.dims:
                number *= dim
            sizes[tensor.data_type] += number
    return sizes[10] / (sum(sizes.values()) or 1)


def _drop_twins(model: Any) -> None:
    """Before ONNX Runtime 1.32 the converter casts a tensor once for each reader, under one name."""
    graph = model.graph
    nodes = list({tuple(node.output): node for node in reversed(graph.node)}.values())
    infos = list({info.name: info for info in graph.value_info}.values())
    for field, kept in ((graph.node, reversed(nodes)), (graph.value_info, infos)):
        copies = [type(each).FromString(each.SerializeToString()) for each in kept]
        del field[:]
        field.extend(copies)


def _drop_cast_pairs(onnx: Any, model: Any) -> None:
    """Between two float32 nodes the converter casts to half and back; that rounds for nothing."""
    graph, kind = model.graph, onnx.TensorProto
    made = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    kinds = {info.name: info.type.tensor_type.elem_type for info in graph.value_info}
    replaced = {}
    for node in graph.node:
        inner = made.get(node.input[0]) if node.op_type == "Cast" else None
        if (
            inner is None
            or _target(node) != onnx.TensorProto.FLOAT
            or _target(inner) != onnx.TensorProto.FLOAT16
        ):
            continue
        if kinds.get(inner.input[0]) == kind.FLOAT:
            replaced[node.output[0]] = inner.input[0]
    outputs = {info.name for info in graph.output}
    _give_unrounded(graph, {name: replaced[name] for name in outputs & replaced.keys()})
    for node in graph.node:
        for place, name in enumerate(node.input):
            if name in replaced and name not in outputs:
                node.input[place] = replaced[name]
    needed = outputs | {name for node in graph.node for name in node.input}
    while True:
        kept = [node for node in graph.node if set(node.output) & needed]
        if len(kept) == len(graph.node):
            return
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)
        needed = outputs | {name for node in graph.node for name in node.input}


def _give_unrounded(graph: Any, outputs: Mapping[str, str]) -> None:
    """Let what computes an output in float32 give it: in half precision scores of -11 step by 0.008."""
    named = {source: name for name, source in outputs.items()}
    produced = {name for node in graph.node for name in node.output}
    named = {source: name for source, name in named.items() if source in produced}
    casts = [node for node in graph.node if node.output[0] in named.values()]
    for node in casts:
        graph.node.remove(node)
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name in named:
                    names[place] = named[name]
    kept = [info for info in graph.value_info if info.name not in named]
    copies = [type(info).FromString(info.SerializeToString()) for info in kept]
    del graph.value_info[:]
    graph.value_info.extend(copies)


def _target(cast: Any) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")


def _sort(model: Any) -> None:
    """In order of computation: the converter appends its casts at the end."""
    graph = model.graph
    known = {info.name for info in graph.input} | {tensor.name for tensor in graph.initializer} | {""}
    waiting = list(graph.node)
    ordered: list[Any] = []
    while waiting:
        ready = []
        later = []
        for node in waiting:
            if all(name in known for name in node.input):
                known |= set(node.output)
                ready.append(node)
            else:
                later.append(node)
        if not ready:
            raise RecipeError("The converted model has a cycle.")
        ordered += ready
        waiting = later
    copies = [type(node).FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)
