"""Settings of the GPU scorer side by side, each with what was predicted of it before it was measured.

Predictions start from graphs that were timed bare on an H200 (256 pairs, 22,528 tokens): padded 5.50 ms,
packed 4.02 ms with the query bias inside a Gemm. Expected: 3.7 ms without that, 3.5 ms with the last layer's
feed-forward part on first tokens alone (9 of 12 parts of its products, its GELU and its norms). A call adds
about 0.25 ms.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from benchmarks.report import Report
from benchmarks.score_bench import Bench, serve, throughput
from searchpipe.backends import onnx_cuda
from searchpipe.backends.onnx_split import KINDS
from searchpipe.device.facts import driver_facts
from searchpipe.errors import SearchpipeError

_CHECKED = 4  # queries compared with single precision
_CALLERS = 16


@dataclass(frozen=True, slots=True)
class Variant:
    """One setting.

    Attributes:
        name: for the table and the figures.
        predicted_ms: P50 of a call with 256 pairs.
        why: where the prediction comes from.
        packed, token_step, lanes, slots: of ChainOptions.
        max_rows: of a batch; a query is cut into 256 / max_rows batches or more.
        fused_bias: leave ONNX Runtime its fusion of MatMul and Add.
        epilogues: of ChainOptions.
    """

    name: str
    predicted_ms: float
    why: str
    packed: bool = True
    token_step: int = 1024
    lanes: int = 1
    slots: int = 3
    max_rows: int = 256
    fused_bias: bool = False
    epilogues: tuple[str, ...] = KINDS

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Set what is no option of a chain, while engines are opened."""
        kept = list(onnx_cuda.SLOW_FOR_PACKED)
        if self.fused_bias:
            onnx_cuda.SLOW_FOR_PACKED.clear()
        try:
            yield
        finally:
            onnx_cuda.SLOW_FOR_PACKED[:] = kept


VARIANTS = (
    Variant("padded", 5.7, "measured before", packed=False),
    Variant("packed", 3.3, "measured before"),
    Variant("packed_no_epilogues", 4.0, "BiasGelu and the query bias read and write again", epilogues=()),
    Variant("packed_gelu_epilogue", 3.6, "the query bias as ONNX Runtime adds it", epilogues=("gelu",)),
    Variant("packed_some_products", 3.3, "measured before", epilogues=("gelu", "bias")),
    Variant(
        "packed_gemm_bias", 4.4, "the query bias copied to every row first", fused_bias=True, epilogues=()
    ),
    Variant("packed_step_512", 3.7, "256 tokens less to compute on average, 29 graphs more", token_step=512),
    Variant("packed_step_2048", 3.8, "512 tokens more to compute on average", token_step=2048),
    Variant("packed_step_4096", 4.0, "24,576 tokens for most queries", token_step=4096),
    Variant("packed_1_slot", 3.9, "padded lost 9% at one slot, by the copies", slots=1),
    Variant("packed_2_lanes", 3.5, "padded won 5%", token_step=512, lanes=2, slots=4, max_rows=128),
    Variant("packed_4_lanes", 3.6, "padded won 4%", token_step=512, lanes=4, slots=8, max_rows=64),
)


def chosen(names: str) -> list[Variant]:
    """Return the variants named, comma-separated; "all" for every one.

    Raises:
        SystemExit: a name that is not known.
    """
    known = {variant.name: variant for variant in VARIANTS}
    if names == "all":
        return list(VARIANTS)
    missing = [name for name in names.split(",") if name not in known]
    if missing:
        raise SystemExit(f"No variant {', '.join(missing)}; known are {', '.join(known)} and all.")
    return [known[name] for name in names.split(",")]


def measure_variants(report: Report, bench: Bench, variants: list[Variant], rounds: int) -> None:
    """Every variant for itself: calls one by one, its padding, its scores, and queries a second."""
    report.note(
        f"{'variant':<21}{'predicted':>10}{'P50 ms':>8}{'P99 ms':>8}{'padding':>9}{'diff':>8}{'q/s':>7}"
        f"{'MiB':>7}"
    )
    for variant in variants:
        try:
            report.note(_measure(report, bench, variant, rounds))
        except SearchpipeError as error:  # the others may work
            report.note(f"{variant.name:<21} failed: {error}")


def _measure(report: Report, bench: Bench, variant: Variant, rounds: int) -> str:
    free = driver_facts().devices[0].free_bytes
    with variant.applied():
        scorer = bench.open(
            lanes=variant.lanes,
            slots=variant.slots,
            packed=variant.packed,
            token_step=variant.token_step,
            max_rows=variant.max_rows,
            epilogues=variant.epilogues,
        )
    taken = free - driver_facts().devices[0].free_bytes
    try:
        if scorer.chain.serving != ("onnx-cuda-packed" if variant.packed else "onnx-cuda"):
            reasons = "; ".join(f"{state.name}: {state.reason}" for state in scorer.chain.states)
            return f"{variant.name:<21} did not open: {reasons}"
        found = serve(bench, scorer, rounds)
        p50, p99 = (1e3 * float(np.quantile(found.seconds, point)) for point in (0.5, 0.99))
        rows = range(min(_CHECKED, len(bench.task.queries)))
        diff = max(float(np.abs(bench.score(scorer, row) - bench.exact(row)).max()) for row in rows)
        rate = throughput(bench, scorer, _CALLERS)
    finally:
        scorer.close()
    report.figure(f"variant_{variant.name}_p50_ms", p50, unit="ms")
    return (
        f"{variant.name:<21}{variant.predicted_ms:>10.1f}{p50:>8.2f}{p99:>8.2f}{found.padding_share:>9.1%}"
        f"{diff:>8.3f}{rate:>7.0f}{taken / 2**20:>7.0f}  ({variant.why})"
    )
