from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from searchpipe.catalog import Snapshot
from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.catalog.manifest import read_manifest
from searchpipe.errors import (
    ClosedError,
    SnapshotCorruptError,
    SnapshotNotFoundError,
    SnapshotVersionError,
)
from tests.fakes.catalogs import PRODUCTS, build, write_jsonl


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    build(write_jsonl(folder / "p.jsonl", PRODUCTS), folder / "out", dense_index="hnsw")
    return folder / "out"


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    shutil.copytree(published, tmp_path / "out")
    return tmp_path / "out"


def build_in(out: Path) -> Path:
    return SnapshotFolder(out).resolve()


def test_the_manifest_says_what_the_snapshot_is(published: Path) -> None:
    with Snapshot.open(published) as snapshot:
        manifest = snapshot.manifest
    assert manifest.schema == 2
    assert manifest.name == build_in(published).name
    assert (manifest.counts.documents, manifest.counts.rows) == (5, 5)
    assert (manifest.encoder.name, manifest.dense.kind, manifest.dense.dim) == ("HashedEncoder", "hnsw", 16)
    assert manifest.columns["price"].kind == "number"
    assert manifest.settings["flat_below"] == 50_000
    on_disk = {path.relative_to(build_in(published)).as_posix() for path in build_in(published).rglob("*.*")}
    assert on_disk == {*manifest.files, "manifest.json"}


def files_of(out: Path) -> list[str]:
    return sorted(read_manifest(build_in(out)).files)


def test_every_changed_file_is_found_and_named(copy: Path) -> None:
    for name in files_of(copy):
        path = build_in(copy) / name
        content = path.read_bytes()
        if not content:
            continue
        for damaged, message in (
            (content[:-1], "bytes instead of"),
            (content[:-1] + bytes([content[-1] ^ 1]), "other content"),
            (None, "is missing"),
        ):
            path.unlink()
            if damaged is not None:
                path.write_bytes(damaged)
            with pytest.raises(SnapshotCorruptError, match=message) as caught:
                Snapshot.open(copy)
            assert path.name in str(caught.value)
            path.write_bytes(content)
    Snapshot.open(copy).close()


def test_sizes_are_compared_even_without_hashes(copy: Path) -> None:
    path = build_in(copy) / "dense" / "vectors.f32"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(SnapshotCorruptError, match=r"vectors\.f32 has 316 bytes instead of 320"):
        Snapshot.open(copy, verify=False)


def test_damage_that_only_hashes_show_is_no_crash_without_them(copy: Path) -> None:
    """Every file overwritten with noise of the same size: refused or opened, in an orderly way."""
    rng = np.random.default_rng(9)
    for name in files_of(copy):
        path = build_in(copy) / name
        content = path.read_bytes()
        # FAISS trusts its own files: only the hashes protect those.
        if not content or name.startswith("dense/index"):
            continue
        path.write_bytes(rng.bytes(len(content)))
        try:
            with Snapshot.open(copy, verify=False) as snapshot:
                snapshot.ordinal_of("a")
                snapshot.lexical.search("running shoes", 3)
        except (SnapshotCorruptError, IndexError):
            pass
        path.write_bytes(content)


def change_manifest(out: Path, **changes: Any) -> None:
    path = build_in(out) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_a_newer_schema_is_refused_with_the_cure(copy: Path) -> None:
    change_manifest(copy, schema=3, unknown_to_us=True)
    with pytest.raises(SnapshotVersionError, match=r"schema 3, this release reads 2.*newer searchpipe"):
        Snapshot.open(copy)
    change_manifest(copy, schema=1)
    with pytest.raises(SnapshotVersionError, match="Index the catalog again"):
        Snapshot.open(copy)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "x"}', b'{"schema": 2}', b"\xff"])
def test_a_broken_manifest_is_refused(copy: Path, content: bytes) -> None:
    (build_in(copy) / "manifest.json").write_bytes(content)
    with pytest.raises(SnapshotCorruptError, match=r"manifest\.json"):
        Snapshot.open(copy)


def test_a_changed_manifest_is_refused(copy: Path) -> None:
    change_manifest(copy, created="1999-01-01")
    with pytest.raises(SnapshotCorruptError, match="was changed"):
        Snapshot.open(copy)


