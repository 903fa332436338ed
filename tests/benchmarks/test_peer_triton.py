"""nvidia-pytriton beside packages for NumPy 2: what must not be imported looks absent."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peer_triton import OF_NUMPY_2, hide_from_numpy_1

NAME = "a_package_of_numpy_2"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that can be found and fails while it is imported."""
    (tmp_path / NAME).mkdir()
    (tmp_path / NAME / "__init__.py").write_text("raise AttributeError('long')\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, NAME, sys)  # so that it is as before when the test is over
    del sys.modules[NAME]
    importlib.invalidate_caches()
    assert importlib.util.find_spec(NAME) is not None
    return NAME


def test_with_numpy_1_a_package_looks_absent(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "1.26.4")
    with pytest.raises(AttributeError, match="long"):
        importlib.import_module(package)
    hide_from_numpy_1([package])
    assert importlib.util.find_spec(package) is None
    for name in (package, f"{package}.metrics"):
        with pytest.raises(ModuleNotFoundError):
            importlib.import_module(name)


@pytest.mark.parametrize("version", ["2.0.0", "2.5.2", "10.0.0.dev0"])
def test_with_numpy_2_nothing_is_hidden(package: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", version)
    hide_from_numpy_1([package])
    assert importlib.util.find_spec(package) is not None


def test_what_was_imported_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "__version__", "1.26.4")
    hide_from_numpy_1(["json"])
    assert sys.modules["json"] is importlib.import_module("json")


def test_transformers_takes_them_for_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    found = pytest.importorskip("transformers.utils.import_utils")
    monkeypatch.setattr(np, "__version__", "1.26.4")
    for name in OF_NUMPY_2:
        monkeypatch.setitem(sys.modules, name, sys)
        del sys.modules[name]
    hide_from_numpy_1()
    for check in (found.is_scipy_available, found.is_sklearn_available):
        unremembered = getattr(check, "__wrapped__", check)
        assert not unremembered()
