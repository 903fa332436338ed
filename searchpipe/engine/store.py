"""Where checked-in engines lie, and how their folders are read and changed.

    <store>/engines/<name>/state.json      versions, what is promoted, last event
                          /history.jsonl   every event, only appended to
                          /lock            held while something changes
                          /v1/manifest.json and the files that it lists

A change happens when ``state.json`` is renamed into place; before that it has not begun, after
that it is done. Readers take no lock.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from searchpipe.engine import store_state as states
from searchpipe.engine.manifest import MANIFEST, EngineManifest, decode
from searchpipe.engine.store_state import State
from searchpipe.errors import RegistryError
from searchpipe.models.locking import exclusive

STORE_VARIABLE = "SEARCHPIPE_STORE"
"""Environment variable: folder of the store."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_VERSION = re.compile(r"v[1-9][0-9]{0,8}")
# A check-in copies some hundred MB under the lock; who waits longer than this is told. Seconds.
_LOCK_SECONDS = 120.0


def default_store() -> Path:
    """``SEARCHPIPE_STORE``, or the platform's folder for a user's data with ``searchpipe`` in it."""
    chosen = os.environ.get(STORE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    xdg = os.environ.get("XDG_DATA_HOME")
    if xdg and Path(xdg).is_absolute():
        return Path(xdg) / "searchpipe"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "searchpipe"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "searchpipe" / "Data"
    return Path.home() / ".local" / "share" / "searchpipe"


class Store:
    """The folders of one store. Immutable: any thread and any process may use the same store."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names of the engines in the store, sorted; empty where there is no store."""
        try:
            found = [p.name for p in (self.root / "engines").iterdir() if (p / states.STATE).is_file()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise RegistryError(f"The store {self.root} cannot be read: {error}.") from error
        return sorted(found)

    def state(self, name: str) -> State:
        """Versions and promotions of one engine.

        Raises:
            RegistryError: there is no such engine.
        """
        state = states.read_state(self.engine_folder(name))
        if state is None or not state.versions:
            known = self.names()
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"It holds: {', '.join(known) or 'none'}."
            raise RegistryError(f"There is no engine {name!r} in the store {self.root}.", cure=hint)
        return state

    def folder_of(self, name: str, version: str) -> Path:
        """Where a version's files are."""
        return self.engine_folder(name) / version

    def engine_folder(self, name: str) -> Path:
        """Where an engine's versions are; RegistryError for what cannot be a name."""
        if not _NAME.fullmatch(name):
            raise RegistryError(
                f"{name!r} cannot name an engine.",
                cure="Use up to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit first.",
            )
        return self.root / "engines" / name

    def known(self, name: str, version: str, state: State) -> str:
        """``version`` as the store writes it (3 is v3), the newest if empty; RegistryError if unknown."""
        if not version:
            return max(state.versions, key=states.number_of)
        chosen = f"v{version}" if version.isdigit() else version
        if not _VERSION.fullmatch(chosen) or chosen not in state.versions:
            known = ", ".join(sorted(state.versions, key=states.number_of))
            raise RegistryError(f"{name} has no version {version!r}; it has {known}.")
        return chosen

    def manifest(self, name: str, version: str, state: State) -> EngineManifest:
        """Read a version's manifest; RegistryError if it is not the one that was checked in."""
        path = self.folder_of(name, version) / MANIFEST
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RegistryError(f"{path} cannot be read: {error.strerror or error}.") from error
        if hashlib.sha256(content).hexdigest() != state.versions[version]:
            raise RegistryError(
                f"{path} was changed since it was checked in.", cure="Build the engine again, or roll back."
            )
        manifest = decode(content, path)
        if (manifest.name, manifest.version) != (name, version):
            raise RegistryError(f"{path} is the manifest of {manifest.name} {manifest.version}.")
        return manifest

    @contextmanager
    def changing(self, name: str, *, make: bool = False) -> Iterator[tuple[Path, State]]:
        """Hold one engine's lock, with what killed processes left behind cleared away.

        Raises:
            RegistryError: no such engine (unless ``make``), or the disk refuses.
        """
        folder = self.engine_folder(name)
        if not make:
            self.state(name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / "lock", on_wait=lambda: None, timeout=_LOCK_SECONDS):
                state = states.read_state(folder)
                if state is None:
                    _refuse_lost_state(folder)
                    state = State()
                sweep(folder, state)
                states.settle_history(folder, state)
                yield folder, state
        except TimeoutError as error:
            raise RegistryError(f"{folder} is being changed for {_LOCK_SECONDS:.0f} s: {error}.") from error
        except OSError as error:
            raise RegistryError(
                f"The store {self.root} cannot be changed: {error.strerror or error} "
                f"({error.filename or folder}).",
                cure="Nothing was changed. Free some space, or choose another folder with --store.",
            ) from error

    def commit(self, folder: Path, state: State) -> None:
        """Make ``state`` the state; the lock is held. OSError if it cannot: nothing has changed then."""
        states.commit(folder, state)
        try:
            states.settle_history(folder, state)
        except (OSError, RegistryError):
            # The change has happened and is in state.json; the next one appends it to the history.
            return


def _refuse_lost_state(folder: Path) -> None:
    """Refuse to begin anew where versions are: only a first check-in that was killed leaves one, v1."""
    versions = [p.name for p in folder.iterdir() if _VERSION.fullmatch(p.name)]
    if set(versions) - {"v1"} or (folder / states.HISTORY).exists():
        raise RegistryError(
            f"{folder / states.STATE} is missing, and there are versions.",
            cure="Restore it from a backup of the store.",
        )


def sweep(folder: Path, state: State) -> None:
    """Remove what is not in the state: remains of check-ins and prunes that were killed. The lock is held."""
    for path in list(folder.iterdir()):
        name = path.name
        left = name.startswith((".incoming-", ".trash-")) or name.endswith(".part")
        unlisted = _VERSION.fullmatch(name) and name not in state.versions
        if unlisted and states.number_of(name) <= state.next:
            trash = folder / f".trash-{name}-{secrets.token_hex(4)}"
            os.replace(path, trash)
            path, left = trash, True
        if left:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
