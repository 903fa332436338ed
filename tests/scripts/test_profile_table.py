"""The profile table's sums, against small traces whose numbers are known by hand."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.profile_sources import Event, TraceError, read_ncu_csv, read_timeline
from scripts.profile_table import common, figures, length, main, overview, render, union, within

ROOT = Path(__file__).resolve().parents[2]
intervals = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1])), max_size=12
)


def ticks(some):
    return {tick for start, end in some for tick in range(start, end)}


@given(intervals)
def test_a_union_covers_the_same_time_without_overlap(some):
    merged = union(some)
    assert ticks(merged) == ticks(some)
    assert length(merged) == len(ticks(some))
    assert all(before[1] < after[0] for before, after in pairwise(merged))


@given(intervals, intervals)
def test_common_time_is_that_of_both(left, right):
    assert common(union(left), union(right)) == len(ticks(left) & ticks(right))


@pytest.fixture
def export(tmp_path):
    """An export: two kernels with 20 us between them, a third beside a copy, in us from 1000."""
    path = tmp_path / "report.sqlite"
    base = sqlite3.connect(path)
    base.executescript(
        """
        CREATE TABLE StringIds (id INTEGER, value TEXT);
        INSERT INTO StringIds VALUES (1, 'gemm'), (2, 'softmax'), (3, 'stage:score');
        CREATE TABLE CUPTI_ACTIVITY_KIND_KERNEL
          (start INTEGER, end INTEGER, streamId INTEGER, shortName INTEGER);
        INSERT INTO CUPTI_ACTIVITY_KIND_KERNEL VALUES (1000000, 1040000, 7, 1), (1060000, 1070000, 7, 2),
                                                      (1070000, 1100000, 7, 1);
        CREATE TABLE CUPTI_ACTIVITY_KIND_MEMCPY
          (start INTEGER, end INTEGER, streamId INTEGER, bytes INTEGER, copyKind INTEGER);
        INSERT INTO CUPTI_ACTIVITY_KIND_MEMCPY VALUES (1080000, 1100000, 8, 1048576, 1),
                                                      (1100000, 1120000, 9, 2048, 2);
        CREATE TABLE NVTX_EVENTS (start INTEGER, end INTEGER, text TEXT, textId INTEGER);
        INSERT INTO NVTX_EVENTS VALUES (1050000, 1090000, NULL, 3), (1000000, NULL, 'open', NULL);
        """
    )
    base.commit()
    base.close()
    return path


def test_the_sums_of_an_export(export):
    timeline = read_timeline(export)
    seen = overview(timeline.events)
    assert seen.span == pytest.approx(120.0)
    assert seen.kernel_share == pytest.approx(80 / 120)
    assert seen.busy_share == pytest.approx(100 / 120)
    assert seen.copy_time == pytest.approx(40.0)
    assert seen.copy_overlap == pytest.approx(0.5)
    assert seen.gaps == pytest.approx((20.0,))
    assert seen.long_gaps == pytest.approx([20.0])
    text = render(timeline, 10)
    for part in ("66.7%", "83.3%", "gemm", "softmax", "host to device, 1.00 MiB", "stream 8", "stage:score"):
        assert part in text
    assert text.index("gemm") < text.index("softmax")


def test_a_range_narrows_the_table_to_what_began_inside(export):
    inside = within(read_timeline(export), "stage:")
    assert [event.name for event in inside.events] == ["softmax", "gemm", "host to device"]
    with pytest.raises(TraceError, match="there are: stage:score"):
        within(read_timeline(export), "nothing")


def test_a_graph_that_was_not_split_into_nodes_counts_as_one(tmp_path):
    path = tmp_path / "graph.sqlite"
    base = sqlite3.connect(path)
    base.execute("CREATE TABLE CUPTI_ACTIVITY_KIND_GRAPH_TRACE (start INTEGER, end INTEGER, graphId INTEGER)")
    base.execute("INSERT INTO CUPTI_ACTIVITY_KIND_GRAPH_TRACE VALUES (10, 20, 5)")
    base.commit()
    base.close()
    assert read_timeline(path).events == [Event("kernel", "graph 5", 10, 20, 0)]


def test_a_chrome_trace_gives_the_same_kinds(tmp_path):
    path = tmp_path / "trace.json"
    events = [
        {"ph": "X", "cat": "kernel", "name": "gemm", "ts": 1.0, "dur": 4.0, "args": {"stream": 7}},
        {"ph": "X", "cat": "gpu_memcpy", "name": "Memcpy HtoD (Pinned -> Device)", "ts": 2.0, "dur": 2.0,
         "args": {"stream": 8, "bytes": 100}},
        {"ph": "X", "cat": "user_annotation", "name": "stage:score", "ts": 0.0, "dur": 9.0},
        {"ph": "X", "cat": "cpu_op", "name": "ignored", "ts": 0.0, "dur": 900.0},
        {"ph": "M", "name": "process_name"},
    ]  # fmt: skip
    path.write_text(json.dumps({"traceEvents": events}))
    timeline = read_timeline(path)
    assert timeline.events == [
        Event("kernel", "gemm", 1000, 5000, 7),
        Event("copy", "host to device", 2000, 4000, 8, 100),
    ]
    assert overview(timeline.events).copy_overlap == 1.0
    assert timeline.ranges[0].name == "stage:score"
    assert figures(timeline)["gpu_busy_share"] == 1.0


NCU = """==PROF== Connected to process 12
the program's own output
"ID","Process ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","12","void gemm<float>(int, int)","gpu__time_duration.sum","usecond","12.5"
"0","12","void gemm<float>(int, int)","sm__throughput.avg.pct","%","80.00"
"1","12","void gemm<float>(int, int)","gpu__time_duration.sum","nsecond","7,500"
"1","12","void gemm<float>(int, int)","sm__throughput.avg.pct","%","40.00"
"2","12","softmax(float*)","gpu__time_duration.sum","nsecond","1,000"
"2","12","softmax(float*)","note","","n/a"
"""


def test_the_metrics_of_nsight_compute_are_grouped_by_kernel(tmp_path, capsys):
    path = tmp_path / "kernels.csv"
    path.write_text(NCU)
    kernels = read_ncu_csv(path)
    assert [kernel.metrics["gpu__time_duration.sum"] for kernel in kernels] == [12500.0, 7500.0, 1000.0]
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if line.startswith("gemm<float>"))
    assert row.split()[1:] == ["2", "20.0", "95.2%", "60.0"]
    assert text.index("gemm") < text.index("softmax")


def test_what_is_no_trace_is_said(tmp_path, capsys):
    for name, content in (("a.json", "{}"), ("b.json", "[]"), ("c.json", "text"), ("d.csv", "text")):
        path = tmp_path / name
        path.write_text(content)
        assert main([str(path)]) == 1
        assert name in capsys.readouterr().err
    broken = tmp_path / "e.sqlite"
    broken.write_bytes(b"SQLite format 3\0 and then nothing of the kind")
    assert main([str(broken)]) == 1
    assert main([str(tmp_path / "absent.sqlite")]) == 1


def test_the_numbers_can_be_written(export, tmp_path, capsys):
    assert main([str(export), "--json", str(tmp_path / "f.json"), "--range", "stage:score"]) == 0
    assert json.loads((tmp_path / "f.json").read_text())["copy_overlap_share"] == pytest.approx(1.0)


def run_script(name, *arguments, path):
    environment = {**os.environ, "PATH": path, "PYTHON": sys.executable}
    command = ["/bin/bash", str(ROOT / "scripts" / name), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


def bare_path(tmp_path, *, fakes=None):
    """A PATH with the usual tools, without any profiler, and with what a test puts there."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool, text in (fakes or {}).items():
        (folder / tool).write_text(f"#!/bin/bash\n{text}\n")
        (folder / tool).chmod(stat.S_IRWXU)
    for tool in ("dirname", "basename", "mkdir", "cat", "ls", "tail", "sed", "cp"):
        found = next(Path(part, tool) for part in ("/usr/bin", "/bin") if Path(part, tool).exists())
        (folder / tool).symlink_to(found)
    return str(folder)


