"""An evaluation as a table for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from searchpipe.evaluate.compare import PAGE, Evaluation, Figure

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

NOTES = {
    "queries_without_labels": "queries have no label and were left out",
    "labels_without_query": "labelled queries are not in the query file and were left out",
    "unknown_products": "labels are of products that the catalog lacks: they count as not found",
    "repeated_labels": "labels were given twice with the same grade",
}


def quality_table(evaluation: Evaluation) -> RenderableType:
    """One row a variant: each metric's mean, interval, difference from the baseline and its corrected p."""
    from rich.table import Table

    settings = evaluation.settings
    table = Table(title=f"Quality over {len(evaluation.query_ids)} queries", title_justify="left")
    table.add_column("variant")
    for metric in settings.metrics.names:
        table.add_column(metric)
    table.add_column(f"unjudged@{PAGE}", justify="right")
    for variant in evaluation.variants:
        is_baseline = variant.name == evaluation.baseline
        table.add_row(
            f"{variant.name}\n[dim](baseline)[/]" if is_baseline else variant.name,
            *(_two_lines(figure) for figure in variant.figures.values()),
            _percent(variant.unjudged),
        )
    test = "randomisation test" if settings.test == "randomization" else "t test"
    table.caption = (
        f"+/-: against the baseline; * p < 0.05, ** p < 0.01 (paired {test}, Holm-corrected).\n"
        f"Below each mean: its {settings.level:.0%} bootstrap interval."
    )
    table.caption_justify = "left"
    return table


def diversity_table(evaluation: Evaluation) -> RenderableType | None:
    """One row a variant with its diversity figures; None if none were measured."""
    from rich.table import Table

    columns = next((list(variant.diversity) for variant in evaluation.variants if variant.diversity), None)
    if columns is None:
        return None
    table = Table(title=f"Diversity of the first {PAGE}", title_justify="left")
    table.add_column("variant")
    for column in columns:
        table.add_column(column, justify="right")
    for variant in evaluation.variants:
        table.add_row(variant.name, *(_number(variant.diversity[column], 3) for column in columns))
    return table


def markdown_table(evaluation: Evaluation) -> str:
    """Format the means and differences as a Markdown table, for a README."""
    metrics = evaluation.settings.metrics.names
    diversity = list(evaluation.variants[0].diversity)
    header = ["variant", *metrics, *diversity]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for variant in evaluation.variants:
        cells = [variant.name]
        for metric in metrics:
            figure = variant.figures[metric]
            against = _against(figure)
            cells.append(_number(figure.mean, 3) + (f" ({against})" if against else ""))
        cells += [_number(variant.diversity[name], 3) for name in diversity]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print both tables and what was noted about the files."""
    console.print(quality_table(evaluation))
    diversity = diversity_table(evaluation)
    if diversity is not None:
        console.print(diversity)
    for note, count in evaluation.notes.items():
        if count:
            console.print(f"{count:,} {NOTES.get(note, note)}", style="yellow", markup=False)


def _two_lines(figure: Figure) -> str:
    mean = f"{_number(figure.mean, 3)} {_against(figure)}".rstrip()
    return f"{mean}\n[dim]{_number(figure.low, 3)}-{_number(figure.high, 3)}[/]"


def _against(figure: Figure) -> str:
    against = figure.comparison
    if against is None:
        return ""
    stars = "**" if against.p_holm < 0.01 else "*" if against.p_holm < 0.05 else ""
    return f"{against.difference:+.3f}{stars}"


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0%}"
