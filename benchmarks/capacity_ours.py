"""Our pipeline as one of the systems: the same work as the others', or everything it does."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from benchmarks.capacity_search import Ranked
from benchmarks.gpu_models import int8_model
from benchmarks.gpu_pipeline import MAX_PAIR_TOKENS, MAX_QUERY_TOKENS
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.models.settings import LocalModel
from searchpipe.pipeline import Pipeline
from searchpipe.runtime.pair_scorer import ChainPairScorer

_SAME_WORK = ("tokenize", "encode", "recall", "score", "page")


class PipelineSystem:
    """A pipeline in this process; any thread may ask.

    Without a limit of time nothing is left out. With a budget, a query that waited for the GPU has fewer
    candidates scored: as many as the engine says will be done in time. These are calls of ``search``:
    admission control, which ``asearch`` goes through, takes no part.

    Args:
        catalog: snapshot.
        candidates: depth of recall and of scoring.
        full: all stages and lexical recall; else dense recall alone and the cross-encoder's order.
        gpu: engines and dense recall on GPU 0; else everything on the CPU.
        lanes, slots: of the engines.
        budget_ms: of a query, in milliseconds.
    """

    threads = 64

    def __init__(
        self,
        catalog: Path,
        *,
        candidates: int,
        full: bool,
        gpu: bool,
        lanes: int = 1,
        slots: int = 3,
        budget_ms: float = math.inf,
    ) -> None:
        use = "always" if gpu else "never"
        settings: dict[str, Any] = {
            "models": {
                "encoder": model_settings(int8_model("encoder")),
                "scorer": model_settings(int8_model("cross-encoder")),
            },
            "recall": {"depth": candidates, "gpu": {"use": use}},
            "score": {
                "depth": candidates,
                "max_query_tokens": MAX_QUERY_TOKENS,
                "max_doc_tokens": MAX_PAIR_TOKENS - MAX_QUERY_TOKENS - 3,
            },
            "gpu": {"use": use, "lanes": lanes, "slots": slots},
        }
        if not full:
            settings["pipeline"] = {"stages": list(_SAME_WORK)}
            settings["recall"]["sources"] = ["dense"]
            settings["score"]["weight"] = 1.0
        self._snapshot = Snapshot.open(catalog, verify=False)
        self._pipeline = Pipeline.open(self._snapshot, settings)
        self._full = full
        self._budget_ms = budget_ms
        if self._limited:
            self._pipeline.warm_up()

    @property
    def _limited(self) -> bool:
        return math.isfinite(self._budget_ms)

    def ask(self, text: str) -> Ranked:
        """As :class:`benchmarks.capacity_search.System`.

        Without a budget, a page that gave anything up counts as unscored.

        Raises:
            RuntimeError: there was not even time to recall, so the page is empty.
        """
        page = self._pipeline.search(text, budget_ms=self._budget_ms)
        if self._limited and not page.hits:
            raise RuntimeError(f"No candidates within {self._budget_ms:g} ms: {page.degradations}")
        scored = sum(span.units for span in page.trace.spans if span.stage == "score")
        rows = [self._snapshot.ordinal_of(hit.id) for hit in page.hits]
        return Ranked(
            tuple(row for row in rows if row is not None),
            tuple(hit.score for hit in page.hits),
            0 if page.degradations and not self._limited else scored,
        )

    def counts(self) -> dict[str, float]:
        """Of the scorer on the GPU; nothing on the CPU."""
        scorer = self._scorer()
        if scorer is None:
            return {}
        stats = scorer.chain.scorer.stats()
        names = ("requests", "batches", "rows", "real_tokens", "padded_tokens")
        return {name: float(getattr(stats, name)) for name in names}

    def describe(self) -> str:
        """Engines, and what dense recall is."""
        gpu = self._pipeline.gpu
        kind = "all stages" if self._full else "dense recall and score"
        kind += f", budget {self._budget_ms:g} ms" if self._limited else ""
        return f"searchpipe, {kind}; {'; '.join(gpu.lines()) if gpu is not None and gpu.used else 'CPU'}"

    def close(self) -> None:
        """Close pipeline and snapshot."""
        self._pipeline.close()

    def _scorer(self) -> ChainPairScorer | None:
        gpu = self._pipeline.gpu
        return gpu.scorer if gpu is not None else None


def model_settings(model: LocalModel) -> dict[str, Any]:
    """A model of this machine as the table of a configuration."""
    return {
        "source": f"file:{model.model}",
        "tokenizer": f"file:{model.tokenizer}",
        "kind": model.kind,
        "name": model.name,
        "max_tokens": model.max_tokens,
        "pooling": "mean",
    }
