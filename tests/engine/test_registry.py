"""The store: checking in, promoting, rolling back, pruning, and everything that may be wrong with it."""

from __future__ import annotations

import datetime as dt
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from searchpipe.engine import store_files, store_state
from searchpipe.engine.manifest import EngineManifest, encode
from searchpipe.engine.registry import Registry
from searchpipe.engine.signing import Trust, moment
from searchpipe.engine.signing_keys import ED25519, HMAC, make_key
from searchpipe.engine.store import default_store
from searchpipe.errors import RegistryError
from tests.fakes.engines import H200, engine_files, engine_manifest

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


def test_an_engine_s_life(registry: Registry, tmp_path: Path) -> None:
    assert registry.names() == []
    made = [check_in(registry, tmp_path, salt).version for salt in "abcd"]
    assert made == ["v1", "v2", "v3", "v4"]
    assert registry.names() == ["tiny"]
    assert registry.promote("tiny", "v1") is not None
    event = registry.promote("tiny", "2")
    assert event is not None
    assert (event.versions, event.target, event.before) == (("v2",), "cpu", "v1")
    assert registry.promote("tiny", "v2") is None  # is promoted
    assert registry.rollback("tiny").versions == ("v1",)
    with pytest.raises(RegistryError, match="Before v1 no version of tiny was promoted for cpu"):
        registry.rollback("tiny")
    assert registry.promote("tiny") is not None  # the newest
    assert promoted(registry) == "v4"
    assert registry.prune("tiny", keep=1) == ["v2", "v3"]  # v1: a rollback would go there
    assert versions(registry) == ["v4", "v1"]
    assert not (registry.store.folder_of("tiny", "v2")).exists()
    assert check_in(registry, tmp_path, "e").version == "v5"  # a number is never used again
    actions = [(event.number, event.action) for event in registry.history("tiny")]
    assert actions == list(
        enumerate(
            ["check-in"] * 4 + ["promote", "promote", "rollback", "promote", "prune", "check-in"], start=1
        )
    )
    assert all(entry.manifest and not entry.problem for entry in registry.entries("tiny"))


def test_the_same_engine_keeps_its_version(registry: Registry, tmp_path: Path) -> None:
    first = check_in(registry, tmp_path, "a")
    assert check_in(registry, tmp_path, "a") == first
    assert check_in(registry, tmp_path, "a", created="2027-01-01T00:00:00Z").version == "v1"
    signed = check_in(registry, tmp_path, "a", key=make_key(HMAC))  # signed now: another engine
    assert signed.version == "v2"
    (registry.store.folder_of("tiny", "v1") / "int8.onnx").unlink()
    assert check_in(registry, tmp_path, "a").version == "v3"  # what is damaged stands for nothing


def test_architectures_are_promoted_apart(registry: Registry, tmp_path: Path) -> None:
    check_in(registry, tmp_path, "a")
    check_in(registry, tmp_path, "b", target="sm_90", plan=H200)
    check_in(registry, tmp_path, "c", target="sm_90", plan=H200)
    for version in ("v1", "v2", "v3"):
        registry.promote("tiny", version)
    assert (promoted(registry, "cpu"), promoted(registry, "sm_90")) == ("v1", "v3")
    with pytest.raises(RegistryError, match=r"promoted for cpu, sm_90.*--target"):
        registry.rollback("tiny")
    with pytest.raises(RegistryError, match="not for 'sm_86'"):
        registry.rollback("tiny", "sm_86")
    assert registry.rollback("tiny", "sm_90").versions == ("v2",)
    assert promoted(registry, "cpu") == "v1"


def test_unknown_names_and_versions(registry: Registry, tmp_path: Path) -> None:
    check_in(registry, tmp_path)
    calls: list[Callable[[], object]] = [
        lambda: registry.manifest("tinny"),
        lambda: registry.promote("tinny"),
        lambda: registry.rollback("tinny"),
        lambda: registry.prune("tinny"),
        lambda: registry.verify("tinny"),
        lambda: registry.history("tinny"),
        lambda: registry.pick("tinny"),
    ]
    for call in calls:
        with pytest.raises(RegistryError, match="Did you mean 'tiny'"):
            call()
    assert not (registry.store.root / "engines" / "tinny").exists()
    for name in ("", "..", "a/b", ".hidden", "Tiny", "x" * 65):
        with pytest.raises(RegistryError, match="cannot name an engine"):
            registry.manifest(name)
    for version in ("v2", "v0", "2", "../v1", "newest", "v01"):
        with pytest.raises(RegistryError, match=r"has no version .*; it has v1"):
            registry.promote("tiny", version)
    with pytest.raises(RegistryError, match="No version of tiny is promoted"):
        registry.rollback("tiny")
    with pytest.raises(RegistryError, match="at least 1"):
        registry.prune("tiny", keep=0)


