"""Goals are kept with the figures, and told when they are missed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.goals import meets, outcomes
from benchmarks.report import Report

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "goal", "met"),
    [
        (6.0, "<= 6", True),
        (6.01, "<= 6", False),
        (30.0, "< 30", False),
        (8.0, ">= 8", True),
        (7.9, ">=8", False),
        (0.0, "= 0", True),
        (-0.5, "> -0.4", False),
        (1.0, "busy, of the process", None),
        (1.0, "<= 1.2.3 or so", None),
    ],
)
def test_meets(value: float, goal: str, met: bool | None) -> None:
    assert meets(value, goal) is met


def write(folder: Path, name: str, *figures: tuple[str, float, str]) -> None:
    report = Report(name, "a title", json_path=folder / f"{name}.json")
    for figure, value, goal in figures:
        report.figure(figure, value, goal=goal)
    report.finish()


def told(folder: Path) -> tuple[int, list[list[str]]]:
    command = [sys.executable, "-m", "benchmarks.goals", folder]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, [line.split() for line in done.stdout.splitlines()]


def test_what_benchmarks_wrote_is_read(tmp_path: Path) -> None:
    write(tmp_path, "b", ("slow_ms", 7.0, "<= 6"), ("free", 1.0, ""))
    write(tmp_path, "a", ("fast", 9.5, ">= 8"))
    found = [(one.benchmark, one.figure, one.value, one.goal, one.met) for one in outcomes(tmp_path)]
    assert found == [("a", "fast", 9.5, ">= 8", True), ("b", "slow_ms", 7.0, "<= 6", False)]
    status, lines = told(tmp_path)
    assert status == 1
    assert [line[0] for line in lines] == ["met", "MISSED"]


def test_only_met_goals_are_a_success(tmp_path: Path) -> None:
    assert told(tmp_path)[0] == 1  # no figures at all
    write(tmp_path, "a", ("fast", 9.5, ">= 8"), ("cores", 1.0, "busy"))
    assert told(tmp_path)[0] == 0
