"""A pipeline that was opened before a fork refuses the child, which can end, and serves the parent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from searchpipe.forks import Inherited

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def test_the_child_gets_an_error_and_ends_and_the_parent_goes_on(world: Any) -> None:
    command = [sys.executable, "-m", "tests.forked", world.snapshot, world.config_file]
    with subprocess.Popen(
        command,
        cwd=Path(__file__).parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            shown, errors = process.communicate(timeout=120)  # what a fork breaks hangs
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the child too
    assert process.returncode == 0, errors
    assert shown.splitlines() == ["child done", "parent done"]


class Held:
    def __init__(self) -> None:
        self.forsaken = False

    def forsake(self) -> None:
        self.forsaken = True


def test_only_what_is_still_guarded_is_forsaken() -> None:
    inherited = Inherited()
    kept, left, gone = Held(), Held(), Held()
    for one in (kept, left, gone):
        inherited.add(one)
    inherited.discard(left)
    del gone, one
    assert set(inherited) == {kept}
    before = sys.getrefcount(kept)
    inherited._forsake()
    assert (kept.forsaken, left.forsaken) == (True, False)
    assert sys.getrefcount(kept) > before  # for good
    assert not list(inherited)
