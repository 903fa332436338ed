"""The server as a process: it starts, is asked, and ends by a signal."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def get(url: str, body: Any = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as reply:
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@contextlib.contextmanager
def server(*arguments: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process that prints its address; killed if the test fails."""
    command = [sys.executable, "-m", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()[1]
            yield process, line.split()[-1]
        finally:
            process.kill()


def wait_ready(address: str) -> None:
    end = time.monotonic() + 60
    while get(f"{address}/health/ready")[0] != 200:
        assert time.monotonic() < end
        time.sleep(0.02)


def wait_for(file: Path) -> None:
    end = time.monotonic() + 60
    while not file.exists():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_command_serves_and_ends_well(world: Any) -> None:
    arguments = ("--snapshot", world.snapshot, "--config", world.config_file, "--port", 0, "--sample", 1)
    with server("searchpipe", "serve", *arguments) as (process, address):
        wait_ready(address)
        status, page = get(f"{address}/search", {"query": world.queries[0], "budget_ms": 5000})
        assert status == 200
        assert page["hits"]
        assert get(f"{address}/search", {"query": "x", "filters": {"nope": 1}})[0] == 400
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    events = [json.loads(line) for line in errors.splitlines()]
    [query] = [event for event in events if event["event"] == "query"]
    assert query["query"] == page["query"]
    assert query["stages"].keys() == {span["stage"] for span in page["trace"]["spans"]}
    [refused] = [event for event in events if event["event"] == "refused"]
    assert refused["code"] == "bad_filter"


def test_a_snapshot_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "searchpipe",
            "serve",
            "-s",
            tmp_path / "none",
            "--port",
            "0",
            "--log",
            "none",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("searchpipe: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "searchpipe", "serve", "-s", tmp_path, "--port", str(port)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.returncode == 2
    assert f"port {port}" in done.stderr


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_what_is_in_flight_finish(snapshot_folder: Path, tmp_path: Path, sign: Any) -> None:
    go = tmp_path / "go"
    with server("tests.serve.held_server", snapshot_folder, go, 0) as (process, address):
        wait_ready(address)
        replies: list[tuple[int, Any]] = []
        body = {"query": "wait", "budget_ms": 10_000}
        asking = threading.Thread(target=lambda: replies.append(get(f"{address}/search", body)))
        asking.start()
        wait_for(go.with_suffix(".entered"))
        process.send_signal(sign)
        end = time.monotonic() + 30
        with contextlib.suppress(OSError):  # refused: it takes no more connections
            while time.monotonic() < end:
                get(f"{address}/health/live")
                time.sleep(0.02)
        assert time.monotonic() < end
        assert not replies
        assert process.poll() is None
        go.touch()
        asking.join(30)
        assert replies[0][0] == 200
        assert process.wait(30) == 0


def test_during_the_delay_it_answers_but_is_not_ready(snapshot_folder: Path, tmp_path: Path) -> None:
    with server("tests.serve.held_server", snapshot_folder, tmp_path / "go", 3600) as (process, address):
        wait_ready(address)
        process.send_signal(signal.SIGTERM)
        end = time.monotonic() + 30
        while get(f"{address}/health/ready") != (503, {"status": "draining"}):
            assert time.monotonic() < end
            time.sleep(0.02)
        assert get(f"{address}/search", {"query": "shoes"})[0] == 200
        process.send_signal(signal.SIGTERM)  # the second one ends the delay
        assert process.wait(30) == 0
