"""What an installed searchpipe brings along, without compiling it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from searchpipe import _core

ROOT = Path(__file__).parents[1]

USE = """
from searchpipe.models import resolve
from searchpipe.models.shipped import engines_folder
model = resolve("tiny-cross", offline=True)
print(engines_folder())
print(model.model.parent == model.tokenizer.parent == engines_folder())
"""


def test_recipes_and_models_come_along(tmp_path: Path) -> None:
    # Not imported here: setuptools would take distutils over, which some package may have loaded.
    for package in ("setuptools", "pybind11"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    built = tmp_path / "lib"
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "-e",
        str(tmp_path),
        "build_py",
        "-d",
        str(built),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    shutil.copy(_core.__file__, built / "searchpipe")
    names = {path.name for path in (built / "searchpipe" / "_engines").iterdir()}
    assert names == {path.name for path in (ROOT / "engines").iterdir()}
    done = subprocess.run(
        [sys.executable, "-c", USE],
        cwd=tmp_path,
        env={"PYTHONPATH": str(built), "SEARCHPIPE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == [str(built / "searchpipe" / "_engines"), "True"], done.stderr
