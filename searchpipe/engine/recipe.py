"""A recipe: how one model becomes engines, and what they must pass; a TOML file of ``engines/``."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from searchpipe.engine.recipe_overrides import override
from searchpipe.errors import ConfigError
from searchpipe.settings import Settings, convert

Task = Literal["pair", "query", "ranker"]
Precision = Literal["fp32", "fp16", "int8"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
"""From the highest to the lowest: each must beat the one before it to be used."""

GateName = Literal[
    "max_abs_diff",
    "batch_independence",
    "auc_loss",
    "ndcg_loss",
    "kendall_tau",
    "worst_stratum_auc_loss",
    "speed",
    "stress_p99_ms",
    "stress_failures",
    "memory_mib",
    "gpu_memory_mib",
]
"""Gates that a recipe may allow to fail."""

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
Positive = Annotated[int, msgspec.Meta(ge=1)]
NonNegative = Annotated[float, msgspec.Meta(ge=0.0)]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9][a-z0-9._-]{0,63}$")]


class SourceSettings(Settings, frozen=True):
    """``[source]``: the trained model.

    Attributes:
        model: a built-in model's name, an ONNX file, or a Hugging Face folder or hub name;
            paths are taken from the recipe's folder.
        tokenizer: the tokenizer.json of an ONNX file; that of the model if empty.
        sha256: what the model file must hash to; empty for whatever is there.
        max_tokens: longest row.
        pooling: how an encoder's tokens become one vector; empty for what the model's card says.
    """

    model: str
    tokenizer: str = ""
    sha256: str = ""
    max_tokens: Positive = 128
    pooling: Literal["", "mean", "cls", "none"] = ""


class PrecisionSettings(Settings, frozen=True):
    """``[precision]``: what is made, and what stays in float32.

    Attributes:
        make: precisions to make and gate; fp32 is the reference and always made.
        keep_fp32: regular expressions over node names that stay in float32 in every variant.
        keep_ops_fp32: operator types that are computed in float32 in fp16. In the file for ONNX Runtime's
            CUDA provider norms read and write half precision, for the operators are float32 inside.
        keep_last: keep the last projection, before the score, in float32.
        exclude_int8: regular expressions over node names that int8 leaves alone.
    """

    make: tuple[Precision, ...] = PRECISIONS
    keep_fp32: tuple[str, ...] = ()
    keep_ops_fp32: tuple[str, ...] = ("LayerNormalization", "SkipLayerNormalization", "Softmax")
    keep_last: bool = True
    exclude_int8: tuple[str, ...] = ()


class CalibrationSettings(Settings, frozen=True):
    """``[calibration]``: of int8.

    Attributes:
        method: how a range is chosen from the values seen.
        percentile: for ``method = "percentile"``.
        batches: samples drawn, of ``batch_rows`` rows each.
        batch_rows: rows of one batch.
        strata: what the draw is stratified by.
        min_per_stratum: rows that every stratum which occurs in the traffic must have.
        seed: of the draw.
        device: what the float32 model runs on; ``auto`` takes a GPU that ONNX Runtime can use.
    """

    method: Literal["entropy", "percentile", "max"] = "entropy"
    percentile: Annotated[float, msgspec.Meta(ge=90.0, le=100.0)] = 99.99
    batches: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 1000
    batch_rows: Positive = 8
    strata: tuple[Literal["traffic", "category", "length"], ...] = ("traffic", "category", "length")
    min_per_stratum: Positive = 8
    seed: int = 7
    device: Literal["auto", "cpu", "cuda"] = "auto"


class SensitivitySettings(Settings, frozen=True):
    """``[sensitivity]``: which layers cost int8 the most quality.

    Attributes:
        enabled: whether the sweep runs at all.
        rows: samples held out from calibration that it is measured on.
        budget_seconds: no further measurement starts after this.
        max_groups: groups of nodes swept; more layers are put together.
    """

    enabled: bool = True
    rows: Annotated[int, msgspec.Meta(ge=16, le=100_000)] = 256
    budget_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=86_400.0)] = 120.0
    max_groups: Positive = 24


class ProfileSettings(Settings, frozen=True):
    """``[profile]``: the shapes that engines are built for.

    Attributes:
        source: from the query log and the snapshot, or as written here.
        rows: least, usual and most rows; needed where ``source`` is ``manual``.
        tokens: least, usual and most tokens of a row; needed where ``source`` is ``manual``.
        depth: candidates that a query has scored; the most rows of a query.
        max_buckets: graphs captured at most.
        min_gain: a bucket more must save this share of the padded tokens.
    """

    source: Literal["traffic", "manual"] = "traffic"
    rows: tuple[Positive, Positive, Positive] | None = None
    tokens: tuple[Positive, Positive, Positive] | None = None
    depth: Positive = 256
    max_buckets: Positive = 48
    min_gain: Share = 0.005


class BuilderSettings(Settings, frozen=True):
    """``[builder]``: of TensorRT plans.

    Attributes:
        runtime: ``auto`` takes TensorRT, else TensorRT-RTX, else none; ``none`` builds no plan.
        workspace_mib: memory that the builder may use, in MiB.
        optimization_level: TensorRT's, 0 to 5.
        timing_cache: a file to pin the tactics with, from the recipe's folder; empty for one in the build.
    """

    runtime: Literal["auto", "tensorrt", "tensorrt-rtx", "none"] = "auto"
    workspace_mib: Positive = 1024
    optimization_level: Annotated[int, msgspec.Meta(ge=0, le=5)] = 3
    timing_cache: str = ""


class GateSettings(Settings, frozen=True):
    """``[gates]``: what a variant must pass against fp32; a gate that cannot be evaluated fails.

    Losses are differences to fp32; the bound holds for the upper end of the confidence interval
    where ``use_interval`` is set, else for the mean.

    Attributes:
        queries: drawn from the log (stratified) for the quality gates, at most.
        candidates: of each query.
        auc_loss: of relevant against other candidates.
        ndcg_loss: of nDCG@10.
        min_tau: least mean Kendall rank correlation of the top 50 with fp32's order.
        worst_stratum_auc_loss: in the stratum that loses most.
        use_interval: judge by the upper end of the bootstrap interval.
        bootstrap: resamples over queries.
        confidence: of the intervals.
        max_abs_diff: of a score to fp32's.
        batch_diff: a score may depend by so much on its batch mates.
        speedup: times faster than the precision above, at least.
        stress_rate: queries a second of the stress test; 0 takes half of what the engine can do.
        stress_seconds: of load.
        stress_p99_ms: the most that the P99 may be under it; 0 for ten times the P50 when idle.
        max_memory_mib: of the process's growth; 0 for no limit.
        max_gpu_memory_mib: of the growth of the GPU's memory in use; 0 for no limit.
        allow: gates that may fail, by name: their figures are reported and refuse nothing. What does
            not run or gives NaN is refused all the same.
    """

    queries: Positive = 200
    candidates: Positive = 64
    auc_loss: NonNegative = 0.003
    ndcg_loss: NonNegative = 0.005
    min_tau: Share = 0.9
    worst_stratum_auc_loss: NonNegative = 0.01
    use_interval: bool = True
    bootstrap: Positive = 1000
    confidence: Annotated[float, msgspec.Meta(gt=0.5, lt=1.0)] = 0.95
    max_abs_diff: NonNegative = 0.5
    batch_diff: NonNegative = 0.02
    speedup: NonNegative = 1.0
    stress_rate: NonNegative = 0.0
    stress_seconds: Annotated[float, msgspec.Meta(gt=0.0, le=3600.0)] = 5.0
    stress_p99_ms: NonNegative = 0.0
    max_memory_mib: NonNegative = 0.0
    max_gpu_memory_mib: NonNegative = 0.0
    allow: tuple[GateName, ...] = ()


class Recipe(Settings, frozen=True):
    """One model's way to its engines."""

    name: Name
    task: Task
    source: SourceSettings
    precision: PrecisionSettings = PrecisionSettings()
    calibration: CalibrationSettings = CalibrationSettings()
    sensitivity: SensitivitySettings = SensitivitySettings()
    profile: ProfileSettings = ProfileSettings()
    builder: BuilderSettings = BuilderSettings()
    gates: GateSettings = GateSettings()


def load_recipe(path: Path, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        path: of the TOML file.
        assignments: settings that replace the file's; see
            :func:`searchpipe.engine.recipe_overrides.override`.

    Raises:
        ConfigError: the file cannot be read, is not TOML, or holds a key or value that is not valid.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from error
    return parse_recipe(text, str(path), assignments)


def parse_recipe(text: str, what: str, assignments: Sequence[str] = ()) -> Recipe:
    """Read a recipe's text; ``what`` it is of, for messages; see :func:`load_recipe`.

    Raises:
        ConfigError: it is not TOML, or holds a key or value that is not valid.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{what} is not valid TOML: {error}.") from error
    recipe = convert(override(table, assignments), Recipe)
    if recipe.profile.source == "manual" and not (recipe.profile.rows and recipe.profile.tokens):
        raise ConfigError(f"{what}: profile.source is manual, and profile.rows or profile.tokens is missing.")
    return recipe
