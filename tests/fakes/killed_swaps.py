"""Kills a swap with SIGKILL at every step and at every flush and rename of its record, then starts again.

``python -m tests.fakes.killed_swaps FOLDER OLD NEW SECONDS`` prints, a line each, where it was killed and
which build served after that. A process of its own, because it forks.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

from searchpipe.live.history import Event
from searchpipe.live.record import LAST_GOOD
from tests.fakes.killed_builds import flush_nothing, in_child, kill_at
from tests.fakes.live_versions import config, open_live

STEPS = ("loading", "checking", "shadowing", "switched", "retired", "good")


def settings(seconds: float) -> dict[str, object]:
    shadow = {"share": 1.0, "seconds": 0.05}
    return config(shadow=shadow, watch={"seconds": seconds})


def die(event: Event, step: str, armed: list[bool]) -> None:
    if armed and event.step == step:
        os.kill(os.getpid(), signal.SIGKILL)


def swap(old: Path, new: Path, state: Path, seconds: float, step: str = "", place: int = 0) -> None:
    """Serve the old build, swap to the new one, and die on the way."""
    armed: list[bool] = []
    listener = partial(die, step=step, armed=armed)
    live = open_live(old, settings(seconds), state=state, listener=listener, watch=False)
    assert live.search("red").snapshot == old.name
    armed.append(True)
    if place:
        kill_at(place)
    live.swap(new)
    assert live.search("red").snapshot == new.name


def start(old: Path, state: Path, seconds: float, served: Path) -> None:
    with open_live(old, settings(seconds), state=state, watch=False) as live:
        page = live.search("red", budget_ms=10_000)
        assert page.hits
        assert not page.degraded
        served.write_text(page.snapshot)


def main(home: Path, old: Path, new: Path, seconds: float) -> None:
    os.fsync = flush_nothing
    state, served = home / "state", home / "served"
    places: list[tuple[str, int]] = [(step, 0) for step in STEPS]
    while places:
        step, place = places.pop(0)
        shutil.rmtree(state, ignore_errors=True)
        served.unlink(missing_ok=True)
        killed = in_child(partial(swap, old, new, state, seconds, step, place)) == signal.SIGKILL
        recorded = Path(json.loads((state / LAST_GOOD).read_text())["good"]["build"]).name
        in_child(partial(start, old, state, seconds, served))
        assert served.read_text() == recorded, (step, place)
        print(step or place, "killed" if killed else "whole", served.read_text(), flush=True)
        if not places and (killed or not place):
            places.append(("", place + 1))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4]))
