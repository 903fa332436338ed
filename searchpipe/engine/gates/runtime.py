"""Which runtime the gates measure on."""

from __future__ import annotations


def gpu_reason() -> str:
    """Why variants cannot run on a GPU here; empty if they can. Never raises."""
    from searchpipe import _core

    status = _core.cuda_available()
    if not status:
        return str(status.reason) or "there is no CUDA driver"
    if not status.device_count:
        return "the driver shows no GPU"
    try:
        import onnxruntime
    except ImportError:
        return "ONNX Runtime is not installed"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "the installed ONNX Runtime was built without CUDA"
    return ""
