"""The commands on a small real catalog: in process, over HTTP, compared, and its capacity."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jsonschema
import pytest

from searchpipe.demo import write_demo
from searchpipe.pipeline import Pipeline
from searchpipe.replay.make_schema import schema_file
from tests.fakes.catalogs import build

CONFIG = """
[pipeline]
stages = ["recall", "prerank", "diversify", "page"]
[recall]
sources = ["lexical"]
"""


@dataclass(frozen=True)
class Shop:
    snapshot: Path
    config: Path
    log: Path
    broken_log: Path


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    files = write_demo(folder / "demo", products=300, queries=400, labelled=0, log_span_s=4.0)
    build(files.products, folder / "snapshot")
    config = folder / "searchpipe.toml"
    config.write_text(CONFIG)
    lines = files.query_log.read_text().splitlines()
    # The products clicked are what the shopper wanted: labels for nDCG.
    rows = [json.loads(line) for line in lines]
    for row in rows:
        row["labels"] = dict.fromkeys(row["clicks"], 1)
    lines = [json.dumps(row) for row in rows]
    for number in range(50, 400, 100):
        lines[number] = lines[number][:30]
    broken = folder / "broken.jsonl"
    broken.write_text("\n".join(lines) + "\n")
    return Shop(folder / "snapshot", config, files.query_log, broken)


def searchpipe(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    from searchpipe import cli

    monkeypatch.setattr(sys, "argv", ["searchpipe", *map(str, arguments)])
    cli.app.registered_commands.clear()
    cli.app.registered_groups.clear()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    shown = capsys.readouterr()
    code = ended.value.code
    return int(code or 0), shown.out, shown.err


def test_replay_of_a_log_with_broken_lines(shop, monkeypatch, capsys, tmp_path):  # type: ignore[no-untyped-def]
    arguments = ("replay", shop.broken_log, "-s", shop.snapshot, "-c", shop.config, "--speed", 4, "--json")
    code, out, err = searchpipe(monkeypatch, capsys, *arguments, "--out", tmp_path / "out", "--budget-ms", 0)
    assert code == 0, err
    report = json.loads(out)
    jsonschema.validate(report, json.loads(schema_file("report").read_text()))
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert "<svg" in (tmp_path / "out" / "report.html").read_text()
    assert (report["log"]["lines"], report["log"]["broken"]) == (400, 4)
    assert [line["line"] for line in report["log"]["first_broken"]] == [51, 151, 251, 351]
    assert report["whole"]["answered"] == 396
    assert sum(group["queries"] for group in report["strata"].values()) == 396
    assert report["whole"]["quality"]["clicked"] > 100
    assert 0 < report["whole"]["quality"]["ndcg_at_10"] <= 1
    assert {stage["stage"] for stage in report["stages"]} == {"recall", "prerank", "diversify", "page"}


def test_replay_for_people_and_its_limits(shop, monkeypatch, capsys):  # type: ignore[no-untyped-def]
    arguments = ("replay", shop.log, "-s", shop.snapshot, "-c", shop.config, "--callers", 2, "-q")
    code, out, err = searchpipe(monkeypatch, capsys, *arguments)
    assert code == 0, err
    assert "2 callers" in out
    assert "tail" in out
    code, _, err = searchpipe(monkeypatch, capsys, *arguments, "--max-p99-ms", "0.001")
    assert code == 1
    assert "over 0.001 ms" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "LOG", "-s", "SNAPSHOT", "--speed", "2", "--rate", "5"], "exclude each other"),
        (["replay", "LOG", "-s", "SNAPSHOT", "--ramp", "fast"], "--ramp"),
        (["replay", "LOG"], "snapshot or a URL"),
        (["replay", "nowhere.jsonl", "-s", "SNAPSHOT", "-c", "CONFIG"], "nowhere.jsonl"),
        (["replay", "BROKEN", "-s", "SNAPSHOT", "-c", "CONFIG", "--max-broken-share", "0.001"], "line 51"),
        (["replay", "LOG", "-s", "SNAPSHOT", "--max-in-flight", "0"], "max_in_flight"),
        (["compare", "nowhere", "x", "--log", "LOG"], "nowhere"),
        (["capacity", "LOG", "-s", "SNAPSHOT", "--p99-ms", "0"], "p99_ms"),
    ],
)
def test_mistakes_are_one_readable_line(shop, monkeypatch, capsys, arguments, message):  # type: ignore[no-untyped-def]
    names = {"LOG": shop.log, "SNAPSHOT": shop.snapshot, "CONFIG": shop.config, "BROKEN": shop.broken_log}
    code, _, err = searchpipe(monkeypatch, capsys, *(names.get(a, a) for a in arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err


@pytest.fixture
def service(shop: Shop) -> Iterator[str]:
    """A service of the standard library: what ``--url`` needs of one."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # header and body are two packets: else 40 ms a query

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            page = pipeline.search(
                asked["query"], asked.get("k", 10), asked.get("budget_ms"), asked.get("filters")
            )
            content = json.dumps(page.to_dict()).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with (
        Pipeline.open(shop.snapshot, shop.config) as pipeline,
        ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server,
    ):
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_over_http_the_quality_is_that_in_process(shop, service, monkeypatch, capsys):  # type: ignore[no-untyped-def]
    options = ("--callers", 1, "--json", "-q", "--budget-ms", 600_000)
    code, over_http, err = searchpipe(
        monkeypatch, capsys, "replay", shop.broken_log, "--url", service, *options
    )
    assert code == 0, err
    here = ("-s", shop.snapshot, "-c", shop.config)
    code, in_process, err = searchpipe(monkeypatch, capsys, "replay", shop.broken_log, *here, *options)
    assert code == 0, err
    first, second = json.loads(over_http), json.loads(in_process)
    assert first["whole"]["answered"] == second["whole"]["answered"] == 396
    assert first["whole"]["quality"] == second["whole"]["quality"]
    assert first["snapshots"] == second["snapshots"]
    assert [stage["stage"] for stage in first["stages"]] == [stage["stage"] for stage in second["stages"]]


