"""The pipeline of the overload benchmark, in a process of its own: ``asearch`` behind a socket.

One JSON array a line. In: ``[number, query, due]``, or ``["facts"]``; ``due`` is when the caller's budget
ends, on the clock that all processes of a machine share, so that the time that a query has waited before it
was read is not given to it again. Out: ``[number, "answered", total_ms, [[stage, reason, amount], ...]]``,
``[number, code, retry_after_s]``, or ``["facts", {...}]``.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.errors import SearchpipeError
from searchpipe.pipeline import Pipeline

_LEAST_MS = 1.0
"""Budget of a query that was read too late; only while others wait it is refused at once."""
Opener = Callable[[Path, dict[str, Any]], Pipeline]
"""Opens a pipeline over a snapshot with a configuration; a module's own function, for another process."""


def memory_mib(process: int | str = "self") -> float:
    """Memory that a process has in RAM now, MiB; file mappings are not counted. 0 where it is not told."""
    status = Path(f"/proc/{process}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def open_pipeline(snapshot: Path, config: dict[str, Any]) -> Pipeline:
    """As the configuration has it."""
    return Pipeline.open(snapshot, config)


def serve(opener: Opener, snapshot: Path, config: dict[str, Any], told: Connection) -> None:
    """Open the pipeline, tell the port of 127.0.0.1 it is asked at, and answer until the connection ends."""
    with opener(snapshot, config) as pipeline:
        pipeline.warm_up()
        gc.freeze()
        asyncio.run(_Door(pipeline).listen(told))


class _Door:
    """Takes queries from one connection. For one event loop."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._longest_queue = 0
        self._most_running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready: list[bytes] = []
        self._over = asyncio.Event()

    async def listen(self, told: Connection) -> None:
        server = await asyncio.start_server(self._take, "127.0.0.1", 0, limit=1 << 20)
        told.send(server.sockets[0].getsockname()[1])
        await self._over.wait()
        server.close()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            message = msgspec.json.decode(line)
            if message[0] == "facts":
                self._send(writer, ["facts", self._facts()])
                continue
            number, query, due = message
            budget_ms = (due - time.perf_counter()) * 1e3
            if budget_ms <= 0 and self._pipeline.load[1]:
                self._send(writer, [number, "late_at_the_door", None])
                continue
            task = asyncio.create_task(self._answer(writer, number, query, max(_LEAST_MS, budget_ms)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            running, waiting = self._pipeline.load
            self._longest_queue = max(self._longest_queue, waiting)
            self._most_running = max(self._most_running, running)
        self._over.set()

    async def _answer(self, writer: asyncio.StreamWriter, number: int, query: str, budget_ms: float) -> None:
        try:
            page = await self._pipeline.asearch(query, budget_ms=budget_ms)
        except SearchpipeError as error:
            self._send(writer, [number, error.code, getattr(error, "retry_after_s", None)])
        except Exception as error:
            self._send(writer, [number, f"untyped: {type(error).__name__}", None])
        else:
            given_up = [[d.stage, d.reason, d.amount] for d in page.degradations]
            self._send(writer, [number, "answered", page.trace.total_ms, given_up])

    def _facts(self) -> dict[str, Any]:
        """As of now; the longest queue since it was asked last."""
        policy = self._pipeline.admission
        found = {
            "memory_mib": memory_mib(),
            "longest_queue": self._longest_queue,
            "most_running": self._most_running,
            "admitted": dict(policy.admitted) if policy is not None else {},
            "shed": dict(policy.shed) if policy is not None else {},
            "forecasts": msgspec.to_builtins(policy.forecasts) if policy is not None else {},
        }
        self._longest_queue = self._most_running = 0
        return found

    def _send(self, writer: asyncio.StreamWriter, message: list[Any]) -> None:
        """All that became ready in one turn of the loop goes out in one call of the system."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._flush, writer)
        self._ready.append(msgspec.json.encode(message))

    def _flush(self, writer: asyncio.StreamWriter) -> None:
        if not writer.is_closing():
            writer.write(b"\n".join(self._ready) + b"\n")
        self._ready.clear()
