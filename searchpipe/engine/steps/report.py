"""The step that writes the build's report, passed or refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from searchpipe.engine.step import Build, Inputs, StepOutput


class ReportStep:
    """HTML with plots, and JSON, of everything that the steps before found out. For one thread."""

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
        """The release, whose report it is; everything else comes from the steps."""
        import searchpipe

        del inputs
        return {"searchpipe": searchpipe.__version__}

    def run(self, build: Build) -> StepOutput:
        """Write it.

        Raises:
            MissingDependencyError: the plots' package is not installed.
        """
        from searchpipe.engine.report import write_report

        page = write_report(build.folder, build.done, build.inputs)
        return StepOutput({"html": page}, {"page": page.name})
