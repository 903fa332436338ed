"""``searchpipe serve``: the HTTP service."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer


def serve_command(
    snapshot: Annotated[Path, typer.Option("--snapshot", "-s", help="Folder that `searchpipe index` wrote.")],
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML configuration.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: serve.host]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0 for any free one. [default: serve.port]")
    ] = None,
    log: Annotated[
        Literal["json", "plain", "none"], typer.Option(help="Logs on stderr: lines of JSON, or for people.")
    ] = "json",
    sample: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="Share of the answers to log. [default: metrics.log.sample]"),
    ] = None,
    watch: Annotated[
        bool,
        typer.Option(
            "--watch", help="Take on snapshots and engines as they are published and promoted; see [live]."
        ),
    ] = False,
) -> None:
    """Serve a snapshot over HTTP: POST /search, a page at /, health, metrics, OpenAPI.

    SIGTERM drains it: what is in flight is finished, then it ends with exit code 0. With --watch, SIGHUP
    reads the configuration file again and looks for a new version at once.
    """
    from searchpipe.catalog.optional import require
    from searchpipe.config import Config, load_config
    from searchpipe.pipeline import Pipeline

    for package in ("fastapi", "uvicorn", "prometheus_client"):
        require(package, "serve")
    from searchpipe.live.pipeline import LivePipeline
    from searchpipe.live.record import default_state
    from searchpipe.serve.run import serve

    def read() -> Config:
        told = load_config(config)
        query_log = msgspec.structs.replace(
            told.metrics.log, enabled=True, sample=told.metrics.log.sample if sample is None else sample
        )
        return msgspec.structs.replace(told, metrics=msgspec.structs.replace(told.metrics, log=query_log))

    told = read()
    settings = msgspec.structs.replace(
        told.serve,
        host=told.serve.host if host is None else host,
        port=told.serve.port if port is None else port,
    )
    _set_up_logging(log)

    def open_watched() -> LivePipeline:
        return LivePipeline.open(snapshot, read, state=told.live.state or default_state(snapshot, config))

    finished = serve(
        open_watched if watch else lambda: Pipeline.open(snapshot, told),
        settings,
        listening=lambda address: typer.echo(f"searchpipe listens on {address}"),
        reloads=watch,
    )
    if not finished:
        sys.stderr.write("searchpipe: queries were still running when the time to drain was over\n")
        sys.stderr.flush()
        os._exit(1)  # an ordinary exit would wait for their threads


def _set_up_logging(form: str) -> None:
    from searchpipe.metrics.query_log import JsonFormatter

    if form == "none":
        return
    handler = logging.StreamHandler()
    plain = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JsonFormatter() if form == "json" else plain)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for chatty in ("uvicorn.error", "faiss.loader"):  # each step of a start and an end
        logging.getLogger(chatty).setLevel(logging.WARNING)
