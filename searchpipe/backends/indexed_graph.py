"""An ONNX graph to be rewritten: nodes by what they make and what they read."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe.backends.onnx_prune import prune
from searchpipe.catalog.optional import require
from searchpipe.errors import ModelError


class IndexedGraph:
    """One model's graph in memory, for one thread.

    Args:
        path: an ONNX file without external data.
        model: what was read from it; read if None.

    Raises:
        ModelError: the file cannot be read or is not ONNX.
        MissingDependencyError: the package onnx is not installed.
    """

    def __init__(self, path: Path, model: Any = None) -> None:
        self.onnx: Any = require("onnx", "gpu")
        self.path = path
        self.model: Any = _load(self.onnx, path) if model is None else model
        self.proto: Any = self.model.graph
        self.nodes: Any = self.proto.node
        self._index()

    def _index(self) -> None:
        self._tensors = {tensor.name: tensor for tensor in self.proto.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    @property
    def kinds(self) -> set[str]:
        """Operators that the graph uses."""
        return {node.op_type for node in self.nodes}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators."""
        return max((e.version for e in self.model.opset_import if e.domain in ("", "ai.onnx")), default=0)

    def upgraded(self, opset: int) -> IndexedGraph:
        """The same model in a newer version of the operators; this graph must not be used any more.

        Raises:
            ModelError: an operator has no counterpart.
        """
        converter: Any = require("onnx.version_converter", "gpu")
        try:
            return IndexedGraph(self.path, converter.convert_version(self.model, opset))
        except Exception as error:  # see _load
            raise ModelError(
                f"{self.path} uses ONNX operator set {self.opset} and cannot be brought to {opset}: "
                f"{' '.join(str(error).split())[:200]}"
            ) from error

    def has_weights_of(self, *types: str) -> bool:
        """Whether some initializer of more than one axis has one of these element types ("INT8")."""
        wanted = {getattr(self.onnx.TensorProto, name) for name in types}
        return any(t.data_type in wanted and len(t.dims) > 1 for t in self._tensors.values())

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an initializer; empty if ``name`` is none."""
        tensor = self._tensors.get(name)
        return () if tensor is None else tuple(tensor.dims)

    def constant(self, name: str) -> Any:
        """An initializer as an array; None if ``name`` is none."""
        tensor = self._tensors.get(name)
        return None if tensor is None else self.onnx.numpy_helper.to_array(tensor)

    def value(self, name: str) -> Any:
        """As :meth:`constant`, and of nodes that are constants too."""
        node = self.maker.get(name)
        if node is None or node.op_type != "Constant":
            return self.constant(name)
        found = [attribute.t for attribute in node.attribute if attribute.name == "value"]
        return self.onnx.numpy_helper.to_array(found[0]) if found else None

    def add_constant(self, name: str, value: Any) -> str:
        """Add an initializer, an array or a NumPy number; returns its name."""
        tensor = self.onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        self.proto.initializer.append(tensor)
        self._tensors[name] = tensor
        return name

    def reader(self, name: str, kind: str) -> Any:
        """The one node that reads ``name``.

        Raises:
            ModelError: there is another number of them, or it is not a ``kind``.
        """
        found = self.readers.get(name, [])
        if [node.op_type for node in found] != [kind]:
            raise ModelError(
                f"{self.path}: {name} is read by {[node.op_type for node in found]}, expected one {kind}."
            )
        return found[0]

    def replace(self, node: Any, kind: str, inputs: list[str], output: str) -> None:
        """Make ``node`` another operation, in its place."""
        name = node.name
        node.CopyFrom(self.onnx.helper.make_node(kind, inputs, [output], name=name))

    def drop_unused(self) -> None:
        """Remove nodes and initializers that no output needs."""
        prune(self.proto)
        self._index()  # lists of protobuf hold copies of what is put into them

    def save(self, out: Path) -> None:
        """Write the model to ``out``, which appears whole or not at all.

        Raises:
            OSError: it cannot be written.
        """
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.model.SerializeToString())
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(out)
        finally:
            temporary.unlink(missing_ok=True)


def _load(onnx: Any, path: Path) -> Any:
    try:
        return onnx.load(str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # protobuf and onnx raise what they like
        raise ModelError(f"{path} is not an ONNX model: {' '.join(str(error).split())[:200]}") from error
