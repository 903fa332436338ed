"""``searchpipe evaluate``: ranking quality on labelled queries, variant by variant."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchpipe.errors import CatalogError, ConfigError

if TYPE_CHECKING:
    from searchpipe.evaluate import Evaluation
    from searchpipe.evaluate.compare import Progress


def evaluate_command(
    snapshot: Annotated[Path, typer.Option("--snapshot", "-s", help="Folder that `searchpipe index` wrote.")],
    queries: Annotated[
        Path, typer.Option("--queries", help="JSON lines (id, text) or tab-separated; may be .gz.")
    ],
    qrels: Annotated[
        Path, typer.Option("--qrels", help="Tab-separated query, product, grade, or TREC; may be .gz.")
    ],
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Also write everything, per query too, as JSON."),
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(
            "--variants",
            help="Some of lexical,dense,fused,prerank,cross-encoder,diversity. [default: all]",
        ),
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Variant the others are compared with. [default: fused]")
    ] = None,
    gains: Annotated[
        str, typer.Option("--gains", help="Gain of each grade in nDCG.")
    ] = "3=1,2=0.1,1=0.01,0=0",
    relevant: Annotated[int, typer.Option("--relevant", help="Least grade that recall and MRR count.")] = 2,
    test: Annotated[str, typer.Option("--test", help="Paired test: randomization or t.")] = "randomization",
    seed: Annotated[int, typer.Option("--seed", help="Of the test and of the intervals.")] = 0,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    config: Annotated[Path | None, typer.Option("--config", "-c", help="TOML configuration.")] = None,
) -> None:
    """Compare the pipeline with some of its stages switched off on labelled queries, without a time limit.

    Prints nDCG@10, recall@100 and MRR@10 with bootstrap intervals and Holm-corrected paired
    significance against the baseline, and how diverse the first 10 are.
    """
    from rich.console import Console

    from searchpipe.evaluate import EvaluationSettings, MetricSettings
    from searchpipe.evaluate.significance import check_test
    from searchpipe.evaluate.table import markdown_table, print_evaluation

    settings = EvaluationSettings(
        metrics=MetricSettings(gains=parse_gains(gains), relevant_grade=relevant),
        test=check_test(test),
        seed=seed,
    )
    names = None if variants is None else [name.strip() for name in variants.split(",") if name.strip()]
    errors = Console(stderr=True)
    evaluation, content = run_evaluation(
        snapshot,
        queries,
        qrels,
        config=config,
        names=names,
        baseline=baseline,
        settings=settings,
        console=errors,
    )
    if markdown:
        typer.echo(markdown_table(evaluation))
    else:
        print_evaluation(evaluation, Console())
    for what, count in content["degradations"].items():
        errors.print(f"{count} queries gave something up: {what}", style="yellow", markup=False)
    # Last, so that a full disk does not cost the minutes that the table took.
    if json_file is not None:
        write_json(json_file, content)


def run_evaluation(
    snapshot: Path,
    queries: Path,
    qrels: Path,
    *,
    config: Any = None,
    names: list[str] | None = None,
    baseline: str | None = None,
    settings: Any = None,
    console: Any = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Evaluate a snapshot; the command and ``benchmarks.esci`` both go through here.

    Args:
        snapshot: the folder that ``searchpipe index`` wrote.
        queries: see :func:`searchpipe.evaluate.load_labelled_queries`.
        qrels: likewise.
        config: whatever :func:`searchpipe.config.load_config` takes.
        names: variants; None for all.
        baseline: None for ``fused``, or the first variant where that is not among them.
        settings: :class:`searchpipe.evaluate.EvaluationSettings` or None.
        console: rich console for progress bars; None for none.

    Returns:
        The evaluation, and its JSON-ready form with the snapshot, the versions and what was degraded.

    """
    from searchpipe import __version__
    from searchpipe.catalog.snapshot import Snapshot
    from searchpipe.config import load_config
    from searchpipe.evaluate import evaluate_variants, load_labelled_queries
    from searchpipe.evaluate.metrics import import_ir_measures
    from searchpipe.evaluate.variants import SnapshotFacts, variant_rankers

    import_ir_measures()
    loaded = load_config(config)
    with Snapshot.open(snapshot) as opened:
        facts = SnapshotFacts(opened)
        labels = load_labelled_queries(queries, qrels, known=facts.knows)
        with (
            variant_rankers(opened, loaded, names) as variants,
            _ProgressBars(console, list(variants.rankers)) as tell,
        ):
            if baseline is None and "fused" in variants.rankers:
                baseline = "fused"
            evaluation = evaluate_variants(
                variants.rankers, labels, settings=settings, baseline=baseline, facts=facts, progress=tell
            )
            content = {
                "snapshot": opened.version,
                "products": opened.count,
                "searchpipe": __version__,
                **evaluation.as_dict(),
                "degradations": dict(variants.degradations),
            }
    return evaluation, content


def parse_gains(text: str) -> dict[int, float]:
    """Read ``"3=1,2=0.1"`` as ``{3: 1.0, 2: 0.1}``.

    Raises:
        ConfigError: a part that is not ``grade=gain``, or a grade named twice.

    """
    gains: dict[int, float] = {}
    for part in text.split(","):
        grade, equals, gain = part.partition("=")
        try:
            number, value = int(grade), float(gain)
        except ValueError:
            equals = ""
        if not equals or number in gains:
            raise ConfigError(
                f"--gains {text!r}: {part!r} is not a grade of its own and its gain, such as 3=1."
            )
        gains[number] = value
    return gains


def write_json(path: Path, content: object) -> None:
    """Write ``content`` to ``path`` whole or not at all.

    Raises:
        CatalogError: the file cannot be written.

    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise CatalogError(f"Cannot write {path}: {error.strerror}.") from error


class _ProgressBars:
    """A progress bar per variant with rate and time left, on ``console``; none without a console."""

    def __init__(self, console: Any, names: list[str]) -> None:
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        if console is None:
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("queries"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._tasks = {name: self._bars.add_task(name, total=None) for name in names}

    def __enter__(self) -> Progress | None:
        if self._bars is None:
            return None
        self._bars.start()
        return self._tell

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def _tell(self, variant: str, done: int, total: int) -> None:
        self._bars.update(self._tasks[variant], completed=done, total=total)
