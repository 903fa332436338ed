"""The pipeline with stages switched off, as rankers that can be compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from searchpipe.arrays import Float32
from searchpipe.candidates import Candidates
from searchpipe.errors import ConfigError
from searchpipe.evaluate.compare import PAGE, Ranker

if TYPE_CHECKING:
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.pipeline import Pipeline
    from searchpipe.stages.base import Stage, Work

VARIANTS: Mapping[str, tuple[str, ...]] = {
    "lexical": ("recall", "page"),
    "dense": ("tokenize", "encode", "recall", "page"),
    "fused": ("tokenize", "encode", "recall", "page"),
    "prerank": ("tokenize", "encode", "recall", "prerank", "page"),
    "cross-encoder": ("tokenize", "encode", "recall", "prerank", "score", "page"),
    "diversity": ("tokenize", "encode", "recall", "prerank", "score", "diversify", "page"),
}
"""Variant -> the built-in stages it runs; each adds one to the variant before it, from ``fused`` on."""

_SOURCES: Mapping[str, Literal["lexical", "dense"]] = {"lexical": "lexical", "dense": "dense"}


@dataclass(frozen=True, slots=True)
class PipelineVariants:
    """Rankers of one snapshot, with no time limit. One thread at a time.

    Attributes:
        rankers: variant -> ranker, in the order of :data:`VARIANTS`.
        degradations: ``"variant: stage: reason"`` -> queries where something was given up. Counted
            while the rankers run; anything here means that the figures are not the variant's best.

    """

    rankers: Mapping[str, Ranker]
    degradations: Counter[str] = field(default_factory=Counter)


class SnapshotFacts:
    """Vectors and brands of a snapshot's products. Any thread may call anything."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def vectors(self, ids: Sequence[str]) -> Float32:
        """Return the embeddings of ``ids``: float32 ``(len(ids), d)``; KeyError for an unknown id."""
        return self._snapshot.vectors(self._ordinals(ids))

    def brands(self, ids: Sequence[str]) -> list[str | None]:
        """Return the brand of each of ``ids``, None where it has none; KeyError for an unknown id."""
        rows = self._snapshot.fields(self._ordinals(ids))
        return [str(row["brand"]) if row.get("brand") else None for row in rows]

    def knows(self, product_id: str) -> bool:
        """Whether the snapshot has this product."""
        return self._snapshot.ordinal_of(product_id) is not None

    def _ordinals(self, ids: Sequence[str]) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        found = [self._snapshot.ordinal_of(product) for product in ids]
        if None in found:
            raise KeyError(ids[found.index(None)])
        return np.array(found, np.int32)


@contextmanager
def variant_rankers(
    snapshot: Snapshot, config: Config, names: Sequence[str] | None = None
) -> Iterator[PipelineVariants]:
    """Open the variants ``names`` (None: all that the configuration allows) over an open snapshot.

    Models are loaded once and shared. What the cross-encoder said about a query is kept for
    the next variant, because it is by far the longest part of an evaluation. The snapshot stays
    open when the block ends.

    Raises:
        ConfigError: an unknown variant, or one whose stages or sources the configuration leaves out.
        SearchpipeError: a stage cannot be built; see :meth:`searchpipe.pipeline.Pipeline.open`.

    """
    from searchpipe.pipeline import Pipeline

    wanted = _wanted(config, names)
    degradations: Counter[str] = Counter()
    with ExitStack() as owned:
        shared = _SharedStages(snapshot, config, wanted, owned)
        pipelines = {
            name: owned.enter_context(Pipeline(shared.stages(name), None, config)) for name in wanted
        }
        rankers = {
            name: _PipelineRanker(name, pipeline, config.pipeline.max_k, degradations)
            for name, pipeline in pipelines.items()
        }
        yield PipelineVariants(rankers, degradations)


def _wanted(config: Config, names: Sequence[str] | None) -> list[str]:
    allowed = []
    for name, stages in VARIANTS.items():
        if name in _SOURCES and _SOURCES[name] not in config.recall.sources:
            continue
        if set(stages) <= set(config.pipeline.stages):
            allowed.append(name)
    if names is None:
        return allowed
    for name in names:
        if name not in VARIANTS:
            raise ConfigError(f"There is no variant {name!r}.", cure=f"Variants: {', '.join(VARIANTS)}.")
        if name not in allowed:
            raise ConfigError(
                f"Variant {name!r} needs the stages {', '.join(VARIANTS[name])}; some are not configured.",
                cure="See pipeline.stages and recall.sources.",
            )
    return [name for name in VARIANTS if name in names]


