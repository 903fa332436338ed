"""One engine's state in the store: the file whose rename commits every change, and the history.

``state.json`` names the versions that are checked in, what is promoted, and the last event. The
history (``history.jsonl``) is only ever appended to. A process killed after the rename and before
the append leaves the last event in ``state.json``; the next change appends it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from searchpipe.decodable import decodable
from searchpipe.engine.store_files import write_bytes
from searchpipe.errors import RegistryError

STATE = "state.json"
HISTORY = "history.jsonl"
# Rollbacks that are remembered; more is a history, which the other file is.
_MOST_PREVIOUS = 100

Action = Literal["check-in", "promote", "rollback", "prune"]


class Event(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One change. ``number`` counts from 1; ``target`` and ``before`` are of promote and rollback."""

    number: int
    when: str
    action: Action
    versions: tuple[str, ...]
    target: str = ""
    before: str = ""
    by: str = ""


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is promoted for one architecture; ``previous``: what was before it, the last one last."""

    version: str
    since: int
    previous: tuple[str, ...] = ()


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``state.json``. ``versions``: version -> SHA-256 of its manifest; ``slots``: target -> promoted."""

    format: int = 1
    next: int = 1
    versions: dict[str, str] = {}
    slots: dict[str, Slot] = {}
    last: Event | None = None

    @property
    def number(self) -> int:
        """Of the last event; 0 before the first."""
        return self.last.number if self.last else 0

    def protected(self) -> set[str]:
        """Versions that prune leaves alone: promoted, and what a rollback would go to."""
        found = {slot.version for slot in self.slots.values()}
        return found | {rollback_version(self, target) for target in self.slots} - {""}


def checked_in(state: State, version: str, manifest_sha256: str, event: Event) -> State:
    """The state with one more version."""
    return msgspec.structs.replace(
        state,
        next=state.next + 1,
        versions={**state.versions, version: manifest_sha256},
        last=event,
    )


def promoted(state: State, version: str, event: Event) -> State:
    """The state with ``version`` promoted for ``event.target``, the one before it to roll back to."""
    slot = state.slots.get(event.target)
    previous = (*slot.previous, slot.version)[-_MOST_PREVIOUS:] if slot else ()
    new = Slot(version, event.number, previous)
    return msgspec.structs.replace(state, slots={**state.slots, event.target: new}, last=event)


def rollback_version(state: State, target: str) -> str:
    """The version that a rollback goes to; empty if there is none left."""
    slot = state.slots[target]
    return next((v for v in reversed(slot.previous) if v in state.versions and v != slot.version), "")


def rolled_back(state: State, version: str, event: Event) -> State:
    """The state with ``version`` promoted again, and what came before it to roll back to."""
    previous = state.slots[event.target].previous
    place = len(previous) - 1 - previous[::-1].index(version)
    new = Slot(version, event.number, previous[:place])
    return msgspec.structs.replace(state, slots={**state.slots, event.target: new}, last=event)


def pruned(state: State, event: Event) -> State:
    """The state without ``event.versions``."""
    gone = set(event.versions)
    return msgspec.structs.replace(
        state,
        versions={v: digest for v, digest in state.versions.items() if v not in gone},
        slots={
            target: msgspec.structs.replace(slot, previous=tuple(v for v in slot.previous if v not in gone))
            for target, slot in state.slots.items()
        },
        last=event,
    )


def number_of(version: str) -> int:
    """3 of ``v3``; 0 if it is no version."""
    digits = version[1:]
    return int(digits) if version[:1] == "v" and digits.isascii() and digits.isdigit() else 0


def read_state(folder: Path) -> State | None:
    """Read the state; None if there is none.

    Raises:
        RegistryError: it cannot be read.
    """
    path = folder / STATE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=decodable(State))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror or error}.") from error
    except msgspec.MsgspecError as error:
        raise RegistryError(
            f"{path} is not an engine's state: {error}.", cure="Restore it from a backup of the store."
        ) from error
    if state.format != 1:
        raise RegistryError(f"{path} is of format {state.format}; this release reads 1.")
    return state


def commit(folder: Path, state: State) -> None:
    """Make ``state`` the state: the moment at which a change has happened. OSError if it cannot."""
    write_bytes(folder / STATE, msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n")


def read_history(folder: Path, state: State) -> list[Event]:
    """All events, the oldest first.

    Raises:
        RegistryError: a line that is no event, but for the torn end that a kill may leave.
    """
    path = folder / HISTORY
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        content = b""
    except OSError as error:
        raise RegistryError(f"{path} cannot be read: {error.strerror or error}.") from error
    events = []
    whole, _, _torn = content.rpartition(b"\n")
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            events.append(msgspec.json.decode(line, type=decodable(Event)))
        except msgspec.MsgspecError as error:
            raise RegistryError(f"{path}, line {number} is no event: {error}.") from error
    if state.last is not None and (not events or events[-1].number < state.last.number):
        events.append(state.last)
    return events


def settle_history(folder: Path, state: State) -> None:
    """Append the state's last event if it is not there; the store's lock is held. OSError if it cannot."""
    if state.last is None:
        return
    path = folder / HISTORY
    with path.open("ab+") as file:
        _cut_torn_end(file.fileno())
        if _last_number(path) < state.last.number:
            file.write(msgspec.json.encode(state.last) + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _cut_torn_end(descriptor: int) -> None:
    """Cut what follows the last line end: the part of a line that a killed process left."""
    size = os.fstat(descriptor).st_size
    end = size
    while end > 0:
        start = max(0, end - 4096)
        os.lseek(descriptor, start, os.SEEK_SET)
        place = os.read(descriptor, end - start).rfind(b"\n")
        if place >= 0:
            end = start + place + 1
            break
        end = start
    if end != size:
        os.ftruncate(descriptor, end)


def _last_number(path: Path) -> int:
    lines = path.read_bytes().splitlines()
    if not lines:
        return 0
    try:
        return msgspec.json.decode(lines[-1], type=decodable(Event)).number
    except msgspec.MsgspecError as error:
        raise RegistryError(f"{path}, line {len(lines)} is no event: {error}.") from error
