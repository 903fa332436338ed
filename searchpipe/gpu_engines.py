"""What a pipeline has on a GPU, for as long as it is open."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchpipe.device.facts import DeviceFacts
    from searchpipe.device.plan import DevicePlan
    from searchpipe.recall.open import OpenRecall
    from searchpipe.runtime.device_vectors import DeviceVectors
    from searchpipe.runtime.engine_chain import EngineChain
    from searchpipe.runtime.pair_scorer import ChainPairScorer
    from searchpipe.runtime.text_encoder import ChainTextEncoder


@dataclass(slots=True)
class GpuEngines:
    """The engines of a pipeline that were opened on a GPU, and why the others were not.

    What is None runs on the CPU. Reading is for any thread, closing for the pipeline, after its last query.

    Attributes:
        facts: of the GPU, before anything was put on it.
        plan: its memory as it was planned.
        encoder: of the stage encode.
        scorer: of the stage score.
        recall: of dense recall.
        places: device memory for the vectors of queries, where both the encoder and recall run there.
        reasons: ``gpu``, ``encoder``, ``scorer`` or ``recall`` -> why that was left to the CPU.
    """

    facts: DeviceFacts | None = None
    plan: DevicePlan | None = None
    encoder: ChainTextEncoder | None = None
    scorer: ChainPairScorer | None = None
    recall: OpenRecall | None = None
    places: DeviceVectors | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    owned: ExitStack = field(default_factory=ExitStack)

    @property
    def used(self) -> bool:
        """Whether anything runs on the GPU."""
        return self.encoder is not None or self.scorer is not None or self.recall is not None

    def lines(self) -> list[str]:
        """What runs where and why, one engine a line, as it is now."""
        found: list[str] = []
        if self.facts is not None and self.used:
            found.append(f"GPU {self.facts.ordinal}: {self.facts.line()} before")
            if self.plan is not None:
                found.append(f"planned: {self.plan.summary()}")
        if self.encoder is not None:
            found.append(f"encoder: {_engine_line(self.encoder.chain)}")
        if self.scorer is not None:
            found.append(f"scorer: {_engine_line(self.scorer.chain)}")
        if self.recall is not None:
            lost = self.recall.index.reason
            found.append(f"recall: {self.recall.gpu.plan.line()}{f'; failing: {lost}' if lost else ''}")
        for name, reason in self.reasons.items():
            found.append(f"{'' if name == 'gpu' else f'{name} '}not used: {reason}")
        return found

    def close(self) -> None:
        """Free the device: recall first, then the scorer, then the encoder. Idempotent."""
        owned, self.owned = self.owned, ExitStack()
        try:
            owned.close()
        finally:
            if self.places is not None:
                self.places.free()  # no engine is left that could use them, whoever holds a vector


def _engine_line(chain: EngineChain) -> str:
    parts = []
    for state in chain.states:
        if state.state == "serving":
            parts.append(f"{state.name} ({state.description})")
        elif state.state == "failed":
            parts.append(f"{state.name} failed: {state.reason}")
    return "; ".join(parts) or "none is ready"