class _SharedStages:
    """Builds each stage once, whatever the number of variants that run it."""

    def __init__(self, snapshot: Snapshot, config: Config, variants: Sequence[str], owned: ExitStack) -> None:
        self._snapshot = snapshot
        self._owned = owned
        # All at once: what the tokenizer prepares depends on whether a scorer will read it.
        used = {stage for variant in variants for stage in VARIANTS[variant]}
        config = config.with_stages(stage for stage in config.pipeline.stages if stage in used)
        self._built = {stage.name: stage for stage in self._assemble(config)}
        if "score" in self._built:
            self._built["score"] = _Remembered(self._built["score"])
        self._recall = {
            variant: self._single_source(config, _SOURCES[variant])
            for variant in variants
            if variant in _SOURCES
        }

    def stages(self, variant: str) -> list[Stage]:
        """Return the stages of ``variant``, in order."""
        recall = self._recall.get(variant, self._built["recall"])
        return [recall if name == "recall" else self._built[name] for name in VARIANTS[variant]]

    def _single_source(self, config: Config, source: Literal["lexical", "dense"]) -> Stage:
        recall = msgspec.structs.replace(config.recall, sources=(source,))
        config = msgspec.structs.replace(config.with_stages(["recall"]), recall=recall)
        (stage,) = self._assemble(config)
        return stage

    def _assemble(self, config: Config) -> list[Stage]:
        from searchpipe.assemble import assemble

        assembly = assemble(self._snapshot, config, {})
        self._owned.callback(assembly.engines.close)
        return assembly.stages


class _Remembered:
    """A stage that reorders candidates: runs once for a query and its candidates, then repeats itself."""

    essential = False

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.name = stage.name
        self.reads = stage.reads
        self.writes = stage.writes
        self._answers: dict[tuple[str, bytes], tuple[Candidates, list[tuple[str, str, float]]]] = {}

    def run(self, work: Work) -> None:
        """Run the stage, or repeat what it did to the same candidates."""
        assert work.candidates is not None
        key = (work.query.text, work.candidates.docs.tobytes())
        if key not in self._answers:
            before = len(work.degradations)
            self._stage.run(work)
            assert work.candidates is not None
            given_up = [(d.reason, d.given_up, d.amount) for d in work.degradations[before:]]
            self._answers[key] = Candidates.of(work.candidates.docs, work.candidates.scores), given_up
            return
        answer, given_up = self._answers[key]
        work.candidates = Candidates.of(answer.docs, answer.scores)
        work.orders[self.name] = answer.docs
        for reason, what, amount in given_up:
            work.degrade(reason, what, amount)

    def describe(self) -> str:
        """One line: what it does with which settings."""
        return self._stage.describe()


class _PipelineRanker:
    """A pipeline as a ranker."""

    def __init__(self, name: str, pipeline: Pipeline, max_k: int, degradations: Counter[str]) -> None:
        self._name = name
        self._pipeline = pipeline
        self._max_k = max_k
        self._degradations = degradations

    def __call__(self, text: str, depth: int) -> list[tuple[str, float]]:
        """Return up to ``depth`` products: the page that a user gets, and what would follow it.

        Diversity is a matter of the page: with k = 100, other products would come first than with
        k = 10. So the first page is searched for by itself, and the rest is appended.
        """
        ranked = self._search(text, min(depth, self._max_k))
        if "diversify" not in VARIANTS[self._name] or depth <= PAGE:
            return ranked
        page = self._search(text, PAGE)
        shown = {product for product, _ in page}
        return page + [(product, score) for product, score in ranked if product not in shown]

    def _search(self, text: str, k: int) -> list[tuple[str, float]]:
        page = self._pipeline.search(text, k, math.inf)
        self._degradations.update({f"{self._name}: {d.stage}: {d.reason}" for d in page.degradations})
        return [(hit.id, hit.score) for hit in page]
