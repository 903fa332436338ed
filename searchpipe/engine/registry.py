"""Engines are checked in, listed, verified, promoted, rolled back and pruned: the face of the store."""

from __future__ import annotations

import datetime as dt
import getpass
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from searchpipe.engine import store_state as states
from searchpipe.engine.manifest import MANIFEST, EngineManifest, encode
from searchpipe.engine.signing import Trust, moment, sign, utc_now
from searchpipe.engine.signing_keys import Key
from searchpipe.engine.store import Store, default_store, sweep
from searchpipe.engine.store_files import FileState, copy_file, flush_tree, state_of, write_bytes
from searchpipe.engine.store_state import Action, Event, State
from searchpipe.errors import RegistryError

if TYPE_CHECKING:
    from searchpipe.engine.machine import Machine
    from searchpipe.engine.pick import Choice


@dataclass(frozen=True, slots=True)
class Entry:
    """One checked-in version; ``manifest`` is None, and ``problem`` says why, where it cannot be read."""

    name: str
    version: str
    folder: Path
    promoted_for: tuple[str, ...]
    manifest: EngineManifest | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class FileCheck:
    """Outcome of reading one file of an engine whole."""

    version: str
    file: str
    state: FileState


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of verifying one version; ``signature`` is what was found of it, in words."""

    name: str
    version: str
    files: tuple[FileCheck, ...]
    signature: str
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether every file and the signature are good."""
        return not self.problems


