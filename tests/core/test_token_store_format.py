"""The file format, against a writer and a checksum in plain Python, and files that were damaged or forged."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from searchpipe._core import TokenStore, TokenStoreWriter

DOCUMENTS = [[5, 6, 7], [], [65535, 0], [1]]

_P1, _P2, _P3 = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9
_P4, _P5 = 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5
_MASK = 2**64 - 1


def _rotate(value: int, bits: int) -> int:
    return ((value << bits) | (value >> (64 - bits))) & _MASK


def _round(lane: int, word: int) -> int:
    return _rotate((lane + word * _P2) & _MASK, 31) * _P1 & _MASK


def xxh64(data: bytes) -> int:
    lanes = [(_P1 + _P2) & _MASK, _P2, 0, -_P1 & _MASK]
    for position in range(0, len(data) - 31, 32):
        lanes = [
            _round(lane, word)
            for lane, word in zip(lanes, struct.unpack_from("<4Q", data, position), strict=True)
        ]
    rest = data[len(data) // 32 * 32 :]
    value = _P5
    if len(data) >= 32:
        value = sum(_rotate(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18), strict=True)) & _MASK
        for lane in lanes:
            value = ((value ^ _round(0, lane)) * _P1 + _P4) & _MASK
    value = (value + len(data)) & _MASK
    while len(rest) >= 8:
        value = (_rotate(value ^ _round(0, struct.unpack("<Q", rest[:8])[0]), 27) * _P1 + _P4) & _MASK
        rest = rest[8:]
    if len(rest) >= 4:
        value = (_rotate(value ^ (struct.unpack("<I", rest[:4])[0] * _P1 & _MASK), 23) * _P2 + _P3) & _MASK
        rest = rest[4:]
    for byte in rest:
        value = _rotate(value ^ (byte * _P5 & _MASK), 11) * _P1 & _MASK
    value = (value ^ (value >> 33)) * _P2 & _MASK
    value = (value ^ (value >> 29)) * _P3 & _MASK
    return value ^ (value >> 32)


def write(path: Path, documents: list[list[int]], vocab_size: int = 0) -> Path:
    with TokenStoreWriter(path, vocab_size=vocab_size) as writer:
        for ordinal, ids in enumerate(documents):
            assert writer.append(np.array(ids, np.int32)) == ordinal
        assert len(writer) == len(documents)
    return path


def content(store: TokenStore) -> list[list[int]]:
    return [store.tokens(doc).tolist() for doc in range(len(store))]


def file_bytes(documents: list[list[int]], vocab_size: int, id_bytes: int) -> bytes:
    """The format as documented, written by hand."""
    ids = [token for document in documents for token in document]
    tokens = struct.pack(f"<{len(ids)}{'H' if id_bytes == 2 else 'I'}", *ids)
    tokens += b"\0" * (-len(tokens) % 8)
    ends = np.cumsum([0] + [len(document) for document in documents])
    offsets = struct.pack(f"<{len(ends)}Q", *ends.tolist())
    header = b"SPTOKENS" + struct.pack(
        "<4I12Q",
        *(0x01020304, 1, 128, id_bytes, len(documents), len(ids), vocab_size, max(ids, default=-1) + 1),
        *(128, 128 + len(tokens), 128 + len(tokens) + len(offsets), xxh64(tokens), xxh64(offsets), 0, 0, 0),
    )
    return header + struct.pack("<Q", xxh64(header)) + tokens + offsets


def test_reference_checksum_gives_the_published_values() -> None:
    assert xxh64(b"") == 0xEF46DB3751D8E999
    assert xxh64(b"abc") == 0x44BC2CF5AD770999
    assert xxh64(b"Nobody inspects the spammish repetition") == 0xFBCEA83C8A378BF1


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=40), max_size=30),
    st.sampled_from([0, 2**16, 2**16 + 1, 2**31]),
)
def test_file_is_the_documented_format_and_reads_back(
    tmp_path: Path, documents: list[list[int]], vocab_size: int
) -> None:
    path = write(tmp_path / "tokens", documents, vocab_size)
    id_bytes = 2 if vocab_size == 2**16 else 4
    assert path.read_bytes() == file_bytes(documents, vocab_size, id_bytes)
    store = TokenStore(path)
    assert content(store) == documents
    assert store.total_tokens == sum(map(len, documents))
    assert store.max_token_id == max((token for ids in documents for token in ids), default=-1)
    assert (store.id_bytes, store.vocab_size, store.nbytes) == (id_bytes, vocab_size, path.stat().st_size)
    assert store.lengths().tolist() == [len(ids) for ids in documents]
    assert os.listdir(tmp_path) == ["tokens"]


def test_every_flipped_bit_and_every_truncation_is_noticed(tmp_path: Path) -> None:
    good = write(tmp_path / "good", DOCUMENTS, 65536).read_bytes()
    path = tmp_path / "bad"
    for position in range(len(good)):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[position] ^= 1 << bit
            path.write_bytes(damaged)
            with pytest.raises(RuntimeError, match="bad"):
                TokenStore(path)
            read_unverified(path)
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(RuntimeError, match="truncated"):
            TokenStore(path)
    path.write_bytes(good + b"\0")
    with pytest.raises(RuntimeError, match="appended"):
        TokenStore(path)


def read_unverified(path: Path) -> None:
    """Without verification: refused, or readable without leaving the file."""
    try:
        store = TokenStore(path, verify=False)
        content(store)
        store.lengths()
    except RuntimeError:
        return


FIELDS = ["byte_order", "version", "header_bytes", "id_bytes", "documents", "tokens", "vocab", "max_end"]
FIELDS += ["tokens_at", "offsets_at", "bytes"]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(
        st.sampled_from(FIELDS),
        st.one_of(st.integers(0, 300), st.sampled_from([2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1, 2**61])),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
    st.binary(max_size=64),
)
def test_forged_headers_with_right_checksums(
    tmp_path: Path, changes: dict[str, int], fix_content: bool, tail: bytes
) -> None:
    """Somebody who can compute the checksum still cannot make the store read outside of the file."""
    good = file_bytes(DOCUMENTS, 65536, 2)
    fields = list(struct.unpack_from("<4I12Q", good, 8))
    for name, value in changes.items():
        place = FIELDS.index(name)
        fields[place] = value % 2**32 if place < 4 else value
    body = good[128:-8] + tail if tail else good[128:]
    if fix_content:
        split = (fields[9] - 128) if 128 <= fields[9] <= 128 + len(body) else 0
        fields[11], fields[12] = xxh64(body[:split]), xxh64(body[split:])
        fields[10] = 128 + len(body)
    header = b"SPTOKENS" + struct.pack("<4I12Q", *fields)
    forged = header + struct.pack("<Q", xxh64(header)) + body
    path = tmp_path / "forged"
    path.write_bytes(forged)
    read_unverified(path)
    if forged != good:
        try:
            store = TokenStore(path)
        except RuntimeError:
            return
        assert sum(map(len, content(store))) == store.total_tokens


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        ([0, 3, 3, 9, 6], "document 2"),
        ([0, 3, 2, 5, 6], "document 1"),
        ([1, 3, 3, 5, 6], "from 1"),
        ([0, 3, 3, 5, 5], "to 5"),
    ],
)
def test_forged_offsets(tmp_path: Path, offsets: list[int], message: str) -> None:
    good = file_bytes(DOCUMENTS, 65536, 2)
    forged = struct.pack("<5Q", *offsets)
    header = bytearray(good[:120])
    header[88:96] = struct.pack("<Q", xxh64(forged))
    assert good[88:96] == struct.pack("<Q", xxh64(good[-40:]))
    path = tmp_path / "forged"
    path.write_bytes(header + struct.pack("<Q", xxh64(bytes(header))) + good[128:-40] + forged)
    with pytest.raises(RuntimeError, match=message):
        TokenStore(path)
    read_unverified(path)


def test_messages_say_what_is_wrong(tmp_path: Path) -> None:
    good = file_bytes(DOCUMENTS, 65536, 2)
    for start, replacement, message in (
        (0, b"NOTOKENS", "no token store"),
        (8, b"\x01\x02\x03\x04", "byte order"),
        (12, b"\x02\0\0\0", "version 2, this release reads 1; upgrade"),
        (40, b"\xff", "checksum of its header"),
        (130, b"\xff", "checksum of its token ids"),
        (len(good) - 3, b"\xff", "checksum of its offsets"),
    ):
        damaged = good[:start] + replacement + good[start + len(replacement) :]
        (tmp_path / "bad").write_bytes(damaged)
        with pytest.raises(RuntimeError, match=message):
            TokenStore(tmp_path / "bad")
