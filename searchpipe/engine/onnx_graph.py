"""Reading, naming, searching and writing ONNX graphs, for the steps that rewrite them."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from searchpipe.errors import MissingDependencyError, RecipeError

POOL_PREFIX = "pool_"
"""Starts the names of the nodes that pool an encoder's tokens (:mod:`searchpipe.backends.onnx_prepare`)."""

# Elementwise operators that stand between the product of queries and keys, and the softmax.
_ELEMENTWISE = {"Add", "Div", "Mul", "Sub", "Where"}
_PRODUCTS = {"MatMul", "Gemm"}
_SCORE_SHAPES = {"Squeeze", "Reshape", "Identity", "Cast", "Add", "Flatten", "Sigmoid"}


def tools(*names: str) -> tuple[Any, ...]:
    """Import the modules that rewriting needs.

    Raises:
        MissingDependencyError: one is not installed.
    """
    import importlib

    try:
        return tuple(importlib.import_module(name) for name in names)
    except ImportError as error:
        raise MissingDependencyError(
            f"The engine factory needs the package {(error.name or str(error)).split('.')[0]}.",
            cure="Install it: pip install 'searchpipe[export]'.",
        ) from error


def load_model(path: Path) -> Any:
    """Read a whole, valid ONNX file as a ``ModelProto``.

    Raises:
        RecipeError: it cannot be read, is cut short, or is not valid ONNX.
        MissingDependencyError: the package onnx is not installed.
    """
    (onnx,) = tools("onnx")
    try:
        size = path.stat().st_size
        model = onnx.load(str(path))
        if not model.graph.node or not model.graph.output:
            raise ValueError("it has no nodes or no outputs")
        onnx.checker.check_model(model)
        for tensor in model.graph.initializer:
            onnx.numpy_helper.to_array(tensor)
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from error
    except Exception as error:  # protobuf and onnx raise what they like
        reason = " ".join(str(error).split())[:200]
        raise RecipeError(
            f"{path} ({size} bytes) is not a whole ONNX model: {reason}.",
            cure="Export or copy the file again.",
        ) from error
    return model


def save_model(model: Any, path: Path) -> Path:
    """Write ``model`` durably; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(model.SerializeToString(deterministic=True))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def hash_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        RecipeError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise RecipeError(f"{path} cannot be read: {error.strerror or error}.") from error


def opset_of(model: Any) -> int:
    """The version of the standard operator set."""
    return max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)


def input_names(model: Any) -> list[str]:
    """Names of the inputs that are not constants."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.input if node.name not in constants]


def name_nodes(model: Any) -> None:
    """Give every node a name of its own; names that are there and unique stay."""
    taken: set[str] = set()
    for place, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}_{place}"
        while name in taken:
            name = f"{name}_{place}"
        node.name = name
        taken.add(name)


def count_ops(model: Any, kinds: Iterable[str]) -> int:
    """Number of nodes of these operator types."""
    wanted = set(kinds)
    return sum(node.op_type in wanted for node in model.graph.node)


def makers(model: Any) -> dict[str, Any]:
    """Node by the name of what it makes."""
    return {name: node for node in model.graph.node for name in node.output}


def weighted_products(model: Any) -> list[Any]:
    """Nodes that multiply by a constant matrix: MatMul and Gemm whose second input is an initializer."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return [
        node
        for node in model.graph.node
        if node.op_type in _PRODUCTS and node.input[1] in constants and node.input[0] not in constants
    ]


def last_projection(model: Any) -> set[str]:
    """Names of the nodes of the last projection: from the first output back to the first product.

    Empty where something else than shapes and additions lies between, as in encoders, which pool.
    """
    made = makers(model)
    found: set[str] = set()
    name = model.graph.output[0].name
    while (node := made.get(name)) is not None:
        found.add(node.name)
        if node.op_type in _PRODUCTS:
            return found
        if node.op_type not in _SCORE_SHAPES:
            break
        name = next((each for each in node.input if each in made), "")
    return set()


def pooling_nodes(model: Any) -> set[str]:
    """Names of the nodes that pool and normalise an encoder's tokens."""
    return {node.name for node in model.graph.node if node.name.startswith(POOL_PREFIX)}


def softmax_inputs(model: Any) -> set[str]:
    """Names of the elementwise nodes (scale, mask) between a product and a Softmax."""
    made = makers(model)
    found: set[str] = set()
    for softmax in (node for node in model.graph.node if node.op_type == "Softmax"):
        name = softmax.input[0]
        while (node := made.get(name)) is not None and node.op_type in _ELEMENTWISE:
            found.add(node.name)
            # The scores are the input that leads back to a product; the mask leads to none.
            name = next((each for each in node.input if _leads_to_product(made, each)), "")
    return found


def _leads_to_product(made: dict[str, Any], name: str) -> bool:
    while (node := made.get(name)) is not None:
        if node.op_type in _PRODUCTS:
            return True
        if node.op_type not in _ELEMENTWISE:
            return False
        name = next((each for each in node.input if each in made), "")
    return False


def matching(model: Any, patterns: Iterable[str], fits: Callable[[Any], bool] | None = None) -> set[str]:
    """Names of nodes in which one of the regular expressions is found.

    Raises:
        RecipeError: an expression is not valid, or fits no node: a typing error would go unnoticed.
    """
    import re

    names = [node.name for node in model.graph.node if fits is None or fits(node)]
    found: set[str] = set()
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise RecipeError(f"{pattern!r} is not a regular expression: {error}.") from error
        fitting = {name for name in names if expression.search(name)}
        if not fitting:
            shown = ", ".join([*names[:3], "...", *names[-2:]] if len(names) > 5 else names)
            raise RecipeError(f"No node's name fits {pattern!r}; the model has {shown}.")
        found |= fitting
    return found
