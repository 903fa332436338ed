"""What HTTP costs: `searchpipe serve` against the same pipeline behind a plain FastAPI route.

    python -m benchmarks.serve_http [--seconds 4] [--json FILE]

Both servers are processes of their own on the loopback, one after the other on the same work; the
callers are threads with a raw socket each, because a client library costs more than the server.
A query goes through seven stages that answer at once with a page of ten products as a catalog has
them, so that what is measured is the way there and back; and once more through stages that hold the
interpreter for two milliseconds, as the Python between two model calls does: then callers, threads and
the event loop want the same lock.

The peer is what one writes first: a pydantic model, `await pipeline.asearch(...)`, the dictionary
returned, `uvicorn.run`.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.overhead import stages
from benchmarks.report import Report, measure
from searchpipe.page import Hit
from searchpipe.pipeline import Pipeline
from searchpipe.stages.base import Stage, Work

CONNECTIONS = (1, 4, 16)
BUSY_MS = 2.0
BODY = b'{"query": "red running shoes", "k": 10, "context": {"session": "a8f3"}, "budget_ms": 5000}'
REQUEST = (
    b"POST /search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


class TenHits:
    """The stage ``page``: ten products with the fields, scores and reasons of the generated catalog."""

    name, essential = "page", True
    reads: tuple[str, ...] = ("candidates",)
    writes: tuple[str, ...] = ("hits",)

    def __init__(self) -> None:
        self._hits = [
            Hit(
                n + 1,
                f"P{n:06d}",
                1.0 - n / 100,
                {"lexical": 14.5 - n, "dense": 0.83, "fused": 0.0161, "prerank": 0.91, "score": 5.21},
                {
                    "title": f"Wilden C{100 + n} cushioned running shoes, mesh, size 8, red",
                    "brand": "Wilden",
                    "category": "Shoes > Running",
                    "price": 49.5 + n,
                    "rating": 4.4,
                },
                (f"lexical rank {n + 1}", f"dense rank {n + 3}", "score 5.21"),
            )
            for n in range(10)
        ]

    def run(self, work: Work) -> None:
        """Hand the hits over."""
        work.hits = self._hits

    def describe(self) -> str:
        """One line."""
        return "ten hits"


class Busy:
    """The stage ``score``, which holds the interpreter for so many milliseconds."""

    name, essential = "score", False
    reads: tuple[str, ...] = ("tokens", "candidates")
    writes: tuple[str, ...] = ("candidates",)

    def __init__(self, ms: float) -> None:
        self._ms = ms

    def run(self, work: Work) -> None:  # noqa: ARG002
        """Burn processor time, not wall-clock time: who waits for the lock does not work."""
        end = time.thread_time() + self._ms / 1e3
        while time.thread_time() < end:
            pass

    def describe(self) -> str:
        """One line."""
        return f"busy for {self._ms:g} ms"


def pipeline(busy_ms: float) -> Pipeline:
    """The work that both servers do."""
    own: dict[str, Stage] = {"page": TenHits()}
    if busy_ms:
        own["score"] = Busy(busy_ms)
    return Pipeline([own.get(stage.name, stage) for stage in stages()])


def serve_ours(busy_ms: float, port: int) -> None:
    """`searchpipe serve`, with the pipeline above in place of a snapshot."""
    from searchpipe.serve.run import serve
    from searchpipe.serve.settings import ServeSettings

    serve(lambda: pipeline(busy_ms), ServeSettings(port=port), listening=lambda _: None)


def serve_plain(busy_ms: float, port: int) -> None:
    """The peer: what FastAPI and uvicorn do on their own."""
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    class Body(BaseModel):
        query: str
        k: int = 10
        context: dict[str, Any] = {}
        budget_ms: float | None = None

    # At module level annotations would be found by name; here they must be real.
    app, opened = FastAPI(), pipeline(busy_ms)

    async def search(body: Body) -> dict[str, Any]:
        page = await opened.asearch(body.query, body.k, body.budget_ms, None, body.context)
        return page.to_dict()

    search.__annotations__ = {"body": Body, "return": dict[str, Any]}
    app.post("/search")(search)
    uvicorn.run(app, port=port, log_level="warning")


SERVERS = {"ours": serve_ours, "plain": serve_plain}


@contextmanager
def running(name: str, busy_ms: float) -> Iterator[tuple[int, int]]:
    """A server process that answers; yields its port and process id."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [sys.executable, "-m", "benchmarks.serve_http", "--serve", name, str(busy_ms), str(port)]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + 60
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as sock:
                    if _ask(sock):
                        break
            except OSError:
                pass
            if time.monotonic() > end or process.poll() is not None:
                raise SystemExit(f"the server {name} did not start")
            time.sleep(0.05)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(30)


