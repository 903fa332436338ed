from __future__ import annotations

import errno
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest

from searchpipe._core import TokenStore, TokenStoreWriter

DOCUMENTS = [[5, 6, 7], [], [65535, 0], [1]]


def write(path: Path, documents: list[list[int]], vocab_size: int = 0) -> Path:
    with TokenStoreWriter(path, vocab_size=vocab_size) as writer:
        for ordinal, ids in enumerate(documents):
            assert writer.append(np.array(ids, np.int32)) == ordinal
        assert len(writer) == len(documents)
    return path


def content(store: TokenStore) -> list[list[int]]:
    return [store.tokens(doc).tolist() for doc in range(len(store))]


def test_more_than_the_writers_buffers(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    documents = [rng.integers(0, 30522, size, dtype=np.int32) for size in rng.integers(0, 400, 60_000 // 200)]
    documents.append(rng.integers(0, 30522, 700_000, dtype=np.int32))
    documents.extend(rng.integers(0, 30522, 1, dtype=np.int32) for _ in range(40_000))
    path = tmp_path / "tokens"
    with TokenStoreWriter(str(path), vocab_size=30522) as writer:
        for ids in documents:
            writer.append(ids)
    store = TokenStore(str(path))
    assert len(store) == len(documents)
    assert all(np.array_equal(store.tokens(doc), ids) for doc, ids in enumerate(documents))
    picked = np.array([300, 0, 299, 0], np.int32)
    assert store.lengths(picked).tolist() == [len(documents[doc]) for doc in picked]
    assert store.tokens(0).dtype == np.int32


def test_documents_that_do_not_exist(tmp_path: Path) -> None:
    store = TokenStore(write(tmp_path / "tokens", DOCUMENTS))
    for doc in (-1, 4, 2**40):
        with pytest.raises(IndexError, match=rf"document {doc} .* 4 documents"):
            store.tokens(doc)
    with pytest.raises(IndexError, match="document 7"):
        store.lengths(np.array([0, 7], np.int32))
    with pytest.raises(TypeError, match=r"int64, not int32.*astype"):
        store.lengths(np.array([0]))


def test_strided_ids_are_taken(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "tokens") as writer:
        writer.append(np.arange(10, dtype=np.int32)[::-2])
    assert content(TokenStore(tmp_path / "tokens")) == [[9, 7, 5, 3, 1]]


def test_refused_documents_leave_the_store_as_it_was(tmp_path: Path) -> None:
    with TokenStoreWriter(tmp_path / "tokens", vocab_size=10) as writer:
        writer.append(np.array([9], np.int32))
        with pytest.raises(ValueError, match=r"token 1 of document 1 is 10; ids must be 0 to 9"):
            writer.append(np.array([0, 10], np.int32))
        with pytest.raises(ValueError, match="is -1"):
            writer.append(np.array([-1], np.int32))
        for wrong in (np.zeros(2, np.int64), [1, 2], "ids", None, np.zeros(2, ">i4")):
            with pytest.raises(TypeError, match="ids"):
                writer.append(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="2 dimensions"):
            writer.append(np.zeros((2, 2), np.int32))
    assert content(TokenStore(tmp_path / "tokens")) == [[9]]
    with pytest.raises(ValueError, match="vocab_size is -1"):
        TokenStoreWriter(tmp_path / "other", vocab_size=-1)


def test_many_documents_at_once_are_the_same_as_one_by_one(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    documents = [rng.integers(0, 30_000, rng.integers(0, 40), dtype=np.int32) for _ in range(2000)]
    with TokenStoreWriter(tmp_path / "one", vocab_size=30_000) as writer:
        for ids in documents:
            writer.append(ids)
    with TokenStoreWriter(tmp_path / "many", vocab_size=30_000) as writer:
        writer.append_many(documents[:1500])
        writer.append_many([])
        writer.append_many(documents[1500:])
    assert (tmp_path / "many").read_bytes() == (tmp_path / "one").read_bytes()
    with TokenStoreWriter(tmp_path / "bad", vocab_size=10) as writer:
        with pytest.raises(ValueError, match="of document 1 is 10"):
            writer.append_many([np.zeros(3, np.int32), np.full(1, 10, np.int32), np.zeros(1, np.int32)])
        assert len(writer) == 1
        with pytest.raises(TypeError, match="int64, not int32"):
            writer.append_many([np.zeros(3, np.int32), np.zeros(1, np.int64)])
        assert len(writer) == 1


def test_nothing_is_published_before_close(tmp_path: Path) -> None:
    path = write(tmp_path / "tokens", [[1]])
    writer = TokenStoreWriter(path)
    writer.append(np.array([2], np.int32))
    assert content(TokenStore(path)) == [[1]]
    del writer
    assert os.listdir(tmp_path) == ["tokens"]

    abandoned = TokenStoreWriter(path)
    abandoned.abandon()
    for call in (lambda: abandoned.append(np.array([2], np.int32)), abandoned.close):
        with pytest.raises(ValueError, match="was abandoned"):
            call()

    def fail() -> None:
        with TokenStoreWriter(path) as writer:
            writer.append(np.array([2], np.int32))
            raise KeyError("build")

    with pytest.raises(KeyError, match="build"):
        fail()
    assert content(TokenStore(path)) == [[1]]
    assert os.listdir(tmp_path) == ["tokens"]

    old = TokenStore(path)
    closed = TokenStoreWriter(path)
    closed.append(np.array([3], np.int32))
    closed.close()
    closed.close()
    with pytest.raises(ValueError, match="is closed"):
        closed.append(np.array([2], np.int32))
    closed.abandon()
    assert content(TokenStore(path)) == [[3]]
    assert content(old) == [[1]]


def test_operating_system_errors_keep_their_number(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as missing:
        TokenStore(tmp_path / "none")
    assert missing.value.errno == errno.ENOENT
    assert missing.value.filename == str(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        TokenStoreWriter(tmp_path / "no folder" / "tokens")
    with pytest.raises(IsADirectoryError):
        TokenStore(tmp_path)
    with pytest.raises(OSError, match="Invalid"):
        TokenStore("/dev/null")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="Invalid"):
        TokenStore(tmp_path / "pipe")
    (tmp_path / "taken").mkdir()
    writer = TokenStoreWriter(tmp_path / "taken")
    with pytest.raises(IsADirectoryError):
        writer.close()
    assert sorted(os.listdir(tmp_path)) == ["pipe", "taken"]


def test_full_disk_is_an_oserror_and_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = TokenStoreWriter(tmp_path / "tokens")
    small = TokenStoreWriter(tmp_path / "small")
    small.append(np.zeros(40_000, np.int32))  # still in the buffer: close() meets the limit
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(OSError, match="tokens") as appended:
            writer.append(np.zeros(1_000_000, np.int32))
        with pytest.raises(OSError, match="small") as closed:
            small.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert appended.value.errno == closed.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == []
    with pytest.raises(ValueError, match="abandoned"):
        writer.append(np.zeros(1, np.int32))


def test_one_store_and_one_writer_in_many_threads(tmp_path: Path) -> None:
    documents = [[doc % 7] * (doc % 50) for doc in range(500)]
    store = TokenStore(write(tmp_path / "tokens", documents))
    writer = TokenStoreWriter(tmp_path / "shared")
    failures: list[str] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for doc in rng.integers(0, 500, 400).tolist():
            if store.tokens(doc).tolist() != documents[doc]:
                failures.append(f"document {doc}")
            writer.append(store.tokens(doc))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    writer.close()
    assert failures == []
    shared = TokenStore(tmp_path / "shared")
    assert len(shared) == 1600
    expected = sorted(
        len(documents[doc]) for seed in range(4) for doc in np.random.default_rng(seed).integers(0, 500, 400)
    )
    assert sorted(shared.lengths().tolist()) == expected
