"""Float32 ONNX files from the int8 ones: same graph and names, so ONNX Runtime fuses their attention.

The weights that packages publish are made for CPUs, in 8 bits, which no GPU runtime takes. Two forms are
understood: dynamic quantisation (DynamicQuantizeLinear and MatMulInteger, embeddings through
DequantizeLinear), and weights that the graph itself multiplies with their scales (Cast and Mul).
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.arrays import Float32
from searchpipe.backends.indexed_graph import IndexedGraph
from searchpipe.errors import ModelError
from searchpipe.models.cache import sha256_of

# Part of the cache's key: raise it when the rewrite changes.
_REWRITE_VERSION = 1
# Older exports write attention out of many small operations, and prepare_onnx wants this one at least.
_OPSET = 13
_QUANTIZED = {"DynamicQuantizeLinear", "MatMulInteger", "DequantizeLinear"}
_NAME_ANOTHER = "Name an fp32 export of the model for the GPU (gpu.encoder.model or gpu.scorer.model)."
_HIDDEN = -10000.0
"""Added to the logit of a padding token: BERT's own constant, and within half precision."""


def float_model(source: Path, folder: Path, *, sha256: str = "") -> Path:
    """Return ``source`` itself if a GPU can take its weights, else its float32 twin in ``folder``.

    The twin's name holds the hash of the source, so that one folder serves any number of models; it is
    made only if it is not there.

    Args:
        source: ONNX file of a BERT-like model.
        folder: for the twins; made when it is needed.
        sha256: of ``source``, if it is known.

    Raises:
        ModelError: the file is not ONNX or quantised in a form not known here, or the twin cannot be written.
        MissingDependencyError: the package onnx is not installed.
    """
    try:
        digest = sha256 or sha256_of(source)
    except OSError as error:
        raise ModelError(f"{source} cannot be read: {error.strerror or error}.") from error
    key = hashlib.sha256(f"float {_REWRITE_VERSION} {digest}".encode()).hexdigest()
    target = folder / f"{source.stem}-{key[:16]}.float.onnx"
    if target.exists():
        return target
    graph = IndexedGraph(source)
    if not needs_rewrite(graph):
        return source
    try:
        _rewritten(graph).save(target)
    except OSError as error:
        raise ModelError(
            f"The float32 model {target} cannot be written: {error.strerror or error}.",
            cure="Set SEARCHPIPE_CACHE to a folder that this user can write.",
        ) from error
    return target


def needs_rewrite(graph: IndexedGraph) -> bool:
    """Whether the model holds 8-bit weights, or attention in a form that no fusion knows."""
    quantized = bool(graph.kinds & _QUANTIZED) or graph.has_weights_of("INT8", "UINT8")
    return quantized or _has_foreign_attention(graph)


def dequantize(source: Path, out: Path) -> None:
    """Write the model ``source`` with float32 weights, and activations that nothing rounds, to ``out``.

    Raises:
        ModelError: the file is not ONNX, or quantises in a form not known here.
        MissingDependencyError: the package onnx is not installed.
        OSError: ``out`` cannot be written; nothing is left behind.
    """
    _rewritten(IndexedGraph(source)).save(out)


def _has_foreign_attention(graph: IndexedGraph) -> bool:
    return "IsNaN" in graph.kinds or graph.opset < _OPSET


def _rewritten(graph: IndexedGraph) -> IndexedGraph:
    _fold_gathered(graph)
    _fold_halves(graph)
    _fold_scaled(graph)
    _replace_products(graph)
    graph.drop_unused()
    if _has_foreign_attention(graph):
        if graph.opset < _OPSET:
            graph = graph.upgraded(_OPSET)
        _rewrite_attention(graph)
        graph.drop_unused()
    left = sorted(graph.kinds & _QUANTIZED)
    if left:
        raise ModelError(
            f"{graph.path} is quantised in an unknown form: {', '.join(left)} are left.",
            cure=_NAME_ANOTHER,
        )
    return graph


def _weights(stored: Any, scale: Any, zero: Any) -> Float32:
    whole: Float32 = (stored.astype(np.float32) - np.float32(zero)) * scale.astype(np.float32)
    return whole


def _fold_gathered(graph: IndexedGraph) -> None:
    """Gather(8-bit table), DequantizeLinear -> Gather(float32 table)."""
    for node in graph.nodes:
        if node.op_type != "DequantizeLinear":
            continue
        scale, zero = graph.constant(node.input[1]), graph.constant(node.input[2])
        gather = graph.maker[node.input[0]]
        table = graph.constant(gather.input[0])
        if gather.op_type != "Gather" or table is None or scale.size != 1:
            raise ModelError(
                f"{graph.path}: {node.name} dequantises what is not a row of a table with one scale."
            )
        name = graph.add_constant(f"{gather.input[0]}_float", _weights(table, scale, zero))
        graph.replace(node, "Gather", [name, gather.input[1]], node.output[0])


def _fold_halves(graph: IndexedGraph) -> None:
    """Cast(half-precision weights) -> an initializer in float32 of the name of what it gave."""
    for node in graph.nodes:
        stored = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        if stored is not None and stored.dtype == np.float16:
            graph.add_constant(node.output[0], stored.astype(np.float32))
            node.output[0] += "_folded"


def _fold_scaled(graph: IndexedGraph) -> None:
    """Cast(8-bit weights), Mul(scale) -> an initializer of the name of the product."""
    for node in graph.nodes:
        stored = graph.constant(node.input[0]) if node.op_type == "Cast" else None
        if stored is None or stored.dtype != np.int8:
            continue
        product = graph.reader(node.output[0], "Mul")
        scale = graph.constant(next(name for name in product.input if name != node.output[0]))
        if scale is None:
            raise ModelError(
                f"{graph.path}: the scales of {node.input[0]} are not constant.", cure=_NAME_ANOTHER
            )
        graph.add_constant(product.output[0], _weights(stored, scale, 0))
        # Nobody reads it under its new name, so it is dropped.
        product.output[0] += "_folded"


def _replace_products(graph: IndexedGraph) -> None:
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


def _float_of(graph: IndexedGraph, name: str) -> str:
    quantize = graph.maker.get(name)
    if quantize is None or quantize.op_type != "DynamicQuantizeLinear":
        raise ModelError(f"{graph.path}: {name} is not the output of a DynamicQuantizeLinear.")
    found: str = quantize.input[0]
    return found


def _rewrite_attention(graph: IndexedGraph) -> None:
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
        heads = _heads(graph, biased[query].output[0], hidden)
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


def _heads(graph: IndexedGraph, projected: str, hidden: int) -> int:
    """Attention heads, from the shape [rows, tokens, heads, size] that the query is brought into."""
    for node in graph.readers.get(projected, []):
        if node.op_type != "Reshape":
            continue
        shape = graph.value(node.input[1])
        maker = graph.maker.get(node.input[1])
        if shape is None and maker is not None and maker.op_type == "Concat":
            shape = graph.value(maker.input[-1])
        size = int(shape[-1]) if shape is not None and shape.size else 0
        if size > 0 and hidden % size == 0:
            return hidden // size
    raise ModelError(
        f"{graph.path}: the number of attention heads cannot be told from {projected}.", cure=_NAME_ANOTHER
    )
