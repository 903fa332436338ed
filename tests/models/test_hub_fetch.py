from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from searchpipe.errors import MissingDependencyError, ModelFetchError
from searchpipe.models import ModelSettings, resolve

FILES = {"onnx/model.onnx": b"model" * 50, "tokenizer.json": b"{}"}
SETTINGS = ModelSettings(
    source="hf:org/name@abc/onnx/model.onnx", tokenizer="hf:org/name@abc/tokenizer.json", kind="encoder"
)


class FakeHub:
    """Stands in for the client's download function and counts its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.error: Exception | None = None

    def hf_hub_download(self, *, repo_id: str, filename: str, revision: str, local_dir: str) -> str:
        if self.error:
            raise self.error
        self.calls.append((repo_id, revision, filename))
        target = Path(local_dir) / filename
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(FILES[filename])
        return str(target)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    module = SimpleNamespace(hf_hub_download=fake.hf_hub_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.delenv("SEARCHPIPE_OFFLINE", raising=False)
    return fake


def test_files_of_one_repository_are_fetched_once(hub: FakeHub, tmp_path: Path) -> None:
    model = resolve(SETTINGS, cache_dir=tmp_path)
    assert hub.calls == [("org/name", "abc", "onnx/model.onnx"), ("org/name", "abc", "tokenizer.json")]
    assert model.model.read_bytes() == FILES["onnx/model.onnx"]
    assert model.sha256 == hashlib.sha256(FILES["onnx/model.onnx"]).hexdigest()
    assert resolve(SETTINGS, cache_dir=tmp_path, offline=True) == model
    assert len(hub.calls) == 2


def test_client_errors_say_what_to_check(hub: FakeHub, tmp_path: Path) -> None:
    for error in (ValueError("no such revision"), OSError("no network"), RuntimeError("401")):
        hub.error = error
        with pytest.raises(ModelFetchError, match=rf"hf:org/name@abc/onnx/model\.onnx .*{error}.*revision"):
            resolve(SETTINGS, cache_dir=tmp_path)
    hub.error = OSError(28, "No space left on device")
    with pytest.raises(ModelFetchError, match="No disk space left"):
        resolve(SETTINGS, cache_dir=tmp_path)


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delenv("SEARCHPIPE_OFFLINE", raising=False)
    with pytest.raises(MissingDependencyError, match=r"searchpipe\[hf\]"):
        resolve(SETTINGS, cache_dir=tmp_path)


class HubHandler(BaseHTTPRequestHandler):
    """Serves ``/org/name/resolve/abc/PATH`` as the hub does."""

    def do_GET(self) -> None:
        content = FILES.get(self.path.removeprefix("/org/name/resolve/abc/"))
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    do_HEAD = do_GET  # noqa: N815 (the base class looks for this name)

    def log_message(self, *arguments: Any) -> None:
        return


@pytest.fixture
def endpoint() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), HubHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_real_client_against_a_local_hub(endpoint: str, tmp_path: Path) -> None:
    pytest.importorskip("huggingface_hub")
    code = (
        "import sys, pathlib\n"
        "from searchpipe.errors import ModelFetchError\n"
        "from searchpipe.models import ModelSettings, resolve\n"
        "def get(path):\n"
        "    settings = ModelSettings(source=f'hf:org/name@abc/{path}', kind='encoder',\n"
        "                             tokenizer='hf:org/name@abc/tokenizer.json')\n"
        "    return resolve(settings, cache_dir=pathlib.Path(sys.argv[1]))\n"
        "print(get('onnx/model.onnx').sha256)\n"
        "try: get('none.onnx')\n"
        "except ModelFetchError as error: print(error)\n"
    )
    # The client reads its endpoint when it is imported, hence a process of its own.
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "SEARCHPIPE_OFFLINE": "",
    }
    command = [sys.executable, "-c", code, str(tmp_path / "cache")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    sha256, message = done.stdout.splitlines()
    assert sha256 == hashlib.sha256(FILES["onnx/model.onnx"]).hexdigest()
    assert "hf:org/name@abc/none.onnx could not be fetched" in message
