"""The one configuration of a pipeline, from TOML, checked when it is read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from searchpipe.cache.settings import CacheSettings
from searchpipe.catalog.settings import IndexSettings
from searchpipe.device.settings import GpuSettings
from searchpipe.errors import ConfigError
from searchpipe.live.settings import LiveSettings
from searchpipe.metrics.settings import MetricsSettings
from searchpipe.models.settings import ModelsSettings
from searchpipe.recall.settings import GpuRecallSettings
from searchpipe.serve.settings import ServeSettings
from searchpipe.settings import Settings, convert
from searchpipe.stage_breakers import StageBreakerSettings

StageName = Literal["tokenize", "encode", "recall", "prerank", "score", "diversify", "page"]
STAGES: tuple[StageName, ...] = ("tokenize", "encode", "recall", "prerank", "score", "diversify", "page")
"""The built-in stages, in their order."""

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0)]


_SHARES = {"encode": 0.3, "recall": 0.2, "prerank": 0.1, "diversify": 0.05, "page": 0.05}


class PipelineSettings(Settings, frozen=True):
    """``[pipeline]``: which stages run, and the limits of one pipeline object.

    Attributes:
        stages: the built-in stages to run, in order.
        threads: worker threads of ``asearch``.
        max_waiting: ``asearch`` calls waiting for a worker before ``OverloadedError``.
        admission: give ``asearch`` calls a lighter service when many come, and refuse at once those that
            would be late even so; see :mod:`searchpipe.admission`. False: all wait for whatever is left.
        max_k: longest page.
        max_query_chars: longest query, in characters.
    """

    stages: tuple[Literal["tokenize", "encode", "recall", "prerank", "score", "diversify", "page"], ...] = (
        STAGES
    )
    threads: Positive = 4
    max_waiting: Positive = 64
    admission: bool = True
    max_k: Positive = 1000
    max_query_chars: Positive = 2048


class BudgetSettings(Settings, frozen=True):
    """``[budget]``: the time of one query.

    Attributes:
        default_ms: budget of a query that names none, in milliseconds.
        shares: stage -> the most of the budget that earlier stages keep free for it.
    """

    default_ms: Annotated[float, msgspec.Meta(gt=0.0, le=600_000.0)] = 50.0
    shares: dict[str, Share] = msgspec.field(default_factory=lambda: dict(_SHARES))

    def of(self, budget_ms: float | None) -> float:
        """What a query has that asks for ``budget_ms``."""
        return self.default_ms if budget_ms is None else budget_ms


class RecallSettings(Settings, frozen=True):
    """``[recall]``: where candidates come from and how the sources are fused; ``[recall.gpu]`` on a GPU."""

    sources: tuple[Literal["lexical", "dense"], ...] = ("lexical", "dense")
    depth: Positive = 300
    fusion: Literal["rrf", "weighted"] = "rrf"
    rrf_k: Annotated[float, msgspec.Meta(gt=0.0)] = 60.0
    weights: dict[Literal["lexical", "dense"], NonNegative] = msgspec.field(default_factory=dict)
    gpu: GpuRecallSettings = GpuRecallSettings()


class PrerankSettings(Settings, frozen=True):
    """``[prerank]``: a formula or a learned ranker.

    Attributes:
        model: ``formula``, the path of a ranker's ONNX file, or ``engine:NAME``.
        weights: of the formula's features (:class:`searchpipe.stages.features.Features`).
    """

    model: Annotated[str, msgspec.Meta(min_length=1)] = "formula"
    weights: dict[str, float] = msgspec.field(default_factory=lambda: {"fused": 1.0, "lexical": 0.5})


class ScoreSettings(Settings, frozen=True):
    """``[score]``: the cross-encoder stage.

    Attributes:
        depth: candidates to score at most.
        step_rows: pairs in one uninterruptible step at most.
        weight: of the cross-encoder against the order before it.
        temperature: of the sigmoid over its logits.
        max_query_tokens: of the query in a pair.
        max_doc_tokens: of the document in a pair.
    """

    depth: Positive = 100
    step_rows: Positive = 16
    weight: Share = 0.8
    temperature: Annotated[float, msgspec.Meta(gt=0.0)] = 1.5
    max_query_tokens: Positive = 32
    max_doc_tokens: Positive = 64


class QuotaSettings(Settings, frozen=True):
    """One of ``[[diversify.quotas]]``: at most ``limit`` of one value of ``column`` in ``window`` places."""

    column: str
    limit: Positive
    window: Annotated[int, msgspec.Meta(ge=0)] = 10


class DiversifySettings(Settings, frozen=True):
    """``[diversify]``: how the page is kept from repeating itself."""

    method: Literal["mmr", "dpp", "none"] = "mmr"
    trade_off: Share = 0.95
    depth: Positive = 50
    quotas: tuple[QuotaSettings, ...] = ()


class Config(Settings, frozen=True):
    """Everything that a pipeline and an index build can be told."""

    pipeline: PipelineSettings = PipelineSettings()
    budget: BudgetSettings = BudgetSettings()
    models: ModelsSettings = ModelsSettings()
    index: IndexSettings = IndexSettings()
    recall: RecallSettings = RecallSettings()
    prerank: PrerankSettings = PrerankSettings()
    score: ScoreSettings = ScoreSettings()
    diversify: DiversifySettings = DiversifySettings()
    breaker: StageBreakerSettings = StageBreakerSettings()
    gpu: GpuSettings = GpuSettings()
    cache: CacheSettings = CacheSettings()
    serve: ServeSettings = ServeSettings()
    metrics: MetricsSettings = MetricsSettings()
    live: LiveSettings = LiveSettings()

    def with_stages(self, stages: Iterable[str]) -> Config:
        """The same configuration with only these built-in stages.

        Raises:
            ConfigError: a stage that does not exist.
        """
        return msgspec.structs.replace(
            self,
            pipeline=convert(
                {**msgspec.structs.asdict(self.pipeline), "stages": list(stages)},
                PipelineSettings,
                where="pipeline",
            ),
        )


def load_config(source: Config | Mapping[str, Any] | str | Path | None = None) -> Config:
    """A configuration from a TOML file, a nested mapping, or the defaults.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds a key or value that is not valid.
    """
    if source is None:
        return Config()
    if isinstance(source, Config):
        return source
    if isinstance(source, Mapping):
        return convert(source, Config)
    try:
        with open(source, "rb") as file:
            table = tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"Cannot read the configuration {source}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source} is not valid TOML: {error}.") from error
    return convert(table, Config)
