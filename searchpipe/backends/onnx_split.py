"""A packed graph cut at the products that something else than ONNX Runtime shall compute.

What :func:`searchpipe.backends.onnx_pack.pack_graph` makes, as a list of steps: pieces of the graph, each
a model of its own, and between them products x @ weights + bias that cuBLASLt computes together with
their GELU (:mod:`searchpipe.backends.cublaslt`). Pure; needs no GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.backends.indexed_graph import IndexedGraph
from searchpipe.errors import ModelError

#: What follows the product: a bias and a GELU behind it, the bias of an attention's q, or nothing. So ONNX
#: Runtime computes none but the classifier's: its cuBLAS gets no workspace from it, hence allocates in a
#: capture, and the driver can copy no such graph (runtime::StraightLine).
KINDS: tuple[str, ...] = ("gelu", "bias", "plain")
_ALIGNED = 8  # values; a narrower product, a classifier's, takes another way through the library
# FastGelu is cuBLASLt's form of it (tanh); BiasGelu (erf) differs by at most 0.0005.
_GELUS = {"BiasGelu", "FastGelu"}
_ATTENTION = "PackedMultiHeadAttention"
_ROWS_INPUT = "row_firsts"
_MATRIX, _VECTOR = 2, 1


@dataclass(frozen=True, slots=True)
class Between:
    """A tensor that one step writes and later ones read.

    Attributes:
        per_row: it has one vector for each row instead of one for each token.
        width: values of a vector.
        dtype: of NumPy.
        place: tensors with the same number are never needed at the same time, and have the same form.
    """

    per_row: bool
    width: int
    dtype: np.dtype[Any]
    place: int


@dataclass(frozen=True, slots=True)
class ProductStep:
    """output [n, width] = epilogue(source [n, inner] @ weights [inner, width] + bias [width]).

    Without a bias if it is ``plain``.
    """

    kind: str
    source: str
    output: str
    weights: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class GraphStep:
    """A piece of the graph: an ONNX model whose inputs and outputs have the names of the tensors."""

    model: Any
    inputs: list[str]
    outputs: list[str]


@dataclass(frozen=True, slots=True)
class SplitGraph:
    """Steps in the order of computation, and the tensors between them by name."""

    steps: list[GraphStep | ProductStep]
    between: dict[str, Between]

    @property
    def products(self) -> int:
        """How many of the steps are products."""
        return sum(isinstance(step, ProductStep) for step in self.steps)


@dataclass(slots=True)
class _Piece:
    nodes: list[Any] = field(default_factory=list)
    product: ProductStep | None = None


def split_graph(path: Path, kinds: Sequence[str], model: Any = None) -> SplitGraph:
    """Cut the packed graph in ``path`` at its products of these ``kinds`` (of :data:`KINDS`).

    Args:
        path: the file, for messages too.
        kinds: at least one.
        model: what was read from it; read if None.

    Raises:
        ModelError: it has no such product, or other tensors than a product's go over a cut.
        MissingDependencyError: the package onnx is not installed.
    """
    return _Splitting(IndexedGraph(path, model), kinds).run()


class _Splitting:
    def __init__(self, graph: IndexedGraph, kinds: Sequence[str]) -> None:
        self._graph = graph
        self._kinds = kinds
        self._outputs = {value.name for value in graph.proto.output}
        self._inputs = {value.name: value for value in graph.proto.input}
        self._constants = {tensor.name: tensor for tensor in graph.proto.initializer}

    def run(self) -> SplitGraph:
        pieces = self._pieces()
        products = [piece.product for piece in pieces if piece.product]
        if not products:
            raise ModelError(
                f"{self._graph.path} has no product with an epilogue of the kinds {', '.join(self._kinds)}.",
                cure="Serve it without them.",
            )
        reads = [self._reads(piece) for piece in pieces]
        writes = [self._writes(piece) for piece in pieces]
        crossing = {name for place, read in enumerate(reads) for name in read & set().union(*writes[:place])}
        between = self._between(products, crossing, reads, writes)
        steps: list[GraphStep | ProductStep] = []
        for piece, read, written in zip(pieces, reads, writes, strict=True):
            if piece.product:
                steps.append(piece.product)
                continue
            inputs = [name for name in self._inputs if name in read] + sorted(read & crossing)
            outputs = sorted(written & crossing) + sorted(written & self._outputs)
            steps.append(GraphStep(self._model(piece.nodes, inputs, outputs, between), inputs, outputs))
        return SplitGraph(steps, between)

    def _pieces(self) -> list[_Piece]:
        pieces = [_Piece()]
        taken: set[str] = set()
        for node in self._graph.nodes:
            if node.output[0] in taken:
                continue
            product = self._product(node)
            if product is None:
                pieces[-1].nodes.append(node)
                continue
            taken.add(product.output)
            pieces += [_Piece(product=product), _Piece()]
        return [piece for piece in pieces if piece.product or piece.nodes]

    def _product(self, node: Any) -> ProductStep | None:
        """The product that begins with this MatMul, if it is one of those wanted."""
        if node.op_type != "MatMul" or node.output[0] in self._outputs:
            return None
        weights = self._graph.constant(node.input[1])
        if weights is None or weights.ndim != _MATRIX or node.input[0] in self._constants:
            return None
        product = self._with_epilogue(node, weights)
        if product is None and "plain" in self._kinds and weights.shape[1] % _ALIGNED == 0:
            product = ProductStep("plain", node.input[0], node.output[0], weights)
        return product

    def _with_epilogue(self, node: Any, weights: np.ndarray[Any, Any]) -> ProductStep | None:
        readers = self._graph.readers.get(node.output[0], [])
        if len(readers) != 1:
            return None
        [reader] = readers
        others = [name for name in reader.input if name != node.output[0]]
        bias = self._graph.constant(others[0]) if len(others) == 1 else None
        kind = self._kind(reader)
        if kind not in self._kinds or bias is None or bias.shape != (weights.shape[1],):
            return None
        return ProductStep(kind, node.input[0], reader.output[0], weights, bias)

    def _kind(self, reader: Any) -> str:
        if reader.op_type in _GELUS and reader.domain == "com.microsoft":
            return "gelu"
        behind = self._graph.readers.get(reader.output[0], [])
        for_attention = len(behind) == 1 and behind[0].op_type == _ATTENTION
        return "bias" if reader.op_type == "Add" and for_attention else ""

    def _reads(self, piece: _Piece) -> set[str]:
        if piece.product:
            return {piece.product.source}
        made = {name for node in piece.nodes for name in node.output}
        return {name for node in piece.nodes for name in node.input if name} - made - set(self._constants)

    def _writes(self, piece: _Piece) -> set[str]:
        if piece.product:
            return {piece.product.output}
        return {name for node in piece.nodes for name in node.output if name}

    def _between(
        self,
        products: list[ProductStep],
        crossing: set[str],
        reads: list[set[str]],
        writes: list[set[str]],
    ) -> dict[str, Between]:
        """Form and place of every crossing tensor; places are handed on as soon as nothing reads them."""
        widths = {step.source: step.weights.shape[0] for step in products}
        widths |= {step.output: step.weights.shape[1] for step in products}
        types = {name: step.weights.dtype for step in products for name in (step.source, step.output)}
        unknown = sorted(crossing - set(widths))
        if unknown:
            raise ModelError(
                f"{self._graph.path} cannot be cut at its products: {', '.join(unknown[:3])} "
                "would go around them.",
                cure="Serve it without epilogues.",
            )
        rows = self._per_row()
        last = {name: max(at for at, read in enumerate(reads) if name in read) for name in crossing}
        free: dict[tuple[bool, int, str], list[int]] = {}
        found: dict[str, Between] = {}
        places = 0
        for at, written in enumerate(writes):
            for name in sorted(written & crossing):
                form = (name in rows, widths[name], types[name].str)
                if waiting := free.get(form):
                    place = waiting.pop()
                else:
                    place, places = places, places + 1
                found[name] = Between(form[0], form[1], types[name], place)
            # Only now: what a step reads must not be where it writes.
            for name in sorted(name for name, end in last.items() if end == at):
                gone = found[name]
                free.setdefault((gone.per_row, gone.width, gone.dtype.str), []).append(gone.place)
        return found

    def _per_row(self) -> set[str]:
        """Tensors behind the taking of each row's first token."""
        found = {_ROWS_INPUT}
        for node in self._graph.nodes:
            if found.intersection(node.input):
                found.update(node.output)
        return found

    def _model(
        self, nodes: list[Any], inputs: list[str], outputs: list[str], between: dict[str, Between]
    ) -> Any:
        helper = self._graph.onnx.helper
        declared = dict(self._inputs) | {value.name: value for value in self._graph.proto.output}
        for name in [*inputs, *outputs]:
            if name in between:
                tensor = between[name]
                kind = helper.np_dtype_to_tensor_dtype(tensor.dtype)
                shape = ["rows" if tensor.per_row else "tokens", tensor.width]
                declared[name] = helper.make_tensor_value_info(name, kind, shape)
        used = {name for node in nodes for name in node.input}
        graph = helper.make_graph(
            nodes,
            f"{self._graph.proto.name}_part",
            [declared[name] for name in inputs],
            [declared[name] for name in outputs],
            [tensor for name, tensor in self._constants.items() if name in used],
        )
        model = self._graph.model
        return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
