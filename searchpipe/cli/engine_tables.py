"""What ``searchpipe engine`` prints for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchpipe.engine.manifest import EngineManifest
    from searchpipe.engine.registry import Entry, Verification
    from searchpipe.engine.store_state import Event


def print_built(facts: Mapping[str, Any], report: Path) -> None:
    """Print what a build checked in, and what it refused."""
    print(f"Checked in: {facts['name']} {facts['version']} ({facts['chosen']} was chosen)")
    print(f"  in {facts['folder']}")
    print(f"  signed by {facts['signed_by']}" if facts["signed_by"] else "  not signed")
    for doubt in facts["doubts"]:
        print(f"  allowed by the recipe, and failed: {doubt}")
    for precision, reasons in facts["refused"].items():
        print(f"Refused: {precision}")
        for reason in reasons:
            print(f"  {reason}")
    print(f"Report: {report}")
    print(f"Use it: searchpipe engine promote {facts['name']} {facts['version']}")


def print_figures(gates: Mapping[str, Any]) -> None:
    """Print what each precision is worth: quality, speed and memory, a row each."""
    from rich.console import Console
    from rich.table import Table

    from searchpipe.engine.figures import figures_of

    rows = figures_of(gates)
    if not rows:
        return
    table = Table(box=None, pad_edge=False)
    headings = ("precision", "", "nDCG@10", "loss", "AUC loss", "tau", "max diff", "batch", "ms", "faster")
    for heading in (*headings, "P50 ms", "P99 ms", "GPU MiB", "MiB", "failed"):
        left = heading in ("precision", "", "batch", "failed")
        table.add_column(heading, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(
            row.precision,
            row.verdict,
            _told(row.ndcg, ".4f"),
            _told(row.ndcg_loss, ".4f"),
            _told(row.auc_loss, ".4f"),
            _told(row.tau, ".3f"),
            _told(row.max_diff, ".3g"),
            row.shape or "-",
            _told(row.batch_ms, ".2f"),
            f"{row.speedup:.2f} x {row.against}" if row.speedup is not None else "-",
            _told(row.p50_ms, ".2f"),
            _told(row.p99_ms, ".2f"),
            _told(row.gpu_grown_mib, "+.0f"),
            _told(row.file_mib, ".1f"),
            ", ".join(row.failed) or "-",
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # a log has no width, and a folded table is hard to read
    console.print(table)
    print(
        f"Gated on {gates.get('device', 'cpu')}, {gates.get('queries', 0)} queries; losses are against fp32."
    )


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def print_list(entries: Sequence[Entry], store: Path) -> None:
    """Print one line a version."""
    if not entries:
        print(f"There is no engine in {store}; `searchpipe engine build RECIPE` makes one.")
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("name", "version", "promoted for", "chosen", "MB", "created", "signed by"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "MB" else "left")
    for entry in entries:
        made = entry.manifest
        promoted = ", ".join(entry.promoted_for) or "-"
        if made is None:
            table.add_row(entry.name, entry.version, promoted, "[red]damaged[/red]")
            continue
        size = f"{sum(file.bytes for file in made.files.values()) / 1e6:.1f}"
        signer = made.signature.key_id if made.signature else "-"
        created = made.created.replace("T", " ")[:16]
        table.add_row(entry.name, entry.version, promoted, made.chosen, size, created, signer)
    Console().print(table)
    print(f"Store: {store}")


def print_show(
    manifest: EngineManifest, history: Sequence[Event], here: Mapping[str, Any], folder: Path
) -> None:
    """Print one version, the engine's history and what this machine would use."""
    made = manifest
    print(f"{made.name} {made.version}: {made.task}, created {made.created} by searchpipe {made.searchpipe}")
    print(f"  in {folder}")
    print(f"  source   {made.model.name}, SHA-256 {made.model.sha256}")
    print(f"  recipe   {made.recipe.name}, SHA-256 {made.recipe.sha256}")
    print(f"  built on {made.built_on.line()}")
    print(f"  gated on {made.target}; chosen: {made.chosen}")
    if made.signature:
        until = f", until {made.signature.expires}" if made.signature.expires else ""
        print(f"  signed   {made.signature.signed} by {made.signature.key_id}{until}")
    for precision, variant in made.variants.items():
        files = " and ".join(filter(None, (variant.onnx, variant.plan, variant.cuda))) or "no file"
        print(f"  {precision:5} {'passed' if variant.passed else 'refused'}: {files}")
        for reason in variant.refused:
            print(f"        {reason}")
    for facts in made.files.values():
        print(f"  {facts.sha256}  {facts.bytes:>12,}  {facts.path}")
    print_figures(made.gates)
    print("History:")
    for event in history:
        where = f" for {event.target}, after {event.before or 'none'}" if event.target else ""
        who = f" by {event.by}" if event.by else ""
        print(f"  {event.number:>3}  {event.when}  {event.action} {', '.join(event.versions)}{where}{who}")
    print(f"This machine ({here['machine']}) uses: {here['uses'] or 'nothing'}")
    for reason in here["reasons"]:
        print(f"  {reason}")


def print_verified(found: Sequence[Verification], store: Path) -> None:
    """Print one line a version, and one a problem."""
    if not found:
        print(f"There is no engine in {store}.")
    for verification in found:
        state = "ok     " if verification.ok else "refused"
        print(f"{state} {verification.name} {verification.version}  {verification.signature}")
        for problem in verification.problems:
            print(f"        {problem}")