class Registry:
    """One store. Immutable: any thread may call everything, and any process may use the same store.

    Args:
        root: the store's folder; :func:`default_store` if None.
        trust: which signatures are asked for; by default what the environment asks for.
        clock: the present moment, in UTC.
    """

    def __init__(
        self,
        root: Path | None = None,
        *,
        trust: Trust | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
    ) -> None:
        self.store = Store((root or default_store()).absolute())
        self.trust = Trust.choose() if trust is None else trust
        self._clock = clock

    def names(self) -> list[str]:
        """Names of the engines in the store, sorted; empty where there is no store."""
        return self.store.names()

    def entries(self, name: str) -> list[Entry]:
        """All versions of one engine, the newest first; one that cannot be read is there with its problem."""
        state = self.store.state(name)
        found = []
        for version in sorted(state.versions, key=states.number_of, reverse=True):
            manifest, problem = None, ""
            try:
                manifest = self.store.manifest(name, version, state)
            except RegistryError as error:
                problem = str(error)
            targets = tuple(sorted(t for t, slot in state.slots.items() if slot.version == version))
            found.append(
                Entry(name, version, self.store.folder_of(name, version), targets, manifest, problem)
            )
        return found

    def manifest(self, name: str, version: str = "") -> EngineManifest:
        """The manifest of one version, the newest if none is named; its files are not read.

        Raises:
            RegistryError: unknown, missing, or not the manifest that was checked in.
        """
        state = self.store.state(name)
        return self.store.manifest(name, self.store.known(name, version, state), state)

    def history(self, name: str) -> list[Event]:
        """All events of one engine, the oldest first."""
        return states.read_history(self.store.engine_folder(name), self.store.state(name))

    def verify(self, name: str, version: str = "") -> Verification:
        """Read every file of a version whole; compare the hashes, and check the signature.

        Raises:
            RegistryError: there is no such engine or version. What is wrong with it is in the result.
        """
        state = self.store.state(name)
        version = self.store.known(name, version, state)
        folder = self.store.folder_of(name, version)
        try:
            manifest = self.store.manifest(name, version, state)
        except RegistryError as error:
            return Verification(name, version, (), "", (str(error),))
        checks = [
            FileCheck(version, facts.path, state_of(folder / facts.path, facts))
            for facts in manifest.files.values()
        ]
        problems = [f"{folder / c.file} is {c.state}." for c in checks if c.state != "ok"]
        signature = ""
        try:
            signature = self.trust.check(manifest.signed_content(), manifest.signature, now=self._clock())
        except RegistryError as error:
            problems.append(str(error))
        return Verification(name, version, tuple(checks), signature, tuple(problems))

    def check_in(
        self, manifest: EngineManifest, files: Mapping[str, Path], *, key: Key | None = None
    ) -> EngineManifest:
        """Copy an engine into the store and give it a version; the same engine again keeps its version.

        Args:
            manifest: without version and signature.
            files: role -> file; the roles of ``manifest.files``.
            key: signs it.

        Returns:
            The manifest as checked in.

        Raises:
            RegistryError: a file is not what the manifest says, the disk refuses, or a signature is
                required and no key given; the store is as it was.
        """
        if self.trust.required and key is None:
            raise RegistryError(
                "Only signed engines are checked in here.", cure="Give a key with --key FILE."
            )
        if set(files) != set(manifest.files):
            raise RegistryError(f"Files given: {sorted(files)}; in the manifest: {sorted(manifest.files)}.")
        with self.store.changing(manifest.name, make=True) as (folder, state):
            same = self._same(manifest, key, state)
            if same is not None:
                return same
            version = f"v{state.next}"
            made = msgspec.structs.replace(manifest, version=version, signature=None)
            if key is not None:
                signature = sign(made.signed_content(), key, now=self._clock())
                made = msgspec.structs.replace(made, signature=signature)
            content = encode(made)
            staging = folder / f".incoming-{secrets.token_hex(6)}"
            event = self._event(state, "check-in", (version,))
            try:
                staging.mkdir()
                for role, facts in made.files.items():
                    copy_file(files[role], staging / facts.path)
                    found = state_of(staging / facts.path, facts)
                    if found != "ok":
                        raise RegistryError(f"{files[role]} is {found}: not the file that was built.")
                write_bytes(staging / MANIFEST, content)
                flush_tree(staging)
                os.replace(staging, folder / version)
                digest = hashlib.sha256(content).hexdigest()
                self.store.commit(folder, states.checked_in(state, version, digest, event))
            except BaseException:
                # Nothing raises once the state has been committed: the version is not in it.
                for left in (staging, folder / version):
                    shutil.rmtree(left, ignore_errors=True)
                raise
            return made

    def refuse_unsigned(self, key: Key | None) -> None:
        """RegistryError if a check-in needs a key that can sign, and ``key`` is none."""
        if key is None and self.trust.required:
            raise RegistryError(
                "Only signed engines are checked in here.", cure="Give a key with --key FILE."
            )
        if key is not None:
            sign({}, key, now=self._clock())

    def promote(self, name: str, version: str = "") -> Event | None:
        """Make a version (the newest if none is named) the one that pipelines on its architecture use.

        It is verified first. None if it is promoted already.

        Raises:
            RegistryError: unknown, damaged, or not signed as required.
        """
        with self.store.changing(name) as (folder, state):
            version = self.store.known(name, version, state)
            target = self.good_manifest(name, version).target
            slot = state.slots.get(target)
            if slot is not None and slot.version == version:
                return None
            before = slot.version if slot else ""
            event = self._event(state, "promote", (version,), target=target, before=before)
            self.store.commit(folder, states.promoted(state, version, event))
            return event

    def rollback(self, name: str, target: str = "") -> Event:
        """Promote again what was promoted before, for one architecture.

        Args:
            name: of the engine.
            target: architecture; may be empty where only one has a promoted engine.

        Raises:
            RegistryError: nothing to roll back to, or that version is damaged.
        """
        with self.store.changing(name) as (folder, state):
            slots = sorted(state.slots)
            if not slots:
                raise RegistryError(f"No version of {name} is promoted.", cure="Promote one first.")
            if not target and len(slots) > 1:
                raise RegistryError(
                    f"{name} is promoted for {', '.join(slots)}.", cure="Name one of them with --target."
                )
            chosen = target or slots[0]
            if chosen not in state.slots:
                raise RegistryError(f"{name} is promoted for {', '.join(slots)}, not for {chosen!r}.")
            version = states.rollback_version(state, chosen)
            if not version:
                raise RegistryError(
                    f"Before {state.slots[chosen].version} no version of {name} was promoted for {chosen}."
                )
            self.good_manifest(name, version)
            before = state.slots[chosen].version
            event = self._event(state, "rollback", (version,), target=chosen, before=before)
            self.store.commit(folder, states.rolled_back(state, version, event))
            return event

    def prune(self, name: str, *, keep: int = 3) -> list[str]:
        """Remove versions but the newest ``keep``, those promoted, and those a rollback would go to.

        Returns:
            The versions removed, the oldest first.
        """
        if keep < 1:
            raise RegistryError(f"keep is {keep}; at least 1 version stays.")
        with self.store.changing(name) as (folder, state):
            ordered = sorted(state.versions, key=states.number_of)
            kept = state.protected() | set(ordered[-keep:])
            gone = [version for version in ordered if version not in kept]
            if gone:
                event = self._event(state, "prune", tuple(gone))
                self.store.commit(folder, states.pruned(state, event))
                sweep(folder, states.pruned(state, event))
            return gone

    def pick(self, name: str, machine: Machine | None = None) -> Choice:
        """The promoted engine that fits a machine (this one if None); see :mod:`searchpipe.engine.pick`."""
        from searchpipe.engine.machine import this_machine
        from searchpipe.engine.pick import pick

        return pick(self, name, machine or this_machine())

    def good_manifest(self, name: str, version: str, files: set[str] | None = None) -> EngineManifest:
        """A version's manifest, once its signature and its files (or only those named) are verified.

        Raises:
            RegistryError: names the file that is missing, truncated or changed, or the signature.
        """
        manifest = self.manifest(name, version)
        folder = self.store.folder_of(name, version)
        self.trust.check(manifest.signed_content(), manifest.signature, now=self._clock())
        for facts in manifest.files.values():
            if files is None or facts.path in files:
                found = state_of(folder / facts.path, facts)
                if found != "ok":
                    raise RegistryError(
                        f"{folder / facts.path} is {found}.",
                        cure=f"Roll back (searchpipe engine rollback {name}), or build the engine again.",
                    )
        return manifest

    def _same(self, manifest: EngineManifest, key: Key | None, state: State) -> EngineManifest | None:
        """Return the checked-in version that is this engine, signed by this key, and not damaged."""
        wanted = manifest.content_hash()
        for version in sorted(state.versions, key=states.number_of, reverse=True):
            try:
                found = self.store.manifest(manifest.name, version, state)
                if found.content_hash() != wanted:
                    continue
                signer = found.signature.key_id if found.signature else None
                if signer == (key.id if key else None):
                    return self.good_manifest(manifest.name, version)
            except RegistryError:
                continue
        return None

    def _event(
        self, state: State, action: Action, versions: tuple[str, ...], *, target: str = "", before: str = ""
    ) -> Event:
        try:
            by = getpass.getuser()
        except (OSError, KeyError, ImportError):  # a container's user without a name
            by = ""
        return Event(state.number + 1, moment(self._clock()), action, versions, target, before, by)
