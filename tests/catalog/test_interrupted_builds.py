"""Builds in processes of their own that are killed, run out of room, or meet each other."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from searchpipe.catalog import Snapshot
from searchpipe.catalog.layout import SnapshotFolder
from tests.fakes.catalogs import PRODUCTS, build, write_jsonl

ROOT = Path(__file__).parents[2]
# Every write, rename or removal that Python does is a place to die at; the
# number of the one is the first argument.
CHILD = """
import os, signal, sys
from pathlib import Path
left = int(sys.argv[1])

def watch(event, args):
    global left
    if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and sys.argv[3] in str(args[0]):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

from tests.fakes.catalogs import build
import searchpipe.catalog.build, searchpipe.catalog.snapshot, faiss
sys.addaudithook(watch)
build(Path(sys.argv[2]), Path(sys.argv[3]), dense_index="hnsw", keep_builds=1)
print("finished", flush=True)
"""


def run_child(kill_at: int, source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, str(kill_at), str(source), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_killed_build_leaves_a_published_snapshot_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = write_jsonl(tmp_path / "p.jsonl", PRODUCTS)
    first = build(source, out).name
    larger = write_jsonl(tmp_path / "q.jsonl", [*PRODUCTS, {"id": "new", "title": "New product"}])
    rng = random.Random(7)
    killed = 0
    # Few places of many, spread over the whole build: each costs a process.
    for kill_at in (2, *(rng.randrange(first, first + 12) for first in range(3, 63, 12)), 100_000):
        done = run_child(kill_at, larger, out)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        killed += done.returncode != 0
        with Snapshot.open(out) as snapshot:
            # The old build or, killed after the last step, the new one; never a part of one.
            assert snapshot.count == (5 if snapshot.version == first else 6)
            assert snapshot.id_of(snapshot.lexical.search("boots", 1)[0]) == ["d"]
    assert done.returncode == 0
    assert killed >= 4
    with Snapshot.open(out) as snapshot:
        assert snapshot.count == 6
    # What the killed ones left is gone.
    assert [child.name for child in (out / "builds").iterdir()] == [SnapshotFolder(out).current()]


@pytest.mark.parametrize("limit", [100, 3_000, 40_000])
def test_no_room_is_a_readable_error_and_changes_nothing(tmp_path: Path, limit: int) -> None:
    """A limit on the size of files fails writes of every library, FAISS and the core included."""
    source = write_jsonl(
        tmp_path / "p.jsonl", [{"id": str(i), "title": f"Product {i} w{i * 7}"} for i in range(900)]
    )
    out = tmp_path / "out"
    build(write_jsonl(tmp_path / "old.jsonl", PRODUCTS), out)
    code = (
        "import resource, sys; from pathlib import Path; from tests.fakes.catalogs import build\n"
        "from searchpipe.errors import CatalogError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try: build(Path(sys.argv[1]), Path(sys.argv[2]), chunk_rows=100)\n"
        "except CatalogError as error: print(f'CatalogError: {error}')"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(source), str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("CatalogError: "), done.stdout + done.stderr
    assert "disk" in done.stdout
    with Snapshot.open(out) as snapshot:
        assert snapshot.count == len(PRODUCTS)
    assert build(source, out).documents == 900


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", PRODUCTS)
    out = tmp_path / "out"
    code = (
        "import sys, time; from pathlib import Path; from searchpipe.catalog.layout import SnapshotFolder\n"
        "with SnapshotFolder(Path(sys.argv[1])).lock(): print('locked', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        started = time.monotonic()
        done = run_child(100_000, source, out)
        assert time.monotonic() - started < 50  # refused, not queued behind the holder's 60 seconds
        assert "CatalogBusyError" in done.stderr
        assert f"Process {holder.pid} " in done.stderr
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    # The lock of a dead process is nobody's.
    assert build(source, out).documents == len(PRODUCTS)
