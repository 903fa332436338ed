"""Ranges of activations, by entropy, percentile or maximum; cached by the hash of all they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from searchpipe.arrays import Array
from searchpipe.engine.agreement import Feeds
from searchpipe.engine.onnx_graph import load_model, tools, weighted_products
from searchpipe.engine.recipe import CalibrationSettings
from searchpipe.errors import RecipeError
from searchpipe.files import write_json

Method = Literal["entropy", "percentile", "max"]

# Part of the cache's key: raise it when ranges are computed in another way.
_VERSION = 1
_BINS = 2048
_MOST_BINS = 4096  # outliers of later batches add bins, and the search for a threshold is quadratic in them
_LEVELS = 128
_CHUNK_BYTES = 256 << 20
# Rows that are the same tokens say nothing new.
_MIN_DISTINCT = 0.5

_log = logging.getLogger(__name__)


class TensorRange(msgspec.Struct, frozen=True):
    """What an activation was seen to be.

    Attributes:
        amax: largest absolute value.
        threshold: values beyond are clipped; the scale is ``threshold / 127``.
        clipped: share of the values seen beyond ``threshold``.
        values: number of values seen.
    """

    amax: float
    threshold: float
    clipped: float
    values: int


class RangeTable(msgspec.Struct, frozen=True, kw_only=True):
    """Ranges by tensor, and what they came from; immutable.

    Attributes:
        key: SHA-256 of everything they depend on.
        method: how thresholds were chosen.
        rows: that the model was run on.
        ranges: tensor -> range.
        dead: tensors that were zero throughout; what reads them stays in float32.
    """

    key: str
    method: Method
    rows: int
    ranges: dict[str, TensorRange]
    dead: tuple[str, ...] = ()


def table_key(model_sha256: str, samples_sha256: str, settings: CalibrationSettings, tools: Any) -> str:
    """SHA-256 of what a table depends on.

    Args:
        model_sha256: of the float32 model.
        samples_sha256: of the file of samples.
        settings: the method, the percentile and the rows of a batch count.
        tools: versions, JSON-able.
    """
    parts = {
        "version": _VERSION,
        "model": model_sha256,
        "samples": samples_sha256,
        "method": settings.method,
        "percentile": settings.percentile if settings.method == "percentile" else None,
        "batch_rows": settings.batch_rows,
        "tools": tools,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def read_table(path: Path, key: str = "") -> RangeTable | None:
    """A table written before; None if there is none, it is damaged, or it has another ``key``."""
    try:
        table = msgspec.json.decode(path.read_bytes(), type=RangeTable)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        _log.warning("The calibration table %s is not used: %s", path, error)
        return None
    return table if not key or table.key == key else None


def write_table(table: RangeTable, path: Path) -> Path:
    """Publish ``table``.

    Raises:
        OSError: it cannot be written.
    """
    write_json(path, msgspec.to_builtins(table))
    return path


def measure(
    model_path: Path,
    batches: Iterable[Feeds],
    settings: CalibrationSettings,
    key: str = "",
    *,
    threads: int = 0,
) -> RangeTable:
    """Run the float32 model and find the range of every input of its products with weights.

    Padding tokens do not count. Memory stays bounded whatever the number of batches: values become
    histograms every 256 MiB.

    Args:
        model_path: in the standard form.
        batches: real inputs.
        settings: method and percentile.
        key: stored in the table.
        threads: of the runs; 0 for all cores.

    Raises:
        RecipeError: there is no input, a value is not finite, or most rows are the same.
    """
    model = load_model(model_path)
    names = sorted({node.input[0] for node in weighted_products(model)})
    if not names:
        raise RecipeError(f"{model_path.name} has no product with a constant matrix: int8 has nothing to do.")
    collector = _Collector(names, settings)
    rows, distinct = 0, set()
    for feeds, values in _run(model, names, batches, threads):
        first = feeds.get("input_ids", next(iter(feeds.values())))
        mask = feeds.get("attention_mask")
        tables = [feeds[name] for name in sorted(feeds)]
        rows += len(first)
        for row in range(len(first)):
            kept = slice(None) if mask is None else mask[row] > 0
            parts = tables if mask is None else [first]
            distinct.add(hashlib.sha256(b"".join(part[row][kept].tobytes() for part in parts)).digest())
        collector.add({name: _unpadded(value, mask) for name, value in zip(names, values, strict=True)})
    if not rows:
        raise RecipeError("Calibration got no rows.", cure="Give a query log and a snapshot.")
    if len(distinct) < _MIN_DISTINCT * rows:
        raise RecipeError(
            f"Calibration inputs repeat: {len(distinct):,} of {rows:,} rows are different.",
            cure="Calibrate on real traffic; constant inputs give ranges that do not hold.",
        )
    ranges, dead = collector.finish()
    return RangeTable(key=key, method=settings.method, rows=rows, ranges=ranges, dead=tuple(dead))


def _run(
    model: Any, names: Sequence[str], batches: Iterable[Feeds], threads: int
) -> Iterator[tuple[Feeds, list[Array]]]:
    from searchpipe.backends.cores import available_cores

    onnx, onnxruntime = tools("onnx", "onnxruntime")
    outputs = {node.name for node in model.graph.output}
    inputs = {node.name for node in model.graph.input}
    # An input of the graph cannot be its output too; it is read from the feeds.
    asked = [name for name in names if name not in inputs]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in asked if name not in outputs)
    model = onnx.shape_inference.infer_shapes(model)
    options = onnxruntime.SessionOptions()
    # Optimised graphs have other tensors.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = threads or available_cores()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    kinds = {node.name: np.int32 if "int32" in node.type else None for node in session.get_inputs()}
    for feeds in batches:
        given = {
            name: feeds[name] if kind is None else feeds[name].astype(kind) for name, kind in kinds.items()
        }
        found = dict(zip(asked, session.run(asked, given), strict=True)) if asked else {}
        yield feeds, [found[name] if name in found else feeds[name] for name in names]


def _unpadded(value: Array, mask: Array | None) -> Array:
    if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
        kept: Array = value[mask > 0]
        return kept
    return value


class _Collector:
    """Values to histograms, by ONNX Runtime's own collector; for one thread."""

    def __init__(self, names: Sequence[str], settings: CalibrationSettings) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        self._settings = settings
        self._collector = HistogramCollector("entropy", True, _BINS, _LEVELS, settings.percentile, "same")
        self._pending: dict[str, list[Array]] = {name: [] for name in names}
        self._bytes = 0

    def add(self, values: dict[str, Array]) -> None:
        for name, value in values.items():
            if not np.isfinite(value).all():
                raise RecipeError(f"The float32 model gives NaN or infinity in {name}.")
            self._pending[name].append(value.ravel())
            self._bytes += value.nbytes
        if self._bytes >= _CHUNK_BYTES:
            self._flush()

    def finish(self) -> tuple[dict[str, TensorRange], list[str]]:
        self._flush()
        found: dict[str, TensorRange] = {}
        dead = []
        for name, histogram in sorted(self._collector.get_histogram_dict().items()):
            amax = float(max(abs(histogram[2]), abs(histogram[3])))
            if amax == 0.0:
                dead.append(name)
                continue
            found[name] = self._range(histogram, amax)
        return found, dead

    def _flush(self) -> None:
        whole = {name: np.concatenate(parts) for name, parts in self._pending.items() if parts}
        if whole:
            self._collector.collect_value(whole)
        self._pending = {name: [] for name in self._pending}
        self._bytes = 0

    def _range(self, histogram: Any, amax: float) -> TensorRange:
        counts, edges, low, high, threshold = histogram
        counts, edges = _rebin(np.asarray(counts), float(threshold))
        method = self._settings.method
        if method == "max":
            chosen = amax
        elif method == "percentile":
            chosen = _percentile(counts, edges, self._settings.percentile)
        else:
            typed = edges.astype(np.float32)
            ends = self._collector.get_entropy_threshold(
                (counts, typed, np.float32(low), np.float32(high), threshold), _LEVELS
            )
            chosen = max(abs(float(ends[0])), abs(float(ends[1])))
        chosen = min(chosen, amax) or amax
        middles = np.abs((edges[1:] + edges[:-1]) / 2)
        total = int(counts.sum())
        return TensorRange(amax, chosen, float(counts[middles > chosen].sum()) / total, total)


def _rebin(counts: Array, threshold: float) -> tuple[Array, Array]:
    """At most 4096 bins, symmetric about zero."""
    factor = -(-len(counts) // _MOST_BINS)
    if factor > 1:
        missing = -len(counts) % (2 * factor)
        padded = np.pad(counts, missing // 2)
        threshold *= len(padded) / len(counts)
        counts = padded.reshape(-1, factor).sum(axis=1)
    return counts, np.linspace(-threshold, threshold, len(counts) + 1)


def _percentile(counts: Array, edges: Array, percentile: float) -> float:
    """The absolute value that ``percentile`` percent of the values stay below."""
    half = len(counts) // 2
    folded = counts[half:] + counts[:half][::-1]
    place = int(np.searchsorted(np.cumsum(folded), percentile / 100.0 * folded.sum()))
    return float(edges[half + min(place, half - 1) + 1])
