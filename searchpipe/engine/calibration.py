"""Which rows int8 is calibrated on: real ones, drawn by strata of the traffic, seeded and written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from searchpipe.decodable import decodable
from searchpipe.engine.recipe import CalibrationSettings, Task
from searchpipe.errors import RecipeError
from searchpipe.files import published

# Fewer different rows than this share of all is constant or repeated data.
MIN_DISTINCT = 0.9
_SHOWN = 8


class Sample(msgspec.Struct, frozen=True):
    """One row to run a model on: a query, a document's ordinal (-1 for none), and the query's strata."""

    query: str
    doc: int
    strata: dict[str, str]


class Query(Protocol):
    """What is needed of a query of the log: see :class:`searchpipe.engine.traffic.TrafficQuery`."""

    @property
    def text(self) -> str: ...

    @property
    def strata(self) -> dict[str, str]: ...


class Pair(Protocol):
    """What is needed of a drawn pair: see :class:`searchpipe.engine.traffic.PairSample`."""

    @property
    def query_text(self) -> str: ...

    @property
    def doc(self) -> int: ...

    @property
    def strata(self) -> dict[str, str]: ...


class Source(Protocol):
    """What is needed of the traffic: see :class:`searchpipe.engine.traffic.Traffic`."""

    @property
    def queries(self) -> Sequence[Query]: ...

    def pairs(self, seed: int, n_rows: int) -> Sequence[Pair]: ...


def draw(traffic: Source, task: Task, rows: int, seed: int) -> list[Sample]:
    """Draw up to ``rows`` different samples by strata, in random order; the same seed draws the same.

    Pairs are drawn by the traffic itself. Queries alone are drawn in turn from every combination of
    strata until these are empty, so that rare ones are all there.
    """
    if task != "query":
        return [Sample(pair.query_text, int(pair.doc), pair.strata) for pair in traffic.pairs(seed, rows)]
    rng = np.random.default_rng(seed)
    cells: dict[tuple[str, ...], list[Query]] = {}
    for query in traffic.queries:
        cells.setdefault(tuple(query.strata.values()), []).append(query)
    queues = [[cell[place] for place in rng.permutation(len(cell))] for _, cell in sorted(cells.items())]
    drawn: list[Sample] = []
    while queues and len(drawn) < rows:
        for queue in queues[: rows - len(drawn)]:
            query = queue.pop()
            drawn.append(Sample(query.text, -1, query.strata))
        queues = [queue for queue in queues if queue]
    return [drawn[place] for place in rng.permutation(len(drawn))]


def split(samples: list[Sample], wanted: int) -> tuple[list[Sample], list[Sample]]:
    """The first ``wanted`` samples, and the others, held out for measuring what calibration cost.

    Raises:
        RecipeError: there are fewer than ``wanted``.
    """
    if len(samples) < wanted:
        raise RecipeError(
            f"Calibration needs {wanted:,} different rows (calibration.batches x calibration.batch_rows), "
            f"and the log and the snapshot give {len(samples):,}.",
            cure="Give a longer query log, or set fewer batches.",
        )
    return samples[:wanted], samples[wanted:]


def require_cover(
    samples: Sequence[Sample], queries: Iterable[Query], settings: CalibrationSettings
) -> dict[str, dict[str, int]]:
    """Rows by stratum, checked.

    Args:
        samples: what calibration is to run on.
        queries: of the whole traffic: every stratum that occurs in it must be covered.
        settings: names the strata and how many rows each must have.

    Returns:
        ``{"traffic": {"head": 2000, ...}, ...}``, of :attr:`CalibrationSettings.strata`.

    Raises:
        RecipeError: a stratum has too few rows, or rows repeat each other; with the figures.
    """
    occurring: dict[str, set[str]] = {name: set() for name in settings.strata}
    for query in queries:
        for name in settings.strata:
            if name in query.strata:
                occurring[name].add(query.strata[name])
    counts: dict[str, dict[str, int]] = {}
    short = []
    for name in settings.strata:
        found = Counter(sample.strata[name] for sample in samples if name in sample.strata)
        counts[name] = {value: found[value] for value in sorted(occurring[name] | set(found))}
        short += [
            (number, f"{name} {value}: {number}")
            for value, number in counts[name].items()
            if number < settings.min_per_stratum
        ]
    if short:
        told = ", ".join(text for _, text in sorted(short)[:_SHOWN])
        more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
        raise RecipeError(
            f"Calibration has too few rows of {len(short)} strata that occur in the traffic ({told}{more}); "
            f"each needs {settings.min_per_stratum} of the {len(samples):,} rows.",
            cure="Give a log with more of these queries, more batches, or a lower min_per_stratum.",
        )
    distinct = len({(sample.query, sample.doc) for sample in samples})
    if distinct < MIN_DISTINCT * len(samples):
        raise RecipeError(
            f"Only {distinct:,} of {len(samples):,} calibration rows are different.",
            cure="Calibrate on real traffic; repeated or constant rows give ranges that do not hold.",
        )
    return counts


def write_samples(path: Path, samples: Iterable[Sample]) -> Path:
    """Publish samples as JSON Lines.

    Raises:
        OSError: the file cannot be written.
    """
    encoder = msgspec.json.Encoder()
    with published(path) as file:
        for sample in samples:
            file.write(encoder.encode(sample).decode() + "\n")
    return path


def read_samples(path: Path) -> list[Sample]:
    """What :func:`write_samples` wrote.

    Raises:
        RecipeError: the file cannot be read or was changed.
    """
    decoder = msgspec.json.Decoder(decodable(Sample))
    try:
        return [decoder.decode(line) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.MsgspecError) as error:
        raise RecipeError(f"{path} is no file of samples: {error}.", cure="Build again.") from error


def describe(counts: Mapping[str, Mapping[str, int]]) -> str:
    """One line for people: ``traffic head 40 torso 38 tail 42; length ...``."""
    return "; ".join(
        f"{name} " + " ".join(f"{value} {number}" for value, number in values.items())
        for name, values in counts.items()
    )


def as_pairs(samples: Sequence[Sample]) -> list[tuple[str, int]]:
    """Query and document of each sample."""
    return [(sample.query, sample.doc) for sample in samples]


def facts_of(counts: Mapping[str, Mapping[str, int]], samples: Sequence[Sample]) -> dict[str, Any]:
    """Figures for the report."""
    return {
        "rows": len(samples),
        "queries": len({sample.query for sample in samples}),
        "strata": {name: dict(values) for name, values in counts.items()},
    }
