"""nvidia-pytriton: a Triton server started from this process batches the queries of all callers."""

from __future__ import annotations

import importlib
import importlib.util
import os
import socket
import sys
import sysconfig
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.capacity_search import Ranked
from benchmarks.capacity_world import PeerWorld
from benchmarks.torch_search import TorchSearch

LIBPYTHON = "SEARCHPIPE_LIBPYTHON"
"""Names a folder with ``libpython3.X.so.1.0``, which Triton's Python backend links.

For systems without it, or with another patch release of it than the interpreter's.
"""

OF_NUMPY_2 = ("scipy", "sklearn")
"""What transformers imports if it finds it, and what may be built for NumPy 2."""

_START_S = 60
_MODEL = "search"
_BEST = 10


class TritonSystem:
    """Dynamic batching of whole queries in Triton, the model function in this process; any thread may ask.

    Args:
        world: models, texts and vectors.
        max_queries: of one batch.
        instances: model functions that run side by side.

    Raises:
        SystemExit: the server did not start; the message holds the end of its log.
    """

    threads = 64

    def __init__(self, world: PeerWorld, *, max_queries: int, instances: int) -> None:
        _prepare_environment()
        hide_from_numpy_1()
        serving: Any = importlib.import_module("pytriton.triton")
        settings: Any = importlib.import_module("pytriton.model_config")
        batch: Any = importlib.import_module("pytriton.decorators").batch
        self._client: Any = importlib.import_module("pytriton.client").ModelClient
        self._version = importlib.import_module("importlib.metadata").version("nvidia-pytriton")
        self._settings = f"up to {max_queries} queries a batch, {instances} instances"
        self._searches = [TorchSearch(world) for _ in range(instances)]
        self._candidates = world.candidates
        self._own = threading.local()
        self._closed = False

        def function(search: TorchSearch) -> Any:
            def infer(query: Any) -> dict[str, Any]:
                found = search.answer([one.decode() for one in query.reshape(-1).tolist()])
                rows = np.array([one.documents for one in found], np.int64)
                return {"rows": rows, "scores": np.array([one.scores for one in found], np.float32)}

            return batch(infer)

        ports = _free_ports(2)
        self._url = f"grpc://127.0.0.1:{ports[0]}"
        self._server = serving.Triton(
            config=serving.TritonConfig(
                grpc_port=ports[0], http_port=ports[1], allow_metrics=False, exit_timeout_secs=5
            )
        )
        try:
            self._server.bind(
                model_name=_MODEL,
                infer_func=[function(search) for search in self._searches],
                inputs=[settings.Tensor(name="query", dtype=bytes, shape=(1,))],
                outputs=[
                    settings.Tensor(name="rows", dtype=np.int64, shape=(-1,)),
                    settings.Tensor(name="scores", dtype=np.float32, shape=(-1,)),
                ],
                config=settings.ModelConfig(
                    max_batch_size=max_queries,
                    batcher=settings.DynamicBatcher(max_queue_delay_microseconds=1000),
                ),
            )
            self._server.run()
            self.ask("warm up")
        except BaseException:
            self.close()
            raise

    def ask(self, text: str) -> Ranked:
        """As :class:`benchmarks.capacity_search.System`."""
        client = getattr(self._own, "client", None)
        if client is None:
            client = self._own.client = self._client(self._url, _MODEL, init_timeout_s=_START_S)
        found = client.infer_sample(np.array([text.encode()], dtype=object))
        rows, scores = found["rows"].tolist(), found["scores"].tolist()
        return Ranked(tuple(rows), tuple(scores), self._candidates)

    def counts(self) -> dict[str, float]:
        """Queries, batches and tokens of all instances."""
        names = ("queries", "batches", "real_tokens", "padded_tokens")
        return {name: float(sum(getattr(search, name) for search in self._searches)) for name in names}

    def describe(self) -> str:
        """One line."""
        return f"nvidia-pytriton {self._version} over gRPC, PyTorch sdpa, {self._settings}"

    def close(self) -> None:
        """Stop the server."""
        if not self._closed:
            self._closed = True
            self._server.stop()


def _prepare_environment() -> None:
    """Let the server, which runs from a copy of its files, find its libraries.

    Packages it finds by this process's virtual environment alone: it heeds no PYTHONPATH.
    """
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise ImportError("nvidia-pytriton is not installed")
    libraries = [Path(spec.origin).parent.parent / "nvidia_pytriton.libs"]
    named = os.environ.get(LIBPYTHON)
    library = f"libpython{sysconfig.get_python_version()}.so.1.0"
    if named:
        if not Path(named, library).exists():
            raise FileNotFoundError(f"{LIBPYTHON} names {named}, which has no {library}")
        libraries.insert(0, Path(named))
    before = os.environ.get("LD_LIBRARY_PATH", "")
    os.environ["LD_LIBRARY_PATH"] = ":".join([*map(str, libraries), *filter(None, [before])])


def hide_from_numpy_1(names: Sequence[str] = OF_NUMPY_2) -> None:
    """Make packages look absent if this process has NumPy 1, as nvidia-pytriton's interpreter must.

    A virtual environment for it sees the other packages of the machine, whose builds for NumPy 2 fail
    while they are imported. What was imported already stays. Not with the first import of transformers
    behind it: it remembers what it found.
    """
    if int(np.__version__.partition(".")[0]) < 2:
        for name in names:
            # With None there, `find_spec` answers None and `import` raises ModuleNotFoundError.
            sys.modules.setdefault(name, None)  # type: ignore[arg-type]


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()
