"""Runs the factory's steps in order, keeps what is finished, and goes on where a killed build stopped.

A build's folder holds ``lock`` and ``steps/<name>/``: the files of a step and its ``step.json``. A
step works in a folder of another name, which is flushed and renamed when it has returned, so what
bears a step's name is finished. It is used again while its key is the same, the steps it needs are
the very runs that it was made from, and its files have the hashes that were recorded.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from searchpipe.engine.step import Build, Inputs, Say, Step, StepOutput
from searchpipe.engine.step_record import StepRecord, key_of, read_record, reusable, write_record
from searchpipe.engine.store_files import flush_tree, publish_folder
from searchpipe.errors import RecipeError, SearchpipeError
from searchpipe.models.locking import exclusive


class StepFailedError(RecipeError):
    """A step refused or broke; ``step`` is its name, ``__cause__`` what it raised."""

    code = "step_failed"

    def __init__(self, step: str, cause: BaseException) -> None:
        told = str(cause) if isinstance(cause, SearchpipeError) else f"{type(cause).__name__}: {cause}"
        super().__init__(f"Step {step}: {told}")
        self.step = step


class BuildBusyError(RecipeError):
    """Another process builds in the same folder."""

    code = "build_busy"


@dataclass(frozen=True, slots=True)
class StepState:
    """What became of one step; ``key`` is its content key, ``seconds`` what it took now."""

    name: str
    state: Literal["ran", "kept"]
    seconds: float
    key: str


@dataclass(frozen=True, slots=True)
class BuildResult:
    """A finished build: its folder, what each step left, and which steps ran."""

    folder: Path
    done: dict[str, StepOutput]
    states: tuple[StepState, ...]


def run_build(
    steps: Sequence[Step],
    inputs: Inputs,
    folder: Path,
    *,
    start_from: str = "",
    say: Say = print,
    clock: Callable[[], float] = time.monotonic,
) -> BuildResult:
    """Run a build to its end.

    Args:
        steps: in order; each needs only earlier ones. One with an attribute ``always`` that is true
            runs every time.
        inputs: what is built.
        folder: of this build; made if missing. Another build in it is refused at once.
        start_from: run this step and all after it again, finished or not.
        say: takes progress, a line at a time.
        clock: seconds.

    Raises:
        RecipeError: an unknown ``start_from``, or steps that do not fit together.
        BuildBusyError: another process builds here; the message names it.
        StepFailedError: a step raised; what earlier ones left stays for the next build.
    """
    names = [step.name for step in steps]
    _check_order(steps)
    if start_from and start_from not in names:
        raise RecipeError(f"There is no step {start_from!r}.", cure=f"Steps: {', '.join(names)}.")
    forced = set(names[names.index(start_from) :]) if start_from else set()
    with _locked(folder):
        home = folder / "steps"
        _make(home)
        return _Run(steps, inputs, folder, home, forced, say, clock).run()


class _Run:
    """One pass over the steps, with the lock held. For one thread."""

    def __init__(
        self,
        steps: Sequence[Step],
        inputs: Inputs,
        folder: Path,
        home: Path,
        forced: set[str],
        say: Say,
        clock: Callable[[], float],
    ) -> None:
        self._steps, self._inputs, self._folder, self._home = steps, inputs, folder, home
        self._forced, self._say, self._clock = forced, say, clock
        self._done: dict[str, StepOutput] = {}
        self._records: dict[str, StepRecord] = {}

    def run(self) -> BuildResult:
        states = []
        for number, step in enumerate(self._steps, 1):
            prefix = f"[{number}/{len(self._steps)}] {step.name}"
            began = self._clock()
            try:
                state, key = self._one(step, prefix)
            except Exception as error:
                self._say(f"{prefix}: failed after {self._clock() - began:.1f} s")
                raise StepFailedError(step.name, error) from error
            seconds = self._clock() - began
            self._say(f"{prefix}: {'done in ' if state == 'ran' else 'kept, verified in '}{seconds:.1f} s")
            states.append(StepState(step.name, state, seconds, key))
        return BuildResult(self._folder, self._done, tuple(states))

    def _one(self, step: Step, prefix: str) -> tuple[Literal["ran", "kept"], str]:
        needs = {need: self._records[need] for need in step.needs}
        key = key_of(step.name, step.key(self._inputs), {need: needs[need].key for need in needs})
        runs = {need: needs[need].run for need in needs}
        place = self._home / step.name
        if step.name not in self._forced and not getattr(step, "always", False):
            record = read_record(place)
            why = "first run" if record is None else reusable(record, place, key, runs)
            if record is not None and not why:
                self._records[step.name], self._done[step.name] = record, record.output(place)
                return "kept", key
        else:
            why = "asked for" if step.name in self._forced else "runs every time"
        self._say(f"{prefix}: {why}")
        record = self._work(step, place, key, runs)
        self._records[step.name], self._done[step.name] = record, record.output(place)
        return "ran", key

    def _work(self, step: Step, place: Path, key: str, runs: dict[str, str]) -> StepRecord:
        run = secrets.token_hex(8)
        temporary = self._home / f".{step.name}.{run}.part"
        temporary.mkdir()
        try:
            say = self._say
            build = Build(self._inputs, temporary, dict(self._done), lambda line: say(f"  {line}"))
            output = step.run(build)
            record = write_record(temporary, step.name, key, run, runs, output)
            flush_tree(temporary)
            publish_folder(temporary, place)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        return record


def _check_order(steps: Sequence[Step]) -> None:
    seen: set[str] = set()
    for step in steps:
        missing = [need for need in step.needs if need not in seen]
        if missing or step.name in seen:
            raise RecipeError(
                f"Step {step.name} needs {missing[0]}, which does not come before it."
                if missing
                else f"There are two steps {step.name}."
            )
        seen.add(step.name)


def _make(home: Path) -> None:
    """Make the folder of the steps, and clear away what killed builds left; the lock is held."""
    try:
        home.mkdir(exist_ok=True)
        for left in home.glob(".*"):
            shutil.rmtree(left, ignore_errors=True)
    except OSError as error:
        raise RecipeError(f"The build's folder {home} cannot be used: {error}.") from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, with this process's name in ``lock.owner``, or refuse."""
    owner = folder / "lock.owner"
    with ExitStack() as held:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            held.enter_context(exclusive(folder / "lock", on_wait=lambda: None, timeout=0.0))
        except TimeoutError:
            raise BuildBusyError(
                f"This recipe is being built in {folder} by {_told(owner)}.",
                cure="Wait for it, or build in another folder with --out.",
            ) from None
        except OSError as error:
            raise RecipeError(
                f"The build's folder {folder} cannot be used: {error.strerror or error}.",
                cure="Choose another one with --out.",
            ) from error
        with suppress(OSError):  # it only makes the refusal of others more telling
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            owner.write_text(f"process {os.getpid()} on {socket.gethostname()}, since {started}\n", "utf-8")
        yield


def _told(owner: Path) -> str:
    try:
        return owner.read_text(encoding="utf-8").strip() or "another process"
    except OSError:
        return "another process"
