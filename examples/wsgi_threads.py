"""A WSGI service of a few lines: one pipeline, shared by all of the server's threads.

Try it with ``SEARCHPIPE_SNAPSHOT=catalog/ python examples/wsgi_threads.py``; in production, for example,
``gunicorn --threads 16 examples.wsgi_threads:app``. Each worker process opens its own pipeline when it is
asked for the first time, which is after the fork, as it must be.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

import searchpipe

_opening = threading.Lock()


@functools.cache
def _opened(process: int) -> searchpipe.Pipeline:  # noqa: ARG001  (one a process)
    pipeline = searchpipe.Pipeline.open(
        os.environ["SEARCHPIPE_SNAPSHOT"], os.environ.get("SEARCHPIPE_CONFIG")
    )
    pipeline.warm_up()
    return pipeline


def pipeline() -> searchpipe.Pipeline:
    """This process's pipeline; opened once, whichever thread comes first."""
    with _opening:
        return _opened(os.getpid())


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """``GET /?q=red+shoes&k=10``."""
    asked = parse_qs(environ.get("QUERY_STRING", ""))
    try:
        page = pipeline().search(asked.get("q", [""])[0], k=int(asked.get("k", ["10"])[0]))
        status, body = "200 OK", page.to_dict()
    except ValueError as error:  # QueryError is one
        status, body = "400 Bad Request", {"error": str(error)}
    start_response(status, [("Content-Type", "application/json; charset=utf-8")])
    return [json.dumps(body).encode()]


if __name__ == "__main__":
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class ThreadingServer(ThreadingMixIn, WSGIServer):
        """A thread a request."""

    with make_server("127.0.0.1", 8000, app, server_class=ThreadingServer) as server:
        print("http://127.0.0.1:8000/?q=red+shoes", flush=True)
        server.serve_forever()
