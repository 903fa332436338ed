from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from searchpipe.backends.capability import Capability
from searchpipe.cli import doctor
from searchpipe.cli.doctor import doctor_command, is_ready

RUNNER = CliRunner()
APP = typer.Typer()
APP.command("doctor")(doctor_command)
FINE = Capability("core extension", "ok", "loaded", required=True)


def run(
    monkeypatch: pytest.MonkeyPatch, cache: Path, lines: list[Capability], *options: str
) -> tuple[int, str]:
    monkeypatch.setattr(doctor, "probe_runtimes", lambda: lines)
    result = RUNNER.invoke(APP, ["--cache-dir", str(cache), *options], catch_exceptions=False)
    return result.exit_code, result.stdout


def test_ready_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    extra = Capability("cuda", "missing", "no driver", "install one")
    code, text = run(monkeypatch, tmp_path, [FINE, extra], "--json")
    report = json.loads(text)
    assert (code, report["ready"]) == (0, True)
    by_name = {check["name"]: check for check in report["checks"]}
    assert {"python", "system", "cpu", "memory", "core extension", "cuda", "model cache"} <= set(by_name)
    assert by_name["model minilm-l6"]["status"] == "ok"
    assert "first use" in by_name["model minilm-l6"]["detail"]
    assert by_name["model bge-small"]["status"] == "missing"
    code, text = run(monkeypatch, tmp_path, [FINE, extra])
    assert code == 0
    assert "The default pipeline can run here." in text
    assert "-> install one" in text


def test_lacking_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = Capability(
        "onnxruntime", "unusable", "the process died of SIGILL", "another wheel", required=True
    )
    code, text = run(monkeypatch, tmp_path, [FINE, broken])
    assert code == 1
    assert "The default pipeline cannot run: onnxruntime." in text
    code, text = run(monkeypatch, tmp_path, [FINE, broken], "--json")
    assert (code, json.loads(text)["ready"]) == (1, False)


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    code, text = run(monkeypatch, tmp_path / "file", [FINE], "--json")
    states = {check["name"]: check["status"] for check in json.loads(text)["checks"]}
    assert code == 1
    assert states["model cache"] == states["model minilm-l6"] == "unusable"


def test_python_without_pip_cannot_fetch(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    code, text = run(monkeypatch, tmp_path / "new", [FINE])
    assert code == 1
    assert "has no pip" in text


def test_only_what_is_required_counts() -> None:
    optional = Capability("chinese", "missing", "not installed", "get it")
    assert is_ready([FINE, optional])
    assert not is_ready([FINE, Capability("faiss", "missing", "not installed", "get it", required=True)])