def test_the_scripts_run_the_profiler_and_end_in_the_table(tmp_path, export):
    nsys = f'if [ "$1" = export ]; then for a in "$@"; do case $a in --output=*) cp {export} "${{a#--output=}}";; esac; done; fi; echo "nsys $*"'  # noqa: E501
    path = bare_path(tmp_path, fakes={"nsys": nsys})
    done = run_script(
        "nsys_profile.sh", "--out", str(tmp_path / "o"), "--top", "3", "--", "program", path=path
    )
    assert done.returncode == 0, done.stderr
    assert "--cuda-graph-trace=node" in done.stdout
    assert "GPU busy (kernels)" in done.stdout
    assert (tmp_path / "o" / "figures.json").exists()


def test_ncu_leaves_the_clocks_alone(tmp_path):
    (tmp_path / "source.csv").write_text(NCU)
    ncu = f'while [ $# -gt 0 ]; do [ "$1" = --log-file ] && cp {tmp_path}/source.csv "$2"; all="$all $1"; shift; done; echo "$all"'  # noqa: E501
    path = bare_path(tmp_path, fakes={"ncu": ncu})
    done = run_script(
        "ncu_kernels.sh", "--out", str(tmp_path / "o"), "--kernel", "gemm.*", "--", "program", path=path
    )
    assert done.returncode == 0, done.stderr
    assert "--clock-control none" in done.stdout
    assert "regex:gemm.*" in done.stdout
    assert "gemm<float>" in done.stdout


@pytest.mark.parametrize(("script", "tool"), [("nsys_profile.sh", "nsys"), ("ncu_kernels.sh", "ncu")])
def test_without_the_profiler_the_scripts_say_how_to_get_it(tmp_path, script, tool):
    if any(Path("/").glob(f"opt/nvidia/nsight-*/*/{tool}")) or any(
        Path("/").glob(f"usr/local/cuda*/bin/{tool}")
    ):
        pytest.skip(f"{tool} is installed outside of the PATH")
    done = run_script(script, "--out", str(tmp_path / "o"), "--", "program", path=bare_path(tmp_path))
    assert done.returncode == 3
    assert f"{tool} was not found. To get it" in done.stderr


@pytest.mark.parametrize("script", ["nsys_profile.sh", "ncu_kernels.sh"])
def test_the_scripts_explain_themselves(tmp_path, script):
    path = bare_path(tmp_path)
    assert "COMMAND" in run_script(script, "--wrong", path=path).stderr
    assert "after --" in run_script(script, path=path).stderr