@pytest.mark.parametrize("file", ["int8.onnx", "fp32.onnx", "fp16.plan", "fp16.plan.json", "tokenizer.json"])
@pytest.mark.parametrize("damage", ["truncated", "changed", "missing"])
def test_a_damaged_file_is_named_and_never_promoted(
    registry: Registry, tmp_path: Path, file: str, damage: str
) -> None:
    check_in(registry, tmp_path, plan=H200)
    assert registry.verify("tiny").ok
    path = registry.store.folder_of("tiny", "v1") / file
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(content[:-1] if damage == "truncated" else content[:-1] + b"X")
    found = registry.verify("tiny")
    assert found.problems == (f"{path} is {damage}.",)
    with pytest.raises(RegistryError, match=f"{file} is {damage}"):
        registry.promote("tiny")
    assert not registry.store.state("tiny").slots


def test_a_damaged_manifest_is_named(registry: Registry, tmp_path: Path) -> None:
    check_in(registry, tmp_path)
    path = registry.store.folder_of("tiny", "v1") / "manifest.json"
    content = path.read_text()
    path.write_text(content.replace('"chosen": "int8"', '"chosen": "fp32"'))
    assert path.read_text() != content
    (problem,) = registry.verify("tiny").problems
    assert f"{path} was changed" in problem
    with pytest.raises(RegistryError, match="was changed since it was checked in"):
        registry.promote("tiny")
    (entry,) = registry.entries("tiny")
    assert entry.manifest is None
    assert "was changed" in entry.problem
    path.unlink()
    with pytest.raises(RegistryError, match="cannot be read"):
        registry.manifest("tiny")


def test_a_damaged_engine_is_not_rolled_back_to(registry: Registry, tmp_path: Path) -> None:
    for salt in "ab":
        registry.promote("tiny", check_in(registry, tmp_path, salt).version)
    (registry.store.folder_of("tiny", "v1") / "int8.onnx").write_bytes(b"")
    with pytest.raises(RegistryError, match=r"v1.int8.onnx is truncated"):
        registry.rollback("tiny")
    assert promoted(registry) == "v2"


def test_signatures_are_asked_for_at_every_door(tmp_path: Path) -> None:
    key = make_key(ED25519, expires=moment(NOW + dt.timedelta(days=30)))
    now = [NOW]
    strict = Registry(tmp_path / "s", trust=Trust((key,), required=True), clock=lambda: now[0])
    easy = Registry(tmp_path / "s", trust=Trust(), clock=lambda: now[0])
    with pytest.raises(RegistryError, match="Only signed engines are checked in"):
        check_in(strict, tmp_path, "a")
    assert strict.names() == []
    check_in(easy, tmp_path, "a")
    with pytest.raises(RegistryError, match="not signed"):
        strict.promote("tiny")
    check_in(strict, tmp_path, "a", key=key)
    assert strict.promote("tiny") is not None
    assert strict.verify("tiny").signature == f"signed by {key.id} (ed25519)"
    assert "not checked" in easy.verify("tiny").signature
    now[0] = NOW + dt.timedelta(days=31)
    (problem,) = strict.verify("tiny").problems
    assert f"key {key.id} expired" in problem
    with pytest.raises(RegistryError, match="expired"):
        strict.pick("tiny")
    with pytest.raises(RegistryError, match="expired"):
        check_in(strict, tmp_path, "b", key=key)


def test_a_signed_manifest_cannot_be_exchanged(tmp_path: Path) -> None:
    """Who can write to the store can write its state as well; the signature is what stops them."""
    key = make_key(HMAC)
    strict = Registry(tmp_path / "s", trust=Trust((key,), required=True))
    check_in(strict, tmp_path, "a", key=key)
    folder = strict.store.folder_of("tiny", "v1")
    (folder / "int8.onnx").write_bytes(b"evil")
    manifest = strict.manifest("tiny")
    files = {**manifest.files, "int8": store_files.facts_of(folder / "int8.onnx", "int8.onnx")}
    content = encode(msgspec.structs.replace(manifest, files=files))
    (folder / "manifest.json").write_bytes(content)
    state = strict.store.state("tiny")
    digest = hashlib.sha256(content).hexdigest()
    store_state.commit(folder.parent, msgspec.structs.replace(state, versions={"v1": digest}))
    assert Registry(tmp_path / "s", trust=Trust()).verify("tiny").ok
    with pytest.raises(RegistryError, match="not of this manifest"):
        strict.promote("tiny")


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "here"))
    assert default_store() == tmp_path / "here"
    monkeypatch.delenv("SEARCHPIPE_STORE")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_store() == tmp_path / "searchpipe"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_store().is_absolute()


def test_a_foreign_manifest_is_refused(registry: Registry, tmp_path: Path) -> None:
    """v1's folder in the place of v2, its hash in the state."""
    for salt in "ab":
        check_in(registry, tmp_path, salt)
    folder = registry.store.root / "engines" / "tiny"
    shutil.rmtree(folder / "v2")
    shutil.copytree(folder / "v1", folder / "v2")
    state = registry.store.state("tiny")
    same = dict.fromkeys(state.versions, state.versions["v1"])
    store_state.commit(folder, msgspec.structs.replace(state, versions=same))
    with pytest.raises(RegistryError, match="is the manifest of tiny v1"):
        registry.promote("tiny", "v2")
