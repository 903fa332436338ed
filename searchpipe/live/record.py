"""What survives a crash: the last good version, the one on trial, and the history.

``last_good.json`` is replaced as a whole: a temporary file, flushed, renamed. A process that is
killed at any moment leaves the one or the other, never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from searchpipe.engine.store_files import write_bytes
from searchpipe.errors import ConfigError
from searchpipe.live.spec import VersionSpec

_LOG = logging.getLogger("searchpipe.live")

LAST_GOOD = "last_good.json"
HISTORY = "history.jsonl"
ATTEMPTS = 2
"""Processes that may die while a version is on trial, before it is no longer taken on by itself."""

_FORMAT = 1
_REFUSED = 20
_HISTORY_BYTES = 1 << 20
_STALE_S = 60.0  # a temporary file that is older belongs to nobody


def default_state(snapshot: Path, config: Path | None) -> Path:
    """The state folder of a service that names none: beside the engine store, one for each pair."""
    from searchpipe.engine.store import default_store

    names = f"{snapshot.absolute()}|{config.absolute() if config else ''}"
    return default_store() / "live" / hashlib.sha256(names.encode()).hexdigest()[:12]


class Record:
    """The state folder of one live pipeline, or none. Any thread may call anything.

    The disk's refusals are logged and go no further: what is served does not depend on them.

    Args:
        folder: made if it is not there; None to remember nothing.
        home: the snapshot folder that the process was started with; what is remembered by one that was
            started with another is of no use.
    """

    def __init__(self, folder: Path | None, home: Path) -> None:
        self._folder = folder
        self._home = str(home.absolute())
        self._lock = threading.Lock()
        self._good: VersionSpec | None = None
        self._trial: VersionSpec | None = None
        self._attempts = 0
        self._trying = False  # whether one of the attempts is this process's
        self._refused: list[str] = []
        if folder is not None:
            with self._tolerant("prepared"):
                folder.mkdir(parents=True, exist_ok=True)
                self._sweep(folder)
                self._read(folder / LAST_GOOD)

    @property
    def good(self) -> VersionSpec | None:
        """The version that last served well."""
        return self._good

    def refuses(self, identity: str) -> bool:
        """Whether a version is not to be taken on by itself: taken back, or deadly to its processes."""
        with self._lock:
            trial = self._trial
            deadly = trial is not None and trial.identity == identity and self._attempts >= ATTEMPTS
            return deadly or identity in self._refused

    def refuse(self, identity: str) -> None:
        """A version is not to be taken on by itself again; the last 20 such are remembered."""
        with self._lock:
            self._refused = [*(one for one in self._refused if one != identity), identity][-_REFUSED:]
            if self._trial is not None and self._trial.identity == identity:
                self._trial, self._attempts, self._trying = None, 0, False
            self._write()

    def trying(self, spec: VersionSpec) -> None:
        """A version is about to be loaded."""
        with self._lock:
            self._refused = [one for one in self._refused if one != spec.identity]
            again = self._trial is not None and self._trial.identity == spec.identity
            self._attempts = self._attempts + 1 if again else 1
            self._trial, self._trying = spec, True
            self._write()

    def gave_up(self, spec: VersionSpec) -> None:
        """A version's trial is over, and the last good one stays."""
        with self._lock:
            if self._trial is not None and self._trial.identity == spec.identity:
                self._trial, self._attempts, self._trying = None, 0, False
                self._write()

    def proven(self, spec: VersionSpec) -> None:
        """A version is good; a trial of another one goes on."""
        with self._lock:
            self._good = spec
            if self._trial is not None and self._trial.identity == spec.identity:
                self._trial, self._attempts, self._trying = None, 0, False
            self._write()

    def ended(self) -> None:
        """The process ends in order: if a version is on trial, that does not speak against it. Idempotent."""
        with self._lock:
            if not self._trying or self._trial is None:
                return
            self._trying = False
            self._attempts -= 1
            if not self._attempts:
                self._trial = None
            self._write()

    def tell(self, event: dict[str, Any]) -> None:
        """Append one line to the history."""
        if self._folder is None:
            return
        path = self._folder / HISTORY
        with self._lock, self._tolerant("appended to"):
            if path.exists() and path.stat().st_size > _HISTORY_BYTES:
                path.replace(path.with_suffix(".jsonl.1"))
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(event) + "\n")

    def _write(self) -> None:
        if self._folder is None:
            return
        content = {
            "format": _FORMAT,
            "home": self._home,
            "good": self._good.record() if self._good else None,
            "trial": self._trial.record() if self._trial else None,
            "attempts": self._attempts,
            "refused": self._refused,
        }
        with self._tolerant("written"):
            write_bytes(self._folder / LAST_GOOD, json.dumps(content, indent=2).encode())

    def _read(self, path: Path) -> None:
        try:
            content = json.loads(path.read_bytes())
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']}")
            good = VersionSpec.of_record(content["good"]) if content["good"] else None
            trial = VersionSpec.of_record(content["trial"]) if content["trial"] else None
            home = content["home"]
            attempts, refused = int(content["attempts"]), [str(one) for one in content["refused"]]
        except FileNotFoundError:
            return
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            _LOG.warning("%s is not used: %s", path, error)
            return
        if home == self._home:
            self._good, self._trial, self._attempts, self._refused = good, trial, attempts, refused

    @staticmethod
    def _sweep(folder: Path) -> None:
        for left in folder.glob(f".{LAST_GOOD}.*.part"):
            with contextlib.suppress(OSError):
                if time.time() - left.stat().st_mtime > _STALE_S:
                    left.unlink()

    @contextlib.contextmanager
    def _tolerant(self, done: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            _LOG.error("The state in %s could not be %s: %s", self._folder, done, error)
