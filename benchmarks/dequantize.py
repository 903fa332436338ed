"""Float32 ONNX files from the int8 ones: same graph and names, so ONNX Runtime fuses their attention.

Tracing a rebuilt PyTorch model instead gives a graph that the fusions do not know. Two forms of 8-bit
weights are understood: dynamic quantisation (DynamicQuantizeLinear and MatMulInteger, embeddings through
DequantizeLinear), and weights that the graph itself multiplies with their scales (Cast and Mul).
"""

from __future__ import annotations

import importlib
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32

_QUANTIZED = {"DynamicQuantizeLinear", "MatMulInteger", "DequantizeLinear"}
_HIDDEN = -10000.0
"""Added to the logit of a padding token: BERT's own constant, and within half precision."""


def dequantize(source: Path, out: Path, *, heads: int = 12) -> None:
    """Write the model ``source`` with float32 weights, and activations that nothing rounds, to ``out``.

    Args:
        source: int8 ONNX file of a BERT-like model.
        out: the file to write; replaced at once, or not at all.
        heads: attention heads, for files whose attention has to be written anew.

    Raises:
        ValueError: the file quantises in a form not known here.
    """
    onnx = importlib.import_module("onnx")
    model = onnx.load(str(source))
    graph = _Graph(onnx, model.graph)
    _fold_gathered(graph)
    _fold_scaled(graph)
    _replace_products(graph)
    if any(node.op_type == "IsNaN" for node in graph.nodes):
        _rewrite_attention(graph, heads)
    graph.drop_unused()
    left = sorted({node.op_type for node in graph.nodes} & _QUANTIZED)
    if left:
        raise ValueError(f"{source} is quantised in an unknown form: {', '.join(left)} are left.")
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        onnx.save(model, str(temporary))
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


