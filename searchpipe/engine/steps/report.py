"""report: one HTML page and one JSON file of everything that the steps before found out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchpipe.engine.report import write_report
from searchpipe.engine.step import Build, Inputs, StepOutput


class ReportStep:
    """Writes the report of a build, passed or refused; for one thread."""

    name = "report"
    needs: tuple[str, ...] = (
        "source",
        "export",
        "profile",
        "calibrate",
        "convert",
        "sensitivity",
        "plan",
        "gate",
    )

    def key(self, inputs: Inputs) -> Mapping[str, Any]:
        """The release, whose report it is; all else comes from the steps."""
        import searchpipe

        del inputs
        return {"searchpipe": searchpipe.__version__}

    def run(self, build: Build) -> StepOutput:
        """Write ``report.html`` and ``report.json``."""
        page = write_report(build.folder, build.done, build.inputs)
        build.say(f"report: {page.name}")
        return StepOutput({"html": page, "json": page.with_suffix(".json")}, {"page": page.name})
