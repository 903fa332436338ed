"""``POST /search``: a body in, a page out, without a framework's layers in between.

They took longer than many a query: routing, dependencies, validation of what was parsed before and a
response object cost two to three times as much as parsing the body, asking and encoding the page.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from pydantic import ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope

from searchpipe.errors import QueryError, SearchpipeError
from searchpipe.page import Page
from searchpipe.serve.answers import encode, invalid, problem, problem_of
from searchpipe.serve.schema import SearchBody
from searchpipe.serve.service import Service
from searchpipe.serve.settings import ServeSettings

_GONE = 499  # the client has closed the connection: nobody reads this
_WATCH_AFTER_S = 0.002  # a query that takes less is not worth asking whether its client is still there


class SearchEndpoint:
    """Answers ``POST /search``; for one event loop.

    Args:
        service: has the pipeline.
        settings: the limits.
        retry_s: seconds for ``Retry-After``, asked when a query is shed.
    """

    def __init__(self, service: Service, settings: ServeSettings, retry_s: Callable[[], int]) -> None:
        self._service = service
        self._settings = settings
        self._retry_s = retry_s

    async def __call__(self, scope: Scope, receive: Receive, content: bytes) -> Response:
        """The answer to a request whose body is ``content``; ``receive`` tells if the client leaves."""
        if not _says_json(scope):
            return problem(
                422,
                "invalid_request",
                "The body is not said to be JSON.",
                cure="Send the header Content-Type: application/json.",
            )
        try:
            body = SearchBody.model_validate_json(content)
        except ValidationError as error:
            return invalid(error.errors(include_url=False, include_context=False, include_input=False))
        try:
            return await self.answer(body, receive)
        except SearchpipeError as error:
            return problem_of(error, retry_s=self._retry_s())

    async def answer(self, body: SearchBody, receive: Receive) -> Response:
        """The answer to a valid body.

        Raises:
            SearchpipeError: the query was refused.
        """
        pipeline = self._service.pipeline
        if pipeline is None:
            return problem(503, "not_ready", f"The service is {self._service.status}.", retry_s=1)
        if body.budget_ms is not None and body.budget_ms > self._settings.max_budget_ms:
            raise QueryError(
                f"budget_ms is {body.budget_ms:g}; this service allows {self._settings.max_budget_ms:g}.",
                cure="Ask for less, or raise serve.max_budget_ms.",
            )
        without: list[str] = []
        if body.stages:
            known = {stage.name for stage in pipeline.stages}
            without = [name for name, on in body.stages.items() if not on or name not in known]
        answer = pipeline.asearch(
            body.query,
            body.k,
            body.budget_ms,
            body.filters,
            body.context,
            priority=body.priority,
            without=without,
        )
        page = await while_connected(receive, answer)
        if page is None:
            return Response(status_code=_GONE)
        self._service.took(page.trace.total_ms / 1e3)
        return Response(encode(page), media_type="application/json")


async def while_connected(receive: Receive, answer: Awaitable[Page]) -> Page | None:
    """The answer; None if the client left first, whose work is then cancelled."""
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    watcher: asyncio.Task[None] | None = None
    gone = done = False

    async def watch() -> None:
        nonlocal gone
        while (await receive())["type"] != "http.disconnect":
            pass
        if not done:
            gone = True
            task.cancel()

    def start() -> None:
        nonlocal watcher
        watcher = loop.create_task(watch())

    timer = loop.call_later(_WATCH_AFTER_S, start)
    try:
        return await answer
    except asyncio.CancelledError:
        # Cancelled by the watcher alone: what else cancels the request must go on.
        if gone and task.uncancel() == 0:
            return None
        raise
    finally:
        done = True
        timer.cancel()
        if watcher is not None:
            watcher.cancel()


def _says_json(scope: Scope) -> bool:
    """Whether the content type is JSON; a page elsewhere cannot send that without being asked (CORS)."""
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    for name, value in headers:
        if name == b"content-type":
            kind = value.split(b";", 1)[0].strip().lower()
            return bool(
                kind == b"application/json" or (kind[:12] == b"application/" and kind[-5:] == b"+json")
            )
    return False
