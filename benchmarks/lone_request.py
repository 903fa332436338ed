"""What does the runtime add to the device's own time when one caller asks at a time?

    python -m benchmarks.lone_request [--json FILE] [--rounds N]

One request of 256 pairs, and one of a single text: from asking to having the scores, less what the
request's CUDA graph takes on an idle device. Runs on a GPU, and without one on the tests' fake driver
(slower hand-overs, the same code). The kernel is the tests' row model, launched often enough to take as
long as a model would.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.report import Report
from searchpipe import _core
from searchpipe.arrays import Float32, Int32
from searchpipe.runtime.engine_chain import EngineChain, Link, Opened
from tests.fakes.cuda_driver import build, real_driver_present

_PTX = Path(__file__).resolve().parents[1] / "tests" / "fakes" / "row_scores.ptx"
_PAIRS = 256
_SCORE_MS, _ENCODE_MS = 3.0, 0.25  # of the graphs, about
_PAUSE_S = 0.002  # between requests: threads and device go idle
_MOST_LAUNCHES = 200


def graph_engine(
    device: _core.Device, bucket: tuple[int, int], width: int, goal_ms: float
) -> _core.GraphEngine:
    """An engine of one bucket whose graph takes about ``goal_ms``."""
    kernel = _core.Kernel(device, _PTX.read_text(), "row_scores")

    def prepared(launches: int) -> _core.GraphEngine:
        engine = _core.GraphEngine(device, [bucket], output_width=width)

        def enqueue(_: int, __: tuple[int, int], inputs: list[int], output: int, stream: int) -> None:
            rows, tokens = bucket
            for _launch in range(launches):
                kernel.launch(stream, (rows + 63) // 64, 64, [*inputs, output, rows, tokens, width])

        engine.set_enqueue(enqueue)
        engine.prepare()
        return engine

    first = prepared(1)
    launches = round(goal_ms / max(first.reports[0].milliseconds, 1e-3))
    first.close()
    return prepared(min(max(launches, 1), _MOST_LAUNCHES))


def open_chain(engine: _core.GraphEngine) -> EngineChain:
    """The engine behind what a pipeline's stages ask."""
    ring = _core.StagingRing([engine])
    return EngineChain([Link("graph", lambda: Opened(ring, engine.close, on_gpu=True))])


def seconds_over(graph_ms: float, ask: Callable[[], object], rounds: int) -> list[float]:
    """What each of ``rounds`` requests took, less its graph."""
    found = []
    for _ in range(rounds + 5):
        time.sleep(_PAUSE_S)
        begin = time.perf_counter()
        ask()
        found.append(time.perf_counter() - begin - graph_ms / 1e3)
    return found[5:]


def store_of(folder: str, documents: int, tokens: int) -> _core.TokenStore:
    """Documents of random ids."""
    random = np.random.default_rng(5)
    writer = _core.TokenStoreWriter(Path(folder) / "tokens")
    for _ in range(documents):
        writer.append(random.integers(1000, 30000, random.integers(tokens // 2, tokens)).astype(np.int32))
    writer.close()
    return _core.TokenStore(Path(folder) / "tokens")


def main() -> None:
    """Measure and report."""
    title = "What does the runtime add to the device's time for a lone caller?"
    parser = Report.parser("lone_request", title)
    parser.add_argument("--rounds", type=int, default=300)
    args = parser.parse_args()
    real = real_driver_present()
    if not real:
        library = build(("-O2",))
        if library is None:
            raise SystemExit("This benchmark needs a GPU, or a C++ compiler for the fake driver.")
        os.environ.setdefault("SEARCHPIPE_LIBCUDA", str(library))
    report = Report.from_args("lone_request", title, args=args)
    device = _core.Device(0)
    report.note(device.name if real else "fake driver: streams are threads of the host")
    query = np.arange(2000, 2008, dtype=np.int32)
    docs: Int32 = np.arange(_PAIRS, dtype=np.int32)
    with tempfile.TemporaryDirectory() as folder:
        store = store_of(folder, _PAIRS, 80)
        packer = _core.PairPacker(
            cls_id=101, sep_id=102, max_query_tokens=16, max_doc_tokens=80, max_tokens=96
        )
        score = graph_engine(device, (_PAIRS, 96), 1, _SCORE_MS)
        encode = graph_engine(device, (1, 16), 384, _ENCODE_MS)
        scorer, encoder = open_chain(score), open_chain(encode)

        def ask_pairs() -> Float32:
            return scorer.run(lambda it: it.prepare_pairs(packer, store, query, docs))

        def ask_text() -> Float32:
            return encoder.run(lambda it: it.prepare_texts([query], cls_id=101, sep_id=102, max_tokens=16))

        for name, engine, ask in (("256 pairs", score, ask_pairs), ("1 text", encode, ask_text)):
            graph_ms = engine.reports[0].milliseconds
            found = seconds_over(graph_ms, ask, args.rounds)
            report.times(f"{name}, over the graph's {graph_ms:.2f} ms", found)
            report.figure(f"over_graph_us_{name.replace(' ', '_')}", 1e6 * float(np.median(found)), unit="us")
        scorer.close()
        encoder.close()
    report.finish()


if __name__ == "__main__":
    main()
