from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchpipe.arrays import Float32
from searchpipe.engine.gates.decision import choose_precision, waive
from searchpipe.engine.gates.evaluation import EvalQuery
from searchpipe.engine.gates.load import open_loop, poisson_arrivals
from searchpipe.engine.gates.result import GateResult
from searchpipe.engine.gates.speed import LONGEST_RUN_S, SHAPES, ShapeTimes, measure, speed_gate
from searchpipe.engine.gates.stress import resident_mib, stress_gates
from searchpipe.engine.recipe import GateSettings
from searchpipe.engine.rows import Pair
from searchpipe.errors import EngineError


class FakeTime:
    """A clock that only moves when somebody waits or works; one worker at a time."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.lock = threading.Lock()

    def now(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class TimedVariant:
    """Takes so long for a row and a token, on a fake clock."""

    runtime = "fake"

    def __init__(self, clock: FakeTime, row_s: float = 0.0, token_s: float = 0.0) -> None:
        self.clock = clock
        self.row_s = row_s
        self.token_s = token_s
        self.shapes: list[tuple[int, int]] = []
        self.calls = 0
        self.fail_from: int | None = None

    def score(self, pairs: Sequence[Pair], *, width: int = 0) -> Float32:
        self.calls += 1
        if self.fail_from is not None and self.calls >= self.fail_from:
            raise EngineError("out of memory")
        self.clock.seconds += self.row_s * len(pairs)
        return np.arange(len(pairs), dtype=np.float32)

    def run_shape(self, rows: int, tokens: int) -> None:
        self.shapes.append((rows, tokens))
        self.clock.seconds += self.token_s * rows * tokens

    def close(self) -> None:
        return


QUERIES = [EvalQuery(f"q{n}", np.arange(8, dtype=np.int32), {"traffic": "tail"}) for n in range(5)]


def stress(variant: TimedVariant, **changes) -> dict[str, GateResult]:
    settings = GateSettings(**({"stress_seconds": 10.0, "stress_rate": 5.0} | changes))
    gates = stress_gates(
        variant,
        QUERIES,
        settings,
        3,
        threads=1,
        clock=variant.clock,
        memory_mib=iter([100.0, 130.0]).__next__,
    )
    return {gate.name: gate for gate in gates}


def test_arrivals_are_poisson_and_seeded() -> None:
    arrivals = poisson_arrivals(200.0, 50.0, 4)
    assert arrivals.tolist() == poisson_arrivals(200.0, 50.0, 4).tolist()
    assert len(arrivals) == pytest.approx(10_000, rel=0.05)
    assert (np.diff(arrivals) >= 0).all()
    assert arrivals.max() < 50
    # Exponential gaps: the deviation is as large as the mean.
    assert np.diff(arrivals).std() == pytest.approx(np.diff(arrivals).mean(), rel=0.05)


def test_a_stall_is_felt_by_those_who_came_meanwhile() -> None:
    clock = FakeTime()

    def call(place: int) -> None:
        clock.seconds += 10.0 if place == 0 else 0.0

    load = open_loop(call, np.array([0.0, 1.0, 2.0, 20.0]), threads=1, break_off_s=100, clock=clock)
    assert load.latencies.tolist() == [10.0, 9.0, 8.0, 0.0]


def test_what_cannot_be_begun_in_time_is_counted() -> None:
    clock = FakeTime()

    def call(place: int) -> None:
        clock.seconds += 10.0

    load = open_loop(call, np.arange(5.0), threads=1, break_off_s=15, clock=clock)
    assert (load.served, load.unserved, load.failures, load.arrivals) == (2, 3, 0, 5)


def test_failures_are_counted_and_told_from_every_thread() -> None:
    def call(place: int) -> None:
        if place % 2:
            raise EngineError(f"broken {place}")

    load = open_loop(call, np.zeros(100), threads=4, break_off_s=60)
    assert (load.served, load.failures, load.unserved) == (50, 50, 0)
    assert len(load.reasons) == 3
    assert load.reasons[0].startswith("broken")


def test_a_calm_engine_passes_the_stress_test() -> None:
    gates = stress(TimedVariant(FakeTime(), row_s=0.001))
    assert all(gate.passed for gate in gates.values())
    latency = gates["stress_p99_ms"]
    assert latency.details["idle_p50_ms"] == pytest.approx(8.0)
    assert latency.limit == pytest.approx(80.0)
    assert gates["memory_mib"].value == 30
    assert gates["memory_mib"].limit is None


def test_an_engine_at_its_limit_has_a_tail_that_is_refused() -> None:
    # 8 ms a request and 120 requests a second: a queue builds up.
    gate = stress(TimedVariant(FakeTime(), row_s=0.001), stress_rate=120.0)["stress_p99_ms"]
    assert not gate.passed
    assert gate.value > gate.limit
    assert stress(TimedVariant(FakeTime(), row_s=0.001), stress_rate=120.0, stress_p99_ms=1e6)[
        "stress_p99_ms"
    ].passed


def test_growth_beyond_the_limit_is_refused() -> None:
    assert not stress(TimedVariant(FakeTime(), row_s=0.001), max_memory_mib=29.0)["memory_mib"].passed
    assert stress(TimedVariant(FakeTime(), row_s=0.001), max_memory_mib=31.0)["memory_mib"].passed


def test_one_failed_request_is_one_too_many() -> None:
    variant = TimedVariant(FakeTime(), row_s=0.001)
    variant.fail_from = 40
    gate = stress(variant)["stress_failures"]
    assert not gate.passed
    assert gate.value > 0
    assert "out of memory" in gate.reason


def test_an_engine_that_fails_when_idle_fails_the_stress_test() -> None:
    variant = TimedVariant(FakeTime(), row_s=0.001)
    variant.fail_from = 1
    assert all("could not be evaluated" in gate.reason for gate in stress(variant).values())


def test_slow_engines_get_smaller_requests() -> None:
    gate = stress(TimedVariant(FakeTime(), row_s=0.1), stress_rate=3.0)["stress_p99_ms"]
    assert gate.details["rows"] == 2


def test_too_few_requests_cannot_be_judged() -> None:
    gate = stress(TimedVariant(FakeTime(), row_s=0.001), stress_rate=0.2)["stress_p99_ms"]
    assert not gate.passed
    assert "requests were answered, and 10 are needed" in gate.reason


def test_the_rate_is_half_of_what_the_engine_can_do_if_the_recipe_names_none() -> None:
    gate = stress(TimedVariant(FakeTime(), row_s=0.005), stress_rate=0.0)["stress_p99_ms"]
    assert gate.details["rate"] == pytest.approx(0.5 / 0.04, rel=0.05)


class OnGpuVariant(TimedVariant):
    """With a GPU whose memory in use is read before and after the load."""

    used = (1000.0, 1000.0)

    def gpu_memory_mib(self) -> float:
        first, *rest = self.used
        self.used = (*rest, first)
        return first


def test_growth_of_gpu_memory_is_a_figure_and_may_be_limited() -> None:
    assert "gpu_memory_mib" not in stress(TimedVariant(FakeTime(), row_s=0.001))
    variant = OnGpuVariant(FakeTime(), row_s=0.001)
    variant.used = (1000.0, 1012.0)
    found = stress(variant)["gpu_memory_mib"]
    assert (found.passed, found.value, found.limit) == (True, 12.0, None)
    assert found.details["in_use_mib"] == 1012.0
    assert not stress(variant, max_gpu_memory_mib=11.0)["gpu_memory_mib"].passed
    broken = OnGpuVariant(FakeTime(), row_s=0.001)
    broken.fail_from = 1
    assert not stress(broken)["gpu_memory_mib"].passed


def test_resident_memory_is_known() -> None:
    assert resident_mib() > 5


def test_a_faster_variant_wins_and_its_shapes_are_told() -> None:
    clock = FakeTime()
    above, variant = TimedVariant(clock, token_s=2e-6), TimedVariant(clock, token_s=1e-6)
    shapes = [(8, 16), (64, 64), (32, 32), (16, 16), (256, 128), (1, 8)]
    shares = [0.05, 0.5, 0.2, 0.1, 0.15, 0.0]
    times = measure(variant, above, shapes, shares, clock=clock.now)
    assert len(times) == SHAPES
    assert {t.shape for t in times} == {(64, 64), (32, 32), (16, 16), (256, 128)}
    gate = speed_gate(times, GateSettings(), "fp16", 0)
    assert gate.passed
    assert gate.value == pytest.approx(2.0)
    assert gate.details["shapes"][0]["above_ms"] == pytest.approx(1e3 * 64 * 64 * 2e-6)


def test_a_tie_is_refused() -> None:
    clock = FakeTime()
    above, variant = TimedVariant(clock, token_s=1e-6), TimedVariant(clock, token_s=1e-6)
    gate = speed_gate(measure(variant, above, [(8, 8)], [1.0], clock=clock.now), GateSettings(), "fp32", 0)
    assert not gate.passed
    assert "1.00 times as fast as fp32, at least 1.00; it must be more than 1" in gate.reason


def test_one_slow_run_does_not_decide() -> None:
    ratios = np.full(21, 2.0)
    above = ratios.copy()
    above[:3] = 100.0
    times = [ShapeTimes((8, 8), 1.0, above, np.ones(21))]
    assert speed_gate(times, GateSettings(), "fp32", 0).value == pytest.approx(2.0)


def test_a_lead_that_may_be_luck_is_refused_where_intervals_decide() -> None:
    times = [ShapeTimes((8, 8), 1.0, np.linspace(0.7, 1.4, 21), np.ones(21))]
    gate = speed_gate(times, GateSettings(), "fp32", 0)
    assert gate.interval[0] < 1.0 < gate.value
    assert not gate.passed
    assert speed_gate(times, GateSettings(use_interval=False), "fp32", 0).passed


def test_shapes_that_take_too_long_are_measured_with_fewer_rows() -> None:
    clock = FakeTime()
    slow = TimedVariant(clock, token_s=1e-4)
    times = measure(TimedVariant(clock, token_s=5e-5), slow, [(256, 128)], [1.0], clock=clock.now)
    rows, tokens = times[0].shape
    assert tokens == 128
    assert rows * tokens * 1e-4 <= LONGEST_RUN_S < 2 * rows * tokens * 1e-4
    assert len(times[0].above) >= 5


names = st.sampled_from(["finite", "range", "batch_independence", "speed", "auc_loss"])
some_gates = st.lists(st.builds(GateResult, names, st.booleans()), max_size=5)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["fp32", "fp16", "int8"]), some_gates))
def test_what_is_chosen_has_passed(results) -> None:
    chosen = choose_precision(results)
    passed = {name: bool(gates) and all(g.passed for g in gates) for name, gates in results.items()}
    if passed.get("int8"):
        assert chosen == "int8"
    elif passed.get("fp16"):
        assert chosen == "fp16"
    else:
        assert chosen == ("fp32" if passed.get("fp32") else None)


def test_the_recipe_may_let_a_gate_fail_but_not_a_variant_that_gives_no_numbers() -> None:
    slow = GateResult("stress_p99_ms", False, 9.0, 5.0)
    broken = GateResult("finite", False, 3, 0)
    assert choose_precision({"fp32": [slow]}) is None
    allowed = waive([slow], ["stress_p99_ms"])
    assert allowed[0].waived
    assert not allowed[0].passed
    assert choose_precision({"fp32": allowed}) == "fp32"
    assert choose_precision({"fp32": waive([slow, broken], ["stress_p99_ms", "finite"])}) is None
    sound = GateResult("range", True, 1.0, 2.0)
    assert waive([sound], ["range"]) == [sound]
