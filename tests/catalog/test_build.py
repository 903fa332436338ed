from __future__ import annotations

import errno
import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from searchpipe.catalog import BuildProgress, IndexSettings, Snapshot, build_snapshot
from searchpipe.catalog import storage as storage_module
from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.errors import CatalogBusyError, CatalogError
from tests.fakes.catalogs import PRODUCTS, build, write_jsonl
from tests.fakes.hashed_models import HashedEncoder, HashedTokenizer


def good_rows(count: int) -> list[dict[str, Any]]:
    return [{"id": f"p{row}", "title": f"Product number {row}", "price": row} for row in range(count)]


def test_all_parts_agree_on_the_ordinals(tmp_path: Path) -> None:
    report = build(write_jsonl(tmp_path / "p.jsonl", good_rows(100)), tmp_path / "out", chunk_rows=7)
    assert (report.rows, report.documents, report.rejected) == (100, 100, 0)
    encoder, tokenizer = HashedEncoder(), HashedTokenizer()
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.version == report.name
        assert len(snapshot) == 100
        for row in (0, 6, 7, 55, 99):
            doc = np.array([row])
            title = f"Product number {row}"
            assert snapshot.id_of(doc) == [f"p{row}"]
            assert snapshot.ordinal_of(f"p{row}") == row
            assert snapshot.fields(doc) == [{"title": title, "price": row}]
            assert snapshot.columns.numbers("price", doc.astype(np.int32)) == row
            np.testing.assert_array_equal(snapshot.tokens.tokens(row), tokenizer.ids_many([title])[0])
            np.testing.assert_array_equal(snapshot.vectors(doc), encoder.encode_texts([title]))
            assert snapshot.lexical.search(title, 1)[0][0] == row
            assert snapshot.dense.search(encoder.encode_texts([title])[0], 1)[0][0] == row


def test_every_format_gives_the_same_snapshot(tmp_path: Path) -> None:
    rows = [row | {"category": " > ".join(row["category"])} for row in PRODUCTS]
    names = sorted({name for row in rows for name in row})
    jsonl = write_jsonl(tmp_path / "p.jsonl", rows)
    table = [",".join(names)] + [
        ",".join(f'"{row[name]}"' if row.get(name, "") != "" else "" for name in names) for row in rows
    ]
    csv = tmp_path / "p.csv"
    csv.write_text("\n".join(table), "utf-8")
    parquet = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([{name: row.get(name) for name in names} for row in rows]), parquet)
    seen = []
    for path in (jsonl, csv, parquet):
        build(path, tmp_path / path.suffix)
        with Snapshot.open(tmp_path / path.suffix) as snapshot:
            docs = np.arange(snapshot.count)
            kinds = snapshot.columns.kinds
            masks = [
                snapshot.mask(f) for f in ({"is_sale": True}, {"price": {"lt": 50}}, {"category": "Running"})
            ]
            titles = [fields["title"] for fields in snapshot.fields(docs)]
            seen.append(
                (snapshot.id_of(docs), titles, kinds, [mask.tolist() for mask in masks if mask is not None])
            )
    assert seen[0] == seen[1] == seen[2]
    assert len(seen[0][3]) == 3


def test_bad_rows_are_counted_and_written_with_line_and_reason(tmp_path: Path) -> None:
    rows: list[Any] = good_rows(200)
    rows[3:3] = [
        "{not json",
        {"title": "no id"},
        {"id": "p0", "title": "again"},
        {"id": "x", "title": "x", "price": "cheap"},
        {"id": "big", "title": "big", "text": "x" * 10_000_000},
        b'{"id": "\xff", "title": "t"}',
    ]
    report = build(write_jsonl(tmp_path / "p.jsonl", rows), tmp_path / "out")
    assert (report.rows, report.documents, report.rejected) == (206, 200, 6)
    found = [json.loads(line) for line in report.rejects.read_text("utf-8").splitlines()]
    assert [entry["line"] for entry in found] == [4, 5, 6, 7, 8, 9]
    assert [entry["id"] for entry in found] == [None, None, "p0", "x", None, None]
    for entry, reason in zip(
        found,
        ("invalid JSON", "no id", "duplicate id", "price: a number", "longer than 1048576", "invalid"),
        strict=True,
    ):
        assert reason in entry["reason"]
        assert entry["source"].endswith("p.jsonl")
        assert 0 < len(entry["excerpt"]) <= 200
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.manifest.counts.rejected == 6
        assert snapshot.fields(np.array([0]))[0]["title"] == "Product number 0"  # the first of two wins


