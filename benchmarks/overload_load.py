"""The generator of the overload benchmark: open loop, at intended starts, over one socket."""

from __future__ import annotations

import itertools
import multiprocessing
import random
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from benchmarks.overload_server import Opener, open_pipeline, serve
from searchpipe.replay.entry import Entry
from searchpipe.replay.outcome import Answer, Kind, Outcome
from searchpipe.replay.schedule import Arrival, Fixed

_SHED = ("overloaded", "late_at_the_door")
OPEN_S = 120.0
PATIENCE_S = 10.0
"""A query without an answer so long after the last one was sent hangs."""


class Server(AbstractContextManager["Server"]):
    """A pipeline in a process of its own, and the connection to it. For one thread.

    Args:
        snapshot: folder.
        config: of the pipeline.
        budget_ms: of every query, from its intended start.
        opener: opens the pipeline.

    Raises:
        RuntimeError: it could not be opened.
    """

    def __init__(
        self, snapshot: Path, config: dict[str, Any], budget_ms: float, opener: Opener = open_pipeline
    ) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe(duplex=False)
        self._budget_ms = budget_ms
        self._process = context.Process(target=serve, args=(opener, snapshot, config, there), daemon=True)
        self._process.start()
        there.close()
        if not here.poll(OPEN_S):
            raise RuntimeError(f"The pipeline was not open after {OPEN_S:g} s.")
        self._socket = socket.create_connection(("127.0.0.1", here.recv()))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._lines = self._socket.makefile("rb")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the process."""
        self._lines.close()
        self._socket.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.terminate()

    def facts(self) -> dict[str, Any]:
        """See the server; only between two runs."""
        self._socket.sendall(b'["facts"]\n')
        found: dict[str, Any] = msgspec.json.decode(self._lines.readline())[1]
        return found

    def load(self, queries: Sequence[str], rate: float, seconds: float, seed: int) -> list[Outcome]:
        """Poisson arrivals for a while; what came of each, in the order of the arrivals.

        Latency counts from the intended start. One without an answer is a ``timeout``.
        """
        drawn = [Entry(ts=0.0, query=query) for query in queries]
        random.Random(seed).shuffle(drawn)
        arrivals = list(Fixed(rate, seconds, True, seed).arrivals(itertools.cycle(drawn)))
        sent = [0.0] * len(arrivals)
        begin = time.perf_counter() + 0.05
        sender = threading.Thread(target=self._send, args=(arrivals, begin, sent), daemon=True)
        sender.start()
        found = self._receive(arrivals, begin, sent, seconds)
        sender.join()
        late = begin + seconds + PATIENCE_S
        return [
            outcome or Outcome(arrival.entry, "timeout", arrival.at, at, late - begin, code="hung")
            for outcome, arrival, at in zip(found, arrivals, sent, strict=True)
        ]

    def _send(self, arrivals: Iterable[Arrival], begin: float, sent: list[float]) -> None:
        encode, budget_s = msgspec.json.encode, self._budget_ms / 1e3
        for number, arrival in enumerate(arrivals):
            early = begin + arrival.at - time.perf_counter()
            if early > 0:
                time.sleep(early)
            sent[number] = time.perf_counter() - begin
            self._socket.sendall(encode([number, arrival.entry.query, begin + arrival.at + budget_s]) + b"\n")

    def _receive(
        self, arrivals: Sequence[Arrival], begin: float, sent: Sequence[float], seconds: float
    ) -> list[Outcome | None]:
        found: list[Outcome | None] = [None] * len(arrivals)
        left = len(arrivals)
        while left:
            self._socket.settimeout(max(0.1, begin + seconds + PATIENCE_S - time.perf_counter()))
            try:
                line = self._lines.readline()
            except TimeoutError:
                break
            if not line:
                break  # the process has ended
            done = time.perf_counter() - begin
            number, code, *more = msgspec.json.decode(line)
            left -= 1
            found[number] = self._outcome(arrivals[number], sent[number], done, code, more)
        self._socket.settimeout(None)
        return found

    def _outcome(self, arrival: Arrival, sent: float, done: float, code: str, more: list[Any]) -> Outcome:
        if code == "answered":
            given_up = tuple((stage, reason, amount) for stage, reason, amount in more[1])
            answer = Answer((), more[0], self._budget_ms, given_up)
            return Outcome(arrival.entry, "answered", arrival.at, sent, done, answer)
        kind: Kind = "shed" if code in _SHED else "error"
        return Outcome(arrival.entry, kind, arrival.at, sent, done, code=code)
