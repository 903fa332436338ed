"""From what the command line names to a target."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchpipe.errors import ConfigError

if TYPE_CHECKING:
    from searchpipe.replay.targets import Target


def open_target(
    *,
    snapshot: Path | None = None,
    config: Mapping[str, Any] | Path | None = None,
    url: str | None = None,
    k: int | None = None,
    budget_ms: float | None = None,
    timeout_s: float = 10.0,
    queued: bool = False,
) -> Target:
    """A service, or a pipeline that has answered a few queries so that its costs are known.

    Args:
        snapshot: folder that ``searchpipe index`` wrote.
        config: of the pipeline.
        url: of a service, instead of both.
        k: hits of queries that name no k.
        budget_ms: of queries that name none; infinite for no limit.
        timeout_s: longest wait for the service.
        queued: ask the pipeline through ``asearch``, whose queue counts against the budget, and not on
            the caller's own thread.

    Raises:
        ConfigError: neither or both are named, or the URL or configuration is wrong.
        SnapshotError, ModelError, PipelineError: the pipeline cannot be opened.
    """
    from searchpipe.replay.targets import HttpTarget, PipelineTarget

    if (snapshot is None) == (url is None):
        raise ConfigError(
            "Name either a snapshot or a URL to replay against.",
            cure="Add --snapshot DIR, or --url http://HOST:PORT of a running service.",
        )
    if url is not None:
        if config is not None:
            raise ConfigError("A configuration is of no use with a URL: the service has its own.")
        return HttpTarget(url, k=k, budget_ms=budget_ms, timeout_s=timeout_s)
    from searchpipe.pipeline import Pipeline

    assert snapshot is not None
    pipeline = Pipeline.open(snapshot, config)
    pipeline.warm_up()
    if queued:
        from searchpipe.replay.queued_target import QueuedTarget

        return QueuedTarget(pipeline, k=k or 10, budget_ms=budget_ms)
    return PipelineTarget(pipeline, k=k or 10, budget_ms=budget_ms)
