"""What is printed where the terminal has not all characters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import World


@pytest.mark.parametrize("encoding", ["ascii", "iso-8859-1"])
def test_a_terminal_without_the_characters_gets_a_table(world: World, encoding: str) -> None:
    command = [sys.executable, "-m", "searchpipe", "search", "caf\u00e9 \u65e5\u672c shoes"]
    command += ["--snapshot", str(world.snapshot), "--config", str(world.config_file)]
    ended = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b" of 50 ms, snapshot" in ended.stdout
