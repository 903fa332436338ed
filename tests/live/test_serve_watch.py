"""``searchpipe serve --watch`` takes on what is published, at SIGHUP at once."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from searchpipe.catalog import build_snapshot
from searchpipe.config import load_config
from tests.conftest import write_toml
from tests.serve.test_process import get, server, wait_ready


@pytest.mark.parametrize("poll_s", [0.05, 3600.0], ids=["polled", "hangup"])
def test_a_new_snapshot_is_served(world: Any, tmp_path: Path, poll_s: float, monkeypatch: Any) -> None:
    monkeypatch.setenv("SEARCHPIPE_STORE", str(tmp_path / "store"))
    folder = tmp_path / "catalog"
    settings = load_config(world.config)
    build_snapshot(world.files.products, folder, settings.index, models=settings.models)
    live = {"poll_s": poll_s, "shadow": {"share": 0.0}, "check": {"latency_slack_ms": 60_000.0}}
    file = write_toml(tmp_path / "searchpipe.toml", {**world.config, "live": live})
    arguments = ("--snapshot", folder, "--config", file, "--port", 0, "--watch")
    with server("searchpipe", "serve", *arguments) as (process, address):
        wait_ready(address)
        before = get(f"{address}/search", {"query": world.queries[0], "budget_ms": 5000})[1]
        build_snapshot(world.files.products, folder, settings.index, models=settings.models)
        new = (folder / "CURRENT").read_text().strip()
        if poll_s > 1:
            process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 60
        page: dict[str, Any] = {}
        while page.get("snapshot") != new:
            assert time.monotonic() < end
            status, page = get(f"{address}/search", {"query": world.queries[0], "budget_ms": 5000})
            assert status == 200
            time.sleep(0.02)
        assert before["snapshot"] != new
        assert before["engine"] == page["engine"]
        assert get(f"{address}/about")[1]["snapshot"] == new
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    events = [json.loads(line)["event"] for line in errors.splitlines()]
    assert "version switched" in events
    [state] = [Path(at) for at, _, names in os.walk(tmp_path / "store") if "last_good.json" in names]
    assert json.loads((state / "last_good.json").read_text())["good"]
