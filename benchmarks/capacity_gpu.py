"""How many queries a second does one GPU hold at a P99 of 30 ms, and how many do others hold there?

    python -m benchmarks.capacity_gpu [--json FILE] [--systems NAMES] [--sites DIR] [--products N]

The same work for every system, over the same 1,000,000 products, with the same queries and Poisson
arrivals: encode the query, the 256 nearest documents, score the 256 pairs (12 layers, at most 128
tokens), sort. Lexical recall is given to nobody. One system after the other, each in a process of its own
that also puts the load on it. Beside the comparison stand two rows of our own: ``searchpipe_full`` is our
whole pipeline, and ``searchpipe_budget`` does the same work as the others within a budget a query (0.85 of
the P99), so that under load it scores fewer candidates instead of queueing. Its capacity is the highest rate
at which the P99 holds, no query fails, and on average at least 90% of the candidates are scored.

All 256 pairs for everyone and a GPU that is busy 90% of the time exclude each other at this P99. With Poisson
arrivals at the rate r and a fixed service D (M/D/1, load u = rD < 1), the wait W has
``P(W <= t) = (1 - u) * sum(k = 0 .. floor(t/D)) (-r(t - kD))^k / k! * exp(r(t - kD))`` (Erlang 1909;
Crommelin 1932, "Delay probability formulas when the holding times are constant"), whose P99 is 6.5
services at a load of 70%, 10.4 at 80% and 21.9 at 90%. With D = 3.5 ms of the GPU for 256 pairs and 1.9 ms
for the rest, a query's P99 is 28, 42 and 82 ms. How busy the GPU can be is ``saturated_gpu_busy_share``.

DIR/NAME, where it exists, holds the packages of the system NAME, which go before the others, or is a
virtual environment for it: infinity-emb and nvidia-pytriton want older versions of what the others use.
What does not run is listed with the reason.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from benchmarks.capacity_corpus import write_texts
from benchmarks.capacity_models import cross_encoder_folder, encoder_folder
from benchmarks.capacity_policy import Timing
from benchmarks.capacity_report import line_of, record
from benchmarks.capacity_systems import BUDGET, FULL, OURS, PEERS, Job, Result
from benchmarks.gpu_data import esci_folder
from benchmarks.gpu_pipeline import DEPTH, build_catalog, generated, query_texts
from benchmarks.report import Report
from searchpipe.catalog.snapshot import Snapshot
from searchpipe.device.facts import driver_facts
from searchpipe.files import write_json

P99_MS = 30.0
BUDGET_SHARE = 0.85
SITES = "SEARCHPIPE_PEER_SITES"
_LINES = 12  # of the log of a system that failed


def main() -> None:
    """Measure and report."""
    title = "How many queries a second does one GPU hold at a P99 of 30 ms, and how many do others?"
    args = _arguments(title)
    facts = driver_facts()
    if not args.cpu and not facts.available:
        raise SystemExit(f"This benchmark needs a GPU: {facts.reason}. --cpu rehearses it without one.")
    packages = ("onnxruntime-gpu", "faiss-gpu-cuvs", "torch", "transformers", "sentence-transformers")
    report = Report.from_args("capacity_gpu", title, packages=packages, args=args)
    report.note(facts.devices[0].line() if facts.available and not args.cpu else "Rehearsal on the CPU.")
    with ExitStack() as stack:
        folder = args.keep or Path(stack.enter_context(TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        job = _prepared(args)
        results: dict[str, Result] = {}
        for name in args.systems:
            found = run_system(msgspec.structs.replace(job, system=name), folder, args)
            if isinstance(found, Result):
                results[name] = found
                print(line_of(found), flush=True)
            else:
                report.note(f"{name} did not run: {found}")
                print(f"{name} did not run: {found}", flush=True)
        record(report, results, job)
    report.finish()


def _arguments(title: str) -> argparse.Namespace:
    everything = (
        OURS,
        *PEERS,
        BUDGET,
        FULL,
    )  # in this order: the last are the first to go where time is short
    parser = Report.parser("capacity_gpu", title)
    parser.add_argument("--products", type=int, default=1_000_000)
    parser.add_argument("--candidates", type=int, default=DEPTH)
    parser.add_argument("--p99-ms", type=float, default=P99_MS)
    parser.add_argument("--budget-ms", type=float, help=f"of {BUDGET} (default: 0.85 of --p99-ms)")
    parser.add_argument(
        "--systems",
        type=lambda text: text.split(","),
        default=list(everything),
        help=f"comma-separated, of {','.join(everything)} (default: all)",
    )
    parser.add_argument("--sites", type=Path, default=os.environ.get(SITES), help=f"default: ${SITES}")
    parser.add_argument("--lanes", type=int, default=1)
    parser.add_argument("--slots", type=int, default=3)
    parser.add_argument("--run-s", type=float, default=2.5, help="of one run (default: %(default)s)")
    parser.add_argument("--confirm-s", type=float, default=12.0, help="of each longer run")
    parser.add_argument("--limit-s", type=float, default=70.0, help="of one system's search")
    parser.add_argument("--system-s", type=float, default=170.0, help="of one system, opening included")
    parser.add_argument("--keep", type=Path, help="folder for the result and log of each system")
    parser.add_argument("--cpu", action="store_true", help="rehearse without a GPU")
    args = parser.parse_args()
    unknown = [name for name in args.systems if name not in everything]
    if unknown:
        parser.error(f"there is no system {unknown[0]!r}; there are {', '.join(everything)}")
    return args


def _prepared(args: argparse.Namespace) -> Job:
    """Catalog, texts and models, made where they are missing."""
    begin = time.perf_counter()
    catalog = build_catalog(args.products, args.seed)
    sources = [esci_folder() / "products.jsonl.gz", generated(args.products, args.seed) / "products.jsonl"]
    print(f"catalog ready after {time.perf_counter() - begin:.1f} s", flush=True)
    with Snapshot.open(catalog, verify=False) as snapshot:
        texts = write_texts(snapshot, sources, catalog.with_name(f"{catalog.name}-texts"))
    print(f"texts ready after {time.perf_counter() - begin:.1f} s", flush=True)
    job = Job(
        system=OURS,
        catalog=str(catalog),
        texts=str(texts),
        encoder=str(encoder_folder()),
        cross_encoder=str(cross_encoder_folder()),
        queries=query_texts(catalog),
        candidates=args.candidates,
        p99_ms=args.p99_ms,
        seed=args.seed,
        gpu=not args.cpu,
        timing=Timing(run_s=args.run_s, confirm_s=args.confirm_s, limit_s=args.limit_s),
        out="",
        lanes=args.lanes,
        slots=args.slots,
        budget_ms=args.budget_ms or BUDGET_SHARE * args.p99_ms,
    )
    print(f"models ready after {time.perf_counter() - begin:.1f} s", flush=True)
    return job


def run_system(job: Job, folder: Path, args: argparse.Namespace) -> Result | str:
    """Measure one system in a process of its own; the reason, if it did not come to an end."""
    out, log = folder / f"{job.system}.json", folder / f"{job.system}.log"
    out.unlink(missing_ok=True)
    path = folder / f"{job.system}.job.json"
    write_json(path, msgspec.to_builtins(msgspec.structs.replace(job, out=str(out))))
    command = [
        interpreter(job.system, args.sites),
        "-X",
        "faulthandler",
        "-m",
        "benchmarks.capacity_systems",
        str(path),
    ]
    print(f"{job.system} ...", flush=True)
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment(job.system, args.sites),
            start_new_session=True,
        )
        try:
            code = process.wait(args.system_s)
            reason = f"its process ended with {code}"
        except subprocess.TimeoutExpired:
            reason = f"it was not done after {args.system_s:g} s"
        finally:
            _end(process)
    path.unlink()
    if out.exists():
        return msgspec.json.decode(out.read_bytes(), type=Result)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return f"{reason}: " + " | ".join(line.strip() for line in lines[-_LINES:] if line.strip())


def interpreter(system: str, sites: Path | None) -> str:
    """The system's own virtual environment, if it has one, else this process's interpreter."""
    own = Path(sites).absolute() / system / "bin" / "python" if sites is not None else None
    return str(own) if own is not None and own.exists() else sys.executable


def environment(system: str, sites: Path | None) -> dict[str, str]:
    """Variables of a system's process: its own packages first, no look-ups in a hub, no usage reports."""
    variables = dict(os.environ)
    variables |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "true",
        "DO_NOT_TRACK": "1",
        "INFINITY_ANONYMOUS_USAGE_STATS": "0",
        "PYTHONUNBUFFERED": "1",
    }
    own = Path(sites).absolute() / system if sites is not None else None
    if own is not None and own.is_dir():
        # Of a virtual environment too: PYTHONPATH would go before its packages.
        own = next((own / "lib").glob("python3*/site-packages"), own)
        before = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = f"{own}:{before}" if before else str(own)
    return variables


def _end(process: subprocess.Popen[bytes]) -> None:
    """End what a system left running, servers of its own too."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    main()
