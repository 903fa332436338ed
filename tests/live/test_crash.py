"""After a crash the last good version serves, whatever was on the way."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from searchpipe.errors import ClosedError
from searchpipe.live.record import ATTEMPTS, HISTORY, LAST_GOOD, Record
from searchpipe.live.spec import Wanted
from tests.fakes.live_versions import config, damage, open_live, publish

ROOT = Path(__file__).parents[2]


def killed_swaps(tmp_path: Path, old: Path, new: Path, seconds: float) -> dict[str, tuple[str, str]]:
    command = [sys.executable, "-m", "tests.fakes.killed_swaps", tmp_path, old, new, str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {place: (ended, served) for place, ended, served in lines}


def test_killed_at_every_place_of_a_swap(builds: list[Path], tmp_path: Path) -> None:
    old, new = builds[:2]
    found = killed_swaps(tmp_path, old, new, 0.0)
    for step in ("loading", "checking", "shadowing", "switched"):
        assert found[step] == ("killed", old.name)
    assert found["good"] == ("killed", new.name)
    writes = [found[place] for place in found if place.isdigit()]
    assert len(writes) >= 7
    assert writes[-1] == ("whole", new.name)
    served = [name for _, name in writes]
    turned = served.index(new.name)
    assert 0 < turned < len(writes) - 1
    assert served == [old.name] * turned + [new.name] * (len(writes) - turned)


def test_killed_on_trial_the_one_before_serves(builds: list[Path], tmp_path: Path) -> None:
    old, new = builds[:2]
    found = killed_swaps(tmp_path, old, new, 3600.0)
    assert found["switched"] == ("killed", old.name)
    assert {served for _, served in found.values()} == {old.name}


def test_the_last_good_one_serves_until_what_is_wanted_is_taken_on(
    catalog: Path, builds: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with open_live(catalog, state=state):
        pass
    name = publish(catalog, 9)
    with open_live(catalog, state=state) as live:
        assert live.search("red").snapshot == builds[2].name
        assert live.reload() is not None
        assert live.search("red").snapshot == name
    with open_live(catalog, state=state) as live:
        assert live.search("red").snapshot == name
    with open_live(builds[0], state=state) as live:  # of another folder: not its own state
        assert live.search("red").snapshot == builds[0].name


def test_a_last_good_one_that_is_gone_is_no_obstacle(
    catalog: Path, builds: list[Path], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with open_live(catalog, state=state):
        pass
    name = publish(catalog, 9)
    damage(builds[2])
    with open_live(catalog, state=state) as live:
        assert live.search("red").snapshot == name
        assert [event.step for event in live.history][:2] == ["failed", "good"]
        assert live.history[0].code == "corrupt_snapshot"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 1, "good": {"root": 3}}'])
def test_a_record_that_is_not_one_is_not_used(catalog: Path, tmp_path: Path, content: str) -> None:
    state = tmp_path / "state"
    state.mkdir()
    (state / LAST_GOOD).write_text(content)
    with open_live(catalog, state=state) as live:
        assert live.search("red").hits
    assert json.loads((state / LAST_GOOD).read_text())["good"]


def test_a_disk_that_refuses_does_not_stop_a_swap(builds: list[Path], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.write_text("a file where the folder should be")
    with open_live(builds[0], state=state) as live:
        live.swap(builds[1])
        assert live.search("red").snapshot == builds[1].name


def test_processes_that_die_on_trial_are_counted(catalog: Path, builds: list[Path], tmp_path: Path) -> None:
    old = Wanted.read(builds[0], config()).pin()
    new = Wanted.read(builds[1], config()).pin()
    for attempt in range(ATTEMPTS):
        record = Record(tmp_path, catalog)
        assert not record.refuses(new.identity)
        if not attempt:
            record.proven(old)
        record.trying(new)
    record = Record(tmp_path, catalog)
    assert record.good == old
    assert record.refuses(new.identity)
    assert not record.refuses(old.identity)
    record.gave_up(new)
    assert not Record(tmp_path, catalog).refuses(new.identity)
    record.refuse(new.identity)
    assert Record(tmp_path, catalog).refuses(new.identity)
    assert not Record(tmp_path, builds[0]).refuses(new.identity)


@pytest.mark.parametrize("by", ["close", "end"])
def test_processes_that_end_in_order_on_trial_are_not_counted(
    builds: list[Path], tmp_path: Path, by: str
) -> None:
    settings = config(watch={"seconds": 3600.0})
    new = Wanted.read(builds[1], settings).pin()
    for _ in range(ATTEMPTS + 1):
        live = open_live(builds[0], settings, state=tmp_path)
        assert live.search("red").snapshot == builds[0].name
        live.swap(builds[1])
        assert live.lineup.watcher.on_trial
        if by == "end":
            live.end(30.0)
        live.close()
        assert not Record(tmp_path, builds[0]).refuses(new.identity)


def test_an_end_in_order_forgives_no_death(builds: list[Path], tmp_path: Path) -> None:
    new = Wanted.read(builds[1], config()).pin()
    for _ in range(ATTEMPTS):
        Record(tmp_path, builds[0]).trying(new)
    Record(tmp_path, builds[0]).ended()  # of a process that has not tried it
    record = Record(tmp_path, builds[0])
    assert record.refuses(new.identity)
    record.trying(new)  # asked for by hand
    record.ended()
    record.ended()
    assert Record(tmp_path, builds[0]).refuses(new.identity)


def test_a_swap_that_closing_ends_forgives_no_death(builds: list[Path], tmp_path: Path) -> None:
    settings = config(shadow={"share": 1.0, "seconds": 3600.0})
    new = Wanted.read(builds[1], settings).pin()
    Record(tmp_path, builds[0]).trying(new)
    reached = threading.Event()
    live = open_live(
        builds[0],
        settings,
        state=tmp_path,
        listener=lambda event: event.step == "shadowing" and reached.set(),
    )

    def swap() -> None:
        with pytest.raises(ClosedError):
            live.swap(builds[1])

    swapping = threading.Thread(target=swap)
    swapping.start()
    assert reached.wait(30)
    live.close()
    swapping.join(30)
    record = Record(tmp_path, builds[0])
    assert not record.refuses(new.identity)
    record.trying(new)
    assert record.refuses(new.identity)  # by the two that died


def test_the_history_is_a_file_of_bounded_size(builds: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "state"
    record = Record(folder, builds[0])
    for number in range(2500):
        record.tell({"step": "switched", "version": number, "reason": "x" * 1000})
    files = sorted(path.name for path in folder.iterdir())
    assert files == [HISTORY, f"{HISTORY}.1"]
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2_200_000
    last = json.loads((folder / HISTORY).read_text().splitlines()[-1])
    assert last["version"] == 2499
