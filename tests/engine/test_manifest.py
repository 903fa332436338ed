"""Manifests: what they keep, what they refuse to name, what makes two engines the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from searchpipe.engine.machine import runtime_versions, this_machine
from searchpipe.engine.manifest import decode, encode, is_plain_place
from searchpipe.engine.signing import Signature
from searchpipe.errors import RegistryError
from tests.fakes.engines import A10, engine_files, engine_manifest, machine

PATH = Path("manifest.json")


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path) -> None:
    manifest = engine_manifest(engine_files(tmp_path, plan=A10), built_on=machine(A10, tensorrt="11.1.0.7"))
    again = decode(encode(manifest), PATH)
    assert again == manifest
    assert again.signed_content() == manifest.signed_content()
    assert again.built_on.target == "sm_86"
    assert "signature" not in manifest.signed_content()
    assert manifest.passed() == ["int8", "fp16", "fp32"]


def test_what_makes_an_engine_the_same(tmp_path: Path) -> None:
    manifest = engine_manifest(engine_files(tmp_path))
    same = msgspec.structs.replace(
        manifest,
        version="v7",
        created="2030-01-01T00:00:00Z",
        signature=Signature("ed25519", "k", "", "", ""),
    )
    assert same.content_hash() == manifest.content_hash()
    for change in ({"gates": {"auc": 0.1}}, {"chosen": "fp32"}, {"target": "sm_90"}):
        assert msgspec.structs.replace(manifest, **change).content_hash() != manifest.content_hash()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "is of format 2; this release reads up to 1"),
        ({"task": "poet"}, "not an engine's manifest"),
        ({"unknown": 1}, "not an engine's manifest"),
        ({"files": {"fp32": {"path": "../../etc/passwd", "bytes": 1, "sha256": "0"}}}, "not in the engine's"),
        ({"files": {"fp32": {"path": "/etc/passwd", "bytes": 1, "sha256": "0"}}}, "not in the engine's"),
        ({"variants": {"int8": {"passed": True, "onnx": "other.onnx"}}}, "which is not listed"),
        ({"variants": {"int8": {"passed": True, "plan": "other.plan"}}}, "which is not listed"),
        ({"chosen": "fp16"}, "there is no such variant"),
    ],
)
def test_manifests_that_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(encode(engine_manifest(engine_files(tmp_path))))
    with pytest.raises(RegistryError, match=message):
        decode(json.dumps({**content, **change}).encode(), PATH)


@pytest.mark.parametrize("cut", [0, 1, 40, -3])
def test_a_cut_manifest_is_refused(tmp_path: Path, cut: int) -> None:
    content = encode(engine_manifest(engine_files(tmp_path)))
    with pytest.raises(RegistryError, match="not an engine's manifest"):
        decode(content[:cut], PATH)


def test_places() -> None:
    assert all(map(is_plain_place, ("a.onnx", "inner/a.onnx", "a b.json")))
    assert not any(map(is_plain_place, ("", "/a", "a/../b", ".", "a//b", "C:/a", "a\\b", "a\0b", "a/", "..")))


def test_this_machine_without_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    this_machine.cache_clear()
    try:
        here = this_machine()
    finally:
        this_machine.cache_clear()
    assert here.gpu is None
    assert here.target == "cpu"
    assert here.runtimes["onnxruntime"] == runtime_versions()["onnxruntime"]
    assert "onnxruntime" in here.line()
