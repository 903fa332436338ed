"""The parts of a build's report page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from searchpipe.engine.report_data import GateReport, Report
from searchpipe.report.axes import number
from searchpipe.report.html import Cell, Raw, Section, details, facts, figure, paragraph, table, verdict
from searchpipe.report.svg import Mark, Series, Words, bar_plot, histogram, line_plot

_MIB = float(1 << 20)


def variants_section(report: Report) -> Section:
    """Which precision is used, and why the others are not."""
    rows: list[list[Cell | Raw]] = []
    for name, variant in report.gates.variants.items():
        failed = [
            f"{gate.name} (allowed)" if gate.waived else gate.name
            for gate in variant.gates
            if not gate.passed
        ]
        why = ", ".join(failed) if failed else "every gate passed"
        size = variant.bytes / _MIB if variant.bytes else None
        chosen = "used" if name == report.gates.chosen else ""
        rows.append([name, verdict(variant.passed), chosen, size, why, variant.runtime])
    head = ["precision", "gates", "chosen", "ONNX file, MiB", "failed", "runtime"]
    told = (
        f"Compared on {report.gates.queries} queries ({report.gates.labelled} with labels) and "
        f"{report.gates.pairs:,} candidates, on {report.gates.device}."
    )
    parts = [table(head, rows, caption="Precisions"), paragraph(told)]
    sizes = [(name, v.bytes / _MIB) for name, v in report.gates.variants.items() if v.bytes]
    if len(sizes) > 1:
        words = Words("Size of the model", f"ONNX files of {len(sizes)} precisions.", "MiB", "")
        parts.append(
            figure(bar_plot([n for n, _ in sizes], [s for _, s in sizes], words), "Size of each precision.")
        )
    return Section("precisions", "Precisions", parts)


def gates_section(report: Report) -> Section:
    """Every gate of every precision."""
    head = ["gate", "result", "value", "limit", "interval", "worst stratum", "what was compared"]
    parts = []
    for name, variant in report.gates.variants.items():
        rows: list[list[Cell | Raw]] = [
            [g.name, verdict(g.passed), g.value, g.limit, _interval(g), g.worst, g.reason]
            for g in variant.gates
        ]
        parts.append(table(head, rows, caption=f"Gates of {name}"))
    return Section("gates", "Gates", parts or [paragraph("No gate was evaluated.")])


def strata_section(report: Report) -> Section:
    """Loss of AUC by stratum of traffic."""
    parts = []
    for name, variant in report.gates.variants.items():
        gate = _gate(variant.gates, "worst_stratum_auc_loss")
        strata: Sequence[Mapping[str, Any]] = gate.details.get("strata", ()) if gate else ()
        if gate is None or not strata:
            continue
        words = Words(
            f"Loss of AUC of {name} by stratum",
            f"{gate.worst} loses most of {len(strata)} strata; the limit is {number(gate.limit or 0.0)}.",
            "AUC lost against fp32 (mean and interval)",
            "",
        )
        plot = bar_plot(
            [str(row["stratum"]) for row in strata],
            [_value(row["mean"]) for row in strata],
            words,
            low=[_value(row["low"]) for row in strata],
            high=[_value(row["high"]) for row in strata],
            limit=gate.limit,
        )
        parts.append(figure(plot, f"{words.title}. {words.description}"))
        rows = [[row[key] for key in ("stratum", "queries", "mean", "low", "high")] for row in strata]
        head = ["stratum", "queries", "mean loss", "lower end", "upper end"]
        parts.append(details(f"Figures of {name}", table(head, rows, caption=words.title)))
    return Section(
        "strata", "Quality by stratum", parts or [paragraph("No precision was compared by stratum.")]
    )


def speed_section(report: Report) -> Section:
    """Times of the shapes of the profile, and latency under load."""
    parts = []
    for name, variant in report.gates.variants.items():
        gate = _gate(variant.gates, "speed")
        shapes: Sequence[Mapping[str, Any]] = gate.details.get("shapes", ()) if gate else ()
        if gate is not None and shapes:
            keys = ("rows", "tokens", "share", "above_ms", "variant_ms", "speedup", "repeats")
            above = gate.details.get("against", "")
            head = ["rows", "tokens", "share of the work", f"{above}, ms", f"{name}, ms", "times faster"]
            rows = [[shape[key] for key in keys] for shape in shapes]
            parts.append(table([*head, "runs"], rows, caption=f"{name} against {above}, medians"))
    rows_of_load: list[list[Cell | Raw]] = []
    for name, variant in report.gates.variants.items():
        gate = _gate(variant.gates, "stress_p99_ms")
        if gate is not None and gate.details:
            load = ("rate", "requests", "rows", "idle_p50_ms", "p50_ms", "p99_ms")
            rows_of_load.append([name, *(gate.details.get(key) for key in load), gate.limit])
    if rows_of_load:
        head = ["precision", "requests/s", "requests", "pairs", "idle P50, ms", "P50, ms", "P99, ms"]
        parts.append(table([*head, "P99 limit, ms"], rows_of_load, caption="Under Poisson load"))
    return Section("speed", "Speed", parts or [paragraph("Nothing was timed.")])


def profile_section(report: Report) -> Section:
    """Lengths and counts that occurred, and what padding each number of buckets wastes."""
    profile = report.profile
    if not profile:
        return Section("profile", "Profile", [paragraph("No shapes were computed.")])
    least, usual, most = range(3)
    parts = [
        table(
            ["", "least", "usual", "most"],
            [
                [name, *(profile[name][place] for place in (least, usual, most))]
                for name in ("rows", "tokens")
            ],
            caption="Shapes that engines are built for",
        )
    ]
    if profile.get("lengths"):
        marks = [Mark(profile["tokens"][usual], "usual"), Mark(profile["tokens"][most], "most")]
        parts.append(_histogram(profile["lengths"], "Length of the rows", "tokens of a row", marks))
    if profile.get("candidates"):
        marks = [Mark(profile["rows"][usual], "usual"), Mark(profile["rows"][most], "most")]
        parts.append(_histogram(profile["candidates"], "Rows of a request", "rows", marks))
    curve = profile.get("curve") or []
    if curve:
        counts = [point["buckets"] for point in curve]
        lines = [
            Series("computed but not real, launches included", counts, [100 * p["waste"] for p in curve]),
            Series("padding alone", counts, [100 * p["padding"] for p in curve]),
        ]
        chosen = len(profile["buckets"])
        words = Words(
            "Waste over the number of buckets",
            f"{chosen} buckets are chosen: {number(100 * profile['waste'])}% waste, "
            f"{number(100 * curve[0]['waste'])}% with one.",
            "buckets (graphs captured)",
            "waste, %",
        )
        plot = line_plot(lines, words, marks=[Mark(chosen, f"chosen: {chosen}")])
        parts.append(figure(plot, f"{words.title}. {words.description}"))
        rows = [[p["buckets"], _shape(p["added"]), 100 * p["gain"], 100 * p["waste"]] for p in curve]
        head = ["buckets", "the one added", "saves, %", "waste, %"]
        parts.append(details("Figures of the curve", table(head, rows, caption=words.title)))
    others = profile.get("alternatives") or []
    if others:
        rows = [[o["name"], o["buckets"], 100 * o["waste"], 100 * o["padding"]] for o in others]
        rows.append(["chosen", len(profile["buckets"]), 100 * profile["waste"], 100 * profile["padding"]])
        head = ["choice", "buckets", "waste, %", "padding, %"]
        parts.append(table(head, rows, caption="Other choices of buckets on the same requests"))
    usage = profile.get("usage") or []
    rows = [[_shape(bucket), 100 * share] for bucket, share in zip(profile["buckets"], usage, strict=False)]
    parts.append(table(["rows x tokens", "share of the work, %"], rows, caption="Buckets"))
    return Section("profile", "Profile from traffic", parts)


def calibration_section(found: Mapping[str, Any]) -> Section:
    """How many samples each stratum had."""
    parts = []
    shares = found.get("shares", {})
    for name, counts in found.get("strata", {}).items():
        total = sum(counts.values()) or 1
        rows: list[list[Cell | Raw]] = [
            [value, count, 100 * count / total, 100 * share if share is not None else None]
            for value, count in counts.items()
            for share in (shares.get(name, {}).get(value),)
        ]
        head = [name, "rows", "of the samples, %", "of the searches, %"]
        parts.append(table(head, rows, caption=f"Calibration samples by {name}"))
    rest = {key: value for key, value in found.items() if key not in ("strata", "shares")}
    parts.append(facts(rest) if rest else paragraph("Nothing was calibrated."))
    return Section("calibration", "Calibration", parts)


def sensitivity_section(found: Mapping[str, Any]) -> Section:
    """What each group of layers costs in int8."""
    groups = [group for group in found.get("groups", ()) if group.get("alone")]
    rest = {key: value for key, value in found.items() if key not in ("groups", "path")}
    parts = []
    if groups:
        groups = sorted(groups, key=lambda group: -float(group["alone"]["error"]))
        words = Words(
            "Error of each group of layers, quantised alone",
            f"{groups[0]['name']} costs most of {len(groups)}.",
            "error against fp32",
            "",
        )
        plot = bar_plot([g["name"] for g in groups], [_value(g["alone"]["error"]) for g in groups], words)
        parts.append(figure(plot, f"{words.title}. {words.description}"))
        rows: list[list[Cell | Raw]] = []
        for group in groups:
            without = group.get("without") or {}
            rows.append(
                [
                    group["name"],
                    len(group.get("products", ())),
                    group["alone"]["error"],
                    group["alone"].get("correlation"),
                    without.get("error"),
                    without.get("correlation"),
                ]
            )
        head = [
            "group",
            "products",
            "error alone",
            "correlation alone",
            "error without",
            "correlation without",
        ]
        parts.append(table(head, rows, caption="Sensitivity to int8"))
    parts.append(facts(rest) if rest else paragraph("Nothing was swept."))
    return Section("sensitivity", "Sensitivity of layers", parts)


def plan_section(found: Mapping[str, Any]) -> Section:
    """Plans that were built, or why not."""
    parts = []
    if found.get("reason"):
        parts.append(paragraph(f"No plan was built: {found['reason']}"))
    plans: Mapping[str, Mapping[str, Any]] = found.get("plans") or {}
    if plans:
        rows: list[list[Cell | Raw]] = [
            [
                name,
                plan.get("model"),
                _value(plan.get("bytes")) / _MIB,
                plan.get("seconds"),
                plan.get("version"),
            ]
            for name, plan in plans.items()
        ]
        head = ["precision", "model", "plan, MiB", "built in, s", f"{found.get('runtime') or 'runtime'}"]
        parts.append(table(head, rows, caption="Plans"))
    parts += [paragraph(f"{name} was not built: {why}") for name, why in (found.get("errors") or {}).items()]
    rest = {key: value for key, value in found.items() if key not in ("plans", "errors", "reason")}
    parts.append(facts(rest) if rest else paragraph("No plan was asked for."))
    return Section("plans", "Plans", parts)


def facts_section(
    id: str, heading: str, steps: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Section:
    """Facts of steps as they are."""
    parts = []
    for name in names:
        if name in steps:
            parts += [f"<h3>{name}</h3>", facts(steps[name])]
    return Section(id, heading, parts or [paragraph("Nothing was recorded.")])


def _histogram(found: Mapping[str, Any], title: str, unit: str, marks: Sequence[Mark]) -> str:
    told = f"Half are up to {number(found['p50'])}, 95% up to {number(found['p95'])}, "
    told += f"99% up to {number(found['p99'])}."
    words = Words(title, told, unit, "how many")
    return figure(histogram(found["edges"], found["counts"], words, marks=marks), f"{title}. {told}")


def _gate(gates: Sequence[GateReport], name: str) -> GateReport | None:
    return next((gate for gate in gates if gate.name == name), None)


def _interval(gate: GateReport) -> str:
    if gate.interval is None:
        return ""
    low, high = (number(_value(end)) for end in gate.interval)
    return f"{low} to {high}"


def _value(value: Any) -> float:
    return float("nan") if value is None else float(value)


def _shape(bucket: Sequence[int]) -> str:
    return f"{bucket[0]} x {bucket[1]}"
