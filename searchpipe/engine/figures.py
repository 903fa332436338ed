"""What each precision is worth, in one row: quality, speed and memory, from a build's gates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One precision. None stands for what was not measured.

    Attributes:
        precision: fp32, fp16 or int8.
        verdict: ``used``, ``passed`` or ``refused``.
        ndcg: nDCG@10 over the labelled queries, among the candidates that were compared.
        ndcg_loss: of all queries, to fp32; ``ndcg_high`` is the upper end of its interval.
        auc_loss: to fp32; ``auc_high`` is the upper end of its interval.
        tau: mean Kendall rank correlation with fp32's top 50.
        max_diff: largest difference of a score to fp32's.
        shape: rows x tokens in which most of the work is done.
        batch_ms: median of one batch of ``shape``.
        speedup: times faster than ``against``, over all shapes.
        against: the precision above it that passed.
        p50_ms: under the load of the stress test.
        p99_ms: likewise.
        rate: requests a second of that load.
        grown_mib: growth of the process under it.
        gpu_grown_mib: growth of the GPU's memory in use.
        file_mib: of the ONNX file.
        failed: names of the gates that it failed.
        runtime: what it ran on.
    """

    precision: str
    verdict: str
    ndcg: float | None = None
    ndcg_loss: float | None = None
    ndcg_high: float | None = None
    auc_loss: float | None = None
    auc_high: float | None = None
    tau: float | None = None
    max_diff: float | None = None
    shape: str = ""
    batch_ms: float | None = None
    speedup: float | None = None
    against: str = ""
    p50_ms: float | None = None
    p99_ms: float | None = None
    rate: float | None = None
    grown_mib: float | None = None
    gpu_grown_mib: float | None = None
    file_mib: float | None = None
    failed: tuple[str, ...] = ()
    runtime: str = ""


def figures_of(gates: Mapping[str, Any]) -> list[Figures]:
    """One row a precision, in the order of the gates.

    Args:
        gates: facts of the step ``gate``, or ``gates`` of a manifest or of a report's JSON.
    """
    variants: Mapping[str, Any] = gates.get("variants", {})
    rows = [_row(name, content, gates.get("chosen")) for name, content in variants.items()]
    return [_with_reference(row, variants) if row.precision == "fp32" else row for row in rows]


def _row(precision: str, content: Mapping[str, Any], chosen: Any) -> Figures:
    found = {gate["name"]: gate for gate in content.get("gates", ())}

    def value(name: str) -> Any:
        return found.get(name, {}).get("value")

    def high(name: str) -> Any:
        return (found.get(name, {}).get("interval") or (None, None))[1]

    def detail(name: str, key: str) -> Any:
        return found.get(name, {}).get("details", {}).get(key)

    passed = bool(content.get("passed", False))
    shape = _main_shape(found.get("speed", {}))
    size = content.get("bytes") or 0
    return Figures(
        precision=precision,
        verdict="used" if precision == chosen else "passed" if passed else "refused",
        ndcg=(detail("ndcg_loss", "labelled_ndcg") or {}).get("variant"),
        ndcg_loss=value("ndcg_loss"),
        ndcg_high=high("ndcg_loss"),
        auc_loss=value("auc_loss"),
        auc_high=high("auc_loss"),
        tau=value("kendall_tau"),
        max_diff=value("max_abs_diff"),
        shape=f"{shape['rows']} x {shape['tokens']}" if shape else "",
        batch_ms=shape.get("variant_ms"),
        speedup=value("speed"),
        against=str(detail("speed", "against") or ""),
        p50_ms=detail("stress_p99_ms", "p50_ms"),
        p99_ms=detail("stress_p99_ms", "p99_ms"),
        rate=detail("stress_p99_ms", "rate"),
        grown_mib=value("memory_mib"),
        gpu_grown_mib=value("gpu_memory_mib"),
        file_mib=size / 2**20 if size else None,
        failed=tuple(
            f"{name} (allowed)" if gate.get("waived") else name
            for name, gate in found.items()
            if not gate.get("passed", False)
        ),
        runtime=str(content.get("runtime", "")),
    )


def _with_reference(row: Figures, variants: Mapping[str, Any]) -> Figures:
    """fp32 is what others are compared with: its figures stand in theirs."""
    for content in variants.values():
        gates = {gate["name"]: gate for gate in content.get("gates", ())}
        means = gates.get("ndcg_loss", {}).get("details", {}).get("labelled_ndcg") or {}
        speed = gates.get("speed", {})
        if row.ndcg is None and means:
            row = msgspec.structs.replace(row, ndcg=means.get("fp32"))
        shape = _main_shape(speed)
        if row.batch_ms is None and shape and speed.get("details", {}).get("against") == "fp32":
            row = msgspec.structs.replace(
                row, shape=f"{shape['rows']} x {shape['tokens']}", batch_ms=shape.get("above_ms")
            )
    return row


def _main_shape(speed: Mapping[str, Any]) -> Mapping[str, Any]:
    shapes = speed.get("details", {}).get("shapes") or ()
    return max(shapes, key=lambda shape: float(shape["share"]), default={})
