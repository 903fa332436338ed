"""The ASGI application: routes, and what becomes of errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import Response

from searchpipe import __version__
from searchpipe.errors import SearchpipeError
from searchpipe.serve import schema
from searchpipe.serve.answers import JsonResponse, invalid, problem, problem_of, retry_after
from searchpipe.serve.guard import Guard
from searchpipe.serve.search import SearchEndpoint
from searchpipe.serve.search_page import SearchPage
from searchpipe.serve.service import Served, Service
from searchpipe.serve.settings import ServeSettings

_LOG = logging.getLogger("searchpipe.serve")
_Errors = dict[int | str, dict[str, Any]]


def create_app(
    source: Served | Callable[[], Served],
    settings: ServeSettings | None = None,
    *,
    registry: CollectorRegistry | None = None,
) -> FastAPI:
    """An application that serves a pipeline; ``app.state.service`` is its :class:`Service`.

    Args:
        source: a pipeline, which its owner closes after the server; or what opens one, called
            when the server starts and closed when it ends.
        settings: the limits; those of ``[serve]`` in the pipeline's configuration are not looked up.
        registry: for the metrics; one of its own if None.
    """
    settings = settings or ServeSettings()
    metrics = CollectorRegistry() if registry is None else registry
    service = Service(source, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await asyncio.to_thread(service.close, settings.drain_timeout_s)

    app = FastAPI(
        title="searchpipe",
        version=__version__,
        summary="Product search inside a deadline.",
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.service = service
    requests = Counter(
        "searchpipe_http_requests", "HTTP answers, by path and status.", ["path", "status"], registry=metrics
    )
    shed = Counter("searchpipe_http_shed", "Requests turned away, by limit.", ["limit"], registry=metrics)

    def retry_s() -> int:
        pipeline = service.pipeline
        if pipeline is None:
            return 1
        return retry_after(pipeline.load[1], pipeline.config.pipeline.threads, service.mean_s)

    endpoint = SearchEndpoint(service, settings, retry_s)
    _add_search(app, endpoint)
    _add_health(app, service, metrics)
    _add_about(app, service, settings)
    if settings.page:
        page = SearchPage()
        app.add_api_route("/", page.response, include_in_schema=False)
    _add_errors(app)
    paths = {getattr(route, "path", "") for route in app.routes}
    app.add_middleware(
        Guard,
        settings=settings,
        retry_s=retry_s,
        direct={("POST", "/search"): endpoint},
        count=lambda path, status: requests.labels(path if path in paths else "other", str(status)).inc(),
        shed=lambda limit: shed.labels(limit).inc(),
    )
    return app


def _add_search(app: FastAPI, endpoint: SearchEndpoint) -> None:
    @app.post(
        "/search",
        response_model=schema.PageBody,
        responses=_errors(400, 408, 413, 422, 429, 503),
        summary="The best products for a query, within its budget",
    )
    async def search(body: schema.SearchBody, request: Request) -> Response:
        # The guard has most requests answered before they get here; this is for those whose path it
        # does not know, as below a mount.
        return await endpoint.answer(body, request.receive)


def _add_health(app: FastAPI, service: Service, registry: CollectorRegistry) -> None:
    @app.get("/health/live", response_model=schema.HealthBody, summary="Whether the process works")
    async def live() -> Response:
        return JsonResponse({"status": "live"})

    @app.get(
        "/health/ready",
        response_model=schema.HealthBody,
        responses={503: {"model": schema.HealthBody}},
        summary="Whether queries are wanted: after warming up, until draining",
    )
    async def ready() -> Response:
        status = service.status
        if status == "ready":
            return JsonResponse({"status": status})
        return JsonResponse({"status": status}, 503, {"Retry-After": "1"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _add_about(app: FastAPI, service: Service, settings: ServeSettings) -> None:
    @app.get("/about", response_model=schema.AboutBody, responses=_errors(429, 503), summary="What is served")
    async def about() -> Response:
        pipeline = service.pipeline
        if pipeline is None:
            return problem(503, "not_ready", f"The service is {service.status}.", retry_s=1)
        snapshot = pipeline.snapshot
        return JsonResponse(
            {
                "version": __version__,
                "snapshot": snapshot.version if snapshot is not None else "",
                "products": snapshot.count if snapshot is not None else 0,
                "default_budget_ms": pipeline.config.budget.default_ms,
                "max_budget_ms": settings.max_budget_ms,
                "max_k": pipeline.config.pipeline.max_k,
                "stages": [
                    {"name": s.name, "essential": s.essential, "settings": s.describe()}
                    for s in pipeline.stages
                ],
            }
        )


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError) -> Response:
        return invalid(error.errors())

    @app.exception_handler(SearchpipeError)
    async def refused(_: Request, error: SearchpipeError) -> Response:
        return problem_of(error, retry_s=1)

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> Response:
        code = {400: "bad_request", 404: "not_found", 405: "method_not_allowed"}.get(
            error.status_code, "http_error"
        )
        return problem(error.status_code, code, f"{error.detail}.", headers=error.headers)

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        _LOG.error("A request failed", exc_info=error)
        return problem(500, "internal", "The service failed; its log says why.")


def _errors(*statuses: int) -> _Errors:
    return {status: {"model": schema.ErrorBody} for status in statuses}
