"""The report of a build: one HTML page with its plots inside, and the same as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

import msgspec

from searchpipe.engine.report_data import Report, gather
from searchpipe.engine.report_sections import (
    calibration_section,
    facts_section,
    gates_section,
    plan_section,
    profile_section,
    sensitivity_section,
    speed_section,
    strata_section,
    variants_section,
)
from searchpipe.engine.step import Inputs, StepOutput
from searchpipe.files import published, write_json
from searchpipe.report.html import Section, facts, page


def write_report(folder: Path, done: Mapping[str, StepOutput], inputs: Inputs) -> Path:
    """Write ``report.html`` and ``report.json`` into ``folder``; return the page.

    Args:
        folder: exists.
        done: what the steps left; of a build that stopped early, those that finished.
        inputs: of the build.

    Raises:
        OSError: the files cannot be written.
    """
    report = gather(done, inputs)
    write_json(folder / "report.json", msgspec.to_builtins(report))
    path = folder / "report.html"
    with published(path) as file:
        file.write(render(report))
    return path


def render(report: Report) -> str:
    """The page of a report."""
    chosen = report.gates.chosen
    outcome = f"{chosen} is used" if chosen else "refused: no precision may be used"
    lead = (
        f"<p><strong>{escape(outcome)}.</strong> Built {escape(report.created)} by searchpipe "
        f"{escape(report.searchpipe)} for the task {escape(report.task)}.</p>"
    )
    sections = [
        variants_section(report),
        gates_section(report),
        strata_section(report),
        speed_section(report),
        profile_section(report),
        calibration_section(report.steps.get("calibrate", {})),
        sensitivity_section(report.steps.get("sensitivity", {})),
        plan_section(report.steps.get("plan", {})),
        facts_section("source", "Source and export", report.steps, ("source", "export", "convert")),
        Section("recipe", "Recipe and inputs", [facts(report.inputs), facts(report.recipe)]),
        Section("machine", "Machine and versions", [facts(report.machine), facts(report.versions)]),
    ]
    return page(f"Engine report: {report.name}", lead, sections)
