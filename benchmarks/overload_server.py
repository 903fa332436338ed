"""The pipeline of the overload benchmark, in a process of its own: ``asearch`` behind a socket.

One JSON array a line. In: ``[number, query, due]``, or ``["facts"]``; ``due`` is when the caller's budget
ends, on the clock that all processes of a machine share, so that the time that a query has waited before it
was read is not given to it again. Out: ``[number, "answered", total_ms, [[stage, reason, amount], ...]]``,
``[number, code, retry_after_s]``, or ``["facts", {...}]``.

As a service under load should, it asks the policy first, before it makes a task for a query
(:meth:`searchpipe.admission.Admission.turn_away`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.errors import OverloadedError, SearchpipeError
from searchpipe.pipeline import Pipeline

_LEAST_MS = 1.0
"""Budget of a query that was read too late; only while others wait it is refused at once."""
_SWITCH_S = 0.001
"""How long a thread keeps Python's lock; as ``searchpipe serve`` has it."""
_GATHER_S = 0.001
Opener = Callable[[Path, dict[str, Any]], Pipeline]
"""Opens a pipeline over a snapshot with a configuration; a module's own function, for another process."""


def memory_mib(process: int | str = "self") -> float:
    """Memory that a process has in RAM now, MiB; file mappings are not counted. 0 where it is not told."""
    status = Path(f"/proc/{process}/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def cpu_s(process: int) -> float:
    """Processor time that a process has used, seconds; 0 where it is not told."""
    stat = Path(f"/proc/{process}/stat")
    if not stat.exists():
        return 0.0
    user, system = stat.read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def open_pipeline(snapshot: Path, config: dict[str, Any]) -> Pipeline:
    """As the configuration has it."""
    return Pipeline.open(snapshot, config)


def serve(opener: Opener, snapshot: Path, config: dict[str, Any], told: Connection) -> None:
    """Open the pipeline, tell the port of 127.0.0.1 it is asked at, and answer until the connection ends."""
    with opener(snapshot, config) as pipeline:
        pipeline.warm_up()
        gc.freeze()
        sys.setswitchinterval(_SWITCH_S)
        asyncio.run(_listen(pipeline, told))


async def _listen(pipeline: Pipeline, told: Connection) -> None:
    over = asyncio.Event()
    server = await asyncio.get_running_loop().create_server(lambda: _Door(pipeline, over), "127.0.0.1", 0)
    told.send(server.sockets[0].getsockname()[1])
    await over.wait()
    server.close()


async def _rest(begun: Coroutine[Any, Any, None], waits_for: Any) -> None:
    await _Rest(begun, waits_for)


class _Rest:
    """What is left of a coroutine that was begun outside of a task, and what it waits for."""

    def __init__(self, begun: Coroutine[Any, Any, None], waits_for: Any) -> None:
        self._begun = begun
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        waits_for = self._waits_for
        while True:
            try:
                try:
                    value = yield waits_for
                except BaseException as error:
                    waits_for = self._begun.throw(error)
                else:
                    waits_for = self._begun.send(value)
            except StopIteration:
                return


class _Door(asyncio.Protocol):
    """Takes queries from one connection. For one event loop."""

    def __init__(self, pipeline: Pipeline, over: asyncio.Event) -> None:
        self._pipeline = pipeline
        self._over = over
        self._longest_queue = 0
        self._most_running = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._rest = b""
        self._ready: list[bytes] = []
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._over.set()

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = msgspec.json.decode(line)
            if message[0] == "facts":
                self._send(["facts", self._facts()])
            else:
                self._take(*message)

    def _take(self, number: int, query: str, due: float) -> None:
        budget_ms = (due - time.perf_counter()) * 1e3
        running, waiting = self._pipeline.load
        if budget_ms <= 0 and waiting:
            self._send([number, "late_at_the_door", None])
            return
        budget_ms = max(_LEAST_MS, budget_ms)
        policy = self._pipeline.admission
        if policy is not None:
            try:
                policy.turn_away(budget_ms)
            except OverloadedError as error:
                self._send([number, error.code, error.retry_after_s])
                return
        # Until it waits, without a task, as Python 3.12's eager tasks: one that is refused never waits, and
        # the next one is judged when this one is known to wait.
        answering = self._answer(number, query, budget_ms)
        try:
            waits_for = answering.send(None)
        except StopIteration:
            return
        task = asyncio.create_task(_rest(answering, waits_for))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._longest_queue = max(self._longest_queue, waiting)
        self._most_running = max(self._most_running, running)

    async def _answer(self, number: int, query: str, budget_ms: float) -> None:
        try:
            page = await self._pipeline.asearch(query, budget_ms=budget_ms)
        except SearchpipeError as error:
            self._send([number, error.code, getattr(error, "retry_after_s", None)])
        except Exception as error:
            self._send([number, f"untyped: {type(error).__name__}", None])
        else:
            given_up = [[d.stage, d.reason, d.amount] for d in page.degradations]
            self._send([number, "answered", page.trace.total_ms, given_up])

    def _facts(self) -> dict[str, Any]:
        """As of now; the longest queue since it was asked last."""
        policy = self._pipeline.admission
        found = {
            "memory_mib": memory_mib(),
            "cpu_s": time.process_time(),
            "longest_queue": self._longest_queue,
            "most_running": self._most_running,
            "admitted": dict(policy.admitted) if policy is not None else {},
            "shed": dict(policy.shed) if policy is not None else {},
            "forecasts": msgspec.to_builtins(policy.forecasts) if policy is not None else {},
        }
        self._longest_queue = self._most_running = 0
        return found

    def _send(self, message: list[Any]) -> None:
        """What is ready within a millisecond goes out in one call of the system: it is dear."""
        if not self._ready:
            asyncio.get_running_loop().call_later(_GATHER_S, self._flush)
        self._ready.append(msgspec.json.encode(message))

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"\n".join(self._ready) + b"\n")
        self._ready.clear()