def cpu_seconds(pid: int) -> float | None:
    """What a process has taken of the processors so far; None where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def closed_loop(port: int, connections: int, seconds: float) -> tuple[float, list[float], int]:
    """Each connection asks one request after the other.

    Returns:
        Requests a second; seconds of each; how many were asked, with those before the measurement.
    """
    warmed = [0] * connections
    times: list[list[float]] = [[] for _ in range(connections)]
    gate = threading.Barrier(connections + 1)
    failures: list[str] = []

    def call(number: int) -> None:
        own = times[number]
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            warm = time.perf_counter() + min(1.0, seconds / 4)
            while time.perf_counter() < warm:
                _ask(sock)
                warmed[number] += 1
            gate.wait()
            end = time.perf_counter() + seconds
            while (begin := time.perf_counter()) < end:
                if not _ask(sock):
                    failures.append("not a 200")
                    return
                own.append(time.perf_counter() - begin)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(connections)]
    for thread in threads:
        thread.start()
    gate.wait()
    begin = time.perf_counter()
    for thread in threads:
        thread.join()
    elapsed = time.perf_counter() - begin
    if failures:
        raise SystemExit(f"{len(failures)} connections got an answer that is {failures[0]}")
    every = [one for own in times for one in own]
    return len(every) / elapsed, every, len(every) + sum(warmed)


def _ask(sock: socket.socket) -> bool:
    """One request; whether the answer was a 200."""
    sock.sendall(REQUEST)
    head = sock.recv(65536)
    while (split := head.find(b"\r\n\r\n")) < 0:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("the server hung up")
        head += more
    mark = head.lower().index(b"content-length:") + 15
    left = int(head[mark : head.index(b"\r\n", mark)]) - (len(head) - split - 4)
    while left > 0:
        more = sock.recv(65536)
        if not more:
            raise ConnectionError("the server hung up")
        left -= len(more)
    return head.startswith(b"HTTP/1.1 200")


def main() -> None:
    """Measure and report."""
    parser = Report.parser("serve_http", "What does HTTP cost?")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load (default: %(default)s)")
    parser.add_argument("--serve", nargs=3, metavar=("NAME", "BUSY_MS", "PORT"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        name, busy_ms, port = args.serve
        SERVERS[name](float(busy_ms), int(port))
        return
    report = Report.from_args(
        "serve_http",
        "What does HTTP cost?",
        packages=("fastapi", "uvicorn", "uvloop", "httptools", "msgspec"),
        args=args,
    )
    for kind, busy_ms in (("instant", 0.0), ("busy", BUSY_MS)):
        with pipeline(busy_ms) as direct:
            ask = partial(direct.search, "red running shoes", 10, 5000)
            inside = measure(ask, rounds=1000, warm_up=100)
        report.times(f"{kind}: in process", inside)
        for name in SERVERS:
            with running(name, busy_ms) as (port, pid):
                for connections in CONNECTIONS:
                    begin = cpu_seconds(pid)
                    rate, seconds, asked = closed_loop(port, connections, args.seconds)
                    end = cpu_seconds(pid)
                    found = report.times(f"{kind}: {name}, {connections} connections", seconds)
                    report.figure(f"{kind}_{name}_{connections}_per_s", rate, unit="requests/s")
                    report.figure(f"{kind}_{name}_{connections}_p99_ms", 1e3 * found["p99"], unit="ms")
                    if begin is not None and end is not None:
                        each = 1e6 * (end - begin) / asked
                        report.figure(f"{kind}_{name}_{connections}_cpu_us", each, unit="us of the server")
                    if connections == 1:
                        over = 1e6 * (found["p50"] - float(np.median(inside)))
                        report.figure(f"{kind}_{name}_overhead_us", over, unit="us")
    report.finish()


if __name__ == "__main__":
    main()
