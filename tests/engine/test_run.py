"""The runner: order, resuming, damage, locks, failures, and kills at every rename and flush."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from searchpipe.engine.run import BuildBusyError, BuildResult, StepFailedError, run_build
from searchpipe.engine.step import Build, Inputs, Step, StepOutput
from searchpipe.engine.steps import STEPS, load_steps
from searchpipe.errors import RecipeError
from tests.fakes.engines import FakeStep, chain, recipe

ROOT = Path(__file__).parents[2]
NAMES = ("one", "two", "three", "four")


def run(steps: list[Any], folder: Path, **options: Any) -> BuildResult:
    lines: list[str] = []
    result = run_build(steps, Inputs(recipe(), folder), folder, say=lines.append, **options)
    assert [line for line in lines if line.startswith("[1/")]
    return result


def ran(result: BuildResult) -> list[str]:
    return [state.name for state in result.states if state.state == "ran"]


def test_steps_run_once_and_are_kept(tmp_path: Path) -> None:
    first = run(chain(*NAMES), tmp_path)
    assert ran(first) == list(NAMES)
    second = run(chain(*NAMES), tmp_path)
    assert ran(second) == []
    # What later steps see is the same, whether a step ran now or before.
    assert second.done == first.done
    assert first.done["two"].facts["pair"] == [1, 2]
    assert first.done["two"].files["made"] == tmp_path / "steps" / "two" / "inner" / "made.json"
    assert not list(tmp_path.rglob("half.bin"))


def test_a_changed_key_runs_the_step_and_what_needs_it(tmp_path: Path) -> None:
    steps = [*chain(*NAMES), FakeStep("aside", ("one",))]
    run(steps, tmp_path)
    steps[2].version = 2
    assert ran(run(steps, tmp_path)) == ["three", "four"]
    steps[0].version = 2
    assert ran(run(steps, tmp_path)) == [*NAMES, "aside"]


def test_from_runs_a_step_and_all_after_it(tmp_path: Path) -> None:
    run(chain(*NAMES), tmp_path)
    assert ran(run(chain(*NAMES), tmp_path, start_from="three")) == ["three", "four"]
    with pytest.raises(RecipeError, match="no step 'tree'"):
        run(chain(*NAMES), tmp_path, start_from="tree")


def test_a_step_made_from_an_older_run_is_run_again(tmp_path: Path) -> None:
    """--from one, killed after it: the keys are the same, but two was made from another run."""
    run(chain(*NAMES), tmp_path)
    steps = chain(*NAMES)

    def stop(build: Build) -> None:
        raise KeyboardInterrupt

    steps[1].before = stop
    with pytest.raises(KeyboardInterrupt):
        run(steps, tmp_path, start_from="one")
    assert ran(run(chain(*NAMES), tmp_path)) == ["two", "three", "four"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "record"])
def test_damaged_output_is_made_anew(tmp_path: Path, damage: str) -> None:
    result = run(chain(*NAMES), tmp_path)
    path = result.done["two"].files["made"]
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "changed":
        path.write_bytes(b"X" + content[1:])
    elif damage == "missing":
        path.unlink()
    else:
        (tmp_path / "steps" / "two" / "step.json").write_text("{")
    again = run(chain(*NAMES), tmp_path)
    assert ran(again) == ["two", "three", "four"]
    assert path.read_bytes() == content


def test_a_file_outside_is_watched_too(tmp_path: Path) -> None:
    outside = tmp_path / "model.onnx"
    outside.write_bytes(b"model")

    class Source(FakeStep):
        def run(self, build: Build) -> StepOutput:
            return StepOutput({"model": outside}, {"made": "1"})

    def steps() -> list[FakeStep]:
        return [Source("source"), FakeStep("next", ("source",))]

    assert run(steps(), tmp_path / "build").done["source"].files["model"] == outside
    assert ran(run(steps(), tmp_path / "build")) == []
    outside.write_bytes(b"other")
    assert ran(run(steps(), tmp_path / "build")) == ["source", "next"]


def test_a_step_that_raises_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    steps = chain(*NAMES)

    def refuse(build: Build) -> None:
        raise RecipeError("12 samples; 64 are needed.", cure="Give a longer log.")

    steps[2].before = refuse
    with pytest.raises(StepFailedError, match=r"Step three: 12 samples; 64 are needed. Give") as caught:
        run(steps, tmp_path)
    assert isinstance(caught.value.__cause__, RecipeError)
    assert sorted(p.name for p in (tmp_path / "steps").iterdir()) == ["one", "two"]
    steps[2].before = None
    assert ran(run(steps, tmp_path)) == ["three", "four"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(chain(*NAMES), tmp_path)
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StepFailedError, match=r"Step two: OSError: .*No space left"):
        run(chain(*NAMES), tmp_path, start_from="two")
    monkeypatch.setattr(os, "fsync", real)
    assert not list((tmp_path / "steps").glob(".*"))
    assert ran(run(chain(*NAMES), tmp_path)) == []


def test_the_build_s_folder_may_be_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeError, match="cannot be used"):
        run(chain(*NAMES), tmp_path / "file" / "build")


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (StepOutput({"made": Path("nowhere")}), "no such file"),
        (StepOutput({}, {"value": float("nan")}), "cannot be written as JSON"),
        (StepOutput({}, {"value": object()}), "cannot be written as JSON"),
    ],
)
def test_what_a_step_may_not_leave(tmp_path: Path, output: StepOutput, message: str) -> None:
    class Odd(FakeStep):
        def run(self, build: Build) -> StepOutput:
            return output

    with pytest.raises(StepFailedError, match=message):
        run([Odd("odd")], tmp_path)
    assert not list((tmp_path / "steps").iterdir())


def test_steps_that_do_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="needs two, which does not come before"):
        run([FakeStep("one", ("two",)), FakeStep("two")], tmp_path)
    with pytest.raises(RecipeError, match="two steps one"):
        run([FakeStep("one"), FakeStep("one")], tmp_path)


def test_an_odd_key_is_refused(tmp_path: Path) -> None:
    class Odd(FakeStep):
        def key(self, inputs: Inputs) -> dict[str, Any]:
            return {"x": float("inf")}

    with pytest.raises(StepFailedError, match="key of step odd"):
        run([Odd("odd")], tmp_path)


def test_all_steps_are_named_and_a_missing_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check_in: Step = FakeStep("check_in")
    monkeypatch.setattr("searchpipe.engine.steps.STEPS", ("nowhere", "check_in"))
    with pytest.raises(RecipeError, match="no step 'nowhere'"):
        load_steps(check_in)
    monkeypatch.setattr("searchpipe.engine.steps.STEPS", ("report", "check_in"))
    assert [step.name for step in load_steps(check_in)] == ["report", "check_in"]
    assert STEPS[0] == "source"
    assert STEPS[-2:] == ("report", "check_in")


KILLED = """
import os, signal, sys
from pathlib import Path
from searchpipe.engine.run import run_build
from searchpipe.engine.step import Inputs
from tests.fakes.engines import chain, recipe
folder, name = Path(sys.argv[1]), sys.argv[2]
steps = chain("one", "two", "three", "four")
for step in steps:
    if step.name == name:
        step.before = lambda build: os.kill(os.getpid(), signal.SIGKILL)
