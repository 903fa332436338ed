"""A pipeline in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.pipeline import Pipeline


def described(pipeline: Pipeline) -> str:
    """See :meth:`searchpipe.pipeline.Pipeline.describe`."""
    budget, snapshot = pipeline.config.budget, pipeline.snapshot
    lines = [f"budget {budget.default_ms:g} ms, {len(pipeline.stages)} stages"]
    if snapshot is not None:
        lines[0] += f", snapshot {snapshot.version} with {snapshot.count} products"
    for stage in pipeline.stages:
        flow = f"{', '.join(stage.reads) or '-'} -> {', '.join(stage.writes) or '-'}"
        share = f"{budget.shares[stage.name]:4.0%}" if stage.name in budget.shares else "   -"
        lines.append(f"  {stage.name:<10} {share}  {flow:<34} {stage.describe()}")
    lines += [f"  cache      {name}: {stats.line()}" for name, stats in pipeline.caches.items()]
    lines += [f"  breakers   {line}" for line in pipeline.breakers.lines()]
    if pipeline.gpu is not None:
        lines += [f"  gpu        {line}" for line in pipeline.gpu.lines()]
    return "\n".join(lines)
