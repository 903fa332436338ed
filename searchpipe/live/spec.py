"""Which snapshot, models and settings a version is made of: as wanted, and pinned to what is there now."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.config import Config, load_config
from searchpipe.errors import ConfigError, RegistryError
from searchpipe.identity import digest_of
from searchpipe.models.resolve import engine_of
from searchpipe.models.settings import ModelSettings
from searchpipe.settings import convert

ConfigSource = Config | Mapping[str, Any] | str | Path | Callable[[], Config] | None
"""As :func:`searchpipe.config.load_config` takes it, or what reads it anew each time."""


@dataclass(frozen=True)
class VersionSpec:
    """A version, pinned: one build of a snapshot, and settings that name engines by their version.

    Opening it later gives the same, for as long as the build and the engines are there. Immutable.
    """

    root: Path
    build: Path
    config: Config

    @property
    def identity(self) -> str:
        """Equal for versions that give the same pages."""
        return f"{self.build.name}/{digest_of(self.config)}"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "root": str(self.root),
            "build": str(self.build),
            "config": msgspec.to_builtins(self.config),
        }

    @classmethod
    def of_record(cls, record: Any) -> VersionSpec:
        """Read what :meth:`record` gave.

        Raises:
            ConfigError: it is not that, or was written by a release with other settings.
        """
        try:
            root, build, config = Path(record["root"]), Path(record["build"]), record["config"]
        except (TypeError, KeyError) as error:
            raise ConfigError(f"The record of a version lacks {error}.") from error
        if not isinstance(config, Mapping):
            raise ConfigError("The record of a version holds no configuration.")
        return cls(root, build, convert(config, Config))


@dataclass(frozen=True)
class Wanted:
    """What the owner asked for: a folder whose CURRENT may move, and engines that may be promoted anew.

    Any thread may call anything.
    """

    root: Path
    source: ConfigSource
    config: Config

    @classmethod
    def read(cls, root: Path | str, source: ConfigSource) -> Wanted:
        """Read the configuration.

        Raises:
            ConfigError: it cannot be read or is wrong.
        """
        return cls(Path(root).absolute(), source, source() if callable(source) else load_config(source))

    def pin(self) -> VersionSpec:
        """What that is now.

        Raises:
            SnapshotNotFoundError: nothing is published.
            RegistryError: an engine is unknown, not promoted, damaged or fits nothing here.
        """
        config = self.config
        models = msgspec.structs.replace(
            config.models, encoder=_pinned(config.models.encoder), scorer=_pinned(config.models.scorer)
        )
        build = SnapshotFolder(self.root).resolve().absolute()
        return VersionSpec(self.root, build, msgspec.structs.replace(config, models=models))

    def pointers(self) -> tuple[str, ...]:
        """What the pointers say, cheap enough to be asked every second; a change is worth a :meth:`pin`.

        A pointer that cannot be read says so in its place.
        """
        said = [_said(lambda: SnapshotFolder(self.root).current() or "")]
        for model in (self.config.models.encoder, self.config.models.scorer):
            engine = engine_of(model)
            if engine is not None and not engine.version:
                said.append(_said(lambda name=engine.name: _promoted(name)))
        return tuple(said)


def _pinned(model: str | ModelSettings) -> str | ModelSettings:
    engine = engine_of(model)
    if engine is None or engine.version:
        return model
    from searchpipe.engine.registry import Registry

    pinned = f"engine:{engine.name}@{Registry().pick(engine.name).manifest.version}"
    return pinned if isinstance(model, str) else msgspec.structs.replace(model, source=pinned)


def _promoted(name: str) -> str:
    from searchpipe.engine.registry import Registry

    slots = Registry().store.state(name).slots
    return ",".join(f"{target}={slot.version}" for target, slot in sorted(slots.items()))


def _said(read: Any) -> str:
    try:
        return str(read())
    except (OSError, RegistryError, UnicodeDecodeError) as error:
        return f"unreadable: {error}"
