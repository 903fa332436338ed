"""Half precision where it is safe: a mixed-precision rewrite of ONNX; inputs and outputs stay."""

from __future__ import annotations

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
from searchpipe.errors import RecipeError


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
    try:
        converted = float16.convert_float_to_float16(
            model, keep_io_types=True, op_block_list=sorted(blocked), node_block_list=sorted(keep.nodes)
        )
    except Exception as error:  # the converter raises ValueError, AssertionError, onnx its own
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(f"The model cannot be converted to half precision: {reason}.") from error
    _drop_cast_pairs(onnx, converted)
    _sort(converted)
    name_nodes(converted)
    return converted


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
