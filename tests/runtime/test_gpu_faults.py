"""What a broken or full GPU does to a chain of engines; on a real GPU only."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.cuda_driver import real_driver_present

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.skipif(
    not real_driver_present(), reason="needs a GPU: the fake driver's faults are in test_failures"
)
@pytest.mark.parametrize("case", ["illegal_address", "out_of_memory"])
def test_the_next_engine_answers_and_the_process_lives(case: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-m", "tests.runtime.gpu_faults", case],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
