"""What is known of a finished step: ``step.json`` in its folder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from searchpipe.decodable import decodable
from searchpipe.engine.signing import canonical
from searchpipe.engine.step import StepOutput
from searchpipe.engine.store_files import FileFacts, facts_of, files_under, plain, state_of, write_bytes
from searchpipe.errors import RecipeError

_RECORD = "step.json"
_FORMAT = 1


class StepRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``step.json``.

    Attributes:
        step: its name.
        key: content key of what it was made from.
        run: made anew for each run, so that a step can tell which run of another it was made from.
        needs: step it needs -> that step's run.
        roles: role -> place in the folder, or an absolute path outside.
        contents: every file of the folder.
        outside: files named by a role that are not in the folder.
        facts: as the step gave them.
    """

    step: str
    key: str
    run: str
    needs: dict[str, str]
    roles: dict[str, str]
    contents: tuple[FileFacts, ...]
    outside: tuple[FileFacts, ...]
    facts: dict[str, Any]
    format: int = _FORMAT

    def output(self, folder: Path) -> StepOutput:
        """What the step left, its files in ``folder``."""
        # An absolute place replaces the folder.
        return StepOutput({role: folder / place for role, place in self.roles.items()}, self.facts)


def key_of(name: str, key: Mapping[str, Any], needs: Mapping[str, str]) -> str:
    """Content key of a step: of what it depends on, and of the keys of the steps it needs.

    Raises:
        RecipeError: the step's own key holds what JSON has no word for.
    """
    try:
        content = {"format": _FORMAT, "step": name, "key": plain(dict(key)), "needs": dict(needs)}
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The key of step {name} cannot be written as JSON: {error}.") from error
    return hashlib.sha256(canonical(content)).hexdigest()


def write_record(
    folder: Path, name: str, key: str, run: str, needs: Mapping[str, str], output: StepOutput
) -> StepRecord:
    """Write what a step left into its folder, which is still under its temporary name.

    Raises:
        RecipeError: a file that is not there, or facts that JSON has no word for.
        OSError: a file cannot be read, or the record not written.
    """
    roles, outside = {}, []
    inner = folder.resolve()
    for role, path in output.files.items():
        resolved = path.resolve()
        if not resolved.is_file():
            raise RecipeError(f"Step {name} names {path} as its {role}, and there is no such file.")
        if resolved.is_relative_to(inner):
            roles[role] = resolved.relative_to(inner).as_posix()
        else:
            roles[role] = str(resolved)
            outside.append(facts_of(resolved, str(resolved)))
    try:
        facts = plain(dict(output.facts))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The facts of step {name} cannot be written as JSON: {error}.") from error
    contents = tuple(facts_of(path, place) for place, path in files_under(folder))
    record = StepRecord(name, key, run, dict(needs), roles, contents, tuple(outside), facts)
    write_bytes(folder / _RECORD, msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return record


def read_record(folder: Path) -> StepRecord | None:
    """Read ``step.json``; None if there is none that can be read."""
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=decodable(StepRecord))
    except (OSError, msgspec.MsgspecError):
        return None
    return record if record.format == _FORMAT else None


def reusable(record: StepRecord, folder: Path, key: str, needs: Mapping[str, str]) -> str:
    """Say why a step must run again; empty if what it left can be used."""
    if record.key != key:
        return "what it is made from has changed"
    if record.needs != dict(needs):
        again = sorted(need for need in needs if record.needs.get(need) != needs[need])
        return f"{', '.join(again)} ran again"
    for known in (*record.contents, *record.outside):
        found = state_of(folder / known.path, known)
        if found != "ok":
            return f"{known.path} is {found}"
    return ""