def test_nothing_published_is_said(tmp_path: Path) -> None:
    with pytest.raises(SnapshotNotFoundError, match="does not exist"):
        Snapshot.open(tmp_path / "none")
    with pytest.raises(SnapshotNotFoundError, match=r"no published snapshot.*searchpipe index"):
        Snapshot.open(tmp_path)
    (tmp_path / "CURRENT").write_text("gone\n")
    with pytest.raises(SnapshotNotFoundError, match="gone"):
        Snapshot.open(tmp_path)
    (tmp_path / "CURRENT").write_text("../../etc\n")
    with pytest.raises(SnapshotNotFoundError, match="no build"):
        Snapshot.open(tmp_path)


def test_after_close_there_is_an_error_and_what_was_held_stays(published: Path) -> None:
    snapshot = Snapshot.open(published)
    lexical, dense = snapshot.lexical, snapshot.dense
    snapshot.close()
    snapshot.close()
    uses: tuple[Callable[[], Any], ...] = (
        lambda: snapshot.lexical,
        lambda: snapshot.columns,
        lambda: snapshot.mask({}),
        lambda: snapshot.tokens,
        lambda: snapshot.touch(np.arange(2)),
    )
    for use in uses:
        with pytest.raises(ClosedError, match="closed"):
            use()
    assert len(lexical.search("boots", 1)[0]) == 1
    assert len(dense.search(np.ones(16, np.float32), 2)[0]) == 2
    assert "closed" in repr(snapshot)


@pytest.mark.parametrize("docs", [[5], [-1], [0, 99]])
def test_ordinals_outside_are_refused(published: Path, docs: list[int]) -> None:
    with Snapshot.open(published) as snapshot:
        for use in (snapshot.id_of, snapshot.fields, snapshot.vectors):
            with pytest.raises(IndexError):
                use(np.array(docs))
        snapshot.touch(np.array(docs))  # reads ahead what there is


@pytest.mark.parametrize("damage", [b"\xff", b"1,"])
def test_fields_that_are_damaged_under_an_open_snapshot_are_an_error_of_their_own(
    copy: Path, damage: bytes
) -> None:
    path = build_in(copy) / "fields.blob"
    with Snapshot.open(copy) as snapshot:
        ends = np.fromfile(path.with_suffix(".ends"), np.int64)
        with path.open("r+b") as file:  # in place: the size stays, the maps see it
            file.write((damage * int(ends[1]))[: int(ends[1]) - 1] + b"1")
        with pytest.raises(SnapshotCorruptError, match=r"fields\.blob.*Index the catalog again"):
            snapshot.fields(np.array([0, 1]))
        assert len(snapshot.fields(np.array([1, 2]))) == 2
        snapshot.touch(np.arange(3))


def test_ids_are_found_and_others_are_not(published: Path) -> None:
    with Snapshot.open(published) as snapshot:
        assert [snapshot.ordinal_of(name) for name in "abcde"] == list(range(5))
        assert snapshot.ordinal_of("zz") is None
        assert snapshot.ordinal_of("") is None
        assert snapshot.ordinal_of("\ud800") is None


def test_files_can_be_read_by_others(published: Path) -> None:
    for name in files_of(published):
        assert (build_in(published) / name).stat().st_mode & stat.S_IROTH


def test_a_lexical_index_that_is_damaged_under_an_open_snapshot_is_an_error_of_its_own(copy: Path) -> None:
    path = build_in(copy) / "lexical" / "postings.bin"
    with Snapshot.open(copy) as snapshot:
        content = path.read_bytes()
        with path.open("r+b") as file:  # in place: the size stays, the maps see it
            file.write(content[:192] + b"\xff" * (len(content) - 192))
        with pytest.raises(SnapshotCorruptError, match=r"postings\.bin.*Index the catalog again"):
            snapshot.lexical.search("boots", 1)


def test_many_threads_read_one_snapshot(published: Path) -> None:
    failures: list[BaseException] = []
    with Snapshot.open(published) as snapshot:

        def work() -> None:
            try:
                for _ in range(50):
                    docs, _ = snapshot.lexical.search("running shoes", 3)
                    assert len(snapshot.fields(docs)) == len(snapshot.id_of(docs)) == 3
                    assert snapshot.dense.search(snapshot.vectors(docs[:1])[0], 1)[0][0] == docs[0]
                    assert snapshot.mask({"brand": "Acme"}).sum() == 2  # type: ignore[union-attr]
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures


def test_settings_alone_load_no_heavy_package() -> None:
    code = (
        "import sys, searchpipe.catalog; searchpipe.catalog.IndexSettings();"
        "heavy = ('faiss', 'pyarrow', 'onnxruntime', 'tokenizers', 'rich');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
