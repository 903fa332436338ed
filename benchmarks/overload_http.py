"""The overload benchmark over HTTP: ``searchpipe serve`` in a process of its own, asked by threads."""

from __future__ import annotations

import itertools
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.overload_server import cpu_s, memory_mib
from searchpipe.replay.entry import Entry
from searchpipe.replay.load import Load, LoadSettings
from searchpipe.replay.outcome import Outcome
from searchpipe.replay.schedule import Fixed
from searchpipe.replay.targets import HttpTarget

_OPEN_S = 120.0
_BOUNDS = LoadSettings(max_in_flight=256, patience_s=10.0)
_SAMPLE = re.compile(r"^(searchpipe_(?:waiting|admitted_total|shed_total)\S*) (\S+)$", re.M)


class HttpServer(AbstractContextManager["HttpServer"]):
    """The service, asked at 127.0.0.1. For one thread; the arguments are those of ``Server``."""

    def __init__(self, snapshot: Path, config: dict[str, Any], budget_ms: float) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._url = f"http://127.0.0.1:{port}"
        self._longest = 0.0
        self._folder = tempfile.TemporaryDirectory()
        file = Path(self._folder.name) / "searchpipe.toml"
        admission = str(config["pipeline"]["admission"]).lower()
        file.write_text(f"[pipeline]\nadmission = {admission}\n", encoding="utf-8")
        command = [sys.executable, "-m", "searchpipe", "serve", "--snapshot", str(snapshot)]
        options = ["--config", str(file), "--host", "127.0.0.1", "--port", str(port)]
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
        self._target = HttpTarget(f"{self._url}/search", budget_ms=budget_ms, timeout_s=_BOUNDS.patience_s)
        end = time.monotonic() + _OPEN_S
        while not self._ready():
            if time.monotonic() > end or self._process.poll() is not None:
                self._process.terminate()
                raise RuntimeError("The service did not become ready.")
            time.sleep(0.2)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the service."""
        self._target.close()
        self._process.terminate()
        self._process.wait(_OPEN_S)
        self._folder.cleanup()

    def facts(self) -> dict[str, Any]:
        """As of now; the longest queue is what was seen while the load ran."""
        samples = self._samples()
        pid = self._process.pid
        own = {"memory_mib": memory_mib(pid), "cpu_s": cpu_s(pid), "longest_queue": self._longest}
        return {**own, **samples}

    def load(self, queries: Sequence[str], rate: float, seconds: float, seed: int) -> list[Outcome]:
        """Poisson arrivals for a while; what came of each, in the order of the arrivals."""
        drawn = [Entry(ts=0.0, query=query) for query in queries]
        random.Random(seed).shuffle(drawn)
        found: list[Outcome] = []
        self._longest = 0.0
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(over,), daemon=True)
        watching.start()
        Load(self._target, found.append, _BOUNDS).run_open(
            Fixed(rate, seconds, True, seed).arrivals(itertools.cycle(drawn))
        )
        over.set()
        watching.join()
        return sorted(found, key=lambda outcome: outcome.at)

    def _watch(self, over: threading.Event) -> None:
        while not over.wait(0.25):
            self._longest = max(self._longest, self._samples().get("searchpipe_waiting", 0.0))

    def _samples(self) -> dict[str, float]:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=_OPEN_S) as answer:
            return {name: float(number) for name, number in _SAMPLE.findall(answer.read().decode())}

    def _ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/health/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
