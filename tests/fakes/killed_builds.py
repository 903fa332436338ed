"""Kills a build at every rename and flush, one after the other, and goes on with it each time.

``python -m tests.fakes.killed_builds FOLDER`` prints how many places there are. A process of its
own, because it forks: a child for each build, so that nothing of a killed one can be left in memory.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from searchpipe.engine.manifest import MANIFEST
from searchpipe.engine.registry import Registry
from searchpipe.engine.run import run_build
from searchpipe.engine.signing import Trust
from searchpipe.engine.step import Inputs
from searchpipe.engine.step_record import read_record
from searchpipe.engine.steps.check_in import CheckInStep
from searchpipe.engine.store_files import state_of
from tests.fakes.engines import factory_steps, recipe


def build(folder: Path, store: Path) -> str:
    registry = Registry(store, trust=Trust())
    steps = [*factory_steps(), CheckInStep(registry, "name = 'tiny'\n")]
    result = run_build(steps, Inputs(recipe(), folder), folder, say=lambda line: None)
    version = str(result.done["check_in"].facts["version"])
    registry.promote("tiny", version)
    return version


def flush_nothing(_descriptor: int) -> None:
    """In place of fsync: what a process wrote survives its death, and the disk need not hear of it."""


def kill_at(place: int) -> None:
    """Let this process die before its ``place``-th rename or flush."""
    left = place

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    os.replace = counted(os.replace)
    os.fsync = counted(flush_nothing)


def in_child(work: Callable[[], object]) -> int:
    """Do ``work`` in a child; 0 if it ended, the signal's number if it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(3)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, status
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def check_nothing_is_half(folder: Path, store: Path) -> None:
    """Whatever bears a name is whole: each step, each version that the store knows."""
    for step in (folder / "steps").glob("[!.]*"):
        record = read_record(step)
        assert record is not None, step
        assert all(state_of(step / known.path, known) == "ok" for known in record.contents), step
    registry = Registry(store, trust=Trust())
    for name in registry.names():
        for entry in registry.entries(name):
            assert registry.verify(name, entry.version).ok, entry
        slot = registry.store.state(name).slots.get("cpu")
        assert slot is None or (entry.folder.parent / slot.version / MANIFEST).is_file()


def killed_build(place: int, folder: Path, store: Path) -> None:
    kill_at(place)
    build(folder, store)


def main(home: Path) -> int:
    os.fsync = flush_nothing
    folder, store = home / "build", home / "store"
    place = 0
    while True:
        place += 1
        for path in (folder, store):
            shutil.rmtree(path, ignore_errors=True)
        if in_child(partial(killed_build, place, folder, store)) == 0:
            return place - 1
        check_nothing_is_half(folder, store)
        in_child(partial(build, folder, store))
        check_nothing_is_half(folder, store)
        registry = Registry(store, trust=Trust())
        assert [entry.version for entry in registry.entries("tiny")] == ["v1"], place
        assert [event.action for event in registry.history("tiny")] == ["check-in", "promote"], place
        left = [p for p in [*folder.rglob("*"), *store.rglob("*")] if ".part" in p.name or ".inc" in p.name]
        assert not left, left


if __name__ == "__main__":
    print(main(Path(sys.argv[1])))
