"""Ranges of activations, by entropy, percentile or maximum; cached by the hash of all they depend on."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Self

import msgspec
import numpy as np

from searchpipe.arrays import Array
from searchpipe.decodable import decodable
from searchpipe.engine.activations import CalibrationDevice, run_activations
from searchpipe.engine.agreement import Feeds
from searchpipe.engine.onnx_graph import load_model, weighted_products
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
        table = msgspec.json.decode(path.read_bytes(), type=decodable(RangeTable))
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
    device: CalibrationDevice = "cpu",
) -> RangeTable:
    """Run the float32 model and find the range of every input of its products with weights.

    Padding tokens do not count. Memory stays bounded whatever the number of batches: values become
    histograms every 256 MiB, the tensors side by side on all cores.

    Args:
        model_path: in the standard form.
        batches: real inputs.
        settings: method and percentile.
        key: stored in the table.
        threads: of the runs and of the counting; 0 for all cores.
        device: what the model runs on; values are counted on the CPU.

    Raises:
        RecipeError: there is no input, a value is not finite, most rows are the same, or the model
            does not run on ``device``.
    """
    model = load_model(model_path)
    names = sorted({node.input[0] for node in weighted_products(model)})
    if not names:
        raise RecipeError(f"{model_path.name} has no product with a constant matrix: int8 has nothing to do.")
    with _Collector(names, settings, threads) as collector:
        rows = _collect(
            collector, names, run_activations(model, names, batches, threads=threads, device=device)
        )
        ranges, dead = collector.finish()
    return RangeTable(key=key, method=settings.method, rows=rows, ranges=ranges, dead=tuple(dead))


def _collect(collector: _Collector, names: Sequence[str], runs: Iterable[tuple[Feeds, list[Array]]]) -> int:
    """Hand all values over; return how many rows there were."""
    rows, distinct = 0, set()
    for feeds, values in runs:
        first = feeds.get("input_ids", next(iter(feeds.values())))
        mask = feeds.get("attention_mask")
        tables = [feeds[name] for name in sorted(feeds)]
        rows += len(first)
        for row in range(len(first)):
            kept = slice(None) if mask is None else mask[row] > 0
            parts = tables if mask is None else [first]
            distinct.add(
                hashlib.sha256(b"".join(np.atleast_1d(part[row])[kept].tobytes() for part in parts)).digest()
            )
        collector.add({name: _unpadded(value, mask) for name, value in zip(names, values, strict=True)})
    if not rows:
        raise RecipeError("Calibration got no rows.", cure="Give a query log and a snapshot.")
    if len(distinct) < _MIN_DISTINCT * rows:
        raise RecipeError(
            f"Calibration inputs repeat: {len(distinct):,} of {rows:,} rows are different.",
            cure="Calibrate on real traffic; constant inputs give ranges that do not hold.",
        )
    return rows


def _unpadded(value: Array, mask: Array | None) -> Array:
    if mask is not None and value.ndim == 3 and value.shape[:2] == mask.shape:
        kept: Array = value[mask > 0]
        return kept
    return value


class _Collector:
    """Values to histograms, by ONNX Runtime's own collector; for one thread, and closed when left."""

    def __init__(self, names: Sequence[str], settings: CalibrationSettings, threads: int) -> None:
        from onnxruntime.quantization.calibrate import HistogramCollector

        from searchpipe.backends.cores import available_cores

        self._pool = ThreadPoolExecutor(threads or available_cores(), "calibrate")

        self._settings = settings
        self._collector = HistogramCollector("entropy", True, _BINS, _LEVELS, settings.percentile, "same")
        self._pending: dict[str, list[Array]] = {name: [] for name in names}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def add(self, values: dict[str, Array]) -> None:
        for name, value in values.items():
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
        # A tensor's histogram is its own: the collector has nothing else that calls could share.
        list(self._pool.map(self._count, [item for item in self._pending.items() if item[1]]))
        self._pending = {name: [] for name in self._pending}
        self._bytes = 0

    def _count(self, pending: tuple[str, list[Array]]) -> None:
        name, parts = pending
        values = np.concatenate(parts)
        if not np.isfinite(values).all():
            raise RecipeError(f"The float32 model gives NaN or infinity in {name}.")
        self._collector.collect_value({name: values})

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
