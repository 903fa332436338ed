"""Which products cost int8 the most quality: quantise one group alone, then all but the worst."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from searchpipe.arrays import Float32

Score = Callable[[Sequence[str]], Float32]
"""Outputs of the held-out rows with these products in int8: [rows] or [rows, width]."""

WANTED_CORRELATION = 0.995
"""Rank correlation with float32 that the proposal aims at."""

MOST_EXCLUDED = 0.5
"""The proposal leaves at most this share of the products in float32: beyond, int8 saves nothing."""

_LAYER = re.compile(r"layers?[._/](\d+)")
# Of a weight, a bias or a node, after what it belongs to.
_ENDING = re.compile(r"[./_](weight|bias|MatMul|Gemm)\w*$")


class Effect(msgspec.Struct, frozen=True):
    """How far a variant is from float32 on the held-out rows.

    Attributes:
        error: root mean square of the differences over the spread of float32's values.
        correlation: Spearman's, of the scores; of the cosines of all pairs of rows for an encoder.
    """

    error: float
    correlation: float


class GroupEffect(msgspec.Struct, frozen=True):
    """One group of products.

    Attributes:
        name: the layer, or what the products are in every layer.
        products: names of the nodes.
        alone: with this group alone in int8; None where the time was up.
        without: with every product in int8 but this group's; measured for the worst groups.
    """

    name: str
    products: tuple[str, ...]
    alone: Effect | None = None
    without: Effect | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was found, the worst group first.

    Attributes:
        full: with every product in int8.
        groups: of products; one product is in a group of its layer and in one of its kind.
        path: groups left in float32 one after the other, and what that gave.
        proposal: products to leave in float32; empty if none need be.
        complete: whether the time allowed for all.
    """

    full: Effect
    groups: tuple[GroupEffect, ...]
    path: tuple[tuple[str, Effect], ...]
    proposal: tuple[str, ...]
    complete: bool


def group_products(model: Any, products: Sequence[str], most: int) -> dict[str, list[str]]:
    """Group products by layer, and by what they are in each layer, from the names in the graph.

    Products whose names tell no layer are groups of their own. Where that makes more than ``most``
    groups, neighbours are put together.
    """
    wanted = set(products)
    labels = _labels(model, wanted)
    layers: dict[str, list[str]] = {}
    kinds: dict[str, list[str]] = {}
    for name in (node.name for node in model.graph.node if node.name in wanted):
        label = labels[name]
        match = _LAYER.search(label)
        if match is None:
            layers[name] = [name]
            continue
        layers.setdefault(f"layer {match.group(1)}", []).append(name)
        kind = _ENDING.sub("", label[match.end() :]).strip("./_")
        kinds.setdefault(f"all layers' {kind}", []).append(name)
    kinds = {name: members for name, members in kinds.items() if len(members) > 1}
    if len(layers) + len(kinds) > most:
        room = max(1, most - len(kinds))
        size = -(-len(layers) // room)
        names = list(layers)
        chunks = [names[start : start + size] for start in range(0, len(names), size)]
        layers = {
            chunk[0] if len(chunk) == 1 else f"{chunk[0]} to {chunk[-1]}": [
                product for name in chunk for product in layers[name]
            ]
            for chunk in chunks
        }
    found = layers | kinds
    return dict(list(found.items())[:most])


def sweep(
    products: Sequence[str],
    groups: Mapping[str, Sequence[str]],
    reference: Float32,
    score: Score,
    *,
    seconds: float,
    clock: Callable[[], float],
    say: Callable[[str], None],
) -> Sweep:
    """Measure every group alone, then leave out the worst ones until the ranking holds.

    Args:
        products: all that int8 computes.
        groups: from :func:`group_products`.
        reference: float32's outputs.
        score: runs a variant.
        seconds: after these no further variant is started.
        clock: seconds, any origin.
        say: progress.
    """
    began = clock()

    def in_time() -> bool:
        return clock() - began < seconds

    full = effect(reference, score(products))
    say(f"all {len(products)} products: {told(full)}")
    measured: dict[str, Effect] = {}
    for name, members in groups.items():
        if not in_time():
            break
        measured[name] = effect(reference, score(members))
        say(f"{name} alone: {told(measured[name])}")
    ranked = sorted(measured, key=lambda name: -measured[name].error)
    left: list[str] = []
    path: list[tuple[str, Effect]] = []
    without: dict[str, Effect] = {}
    best = full
    for name in ranked:
        members = set(groups[name])
        candidate = [*left, *(each for each in products if each in members and each not in left)]
        if best.correlation >= WANTED_CORRELATION or not in_time():
            break
        if len(candidate) > MOST_EXCLUDED * len(products) or len(candidate) == len(left):
            continue
        found = effect(reference, score([each for each in products if each not in set(candidate)]))
        if not left:
            without[name] = found
        if found.error < best.error:
            left, best = candidate, found
            path.append((name, found))
            say(f"{name} in float32 too: {told(found)}")
    effects = [
        GroupEffect(name, tuple(members), measured.get(name), without.get(name))
        for name, members in groups.items()
    ]
    effects.sort(key=lambda group: -(group.alone.error if group.alone else -1.0))
    complete = len(measured) == len(groups) and (in_time() or best.correlation >= WANTED_CORRELATION)
    return Sweep(full, tuple(effects), tuple(path), tuple(left), complete)


def effect(reference: Float32, found: Float32) -> Effect:
    """Compare a variant's outputs with float32's; not finite counts as the worst."""
    expected, got = _scores(reference), _scores(found)
    if not np.isfinite(got).all():
        return Effect(float(np.finfo(np.float32).max), -1.0)
    spread = float(expected.std()) or 1.0
    error = float(np.sqrt(np.mean((got - expected) ** 2))) / spread
    return Effect(error, spearman(expected, got))


def spearman(a: Any, b: Any) -> float:
    """Rank correlation of two [n], equal values sharing their mean rank; 0 where one does not vary."""
    ranks = []
    for values in (a, b):
        _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(counts)
        ranks.append((ends - (counts - 1) / 2)[places])
    centred = [rank - rank.mean() for rank in ranks]
    scale = float(np.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum() / scale) if scale else 0.0


def told(found: Effect) -> str:
    """For people."""
    return f"error {found.error:.3f} of the spread, rank correlation {found.correlation:.4f}"


def _scores(outputs: Float32) -> Any:
    values = np.asarray(outputs, np.float64)
    if values.ndim == 1 or values.shape[1] == 1:
        return values.ravel()
    if values.shape[1] == 2:
        return values[:, 1] - values[:, 0]
    norms = np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
    return ((values / norms) @ (values / norms).T)[np.triu_indices(len(values), 1)]


def _labels(model: Any, wanted: set[str]) -> dict[str, str]:
    """A name that tells the layer: the node's own, else that of its weight or of the bias added to it."""
    constants = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[Any]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = {}
    for node in model.graph.node:
        if node.name not in wanted:
            continue
        names = [node.name, *(name for name in node.input if name in constants)]
        names += [
            name
            for reader in readers.get(node.output[0], [])
            if reader.op_type == "Add"
            for name in reader.input
            if name in constants
        ]
        found[node.name] = next((name for name in names if _LAYER.search(name)), node.name)
    return found