def test_compare_two_configurations(shop, monkeypatch, capsys, tmp_path):  # type: ignore[no-untyped-def]
    shared = ("--log", shop.broken_log, "-s", shop.snapshot, "--queries", 100, "--budget-ms", 0, "-q")
    same = ("compare", shop.config, shop.config, *shared, "--min-rbo", 1, "--max-ndcg-loss", 0)
    code, out, err = searchpipe(monkeypatch, capsys, *same)
    assert code == 0, err + out
    assert "Overlap of the pages (RBO): 1.000" in out
    worse = ("compare", shop.config, f"{shop.config},prerank.weights={{lexical=-1.0}}", *shared)
    code, out, err = searchpipe(monkeypatch, capsys, *worse, "--min-rbo", 0.99, "--out", tmp_path, "--json")
    assert code == 1, err
    report = json.loads(out)
    jsonschema.validate(report, json.loads(schema_file("compare").read_text()))
    assert report["whole"]["ndcg_at_10"]["difference"] < 0
    assert report["changed"][0]["rbo"] < 0.9
    assert "only here" in (tmp_path / "compare.html").read_text()


def test_capacity_of_a_pipeline(shop, monkeypatch, capsys, tmp_path):  # type: ignore[no-untyped-def]
    search = ("--p99-ms", 600_000, "--start-rate", 20, "--max-rate", 40, "--seconds", 0.5, "--warm-up", 0.1)
    here = ("-s", shop.snapshot, "-c", shop.config, "--repeats", 1, "--out", tmp_path, "--json")
    code, out, err = searchpipe(monkeypatch, capsys, "capacity", shop.log, *here, *search)
    assert code == 0, err
    report = json.loads(out)
    jsonschema.validate(report, json.loads(schema_file("capacity").read_text()))
    assert report["capacity"]["rate"] == 40
    assert report["capacity"]["fails_at"] is None
    assert "holds" in err
    assert "<svg" in (tmp_path / "capacity.html").read_text()