class _Graph:
    """An ONNX graph with its nodes by what they make and what they read; one thread."""

    def __init__(self, onnx: Any, proto: Any) -> None:
        self.onnx = onnx
        self.proto = proto
        self.nodes = proto.node
        self._tensors = {tensor.name: tensor for tensor in proto.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def constant(self, name: str) -> Any:
        """An initializer as an array; None if ``name`` is none."""
        tensor = self._tensors.get(name)
        return None if tensor is None else self.onnx.numpy_helper.to_array(tensor)

    def add_constant(self, name: str, value: Any) -> str:
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.proto.initializer.append(tensor)
        self._tensors[name] = tensor
        return name

    def reader(self, name: str, kind: str) -> Any:
        """The one node that reads ``name``.

        Raises:
            ValueError: there is another number of them, or it is not a ``kind``.
        """
        found = self.readers.get(name, [])
        if [node.op_type for node in found] != [kind]:
            raise ValueError(f"{name} is read by {[node.op_type for node in found]}, expected one {kind}.")
        return found[0]

    def replace(self, node: Any, kind: str, inputs: list[str], output: str) -> None:
        """Make ``node`` another operation, in its place."""
        name = node.name
        node.CopyFrom(self.onnx.helper.make_node(kind, inputs, [output], name=name))

    def drop_unused(self) -> None:
        """Remove nodes and initializers that no output needs."""
        needed = {node.name for node in self.proto.output}
        kept = []
        for node in reversed(self.nodes):
            if needed & set(node.output):
                kept.append(node)
                needed |= set(node.input)
        del self.nodes[:]
        self.nodes.extend(reversed(kept))
        tensors = [tensor for tensor in self.proto.initializer if tensor.name in needed]
        del self.proto.initializer[:]
        self.proto.initializer.extend(tensors)


def _weights(stored: Any, scale: Any, zero: Any) -> Float32:
    whole: Float32 = (stored.astype(np.float32) - np.float32(zero)) * scale.astype(np.float32)
    return whole


def _fold_gathered(graph: _Graph) -> None:
    """Gather(8-bit table), DequantizeLinear -> Gather(float32 table)."""
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        scale, zero = graph.constant(node.input[1]), graph.constant(node.input[2])
        gather = graph.maker[node.input[0]]
        table = graph.constant(gather.input[0])
        if gather.op_type != "Gather" or table is None or scale.size != 1:
            raise ValueError(f"{node.name} dequantises what is not a row of a table with one scale.")
        name = graph.add_constant(f"{gather.input[0]}_float", _weights(table, scale, zero))
        graph.replace(node, "Gather", [name, gather.input[1]], node.output[0])


def _fold_scaled(graph: _Graph) -> None:
    """Cast(8-bit weights), Mul(scale) -> an initializer of the name of the product."""
    for node in graph.nodes:
        stored = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or stored.dtype != np.int8:
            continue
        product = graph.reader(node.output[0], "Mul")
        scale = graph.constant(next(name for name in product.input if name != node.output[0]))
        graph.add_constant(product.output[0], _weights(stored, scale, 0))
        # Nobody reads it under its new name, so it is dropped.
        product.output[0] += "_folded"


def _replace_products(graph: _Graph) -> None:
    """DynamicQuantizeLinear, MatMulInteger, Cast, Mul(scales) -> MatMul of float32."""
    for node in graph.nodes:
        if node.op_type != "MatMulInteger":
            continue
        left = _float_of(graph, node.input[0])
        stored = graph.constant(node.input[1])
        product = graph.reader(graph.reader(node.output[0], "Cast").output[0], "Mul")
        if stored is None:
            right = _float_of(graph, node.input[1])
        else:
            right = f"{node.input[1]}_float"
            if graph.constant(right) is None:
                scale = graph.constant(node.input[1].removesuffix("_quantized") + "_scale")
                graph.add_constant(right, _weights(stored, scale, graph.constant(node.input[3])))
        output = product.output[0]
        product.output[0] += "_scaled"  # nobody reads that, so it is dropped
        graph.replace(node, "MatMul", [left, right], output)


def _float_of(graph: _Graph, name: str) -> str:
    quantize = graph.maker.get(name)
    if quantize is None or quantize.op_type != "DynamicQuantizeLinear":
        raise ValueError(f"{name} is not the output of a DynamicQuantizeLinear.")
    found: str = quantize.input[0]
    return found


def _rewrite_attention(graph: _Graph, heads: int) -> None:
    """Attention as softmax(q k' / sqrt(d) + mask) v in the operations that the fusion looks for.

    What PyTorch writes for its scaled_dot_product_attention scales q and k apart and guards against
    rows that are all padding (IsNaN), which no fusion knows.
    """
    helper, tensor = graph.onnx.helper, graph.onnx.TensorProto
    made: list[tuple[Any, list[Any]]] = []

    def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, inputs, [output], name=output, **attributes)

    graph.add_constant("mask_one", np.float32(1))
    graph.add_constant("mask_hidden", np.float32(_HIDDEN))
    mask = [
        node("Unsqueeze", ["attention_mask", graph.add_constant("mask_axis_1", np.array([1]))], "mask_3d"),
        node("Unsqueeze", ["mask_3d", graph.add_constant("mask_axis_2", np.array([2]))], "mask_4d"),
        node("Cast", ["mask_4d"], "mask_float", to=tensor.FLOAT),
        node("Sub", ["mask_one", "mask_float"], "mask_inverse"),
        node("Mul", ["mask_inverse", "mask_hidden"], "mask_added"),
    ]
    biased = {name: item for item in graph.nodes if item.op_type == "Add" for name in item.input}
    layers = [name for name in biased if name.endswith("attention.self.query.bias")]
    for query in layers:
        prefix = query.removesuffix("self.query.bias")
        hidden = len(graph.constant(query))
        split = graph.add_constant(f"{prefix}split", np.array([0, 0, heads, hidden // heads]))
        merge = graph.add_constant(f"{prefix}merge", np.array([0, 0, hidden]))
        scale = graph.add_constant(f"{prefix}scale", np.float32(math.sqrt(hidden // heads)))
        nodes = []
        for part, order in (("query", [0, 2, 1, 3]), ("key", [0, 2, 3, 1]), ("value", [0, 2, 1, 3])):
            source = biased[f"{prefix}self.{part}.bias"].output[0]
            nodes.append(node("Reshape", [source, split], f"{prefix}{part}_split"))
            nodes.append(node("Transpose", [f"{prefix}{part}_split"], f"{prefix}{part}_heads", perm=order))
        dense = biased[f"{prefix}output.dense.bias"]
        product = next(graph.maker[name] for name in dense.input if name in graph.maker)
        nodes += [
            node("MatMul", [f"{prefix}query_heads", f"{prefix}key_heads"], f"{prefix}products"),
            node("Div", [f"{prefix}products", scale], f"{prefix}scaled"),
            node("Add", [f"{prefix}scaled", "mask_added"], f"{prefix}masked"),
            node("Softmax", [f"{prefix}masked"], f"{prefix}shares", axis=-1),
            node("MatMul", [f"{prefix}shares", f"{prefix}value_heads"], f"{prefix}mixed"),
            node("Transpose", [f"{prefix}mixed"], f"{prefix}mixed_rows", perm=[0, 2, 1, 3]),
            node("Reshape", [f"{prefix}mixed_rows", merge], f"{prefix}context"),
        ]
        product.input[0] = f"{prefix}context"
        made.append((product, nodes))
    # In order of computation: each layer's before the product that reads it.
    ordered = list(mask)
    for item in graph.nodes:
        for product, nodes in made:
            if item is product:
                ordered.extend(nodes)
        ordered.append(item)
    copies = [type(item).FromString(item.SerializeToString()) for item in ordered]
    del graph.nodes[:]
    graph.nodes.extend(copies)