run_build(steps, Inputs(recipe(), folder), folder)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
@pytest.mark.parametrize("name", NAMES)
def test_killed_inside_a_step_it_resumes_there(tmp_path: Path, name: str) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path), name]
    died = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    finished = NAMES[: NAMES.index(name)]
    steps = tmp_path / "steps"
    assert sorted(p.name for p in steps.iterdir() if not p.name.startswith(".")) == sorted(finished)
    assert list(steps.glob(f".{name}.*.part/half.bin"))
    assert ran(run(chain(*NAMES), tmp_path)) == list(NAMES[NAMES.index(name) :])
    assert not list(steps.glob(".*"))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_killed_at_every_rename_and_flush_it_resumes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.fakes.killed_builds", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    # Nine steps, a check-in and a promotion: each several renames and flushes.
    assert int(done.stdout) > 60


HOLDS = """
import sys, time
from pathlib import Path
from searchpipe.engine.run import run_build
from searchpipe.engine.step import Inputs
from tests.fakes.engines import chain, recipe
folder = Path(sys.argv[1])
steps = chain("one")
def wait(build):
    print("inside", flush=True)
    sys.stdin.readline()
steps[0].before = wait
run_build(steps, Inputs(recipe(), folder), folder, say=lambda line: None)
"""


def test_a_second_build_is_refused_and_told_who_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdin is not None
        assert other.stdout.readline() == b"inside\n"
        began = time.monotonic()
        with pytest.raises(BuildBusyError, match=rf"being built in .* by process {other.pid} on "):
            run(chain("one"), tmp_path)
        assert time.monotonic() - began < 30  # it refuses, it does not wait
        other.stdin.write(b"\n")
    assert other.returncode == 0
    assert ran(run(chain("one"), tmp_path)) == []


def test_an_always_step_runs_every_time(tmp_path: Path) -> None:
    class Always(FakeStep):
        always = True

    def steps() -> list[FakeStep]:
        return [FakeStep("one"), Always("last", ("one",))]

    run(steps(), tmp_path)
    assert ran(run(steps(), tmp_path)) == ["last"]
    assert json.loads((tmp_path / "steps" / "last" / "step.json").read_text())["needs"].keys() == {"one"}
