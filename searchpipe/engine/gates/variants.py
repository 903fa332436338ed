"""A variant of a model, as the gates see it: pairs in, scores out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from searchpipe.arrays import Array, Float32
from searchpipe.backends.base import Engine
from searchpipe.backends.onnx_cpu import OnnxCpuEngine
from searchpipe.engine.recipe import Task
from searchpipe.engine.rows import Pair, PairRows, QueryRows
from searchpipe.errors import EngineError, ModelError, RecipeError

if TYPE_CHECKING:
    from searchpipe.catalog import Snapshot

_SMALLEST_NORM = 1e-12


class Variant(Protocol):
    """One precision of a model on one runtime. All but ``close`` may be called from many threads."""

    @property
    def runtime(self) -> str:
        """What runs it, for the report."""
        ...

    def score(self, pairs: Sequence[Pair], *, width: int = 0) -> Float32:
        """Score pairs in one batch where the runtime allows: float32 ``(n,)``, higher is better.

        Args:
            pairs: at least one.
            width: tokens that rows are padded to at least, where the runtime lets the caller choose.

        Raises:
            EngineError: the model failed.
        """
        ...

    def run_shape(self, rows: int, tokens: int) -> None:
        """Run one batch of that shape, filled to the last token; for timing."""
        ...

    def close(self) -> None:
        """Let go of the model."""
        ...


@runtime_checkable
class OnGpu(Protocol):
    """What a variant on a GPU tells beside; from any thread."""

    def gpu_memory_mib(self) -> float:
        """Memory in use on its GPU now, by everything that runs there, in MiB."""
        ...


class RankerInputs(Protocol):
    """Makes a feature ranker's inputs; called from many threads."""

    def feeds(self, pairs: Sequence[Pair]) -> dict[str, Array]:
        """``categories`` int64 ``(n, c)`` and ``dense`` float32 ``(n, d)``, in the order of ``pairs``."""
        ...


@dataclass(frozen=True, slots=True)
class Inputs:
    """What turns pairs into a model's inputs; one of them is set, by the task.

    Attributes:
        snapshot: holds documents' tokens and vectors.
        pairs: of a cross-encoder.
        queries: of a query encoder.
        ranker: of a feature ranker.
    """

    snapshot: Snapshot
    pairs: PairRows | None = None
    queries: QueryRows | None = None
    ranker: RankerInputs | None = None


def open_inputs(
    task: Task,
    snapshot: Snapshot,
    tokenizer: Path | None,
    max_tokens: int,
    *,
    ranker: RankerInputs | None = None,
    prefix: str = "",
) -> Inputs:
    """What ``task`` needs; ``prefix`` is put before the texts of a query encoder.

    Raises:
        RecipeError: the tokenizer or the ranker's features are missing, or the snapshot is not for the model.
    """
    if task == "ranker":
        if ranker is None:
            raise RecipeError("There is nothing that computes the ranker's features.")
        return Inputs(snapshot, ranker=ranker)
    if tokenizer is None:
        raise RecipeError("The exported model has no tokenizer.", cure="Name one in source.tokenizer.")
    if task == "query":
        return Inputs(snapshot, queries=QueryRows(tokenizer, max_tokens, prefix))
    return Inputs(snapshot, pairs=PairRows(snapshot, tokenizer, max_tokens))


class EngineVariant:
    """A variant on an :class:`~searchpipe.backends.base.Engine` that takes arrays of any shape.

    Safe from many threads, as the engine is.

    Args:
        engine: closed with this object.
        inputs: see :class:`Inputs`.
        runtime: for the report.
    """

    def __init__(self, engine: Engine, inputs: Inputs, runtime: str) -> None:
        self._engine = engine
        self._inputs = inputs
        self._runtime = runtime

    @property
    def runtime(self) -> str:
        """What runs it."""
        return self._runtime

    def score(self, pairs: Sequence[Pair], *, width: int = 0) -> Float32:
        """See :class:`Variant`."""
        if self._inputs.pairs is not None:
            feeds, order = self._inputs.pairs.feeds(pairs, width)
            scores = np.empty(len(pairs), np.float32)
            scores[order] = logits_of(self._run(feeds), len(pairs))
            return scores
        if self._inputs.queries is not None:
            texts = list(dict.fromkeys(text for text, _ in pairs))
            return cosines(self._run(self._inputs.queries.feeds(texts, width)), texts, pairs, self._inputs)
        assert self._inputs.ranker is not None
        return logits_of(self._run(self._inputs.ranker.feeds(pairs)), len(pairs))

    def run_shape(self, rows: int, tokens: int) -> None:
        """See :class:`Variant`."""
        if self._inputs.ranker is not None:
            one = self._inputs.ranker.feeds([("", 0)])
            self._run({name: np.repeat(value, rows, axis=0) for name, value in one.items()})
            return
        ids = np.ones((rows, tokens), np.int64)
        self._run({"input_ids": ids, "attention_mask": ids, "token_type_ids": np.zeros_like(ids)})

    def close(self) -> None:
        """See :class:`Variant`."""
        self._engine.close()

    def _run(self, feeds: Mapping[str, Array]) -> Float32:
        wanted = self._engine.inputs
        missing = sorted(set(wanted) - set(feeds))
        if missing:
            raise ModelError(
                f"The model takes {', '.join(wanted)}; what it calls {missing[0]} is not known.",
                cure=f"Name the inputs {', '.join(feeds)}.",
            )
        return self._engine.run(
            {name: feeds[name].astype(dtype, copy=False) for name, dtype in wanted.items()}
        )


def open_cpu_variant(path: Path, inputs: Inputs, *, threads: int = 0) -> EngineVariant:
    """Open an ONNX file with ONNX Runtime on the CPU.

    Raises:
        ModelError: it cannot be loaded.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    engine = OnnxCpuEngine(path, threads=threads)
    return EngineVariant(engine, inputs, f"ONNX Runtime CPU, {engine.threads} thread(s)")


def logits_of(output: Float32, rows: int) -> Float32:
    """One score a row of a model's output: ``(n,)``, ``(n, 1)``, or the log-odds of two classes ``(n, 2)``.

    Raises:
        EngineError: another shape.
    """
    flat: Float32
    if output.ndim == 2 and output.shape == (rows, 2):
        flat = output[:, 1] - output[:, 0]
    elif output.shape in ((rows,), (rows, 1)):
        flat = output.reshape(rows)
    else:
        raise EngineError(f"The model returned {output.shape} for {rows} rows, not one score each.")
    return flat


def cosines(vectors: Float32, texts: Sequence[str], pairs: Sequence[Pair], inputs: Inputs) -> Float32:
    """Cosine of each pair's query vector (``vectors`` of ``texts``) and the snapshot's document vector.

    Raises:
        EngineError: the vectors are not as long as the snapshot's.
    """
    dim = inputs.snapshot.dense.dim
    if vectors.shape != (len(texts), dim):
        raise EngineError(
            f"The model gave {vectors.shape} for {len(texts)} queries; the snapshot has vectors of {dim}.",
            cure="Index the catalog with this model.",
        )
    place = {text: number for number, text in enumerate(texts)}
    documents = inputs.snapshot.vectors(np.array([doc for _, doc in pairs], np.int64))
    queries = _unit(vectors)[[place[text] for text, _ in pairs]]
    found: Float32 = np.einsum("nd,nd->n", queries, _unit(documents))
    return found


def _unit(vectors: Float32) -> Float32:
    lengths: Any = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _SMALLEST_NORM)
    unit: Float32 = vectors / lengths
    return unit
