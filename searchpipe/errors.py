"""Every exception that searchpipe raises on purpose.

Each message names the value that was refused, the limit it broke and, where
there is one, the cure. All of them derive from :class:`SearchpipeError`, so a
host can fence the library off with one ``except``.
"""

from __future__ import annotations


class SearchpipeError(Exception):
    """Base of all errors; ``code`` is stable and machine-readable, ``cure`` says what to do."""

    code = "error"

    def __init__(self, message: str, *, cure: str = "") -> None:
        super().__init__(f"{message} {cure}" if cure else message)
        self.cure = cure


class QueryError(SearchpipeError, ValueError):
    """A query that cannot be answered as asked: text, k, budget or context."""

    code = "bad_query"


class FilterError(QueryError):
    """A filter on an unknown column, or with an operator or value that the column cannot take."""

    code = "bad_filter"


class ConfigError(SearchpipeError, ValueError):
    """A configuration with an unknown key, a wrong type or a value outside its limits."""

    code = "bad_config"


class MissingDependencyError(SearchpipeError, ImportError):
    """An optional package is needed and not installed; the cure names the extra."""

    code = "missing_dependency"


class CatalogError(SearchpipeError):
    """A catalog file that cannot be indexed: unreadable, unmapped, or too many bad rows."""

    code = "bad_catalog"


class CatalogBusyError(CatalogError):
    """Another process is indexing into the same folder."""

    code = "catalog_busy"


class LogError(SearchpipeError):
    """A query log that cannot be replayed: unreadable, empty, or too many broken lines."""

    code = "bad_log"


class SnapshotError(SearchpipeError):
    """A snapshot that cannot be opened."""

    code = "bad_snapshot"


class SnapshotNotFoundError(SnapshotError, FileNotFoundError):
    """There is no published snapshot at that path."""

    code = "no_snapshot"


class SnapshotCorruptError(SnapshotError):
    """A file of the snapshot is missing, truncated or not what the manifest says."""

    code = "corrupt_snapshot"


class SnapshotVersionError(SnapshotError):
    """The snapshot's schema is newer than this release, or too old to read."""

    code = "snapshot_version"


class ModelError(SearchpipeError):
    """A model that is not what its specification says: bad ONNX, wrong inputs, wrong shape."""

    code = "bad_model"


class ModelFetchError(ModelError):
    """A model's files could not be fetched or do not match their hash."""

    code = "model_fetch"


class EngineError(SearchpipeError):
    """An engine failed while it ran."""

    code = "engine_failed"


class EngineFailedError(EngineError):
    """A request failed with the engine that had it; the engine's chain counts that and may retire it."""

    code = "engine_failed"


class EngineUnavailableError(EngineError):
    """No engine is ready: the next one is being opened, or all have failed. Asking costs nothing."""

    code = "engine_unavailable"


class DeviceMemoryError(EngineError):
    """What is wanted on a device does not fit into its free memory; the message holds the figures."""

    code = "device_memory"


class RecallTimeoutError(EngineError):
    """Recall gave no result within the time that its caller had."""

    code = "recall_timeout"


class PipelineError(SearchpipeError):
    """Stages that do not fit together, or a pipeline used in a way it does not allow."""

    code = "bad_pipeline"


class SwapError(PipelineError):
    """A new version was not taken on: it failed its check, and the version before it serves on."""

    code = "swap_refused"


class OverloadedError(PipelineError):
    """A bounded queue is full, or an answer would come too late; try again later.

    ``retry_after_s`` is the time after which it is predicted to work, in seconds; None if that is not known.
    """

    code = "overloaded"

    def __init__(self, message: str, *, cure: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, cure=cure)
        self.retry_after_s = retry_after_s


class ClosedError(PipelineError):
    """The pipeline was closed."""

    code = "closed"


class ForkedError(PipelineError):
    """The pipeline was opened before the fork that made this process: its threads and GPU stayed behind."""

    code = "forked"

    def __init__(self) -> None:
        super().__init__(
            "The pipeline was opened before this process was forked; its threads and GPU did not come along.",
            cure="Open it after the fork, in each worker process.",
        )


class RecipeError(SearchpipeError):
    """An engine's build was refused: too few samples, a model that cannot be exported, a failed step."""

    code = "recipe_refused"


class RegistryError(SearchpipeError):
    """An engine store that cannot be used as asked: unknown engine, tampered file, bad signature."""

    code = "bad_registry"
