"""``[gpu]``: whether and how a pipeline runs on a GPU."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from searchpipe.settings import Settings

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Lanes = Annotated[int, msgspec.Meta(ge=1, le=16)]
_Slots = Annotated[int, msgspec.Meta(ge=1, le=64)]

UseGpu = Literal["auto", "never", "always"]


class GpuModelSettings(Settings, frozen=True):
    """``[gpu.encoder]`` and ``[gpu.scorer]``: other files of the same model for the GPU. Paths, or empty.

    Attributes:
        plan: a TensorRT plan with its manifest beside it, tried before everything else.
        model: an fp32 ONNX export; without it the model of ``[models]`` is taken, whose 8-bit weights
            are multiplied out once.
    """

    plan: str = ""
    model: str = ""


class GpuSettings(Settings, frozen=True):
    """A pipeline on a GPU.

    Attributes:
        use: ``auto`` (the GPU if it can be used, else the CPU with the reason in ``Pipeline.describe``),
            ``never``, or ``always`` (the GPU or ``EngineError``).
        device: ordinal of the GPU.
        lanes: batches of a model that may compute side by side.
        slots: staging slots of a model; at least one more than lanes lets copies overlap.
        epilogues: let cuBLASLt compute some of the cross-encoder's products with what follows them, if
            the memory for it is at most a tenth of what may be planned with.
        memory_mb: device memory that the pipeline may plan with in all, in MiB; 0 for what is free.
        reserve_mb: device memory that must stay free, in MiB.
        encoder: the encoder's files.
        scorer: the cross-encoder's files.
    """

    use: UseGpu = "auto"
    device: _Count = 0
    lanes: _Lanes = 1
    slots: _Slots = 3
    epilogues: bool = True
    memory_mb: _Count = 0
    reserve_mb: _Count = 512
    encoder: GpuModelSettings = GpuModelSettings()
    scorer: GpuModelSettings = GpuModelSettings()
