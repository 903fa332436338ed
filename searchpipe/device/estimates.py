"""Device memory of models and rings, estimated from their shapes before they exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from searchpipe.device.plan import MIB, Part

GRAPH_BYTES = 2 * MIB
"""A captured graph of a 12-layer model: some 200 kernel nodes with their parameters."""

WORKSPACE_BYTES = 112 * MIB
"""cuBLAS, cuDNN, rounding: an H200 took 438 MiB where activations and 42 graphs explain 335."""

EPILOGUES = "epilogues"
"""Ends the name of the part for them."""

PIECE_WORKSPACE_BYTES = 48 * MIB
"""Of each piece of a graph that is cut at its products, beside its activations: ONNX Runtime makes a handle
of cuBLAS and of cuDNN for every session. A cross-encoder of 38 pieces and 32,768 tokens took 2,650 MiB of an
H200 in a process that had others before; a whole pipeline with it 7,156 MiB, the context included, of which
3,697 are planned for other parts."""


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """The sizes of an encoder model (BERT and its kin) that its memory depends on.

    Attributes:
        hidden: width of a token.
        intermediate: width inside the feed-forward block.
        heads: attention heads.
        itemsize: bytes of a weight and of an activation.
        layers: attention and feed-forward blocks.
        fused_attention: whether the tokens x tokens scores stay inside a kernel.
    """

    hidden: int = 384
    intermediate: int = 1536
    heads: int = 12
    itemsize: int = 2
    layers: int = 12
    fused_attention: bool = True

    def activation_bytes(self, rows: int, tokens: int) -> int:
        """The most that is alive at once for one batch.

        The feed-forward block holds the token stream twice (input and residual)
        and its wide layer twice (before and after the activation); attention
        holds query, key, value and result beside the stream, and, unless it
        is fused, two matrices tokens x tokens a head.
        """
        stream = rows * tokens * self.hidden * self.itemsize
        wide = rows * tokens * self.intermediate * self.itemsize
        scores = 0 if self.fused_attention else 2 * rows * self.heads * tokens * tokens * self.itemsize
        return max(2 * stream + 2 * wide, 6 * stream + scores)


def shape_of(model: Path) -> TransformerShape:
    """The sizes of a BERT-like ONNX model with float weights, in half precision with fused attention.

    Where the graph does not show them, those of the default shape.

    Raises:
        ModelError: the file is not ONNX.
        MissingDependencyError: the package onnx is not installed.
    """
    from searchpipe.backends.indexed_graph import IndexedGraph

    graph = IndexedGraph(model)
    tables = [node.input[0] for node in graph.readers.get("input_ids", []) if node.op_type == "Gather"]
    shape = graph.shape(tables[0]) if tables else ()
    if len(shape) != 2:
        return TransformerShape()
    hidden = shape[1]
    products = [graph.shape(node.input[1]) for node in graph.nodes if node.op_type in ("MatMul", "Gemm")]
    widths = [max(dims) for dims in products if len(dims) == 2 and hidden in dims]
    intermediate = max(widths, default=4 * hidden)
    layers = sum(dims == (hidden, intermediate) for dims in products)
    return TransformerShape(hidden=hidden, intermediate=intermediate, layers=max(1, layers))


def model_parts(
    name: str,
    model: Path,
    buckets: Sequence[tuple[int, int]],
    *,
    lanes: int,
    slots: int,
    output_width: int = 1,
    epilogues: bool = False,
) -> list[Part]:
    """What a model prepared by ONNX Runtime in half precision takes, on each of ``lanes`` streams.

    Args:
        name: of the model, in the parts' names.
        model: its float32 ONNX file.
        buckets: (rows, tokens) that it is prepared for.
        lanes: copies that compute side by side.
        slots: of the staging ring.
        output_width: float32 values a row.
        epilogues: whether cuBLASLt computes products between pieces of the graph.

    Raises:
        ModelError, MissingDependencyError: see :func:`shape_of`.
    """
    shape = shape_of(model)
    weights = weights_part(f"{name} weights", model, stored_itemsize=4, itemsize=shape.itemsize)
    work = activations_part(f"{name} activations", shape, buckets)
    rows, tokens = max(buckets, key=lambda bucket: bucket[0] * bucket[1])
    parts = [
        weights,
        work,
        Part(f"{name} runtime", WORKSPACE_BYTES, "workspaces of ONNX Runtime's libraries"),
    ]
    if epilogues:
        parts.append(epilogues_part(f"{name} {EPILOGUES}", shape, rows * tokens))
    return [
        *(Part(p.name, lanes * p.nbytes, f"{p.note}, {lanes} lane(s)", p.peak) for p in parts),
        ring_part(f"{name} slots", slots=slots, rows=rows, tokens=tokens, output_width=output_width),
    ]


def epilogues_part(name: str, shape: TransformerShape, tokens: int) -> Part:
    """What the pieces of a graph that is cut at its products take besides, for ``tokens`` at once.

    Each piece is a session of ONNX Runtime, which keeps its own activations: of a layer's attention key,
    value, result and projection, and after the wide product one more of the stream.
    """
    pieces = 3 * shape.layers + 2
    nbytes = shape.layers * 5 * tokens * shape.hidden * shape.itemsize + pieces * PIECE_WORKSPACE_BYTES
    return Part(name, nbytes, f"{pieces} pieces of the graph for {tokens:,} tokens")


def weights_part(name: str, model: Path, *, stored_itemsize: int, itemsize: int) -> Part:
    """The weights of an ONNX file, kept on the device with ``itemsize`` bytes each.

    Args:
        name: of the part.
        model: the file; nearly all of it is weights.
        stored_itemsize: bytes of a weight in the file (1 for int8, 4 for float32).
        itemsize: bytes of a weight on the device.
    """
    size = model.stat().st_size
    nbytes = -(-size // stored_itemsize) * itemsize
    return Part(name, nbytes, f"{size / MIB:,.0f} MiB file, {itemsize} bytes a weight")


def activations_part(name: str, shape: TransformerShape, buckets: Sequence[tuple[int, int]]) -> Part:
    """Activations of an engine that runs one bucket (rows, tokens) at a time, and the graphs of all."""
    if not buckets:
        return Part(name, 0, "no buckets")
    rows, tokens = max(buckets, key=lambda bucket: shape.activation_bytes(*bucket))
    nbytes = shape.activation_bytes(rows, tokens) + len(buckets) * GRAPH_BYTES
    return Part(name, nbytes, f"largest bucket {rows} x {tokens}, {len(buckets)} graphs")


def ring_part(
    name: str, *, slots: int, rows: int, tokens: int, inputs: int = 3, output_width: int = 1
) -> Part:
    """A staging ring's device side: int32 inputs and float32 outputs of the largest bucket, a slot."""
    nbytes = slots * 4 * (inputs * rows * tokens + rows * output_width)
    return Part(name, nbytes, f"{slots} slots of {rows} x {tokens}")
