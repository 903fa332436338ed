"""The script of a GPU host: one step's failure is told and stops no other."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYTHON = """#!/bin/sh
echo "$@" >> "{calls}"
case "$*" in *recall_gpu*) echo "no memory"; exit 7 ;; esac
"""


def check(tmp_path: Path, *arguments: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """Run it with a Python that only says how it was called."""
    calls, python = tmp_path / "calls", tmp_path / "python"
    python.write_text(PYTHON.format(calls=calls))
    python.chmod(0o755)
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_check.sh", "--out", tmp_path / "out", *arguments],
        env={**os.environ, "PYTHON": str(python)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done, calls.read_text("utf-8").splitlines() if calls.exists() else []


def test_each_step_runs_and_the_goals_are_told_last(tmp_path: Path) -> None:
    done, calls = check(tmp_path, "--products", "5000", "score", "recall", "pipeline")
    out = tmp_path / "out"
    assert calls == [
        f"-m benchmarks.score_gpu --json {out}/score_gpu.json",
        f"-m benchmarks.recall_gpu --json {out}/recall_gpu.json",
        f"-m benchmarks.pipeline_gpu --json {out}/pipeline_gpu.json --products 5000 --soak 20000",
        f"-m benchmarks.goals {out}",
    ]
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines] == [["ok", "score"], ["FAILED", "recall"], ["ok", "pipeline"]]
    assert "exit 7" in lines[1]
    assert "no memory" in lines[1]
    assert (out / "recall.log").read_text("utf-8") == "no memory\n"


def test_all_well_is_a_success(tmp_path: Path) -> None:
    assert check(tmp_path, "score")[0].returncode == 0


def test_mistakes_are_told(tmp_path: Path) -> None:
    done, calls = check(tmp_path, "--fast")
    assert (done.returncode, calls) == (2, [])
    assert "scripts/gpu_check.sh" in done.stderr
    done, _ = check(tmp_path, "scores")
    assert done.returncode == 1
    assert "no such step: scores" in done.stdout
