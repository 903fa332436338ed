from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from searchpipe.catalog.readers import RawRow, open_rows
from searchpipe.errors import CatalogError


def read(path: Path, limit: int = 1 << 20) -> list[RawRow]:
    return list(open_rows(path, max_row_bytes=limit))


def test_jsonl_takes_bom_crlf_blank_lines_and_a_last_line_without_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "a"}\r\n\r\n   \n{"id": "\xc3\xa9"}')
    assert [(row.line, row.data) for row in read(path)] == [(1, {"id": "a"}), (4, {"id": "é"})]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"{not json}", "invalid JSON"),
        (b'{"id": "a"', "invalid JSON"),
        (b'{"id": NaN}', "invalid JSON"),
        (b"[1, 2]", "JSON object is expected, not list"),
        (b'{"id": "\xff\xfe"}', "invalid JSON"),
        (b"[" * 100_000, "invalid JSON"),
    ],
)
def test_a_bad_line_is_reported_and_the_next_is_read(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(content + b'\n{"id": "b"}\n')
    bad, good = read(path)
    assert bad.data is None
    assert problem in bad.problem
    assert bad.excerpt
    assert (good.line, good.data) == (2, {"id": "b"})


@pytest.mark.parametrize("packed", [False, True])
def test_a_row_of_10_mb_is_passed_over_in_bounded_memory(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / ("p.jsonl.gz" if packed else "p.jsonl")
    content = b'{"id": "a", "text": "' + b"x" * 10_000_000 + b'"}\n{"id": "b"}\n'
    path.write_bytes(gzip.compress(content) if packed else content)
    del content
    tracemalloc.start()
    try:
        big, good = read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "longer than 1048576 bytes" in big.problem
    assert len(big.excerpt) <= 200
    assert (good.line, good.data) == (2, {"id": "b"})
    assert peak < 6_000_000


def test_the_limit_is_on_the_row_without_its_end(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    line = b'{"id": "' + b"a" * 1014 + b'"}'
    path.write_bytes(line + b"\r\n" + line[:-2] + b'a"}\n')
    first, second = read(path, len(line))
    assert first.data is not None
    assert second.data is None


def test_a_gzip_file_that_was_cut_short_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl.gz"
    whole = gzip.compress(b"".join(b'{"id": "%d"}\n' % number for number in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CatalogError, match=r"broken gzip.*fetch or write it again"):
        read(path)


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(gzip.compress(b'{"id": "a"}\n'))
    assert [row.data for row in read(path)] == [{"id": "a"}]


def test_utf16_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes("id,title\n1,x\n".encode("utf-16"))
    with pytest.raises(CatalogError, match="UTF-8"):
        read(path)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_has_quotes_lines_in_values_and_missing_values(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "p.csv"
    lines = ["id,title,price", 'a,"two', 'lines ""quoted""",1.5', "", "b,plain,"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).replace(",", delimiter).encode())
    first, second = read(path)
    assert first.data == {"id": "a", "title": 'two\nlines "quoted"', "price": "1.5"}
    assert first.line == 2
    assert (second.line, second.data) == (5, {"id": "b", "title": "plain"})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"a,b,c", "3 values, the header 2"),
        (b"a", "1 values, the header 2"),
        (b"a,\xff", "invalid UTF-8"),
        (b'a,"x"y', "invalid CSV"),
        (b"a," + b"x" * 200_000, "invalid CSV"),
        (b"a," + b"x" * 2_000_000, "longer than"),
    ],
)
def test_a_bad_csv_row_is_reported_and_the_next_is_read(tmp_path: Path, line: bytes, problem: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(b"id,title\n" + line + b"\nb,good\n")
    bad, good = read(path)
    assert bad.data is None
    assert problem in bad.problem
    assert (good.line, good.data) == (3, {"id": "b", "title": "good"})


def test_parquet_rows_have_numbers_and_types(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    rows = [{"id": f"p{number}", "price": float(number), "category": ["A", "B"]} for number in range(600)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = read(path)
    assert [row.line for row in found] == list(range(1, 601))
    assert [row.data for row in found] == rows


def test_a_parquet_row_over_the_limit_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([{"id": "a", "text": "x" * 5000}, {"id": "b", "text": ""}]), path)
    big, good = read(path, 4096)
    assert "longer than 4096" in big.problem
    assert good.data == {"id": "b", "text": ""}


def test_a_file_that_is_not_parquet_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    path.write_bytes(b"no parquet at all")
    with pytest.raises(CatalogError, match="cannot be read as Parquet"):
        read(path)


def test_unknown_formats_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="does not exist"):
        read(tmp_path / "none.jsonl")
    with pytest.raises(CatalogError, match="is a folder"):
        read(tmp_path)
    (tmp_path / "p.xml").write_bytes(b"<a/>")
    with pytest.raises(CatalogError, match="not known"):
        read(tmp_path / "p.xml")
