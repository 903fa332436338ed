"""A small real world for tests: a generated catalog, tiny ONNX models, and a snapshot made of both."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from searchpipe.catalog import build_snapshot
from searchpipe.config import load_config
from searchpipe.demo.generate import DemoFiles, write_demo
from searchpipe.engine.signing import KEY_VARIABLE
from tests.fakes.tiny_onnx import TinyModel
from tests.fakes.tiny_tokenizer import SPECIAL, save_tokenizer


@dataclass(frozen=True)
class World:
    """Files of the small world; ``config`` is what its users would write into their TOML."""

    files: DemoFiles
    snapshot: Path
    config: dict[str, Any]
    config_file: Path
    queries: list[str]


def write_toml(path: Path, config: dict[str, Any]) -> Path:
    """Tables of strings, numbers and tables of those: all that the tests need."""
    lines: list[str] = []

    def table(name: str, values: dict[str, Any]) -> None:
        lines.append(f"[{name}]")
        lines.extend(f"{k} = {json.dumps(v)}" for k, v in values.items() if not isinstance(v, dict))
        for key, value in values.items():
            if isinstance(value, dict):
                table(f"{name}.{key}", value)

    for name, values in config.items():
        table(name, values)
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def _engines_need_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables by which a CI job asks for signed engines: tests that want them set them."""
    for name in ("CI", KEY_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    files = write_demo(folder / "demo", products=400, queries=60, labelled=20)
    rows = [json.loads(line) for line in files.products.read_text("utf-8").splitlines()]
    words = sorted({word for row in rows for word in re.findall(r"[a-z0-9]+", row["title"].lower())})
    tokenizer = folder / "tokenizer.json"
    save_tokenizer(tokenizer, words=tuple(words))
    vocab_size = len(words) + len(SPECIAL)
    encoder = TinyModel(vocab_size=vocab_size, dim=32, outputs=32, seed=1).save_encoder(
        folder / "encoder.onnx"
    )
    scorer = TinyModel(vocab_size=vocab_size, dim=8, outputs=1, seed=2).save_cross_encoder(
        folder / "cross.onnx"
    )
    common = {"tokenizer": f"file:{tokenizer}"}
    config = {
        "models": {
            "encoder": {"source": f"file:{encoder}", "kind": "encoder", "name": "tiny", **common},
            "scorer": {"source": f"file:{scorer}", "kind": "cross-encoder", "name": "tiny-cross", **common},
        },
        "gpu": {"use": "never"},  # the same on every host; tests of a pipeline on a GPU say so
    }
    settings = load_config(config)
    build_snapshot(files.products, folder / "snapshot", settings.index, models=settings.models)
    queries = [json.loads(line)["query"] for line in files.query_log.read_text("utf-8").splitlines()]
    return World(files, folder / "snapshot", config, write_toml(folder / "searchpipe.toml", config), queries)
