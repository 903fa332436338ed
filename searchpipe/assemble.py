"""From a configuration and a snapshot to the built-in stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from searchpipe import _core
from searchpipe.arrays import Float32
from searchpipe.assemble_gpu import Wanted, open_engines
from searchpipe.backends.cores import available_cores
from searchpipe.cache import BoundedCache
from searchpipe.errors import ConfigError, ModelError, PipelineError
from searchpipe.forks import Inherited
from searchpipe.gate import ComputeGate
from searchpipe.gpu_engines import GpuEngines
from searchpipe.models import LocalModel, resolve
from searchpipe.models.cache import sha256_of
from searchpipe.stages.base import Stage
from searchpipe.stages.build_page import BuildPage
from searchpipe.stages.diversify import Diversify, QuotaRule
from searchpipe.stages.encode import Encode
from searchpipe.stages.features import Features
from searchpipe.stages.prerank import Formula, Prerank
from searchpipe.stages.recall import Dense, Lexical, Recall, RecallSource
from searchpipe.stages.score import Score
from searchpipe.stages.tokenize import Tokenize

if TYPE_CHECKING:
    from searchpipe.backends import PairScorer, TextEncoder
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import Config
    from searchpipe.runtime.pair_scorer import ChainPairScorer
    from searchpipe.runtime.text_encoder import ChainTextEncoder


_MANY = 1024
"""Callers at once of engines that merge them: a narrower gate would only take their work apart."""
_MOST_SEARCH_THREADS = 16
_MOST_HELPERS, _CORES_A_HELPER = 3, 4
"""Each is woken by the one before, some 50 us later: more would come when a search is over."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """The stages in order, and what they run on beside the CPU, to be closed after the last query."""

    stages: list[Stage]
    engines: GpuEngines


def assemble(snapshot: Snapshot, config: Config, replace: Mapping[str, Stage]) -> Assembly:
    """The configured stages in order; those in ``replace`` stand in for the built-in ones.

    Nothing is left open if it raises.

    Raises:
        EngineError: ``config.gpu`` asks for a GPU that cannot be had.
        PipelineError: ``replace`` names a stage that is not configured.
        ConfigError, ModelError: see :meth:`searchpipe.pipeline.Pipeline.open`.
    """
    unknown = sorted(set(replace) - set(config.pipeline.stages))
    if unknown:
        raise PipelineError(
            f"replace names {unknown[0]!r}, which is not a configured stage.",
            cure=f"Configured: {', '.join(config.pipeline.stages)}.",
        )
    builder = _Builder(snapshot, config, [name for name in config.pipeline.stages if name not in replace])
    try:
        stages = [
            replace[name] if name in replace else builder.build(name) for name in config.pipeline.stages
        ]
    except BaseException:
        builder.engines.close()
        raise
    for place, stage in enumerate(stages):
        if isinstance(stage, Recall) and stage.name not in replace:
            stage.preceded_by(stages[:place])
            stage.followed_by(stages[place + 1 :])
    return Assembly(stages, builder.engines)


class _Builder:
    """Builds stages that share a tokenizer, a gate, the snapshot and what there is of a GPU."""

    def __init__(self, snapshot: Snapshot, config: Config, names: Sequence[str]) -> None:
        self._snapshot = snapshot
        self._config = config
        self._gate = ComputeGate()
        self._wide_gate = ComputeGate(_MANY)
        wanted = Wanted(
            self._encoder_model if "encode" in names else None,
            self._gpu_scorer_model if "score" in names else None,
            "recall" in names and "dense" in config.recall.sources,
        )
        self.engines = open_engines(snapshot, config, wanted)
        self._pool = self._threads() if self.engines.used and "recall" in names else None
        self._makers: dict[str, Callable[[], Stage]] = {
            "tokenize": self._tokenize,
            "encode": self._encode,
            "recall": self._recall,
            "prerank": self._prerank,
            "score": self._score,
            "diversify": self._diversify,
            "page": lambda: BuildPage(snapshot),
        }

    def build(self, name: str) -> Stage:
        return self._makers[name]()

    def _encoder_model(self) -> LocalModel:
        model = resolve(self._config.models.encoder)
        built_with = self._snapshot.manifest.encoder
        if built_with.sha256 and built_with.sha256 != model.identity:
            raise ModelError(
                f"The snapshot was built with the encoder {built_with.name} ({built_with.sha256[:12]}), "
                f"and the configuration names {model.name} ({model.identity[:12]}).",
                cure="Name the same model in models.encoder, or index again.",
            )
        return model

    def _scorer_model(self) -> LocalModel:
        return self._checked_scorer(resolve(self._config.models.cpu_scorer))

    def _gpu_scorer_model(self) -> LocalModel:
        return self._checked_scorer(resolve(self._config.models.gpu_scorer))

    def _checked_scorer(self, model: LocalModel) -> LocalModel:
        made_with = self._snapshot.manifest.tokenizer
        if made_with.sha256 and sha256_of(model.tokenizer) != made_with.sha256:
            raise ModelError(
                f"The snapshot's documents were tokenized for {made_with.name}; "
                f"the tokenizer of {model.name} differs.",
                cure="Name the same model in models.scorer, or index again.",
            )
        return model

    def _tokenize(self) -> Stage:
        from searchpipe.models.tokenizer import TextTokenizer

        model = self._encoder_model()
        encoder = TextTokenizer(model.tokenizer, max_tokens=model.max_tokens - 2)
        if "score" not in self._config.pipeline.stages:
            return Tokenize(encoder, prefix=model.query_prefix)
        on_gpu = self.engines.scorer
        model_of_pairs = self._scorer_model() if on_gpu is None else on_gpu.model
        scorer = TextTokenizer(model_of_pairs.tokenizer, max_tokens=self._config.score.max_query_tokens)
        return Tokenize(encoder, None if scorer.agrees_with(encoder) else scorer, prefix=model.query_prefix)

    def _encode(self) -> Stage:
        from searchpipe.backends import open_encoder

        encoder: TextEncoder | ChainTextEncoder
        if self.engines.encoder is not None:
            encoder, gate = self.engines.encoder, self._wide_gate
        else:
            encoder = open_encoder(self._encoder_model(), threads=self._config.models.threads)
            gate = self._gate
        model = encoder.model
        if encoder.dim != self._snapshot.dense.dim:
            raise ModelError(
                f"{model.name} gives vectors of {encoder.dim}; "
                f"the snapshot holds vectors of {self._snapshot.dense.dim}.",
                cure="Index again with this model.",
            )
        kept = self._config.cache.embeddings_entries
        cache = BoundedCache[Float32](kept) if kept else None
        return Encode(encoder, gate, places=self.engines.places, cache=cache, model=model.name)

    def _recall(self) -> Stage:
        settings = self._config.recall
        made: dict[str, Callable[[], RecallSource]] = {
            "lexical": lambda: Lexical(self._snapshot.lexical),
            "dense": self._dense,
        }
        recall = Recall(
            [made[name]() for name in settings.sources],
            self._snapshot.mask,
            depth=settings.depth,
            fusion=settings.fusion,
            weights={str(name): weight for name, weight in settings.weights.items()},
            rrf_k=settings.rrf_k,
            pool=self._pool,
            threads=self._search_threads() if self._pool and "lexical" in settings.sources else None,
            helpers=max(1, min(_MOST_HELPERS, available_cores() // _CORES_A_HELPER)),
        )
        self.engines.owned.callback(recall.end_early)
        return recall

    def _search_threads(self) -> _core.SearchThreads:
        """Threads that search beside a query that waits for the GPU; they end with the engines."""
        threads = _core.SearchThreads(min(available_cores(), _MOST_SEARCH_THREADS))
        self.engines.owned.callback(threads.close)
        _open_threads.add(threads)
        return threads

    def _threads(self) -> Executor:
        """Threads for what the CPU can do while the GPU works; they end with the engines."""
        pool = ThreadPoolExecutor(available_cores(), "searchpipe-early")
        self.engines.owned.callback(pool.shutdown, cancel_futures=True)
        return pool

    def _dense(self) -> RecallSource:
        if self.engines.recall is None:
            return Dense(self._snapshot.dense)
        from searchpipe.recall.source import SharedDense

        return SharedDense(self.engines.recall.index)

    def _prerank(self) -> Stage:
        settings = self._config.prerank
        if settings.model != "formula":
            from searchpipe.stages.learned import open_learned

            return Prerank(open_learned(self._snapshot, settings.model))
        return Prerank(Formula(Features(self._snapshot.columns), settings.weights))

    def _score(self) -> Stage:
        from searchpipe.backends import open_pair_scorer

        settings = self._config.score
        scorer: PairScorer | ChainPairScorer
        if self.engines.scorer is not None:
            scorer, gate = self.engines.scorer, self._wide_gate
        else:
            scorer = open_pair_scorer(
                self._scorer_model(),
                threads=self._config.models.threads,
                max_query_tokens=settings.max_query_tokens,
                max_doc_tokens=settings.max_doc_tokens,
            )
            gate = self._gate
        return Score(
            scorer,
            self._snapshot.tokens,
            gate,
            depth=settings.depth,
            step_rows=settings.step_rows,
            weight=settings.weight,
            temperature=settings.temperature,
            model=scorer.model.name,
        )

    def _diversify(self) -> Stage:
        settings = self._config.diversify
        columns = self._snapshot.columns
        for quota in settings.quotas:
            if quota.column not in columns:
                raise ConfigError(
                    f"diversify.quotas: the snapshot has no column {quota.column!r}.",
                    cure=f"It has: {', '.join(columns.names)}.",
                )
        return Diversify(
            self._snapshot,
            method=settings.method,
            trade_off=settings.trade_off,
            depth=settings.depth,
            quotas=[QuotaRule(q.column, columns[q.column], q.limit, q.window) for q in settings.quotas],
        )


_open_threads = Inherited()
