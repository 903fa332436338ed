"""Small things done to ONNX graphs in more than one rewrite."""

from __future__ import annotations

from typing import Any


def prune(graph: Any) -> None:
    """Remove the nodes and initializers that no output depends on; the order of the rest stays."""
    wanted, kept = {value.name for value in graph.output}, []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            wanted.update(node.input)
            kept.append(node)
    constants = [tensor for tensor in graph.initializer if tensor.name in wanted]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(constants)


def constant_value(onnx: Any, graph: Any, name: str) -> Any | None:
    """Return the tensor ``name`` as an array if it is an initializer or made by a Constant node."""
    for tensor in graph.initializer:
        if tensor.name == name:
            return onnx.numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant" and name in node.output and node.attribute[0].name == "value":
            return onnx.numpy_helper.to_array(node.attribute[0].t)
    return None


def source_of(graph: Any, name: str) -> Any | None:
    """Return the node that makes the tensor ``name``, casts left out; None for inputs and initializers."""
    producer = {made: node for node in graph.node for made in node.output}
    node = producer.get(name)
    while node is not None and node.op_type in ("Cast", "Identity"):
        node = producer.get(node.input[0])
    return node
