"""A process whose daemon threads are inside the library when it ends, ends as it should."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from searchpipe.errors import ClosedError
from searchpipe.interpreter_end import NativeCalls, ending
from searchpipe.live.record import HISTORY, LAST_GOOD
from tests.fakes.cuda_driver import real_driver_present


def run(kind: str, world: Any, scratch: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.ended", kind, world.snapshot, world.config_file, scratch]
    root = Path(__file__).parents[1]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    "kind", ["core", "scorer", "engine", "session", "build", "early", "pipeline", "asked", "crowd", "swap"]
)
def test_the_process_does_not_abort(kind: str, world: Any, tmp_path: Path) -> None:
    ended = run(kind, world, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert int(ended.stdout) >= 1  # each thread was at work


@pytest.mark.skipif(not real_driver_present(), reason="needs a GPU")
def test_a_process_that_searches_on_a_gpu_ends(world: Any, tmp_path: Path) -> None:
    ended = run("gpu", world, tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) >= 1


@pytest.mark.parametrize("kind", ["blobs", "mask", "callback"])
def test_what_is_dropped_may_ask_for_the_gil(kind: str) -> None:
    command = [sys.executable, "-m", "tests.dropped", kind]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stderr, ended.stdout) == (0, "", "True\n")


def test_a_swap_that_the_end_makes_fail_is_no_failure_of_its_version(world: Any, tmp_path: Path) -> None:
    ended = run("opening", world, tmp_path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == "given_up"
    steps = [json.loads(line)["step"] for line in (tmp_path / HISTORY).read_text("utf-8").splitlines()]
    assert steps == ["good"]  # of the first version
    state = json.loads((tmp_path / LAST_GOOD).read_text("utf-8"))
    assert (state["trial"], state["attempts"], state["refused"]) == (None, 0, [])


def test_a_query_that_hangs_does_not_keep_the_process(world: Any, tmp_path: Path) -> None:
    ended = run("hanging", world, tmp_path)
    assert ended.returncode == 0
    assert "3 queries run on while the interpreter ends" in ended.stderr


def test_the_interpreter_is_not_ending_where_no_thread_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    assert not ending()
    monkeypatch.setattr(threading.Thread, "start", start)
    assert not ending()


def test_native_calls_are_refused_and_waited_for() -> None:
    calls, go_on = NativeCalls(), threading.Event()

    def inside() -> None:
        with calls:
            go_on.wait(60)

    thread = threading.Thread(target=inside)
    thread.start()
    while not calls._inside:
        pass
    assert not calls.end(0.01)
    go_on.set()
    thread.join()
    assert calls.end(0.0)
    with pytest.raises(ClosedError, match="interpreter is ending"), calls:
        pytest.fail("it was let in")
    assert calls.end(0.0)
