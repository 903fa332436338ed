"""Which runtime the gates measure on."""

from __future__ import annotations

from typing import Literal

from searchpipe.engine.recipe import Task


def gate_device(task: Task) -> Literal["cpu", "cuda"]:
    """Where the gates of ``task`` run here: on a GPU that ONNX Runtime can use, else on the CPU.

    Feature rankers always run on the CPU.
    """
    return "cpu" if task == "ranker" or gpu_reason() else "cuda"


def gpu_reason() -> str:
    """Why variants cannot run on a GPU here; empty if they can. Never raises."""
    # The driver last: a process asks it once, and a CPU build of ONNX Runtime has nothing to ask it for.
    try:
        import onnxruntime
    except ImportError:
        return "ONNX Runtime is not installed"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime was built without CUDA"
    from searchpipe import _core

    status = _core.cuda_available()
    if not status:
        return str(status.reason) or "there is no CUDA driver"
    if not status.device_count:
        return "the driver shows no GPU"
    return ""
