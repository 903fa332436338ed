"""Files of the postings index that were damaged or forged: refused, or searched without a crash."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from searchpipe._core import PostingsIndex, PostingsWriter
from tests.core.test_token_store_format import xxh64

HEADER_BYTES = 192
# Of the header: name -> its place among the 8-byte numbers that follow 24 bytes.
_NAMES = (
    *("documents", "postings", "runs", "lists", "terms", "text_bytes"),
    *("postings_offset", "runs_offset", "lists_offset", "terms_offset", "text_offset"),
    *("file_bytes", "content_checksum"),
)
NUMBERS = {name: 24 + 8 * place for place, name in enumerate(_NAMES)}


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    rng = np.random.default_rng(2)
    path = tmp_path_factory.mktemp("good") / "index"
    with PostingsWriter(path, fields=2) as writer:
        for _ in range(300):
            writer.append(
                [[f"w{word}" for word in rng.zipf(1.4, 6) % 40], ["x"] if rng.random() < 0.5 else []]
            )
    return path.read_bytes()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "index"


def search_all(index: PostingsIndex) -> Iterator[tuple[list[int], list[float]]]:
    mask = np.arange(len(index)) % 3 == 0 if len(index) < 10**6 else None
    for number in range(42):
        docs, scores = index.search(
            [f"w{number}", f"w{number // 2}", "x"], boosts=[1.0, 0.5], k=20, mask=mask
        )
        assert ((docs >= 0) & (docs < len(index))).all()
        assert len(set(docs.tolist())) == len(docs)
        yield docs.tolist(), scores.tolist()


def forge(content: bytes, **numbers: int) -> bytes:
    """Change numbers of the header and make its checksum right again."""
    forged = bytearray(content)
    for name, value in numbers.items():
        struct.pack_into("<Q", forged, NUMBERS[name], value)
    struct.pack_into("<Q", forged, HEADER_BYTES - 8, xxh64(bytes(forged[: HEADER_BYTES - 8])))
    return bytes(forged)


def test_the_header_is_what_it_is_documented_to_be(content: bytes, path: Path) -> None:
    assert content[:8] == b"SPPOSTNG"
    assert struct.unpack_from("<4I", content, 8) == (0x01020304, 1, HEADER_BYTES, 2)
    numbers = {name: struct.unpack_from("<Q", content, at)[0] for name, at in NUMBERS.items()}
    assert (numbers["documents"], numbers["file_bytes"]) == (300, len(content))
    assert numbers["content_checksum"] == xxh64(content[HEADER_BYTES:])
    assert forge(content) == content
    path.write_bytes(content)
    index = PostingsIndex(path)
    assert (index.terms, index.postings, index.nbytes) == (
        numbers["terms"],
        numbers["postings"],
        len(content),
    )
    assert index.path == path


@pytest.mark.parametrize("size", [0, 1, 100, HEADER_BYTES - 1, HEADER_BYTES, 1000, -1])
def test_a_file_that_was_cut_short_is_refused(content: bytes, path: Path, size: int) -> None:
    path.write_bytes(content[:size])
    for verify in (True, False):
        with pytest.raises(RuntimeError, match=r"index: it has \d+ bytes.*truncated.*build it again"):
            PostingsIndex(path, verify=verify)


def test_a_file_that_something_was_appended_to_is_refused(content: bytes, path: Path) -> None:
    path.write_bytes(content + b"\0")
    with pytest.raises(RuntimeError, match="something was appended"):
        PostingsIndex(path, verify=False)


@pytest.mark.parametrize(
    ("at", "value", "what"),
    [
        (0, b"X", "no postings index"),
        (8, b"\x01\x02\x03\x04", "other byte order"),
        (12, b"\x02\0\0\0", "version 2, this release reads 1; build it again"),
        (30, b"\xff", "checksum of its header"),
    ],
)
def test_another_header_is_refused(content: bytes, path: Path, at: int, value: bytes, what: str) -> None:
    path.write_bytes(content[:at] + value + content[at + len(value) :])
    with pytest.raises(RuntimeError, match=what):
        PostingsIndex(path, verify=False)


@pytest.mark.parametrize("name", [name for name in NUMBERS if name not in ("file_bytes", "content_checksum")])
@pytest.mark.parametrize("value", [0, 1, 7, 8, 2**31, 2**32 - 1, 2**61, 2**64 - 8, 2**64 - 1])
def test_forged_numbers_are_refused_or_harmless(content: bytes, path: Path, name: str, value: int) -> None:
    path.write_bytes(forge(content, **{name: value}))
    try:
        index = PostingsIndex(path, verify=False)
        list(search_all(index))
    except RuntimeError as error:
        assert "index: " in str(error)  # noqa: PT017 - many values are harmless


def test_any_changed_byte_is_found(content: bytes, path: Path) -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        bad = bytearray(content)
        at = int(rng.integers(len(bad)))
        bad[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bad)
        with pytest.raises(RuntimeError, match=r"index: .*(altered|no postings index|build it again)"):
            PostingsIndex(path)


def test_damage_that_was_not_looked_for_is_no_crash(content: bytes, path: Path) -> None:
    rng = np.random.default_rng(4)
    tables = struct.unpack_from("<Q", content, NUMBERS["runs_offset"])[0]
    refused = 0
    for turn in range(300):
        bad = bytearray(content)
        # Mostly the tables, where a wrong number could lead outside of the file.
        low = tables if turn % 3 else HEADER_BYTES
        for at in rng.integers(low, len(bad), int(rng.integers(1, 40))):
            bad[at] = int(rng.integers(256))
        path.write_bytes(bad)
        index = PostingsIndex(path, verify=False)
        try:
            list(search_all(index))
        except RuntimeError as error:
            refused += 1
            assert "altered; build it again" in str(error)  # noqa: PT017 - some damage changes no search
    assert refused > 50
    # A thread whose search was given up searches as ever.
    path.write_bytes(content)
    assert list(search_all(PostingsIndex(path))) == list(search_all(PostingsIndex(path, verify=False)))
