"""One row a precision out of the gates' results."""

from __future__ import annotations

import pytest

from searchpipe.cli.engine_tables import print_figures
from searchpipe.engine.figures import figures_of


def gate(name: str, value: float | None, passed: bool = True, **more: object) -> dict[str, object]:
    return {"name": name, "value": value, "passed": passed, "limit": 1.0, "reason": "", **more}


SHAPES = [
    {"rows": 64, "tokens": 96, "share": 0.3, "above_ms": 4.0, "variant_ms": 2.0, "speedup": 2.0},
    {"rows": 256, "tokens": 128, "share": 0.7, "above_ms": 30.0, "variant_ms": 5.5, "speedup": 5.45},
]
LOAD = {"p50_ms": 6.0, "p99_ms": 9.0, "rate": 80.0}
GATES = {
    "chosen": "fp16",
    "device": "cuda",
    "queries": 200,
    "variants": {
        "fp32": {
            "passed": True,
            "bytes": 2**20,
            "gates": [gate("finite", 0), gate("stress_p99_ms", 40.0, details=LOAD | {"p99_ms": 40.0})],
        },
        "fp16": {
            "passed": True,
            "bytes": 2**19,
            "gates": [
                gate(
                    "ndcg_loss",
                    0.0001,
                    interval=[-0.001, 0.002],
                    details={"labelled_ndcg": {"fp32": 0.64, "variant": 0.6399}},
                ),
                gate("speed", 5.4, details={"against": "fp32", "shapes": SHAPES}),
                gate("stress_p99_ms", 9.0, passed=False, waived=True, details=LOAD),
                gate("gpu_memory_mib", 0.0),
            ],
        },
        "int8": {"passed": False, "gates": [gate("speed", None, passed=False)]},
    },
}


def test_rows_have_quality_speed_and_what_refused() -> None:
    fp32, fp16, int8 = figures_of(GATES)
    assert (fp32.verdict, fp16.verdict, int8.verdict) == ("passed", "used", "refused")
    # What fp32 itself is worth stands in the gates of those compared with it.
    assert (fp32.ndcg, fp32.shape, fp32.batch_ms, fp32.p99_ms) == (0.64, "256 x 128", 30.0, 40.0)
    assert (fp16.ndcg, fp16.ndcg_high, fp16.batch_ms, fp16.speedup) == (0.6399, 0.002, 5.5, 5.4)
    assert (fp16.against, fp16.gpu_grown_mib, fp16.file_mib) == ("fp32", 0.0, 0.5)
    assert fp16.failed == ("stress_p99_ms (allowed)",)
    assert (int8.failed, int8.speedup, int8.ndcg) == (("speed",), None, None)


def test_the_table_is_printed_whole_and_nothing_for_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    print_figures(GATES)
    text = capsys.readouterr().out
    for told in ("fp16", "used", "0.6399", "256 x 128", "5.40 x fp32", "refused", "Gated on cuda, 200"):
        assert told in text
    print_figures({})
    assert not capsys.readouterr().out
