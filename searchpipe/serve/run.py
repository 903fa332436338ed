"""The server's process: one socket, one event loop, and an orderly end."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from searchpipe.errors import ConfigError
from searchpipe.serve.app import create_app
from searchpipe.serve.service import Served
from searchpipe.serve.settings import ServeSettings

_SWITCH_S = 0.001
"""Longest time that a thread of queries keeps the interpreter while the event loop wants it, in seconds.

Python's own 5 ms are a tenth of the default budget, and a request needs the loop twice: to be read
and handed on, and to be answered.
"""

_LOG = logging.getLogger("searchpipe.serve")


def serve(
    open_pipeline: Callable[[], Served],
    settings: ServeSettings,
    *,
    listening: Callable[[str], None],
    reloads: bool = False,
) -> bool:
    """Serve until SIGTERM or SIGINT, then finish what is in flight and close the pipeline.

    Call it on the main thread. A second signal ends the delay before that, one more does not wait either.

    Args:
        open_pipeline: called beside the server, which says meanwhile that it is not ready.
        settings: where to listen and what to bear.
        listening: told the address once connections are taken.
        reloads: at SIGHUP, look for a new version of a live pipeline.

    Returns:
        Whether everything was finished in time.

    Raises:
        ConfigError: the address cannot be listened on.
        SearchpipeError: ``open_pipeline`` raised it.
    """
    app = create_app(open_pipeline, settings)
    service = app.state.service
    with _bound(settings) as sock:
        server = _Server(
            uvicorn.Config(
                app,
                lifespan="on",
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                # Idle connections count too; those in flight are bounded before.
                limit_concurrency=4 * settings.max_requests,
                timeout_graceful_shutdown=math.ceil(settings.drain_timeout_s),
            ),
            drain=service.drain,
            reload=service.reload if reloads else None,
            delay_s=settings.drain_delay_s,
        )
        service.on_failure = server.stop_soon
        host, port = sock.getsockname()[:2]
        listening(f"http://{f'[{host}]' if ':' in host else host}:{port}")
        with _quick_switches():
            server.run([sock])
    if service.failure is not None:
        raise service.failure
    return bool(service.status == "closed")


@contextmanager
def _quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, _SWITCH_S))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class _Server(uvicorn.Server):
    """Uvicorn's server with a drain: the signal is announced first and obeyed after a delay."""

    def __init__(
        self,
        config: uvicorn.Config,
        *,
        drain: Callable[[], None],
        reload: Callable[[], None] | None,
        delay_s: float,
    ) -> None:
        super().__init__(config)
        self._drain = drain
        self._reload = reload
        self._delay_s = delay_s
        self._signalled = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Remember the loop, which a signal must wake."""
        self._loop = asyncio.get_running_loop()
        if self._reload is not None and hasattr(signal, "SIGHUP"):  # not on Windows
            self._loop.add_signal_handler(signal.SIGHUP, self._reload)
        await super().serve(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Drain; a second signal ends the delay, and what comes after that everything.

        Uvicorn's own method would have the signal raised again in the end, and the exit code with it.
        """
        if self._signalled:
            self.force_exit = self.should_exit
            self.should_exit = True
            return
        self._signalled = True
        self._drain()
        _LOG.info("Draining")
        if self._delay_s > 0 and self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.call_later, self._delay_s, self.stop_soon)
        else:
            self.stop_soon()

    def stop_soon(self) -> None:
        """End at the next look; from any thread."""
        self.should_exit = True


def _bound(settings: ServeSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Named, because only then does asyncio send small answers at once (TCP_NODELAY).
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        sock.listen(256)
    except OSError as error:
        sock.close()
        raise ConfigError(
            f"Cannot listen on {settings.host} port {settings.port}: {error.strerror}.",
            cure="Choose another serve.host or serve.port.",
        ) from error
    return sock
