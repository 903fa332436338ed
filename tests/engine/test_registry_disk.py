"""The store on a disk that fails, after processes that were killed, and under others that change it."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from searchpipe.engine import store_state
from searchpipe.engine.manifest import EngineManifest
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust
from searchpipe.errors import RegistryError
from searchpipe.models.locking import exclusive
from tests.fakes.engines import engine_files, engine_manifest

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "store", trust=Trust(), clock=lambda: NOW)


def check_in(registry: Registry, folder: Path, salt: str = "", **changes: Any) -> EngineManifest:
    key = changes.pop("key", None)
    files = engine_files(folder / f"made-{salt}", salt=salt, plan=changes.pop("plan", None))
    return registry.check_in(engine_manifest(files, **changes), files, key=key)


def versions(registry: Registry) -> list[str]:
    return [entry.version for entry in registry.entries("tiny")]


def promoted(registry: Registry, target: str = "cpu") -> str:
    return registry.store.state("tiny").slots[target].version


def test_a_file_that_changed_under_the_check_in(registry: Registry, tmp_path: Path) -> None:
    files = engine_files(tmp_path / "made")
    manifest = engine_manifest(files)
    files["int8"].write_bytes(b"something else")
    with pytest.raises(RegistryError, match=r"int8.onnx is truncated: not the file that was built"):
        registry.check_in(manifest, files)
    files["int8"].unlink()
    with pytest.raises(RegistryError, match=r"No such file.*int8.onnx"):
        registry.check_in(manifest, files)
    with pytest.raises(RegistryError, match="in the manifest"):
        registry.check_in(manifest, {"fp32": files["fp32"]})
    folder = registry.store.root / "engines" / "tiny"
    assert [p.name for p in folder.iterdir()] == ["lock"]


@pytest.mark.parametrize("call", ["fsync", "replace", "mkdir"])
def test_a_full_disk_changes_nothing(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    check_in(registry, tmp_path, "a")
    registry.promote("tiny")
    folder = registry.store.root / "engines" / "tiny"
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    files = engine_files(tmp_path / "b", salt="b")

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(28, "No space left on device", str(arguments[0]))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        if call == "mkdir":
            patch.setattr(Path, "mkdir", full)
        with pytest.raises(RegistryError, match=r"cannot be changed: No space left.*Nothing was changed"):
            registry.check_in(engine_manifest(files), files)
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    assert registry.check_in(engine_manifest(files), files).version == "v2"


def test_wherever_the_disk_fails_a_change_has_happened_or_not(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails each rename and flush of a check-in in its turn, until there is none left to fail."""
    check_in(registry, tmp_path, "a")
    folder = registry.store.root / "engines" / "tiny"
    refused = 0
    for place in range(1, 100):
        files = engine_files(tmp_path / "made", salt=str(place))
        before = sorted(folder.rglob("*"))
        known = versions(registry)
        left = [place]

        def failing(real: Callable[..., Any], left: list[int] = left) -> Any:
            def call(*arguments: Any) -> Any:
                left[0] -= 1
                if left[0] == 0:
                    raise OSError(5, "Input/output error")
                return real(*arguments)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", failing(os.replace))
            patch.setattr(os, "fsync", failing(os.fsync))
            try:
                made = registry.check_in(engine_manifest(files), files)
            except RegistryError:
                refused += 1
                assert sorted(folder.rglob("*")) == before
                assert versions(registry) == known
                continue
        # What fails after the commit (a flush of the history, say) takes nothing back.
        assert versions(registry) == [made.version, *known]
        assert registry.verify("tiny", made.version).ok
        numbers = [event.number for event in registry.history("tiny")]
        assert numbers == list(range(1, len(known) + 2))
        if left[0] > 0:
            break
    assert refused >= 6  # each file, the manifest, the folder, the two renames


def test_a_store_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    registry = Registry(tmp_path / "file", trust=Trust())
    assert registry.names() == []
    with pytest.raises(RegistryError, match="cannot be changed"):
        check_in(registry, tmp_path)


def test_remains_of_killed_processes_are_cleared(registry: Registry, tmp_path: Path) -> None:
    check_in(registry, tmp_path, "a")
    folder = registry.store.root / "engines" / "tiny"
    for name in (".incoming-12", ".trash-v0-1", "v2"):  # v2: renamed, and killed before it was listed
        (folder / name).mkdir()
        (folder / name / "half").write_text("x")
    (folder / ".state.json.77.part").write_text("{")
    assert versions(registry) == ["v1"]
    assert check_in(registry, tmp_path, "b").version == "v2"
    names = sorted(p.name for p in folder.iterdir())
    assert names == ["history.jsonl", "lock", "state.json", "v1", "v2"]
    assert registry.verify("tiny", "v2").ok


def test_a_lost_state_is_not_begun_anew(registry: Registry, tmp_path: Path) -> None:
    for salt in "ab":
        check_in(registry, tmp_path, salt)
    folder = registry.store.root / "engines" / "tiny"
    state = folder / "state.json"
    content = state.read_bytes()
    state.unlink()
    with pytest.raises(RegistryError, match=r"state.json is missing, and there are versions"):
        check_in(registry, tmp_path, "c")
    for broken in (b"{", b"[]", content[:-9], b'{"format": 2}'):
        state.write_bytes(broken)
        with pytest.raises(RegistryError, match=r"state.json is (not an engine's state|of format 2)"):
            registry.promote("tiny")
    state.write_bytes(content)
    assert (folder / "v2" / "int8.onnx").is_file()
    assert registry.promote("tiny") is not None


def test_the_history_survives_a_torn_line(registry: Registry, tmp_path: Path) -> None:
    for salt in "ab":
        registry.promote("tiny", check_in(registry, tmp_path, salt).version)
    path = registry.store.root / "engines" / "tiny" / "history.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    # Killed in the middle of the last line, and before any of it: the state knows the event.
    for torn in (b"".join(lines[:-1]) + lines[-1][:20], b"".join(lines[:-1])):
        path.write_bytes(torn)
        assert [event.number for event in registry.history("tiny")] == [1, 2, 3, 4]
        registry.prune("tiny")  # removes nothing, and settles the history
        assert path.read_bytes() == b"".join(lines)
    path.write_bytes(b"nonsense\n" + b"".join(lines))
    with pytest.raises(RegistryError, match=r"history.jsonl, line 1 is no event"):
        registry.history("tiny")


def test_a_history_that_cannot_be_appended_to_stops_no_change(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_in(registry, tmp_path)
    settle = store_state.settle_history
    calls: list[int] = []

    def once(folder: Path, state: store_state.State) -> None:
        calls.append(state.number)
        if state.number == 2:
            raise OSError(28, "No space left on device")
        settle(folder, state)

    with monkeypatch.context() as patch:
        patch.setattr(store_state, "settle_history", once)
        assert registry.promote("tiny") is not None
    assert calls == [1, 2]
    assert promoted(registry) == "v1"
    assert [event.action for event in registry.history("tiny")] == ["check-in", "promote"]


def test_another_change_is_waited_for_and_not_for_ever(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_in(registry, tmp_path)
    monkeypatch.setattr("searchpipe.engine.store._LOCK_SECONDS", 0.1)
    lock = registry.store.root / "engines" / "tiny" / "lock"
    with (
        exclusive(lock, on_wait=lambda: None),
        pytest.raises(RegistryError, match="is being changed for"),
    ):
        registry.promote("tiny")
    assert registry.promote("tiny") is not None
