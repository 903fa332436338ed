"""In front of the application: how large, how slow and how many requests may be."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from searchpipe.serve.answers import JsonResponse, problem
from searchpipe.serve.settings import ServeSettings

_FREE = ("/health/live", "/health/ready", "/metrics")  # answered however busy the service is
_SAFETY = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]


Direct = Callable[[Scope, Receive, bytes], Awaitable[Response]]
"""Answers a request whose body has been read."""


class Guard:
    """ASGI middleware; for one event loop.

    Reads a request's whole body, within bounds of size and time, before the application
    sees it. Bounds the requests in flight, of all clients and of each.

    Args:
        app: what is guarded.
        settings: the bounds.
        direct: (method, path) -> what answers such a request from its body instead of ``app``.
        retry_s: seconds for ``Retry-After``, asked when a request is shed.
        count: told of each answer: path, status.
        shed: told why a request was shed.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        settings: ServeSettings,
        direct: Mapping[tuple[str, str], Direct],
        retry_s: Callable[[], int],
        count: Callable[[str, int], None],
        shed: Callable[[str], None],
    ) -> None:
        self._app = app
        self._settings = settings
        self._direct = direct
        self._retry_s = retry_s
        self._count = count
        self._shed = shed
        self._clients: Counter[str] = Counter()
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._count(scope["path"], message["status"])
                message = {**message, "headers": [*message["headers"], *_SAFETY]}
            await send(message)

        if scope["path"] in _FREE:
            await self._app(scope, receive, sender)
            return
        client = scope["client"][0] if scope.get("client") else ""
        refusal = self._refusal(client)
        if refusal is not None:
            await refusal(scope, receive, sender)
            return
        self._active += 1
        self._clients[client] += 1
        try:
            await self._pass(scope, receive, sender)
        finally:
            self._active -= 1
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def _refusal(self, client: str) -> JsonResponse | None:
        limit = self._settings.max_per_client
        if limit and self._clients[client] >= limit:
            self._shed("client")
            return problem(
                429,
                "too_many_requests",
                f"{limit} requests of this address are in flight, which is the limit.",
                cure="Wait for answers before asking more.",
                retry_s=1,
                headers={"Connection": "close"},
            )
        if self._active >= self._settings.max_requests:
            self._shed("requests")
            return problem(
                503,
                "overloaded",
                f"{self._active} requests are in flight, which is the limit.",
                cure="Try again later.",
                retry_s=self._retry_s(),
                headers={"Connection": "close"},
            )
        return None

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                body = await self._read(scope, receive)
        except TimeoutError:
            refusal = problem(
                408,
                "body_timeout",
                f"The body did not come within {self._settings.body_timeout_s:g} s.",
                headers={"Connection": "close"},
            )
            await refusal(scope, receive, send)
            return
        if isinstance(body, JsonResponse):
            await body(scope, receive, send)
            return
        if body is None:
            return
        endpoint = self._direct.get((scope.get("method", ""), scope["path"]))
        if endpoint is not None:
            answer = await endpoint(scope, receive, body)
            await answer(scope, receive, send)
            return
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()  # from now on only: the client has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | JsonResponse | None:
        """The body; an answer if it is too large; None if the client has gone."""
        limit = self._settings.max_body_bytes
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value[:20]) > limit):
                return self._too_large()
        body = bytearray()
        while True:
            message: dict[str, Any] = dict(await receive())
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > limit:
                return self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> JsonResponse:
        return problem(
            413,
            "body_too_large",
            f"The body is larger than {self._settings.max_body_bytes} bytes.",
            cure="Shorten it, or raise serve.max_body_bytes.",
            headers={"Connection": "close"},
        )