def test_too_many_bad_rows_stop_the_build_and_leave_the_old_one(tmp_path: Path) -> None:
    build(write_jsonl(tmp_path / "p.jsonl", PRODUCTS), tmp_path / "out")
    bad = write_jsonl(tmp_path / "bad.jsonl", [*good_rows(10), {"title": "no id"}])
    with pytest.raises(
        CatalogError, match=r"1 of 11 rows are bad: 9.1%, over the limit of 5.0%.*max_reject_share"
    ):
        build(bad, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "rejects.jsonl").read_text("utf-8"))["line"] == 11
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.count == len(PRODUCTS)
    assert build(bad, tmp_path / "out", max_reject_share=0.1).documents == 10


def test_a_hopeless_catalog_is_given_up_early(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", [*good_rows(5), *(["no json"] * 50_000)])
    with pytest.raises(CatalogError, match=r"of 1,000 rows are bad"):
        build(path, tmp_path / "out")


def test_a_catalog_without_products_is_refused(tmp_path: Path) -> None:
    empty = tmp_path / "p.jsonl"
    empty.write_bytes(b"\n\n")
    with pytest.raises(CatalogError, match="None of the 0 rows"):
        build(empty, tmp_path / "out")
    with pytest.raises(CatalogError, match="no file to index"):
        build_snapshot([], tmp_path / "out")


def test_several_files_make_one_catalog(tmp_path: Path) -> None:
    first = write_jsonl(tmp_path / "a.jsonl", good_rows(30))
    second = write_jsonl(tmp_path / "b.jsonl", [{"id": "q", "title": "Other"}, *good_rows(1)])
    report = build([first, second], tmp_path / "out")
    assert (report.documents, report.rejected) == (31, 1)
    assert json.loads(report.rejects.read_text("utf-8"))["source"].endswith("b.jsonl")


def test_progress_runs_from_the_first_byte_to_the_last(tmp_path: Path) -> None:
    seen: list[BuildProgress] = []
    path = write_jsonl(tmp_path / "p.jsonl", good_rows(50))
    build_snapshot(
        path,
        tmp_path / "out",
        IndexSettings(chunk_rows=10),
        progress=seen.append,
        encoder=HashedEncoder(),
        tokenizer=HashedTokenizer(),
    )
    assert [state.phase for state in seen] == ["read"] * 5 + ["index", "publish", "done"]
    assert [state.rows for state in seen] == sorted(state.rows for state in seen)
    assert seen[-1].bytes_read == seen[-1].bytes_total == path.stat().st_size


class NamedEncoder(HashedEncoder):
    class model:  # noqa: N801 - an attribute, as in TextEncoder
        name = "hashed"
        sha256 = "0" * 64
        document_prefix = "passage: "


def test_vectors_of_unchanged_texts_are_used_again(tmp_path: Path) -> None:
    rows = good_rows(20)
    path = write_jsonl(tmp_path / "p.jsonl", rows)
    out = tmp_path / "out"
    first = build_snapshot(path, out, encoder=NamedEncoder(), tokenizer=HashedTokenizer())
    assert first.reused == 0
    rows[4]["title"] = "Something else"
    rows[7]["price"] = 1000
    write_jsonl(path, reversed(rows))
    encoder = NamedEncoder()
    second = build_snapshot(path, out, encoder=encoder, tokenizer=HashedTokenizer())
    assert second.reused == 19
    assert encoder.encoded == ["passage: Something else"]
    with Snapshot.open(out) as snapshot:
        texts = [f"passage: {fields['title']}" for fields in snapshot.fields(np.arange(20))]
        np.testing.assert_array_equal(snapshot.vectors(np.arange(20)), NamedEncoder().encode_texts(texts))


def test_the_builds_before_are_kept_as_asked_and_open_ones_stay_usable(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", PRODUCTS)
    out = tmp_path / "out"
    names = [build(path, out).name]
    with Snapshot.open(out) as oldest:
        names += [build(path, out).name for _ in range(3)]
        (out / "builds" / ".tmp-left").mkdir()
        names.append(build(path, out).name)
        assert sorted(child.name for child in (out / "builds").iterdir()) == sorted(names[-2:])
        assert oldest.id_of(oldest.lexical.search("boots", 1)[0]) == ["d"]
    with Snapshot.open(out / "builds" / names[-2]) as previous:
        assert previous.version == names[-2]
    build(path, out, keep_builds=1)
    assert len(list((out / "builds").iterdir())) == 1


def test_a_second_build_into_the_folder_is_refused_at_once(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "p.jsonl", PRODUCTS)
    inside = threading.Event()
    leave = threading.Event()

    def wait(_: BuildProgress) -> None:
        inside.set()
        leave.wait(30)

    def first() -> None:
        build_snapshot(
            path, tmp_path / "out", progress=wait, encoder=HashedEncoder(), tokenizer=HashedTokenizer()
        )

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert inside.wait(30)
        with pytest.raises(CatalogBusyError, match=r"Process \d+ is already indexing"):
            build(path, tmp_path / "out")
    finally:
        leave.set()
        thread.join()
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.count == len(PRODUCTS)


@pytest.mark.parametrize("writes", [0, 5, 12])
def test_a_full_disk_is_named_and_leaves_the_old_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    build(write_jsonl(tmp_path / "p.jsonl", PRODUCTS), tmp_path / "out")
    before = SnapshotFolder(tmp_path / "out").current()
    left = [writes]
    append = storage_module.ArrayWriter.append

    def full(self: storage_module.ArrayWriter, values: Any) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(storage_module.ArrayWriter, "append", full)
        with pytest.raises(CatalogError, match=r"No space left.*disk has room.*unchanged"):
            build(write_jsonl(tmp_path / "q.jsonl", good_rows(9)), tmp_path / "out")
    assert SnapshotFolder(tmp_path / "out").current() == before
    assert [child.name for child in (tmp_path / "out" / "builds").iterdir()] == [before]
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.count == len(PRODUCTS)
    assert build(tmp_path / "q.jsonl", tmp_path / "out").documents == 9


def test_an_encoder_that_fails_leaves_the_old_snapshot(tmp_path: Path) -> None:
    class Broken(HashedEncoder):
        def encode_texts(self, texts: Any, *, prefix: str = "") -> Any:
            return np.full((len(texts), self.dim), np.nan, np.float32)

    path = write_jsonl(tmp_path / "p.jsonl", PRODUCTS)
    build(path, tmp_path / "out")
    with pytest.raises(CatalogError, match="NaN or infinity"):
        build_snapshot(path, tmp_path / "out", encoder=Broken(), tokenizer=HashedTokenizer())
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.count == len(PRODUCTS)


def test_display_fields_are_chosen(tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "p.jsonl", [{"id": "a", "title": "t", "text": "long", "url": "u", "n": {"k": 1}}]
    )
    for display, shown in (
        (None, {"title": "t", "url": "u", "n": {"k": 1}}),
        (("title", "text"), {"title": "t", "text": "long"}),
    ):
        build(path, tmp_path / "out", display=display)
        with Snapshot.open(tmp_path / "out") as snapshot:
            assert snapshot.fields(np.array([0])) == [shown]
