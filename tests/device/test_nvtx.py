"""Ranges nest and close, and cost nothing while they are off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from searchpipe.device import nvtx
from searchpipe.errors import MissingDependencyError


class Recorder:
    def __init__(self):
        self.seen = []

    def push(self, name):
        self.seen.append(name)

    def pop(self):
        self.seen.append("/")


@pytest.fixture
def recorder():
    recorder = Recorder()
    nvtx.enable(recorder)
    yield recorder
    nvtx.disable()


def test_ranges_nest(recorder):
    assert nvtx.enabled()
    with nvtx.range("stage:score"), nvtx.range("batch"):
        pass
    assert recorder.seen == ["stage:score", "batch", "/", "/"]


def test_a_range_ends_when_its_body_raises(recorder):
    with pytest.raises(KeyError), nvtx.range("stage:score"):
        raise KeyError
    assert recorder.seen == ["stage:score", "/"]


def test_a_range_that_was_open_ends_after_ranges_are_turned_off(recorder):
    with nvtx.range("stage:score"):
        nvtx.disable()
        with nvtx.range("unseen"):
            pass
    assert recorder.seen == ["stage:score", "/"]


def test_while_off_all_ranges_are_one_object():
    assert not nvtx.enabled()
    assert nvtx.range("a") is nvtx.range("b")


def test_the_variable_turns_them_on_or_says_what_is_missing():
    code = "from searchpipe.device import nvtx; print(nvtx.enabled())"
    environment = {**os.environ, nvtx.VARIABLE: "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "True" or "pip install nvidia-nvtx" in done.stderr
    environment[nvtx.VARIABLE] = "0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "False"


def test_without_any_library_the_cure_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(nvtx.importlib, "import_module", missing)
    monkeypatch.setattr(nvtx, "_in_wheels", list)
    monkeypatch.setattr(nvtx, "_LIBRARIES", ("libdoes-not-exist.so",))
    with pytest.raises(MissingDependencyError, match="pip install nvidia-nvtx"):
        nvtx.enable()
