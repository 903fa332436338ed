from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from searchpipe.catalog import Snapshot
from searchpipe.catalog.models import BuildModels
from searchpipe.cli import index as index_module
from searchpipe.cli import main
from tests.fakes.catalogs import PRODUCTS, write_jsonl
from tests.fakes.hashed_models import HashedEncoder, HashedTokenizer


@pytest.fixture(autouse=True)
def _no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = BuildModels.open

    def hashed(settings: Any, *_: Any, max_pair_tokens: int, parallel: bool) -> BuildModels:
        assert parallel  # a command has its process to itself
        return opened(settings, HashedEncoder(), HashedTokenizer(), max_pair_tokens=max_pair_tokens)

    monkeypatch.setattr(BuildModels, "open", hashed)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["searchpipe", "index", *map(str, arguments)])
    with pytest.raises(SystemExit) as left:
        main()
    return int(left.value.code or 0)


def test_it_indexes_and_sums_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", [*PRODUCTS, "{bad"])
    assert run(monkeypatch, source, "--out", tmp_path / "out", "--max-reject-share", "0.5") == 0
    shown = capsys.readouterr()
    assert "5 products in" in shown.out
    assert "1 rows rejected (16.67%)" in shown.out
    assert "invalid JSON" in shown.out
    assert "rejects.jsonl" in shown.out
    assert "100%" in shown.err
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.version in shown.out


def test_a_configuration_maps_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "searchpipe.toml"
    config.write_text('[index]\ndense_index = "hnsw"\n[index.fields]\nid = "sku"\ntitle = "name"\n')
    source = write_jsonl(tmp_path / "p.jsonl", [{"sku": "a", "name": "Shoe"}])
    assert run(monkeypatch, source, "-o", tmp_path / "out", "-c", config, "--quiet") == 0
    with Snapshot.open(tmp_path / "out") as snapshot:
        assert snapshot.ordinal_of("a") == 0
        assert snapshot.dense.info.kind == "hnsw"


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        (["{bad"], [], "1 of 1 rows are bad"),
        ([], ["missing.jsonl"], "missing.jsonl does not exist"),
        ([PRODUCTS[0]], ["--max-reject-share", "7"], "max_reject_share is 7"),
    ],
)
def test_errors_are_one_line_and_a_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    rows: list[Any],
    arguments: list[str],
    message: str,
) -> None:
    source = write_jsonl(tmp_path / "p.jsonl", rows)
    assert run(monkeypatch, source, *arguments, "--out", tmp_path / "out", "--quiet") == 2
    shown = capsys.readouterr()
    assert shown.err.count("\n") == 1
    assert shown.err.startswith("searchpipe: ")
    assert message in shown.err


def test_the_help_names_the_formats(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    assert ".parquet" in capsys.readouterr().out


def test_the_bar_shows_rows_and_rate(tmp_path: Path) -> None:
    from searchpipe.catalog import BuildProgress

    console = Console(record=True, width=120, force_terminal=True, file=(tmp_path / "terminal").open("w"))
    with console.file, index_module._Bar(console) as update:
        update(BuildProgress("read", 1234, 5, 0, 50, 100))
    text = console.export_text()
    assert "1,234 rows" in text
    assert "50%" in text
