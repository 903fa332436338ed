"""Device memory of models and rings, estimated from their shapes before they exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from searchpipe.device.plan import MIB, Part

GRAPH_BYTES = 2 * MIB
"""A captured graph of a 12-layer model: some 200 kernel nodes with their parameters."""


@dataclass(frozen=True, slots=True)
class TransformerShape:
    """The sizes of an encoder model (BERT and its kin) that its memory depends on.

    Attributes:
        hidden: width of a token.
        intermediate: width inside the feed-forward block.
        heads: attention heads.
        itemsize: bytes of a weight and of an activation.
        fused_attention: whether the tokens x tokens scores stay inside a kernel.
    """

    hidden: int = 384
    intermediate: int = 1536
    heads: int = 12
    itemsize: int = 2
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
