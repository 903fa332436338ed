"""The store against a plain model of it, in any order of calls, and under races of threads and processes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.errors import RegistryError
from tests.fakes.engines import engine_files, engine_manifest

ROOT = Path(__file__).parents[2]
TARGETS = ("cpu", "sm_90")
salts = st.sampled_from("abcdef")
targets = st.sampled_from(TARGETS)


class StoreMachine(RuleBasedStateMachine):
    """``engines``: version -> (salt, target); ``stacks``: target -> promoted ones, the last one in force."""

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="store-"))
        self.registry = Registry(self.home / "store", trust=Trust())
        self.engines: dict[str, tuple[str, str]] = {}
        self.stacks: dict[str, list[str]] = {}
        self.made = 0
        self.events: list[str] = []

    def teardown(self) -> None:
        shutil.rmtree(self.home)

    def ordered(self) -> list[str]:
        return sorted(self.engines, key=lambda version: int(version[1:]))

    @rule(salt=salts, where=targets)
    def check_in(self, salt: str, where: str) -> None:
        files = engine_files(self.home / salt, salt=salt)
        version = self.registry.check_in(engine_manifest(files, target=where), files).version
        known = [v for v, engine in self.engines.items() if engine == (salt, where)]
        if known:
            assert version == known[0]
            return
        self.made += 1
        assert version == f"v{self.made}"
        self.engines[version] = (salt, where)
        self.events.append("check-in")

    @precondition(lambda self: self.engines)
    @rule(data=st.data())
    def promote(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(self.ordered()))
        event = self.registry.promote("tiny", version)
        stack = self.stacks.setdefault(self.engines[version][1], [])
        if stack and stack[-1] == version:
            assert event is None
            return
        assert event is not None
        assert event.before == (stack[-1] if stack else "")
        stack.append(version)
        self.events.append("promote")

    @precondition(lambda self: self.engines)
    @rule(where=targets)
    def rollback(self, where: str) -> None:
        stack = self.stacks.get(where, [])
        if len(stack) < 2:
            with pytest.raises(RegistryError):
                self.registry.rollback("tiny", where)
            return
        stack.pop()
        assert self.registry.rollback("tiny", where).versions == (stack[-1],)
        self.events.append("rollback")

    @precondition(lambda self: self.engines)
    @rule(keep=st.integers(1, 4))
    def prune(self, keep: int) -> None:
        safe = {version for stack in self.stacks.values() for version in stack[-2:]}
        safe |= set(self.ordered()[-keep:])
        gone = [version for version in self.ordered() if version not in safe]
        assert self.registry.prune("tiny", keep=keep) == gone
        for version in gone:
            del self.engines[version]
        for target, stack in self.stacks.items():
            left: list[str] = []
            for version in stack:
                # A rollback to what is in force already would be none.
                if version in self.engines and left[-1:] != [version]:
                    left.append(version)
            self.stacks[target] = left
        if gone:
            self.events.append("prune")

    @rule()
    def another_process_opens_the_store(self) -> None:
        self.registry = Registry(self.home / "store", trust=Trust())

    @invariant()
    def the_store_is_the_model(self) -> None:
        if not self.made:
            assert self.registry.names() == []
            return
        entries = {entry.version: entry for entry in self.registry.entries("tiny")}
        assert set(entries) == set(self.engines)
        for version, entry in entries.items():
            assert entry.manifest is not None
            assert entry.manifest.target == self.engines[version][1]
            in_force = [target for target, stack in self.stacks.items() if stack and stack[-1] == version]
            assert list(entry.promoted_for) == sorted(in_force)
        history = self.registry.history("tiny")
        assert [event.action for event in history] == self.events
        assert [event.number for event in history] == list(range(1, len(history) + 1))
        folders = {p.name for p in (self.home / "store" / "engines" / "tiny").glob("v*")}
        assert folders == set(self.engines)

    @precondition(lambda self: self.engines)
    @rule()
    def everything_verifies(self) -> None:
        assert all(self.registry.verify("tiny", version).ok for version in self.engines)


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=25, stateful_step_count=20, deadline=None)


def fill(home: Path, count: int) -> Registry:
    registry = Registry(home / "store", trust=Trust())
    for salt in map(str, range(count)):
        files = engine_files(home / salt, salt=salt)
        registry.check_in(engine_manifest(files), files)
    return registry


def check_history(registry: Registry, changes: int) -> None:
    """Every change is there once, and each promotion follows from the one before it."""
    history = registry.history("tiny")
    assert [event.number for event in history] == list(range(1, changes + 1))
    in_force = ""
    for event in history:
        if event.action in ("promote", "rollback"):
            assert event.before == in_force
            (in_force,) = event.versions
    state = registry.store.state("tiny")
    assert state.slots["cpu"].version == in_force
    assert state.last == history[-1]


def test_threads_promote_and_roll_back_at_once(tmp_path: Path) -> None:
    registry = fill(tmp_path, 4)
    done: list[str] = []
    failed: list[BaseException] = []
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for turn in range(8):
            try:
                if number == 3:
                    registry.rollback("tiny")
                    done.append("rollback")
                elif registry.promote("tiny", f"v{1 + (number + turn) % 4}") is not None:
                    done.append("promote")
            except RegistryError as error:
                if "Before" not in str(error) and "is promoted" not in str(error):
                    failed.append(error)
            except BaseException as error:
                failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    check_history(registry, 4 + len(done))


WORKER = """
import sys
from pathlib import Path
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.errors import RegistryError
from tests.fakes.engines import engine_files, engine_manifest
home, me = Path(sys.argv[1]), sys.argv[2]
registry = Registry(home / "store", trust=Trust())
print("ready", flush=True)
sys.stdin.readline()
changes = 0
for turn in range(6):
    files = engine_files(home / me / str(turn), salt=f"{me} {turn}")
    version = registry.check_in(engine_manifest(files), files).version
    changes += 1 + (registry.promote("tiny", version) is not None)
    try:
        registry.rollback("tiny")
        changes += 1
    except RegistryError as error:
        assert "Before" in str(error), error
    assert registry.pick("tiny").model.is_file()
print(changes, flush=True)
"""


def test_processes_check_in_promote_and_roll_back_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen([*command, name], cwd=ROOT, text=True, **pipes) for name in "abc"]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    changes = 0
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        out, errors = worker.communicate()
        assert worker.returncode == 0, errors
        changes += int(out)
    registry = Registry(tmp_path / "store", trust=Trust())
    versions = [entry.version for entry in registry.entries("tiny")]
    assert sorted(versions) == sorted(f"v{number}" for number in range(1, 19))
    assert all(registry.verify("tiny", version).ok for version in versions)
    check_history(registry, changes)
    registry.prune("tiny", keep=1)
    assert registry.pick("tiny").manifest.version == registry.store.state("tiny").slots["cpu"].version
