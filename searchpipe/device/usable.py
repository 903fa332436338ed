"""Whether a GPU can be used here, from the cheapest question to the one that initialises CUDA."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import io
import os
from pathlib import Path

_GPU_FAISS = ("faiss-gpu-cuvs", "faiss-gpu", "faiss-gpu-cu12")


def driver_missing() -> str:
    """Why there can be no CUDA here; empty if there is a driver's library.

    Loads the library and initialises nothing, so that the process may still fork.
    """
    name = os.environ.get("SEARCHPIPE_LIBCUDA") or "libcuda.so.1"
    try:
        ctypes.CDLL(name)
    except OSError as error:
        return f"there is no NVIDIA driver ({error})"
    return ""


def onnxruntime_without_cuda() -> str:
    """Why ONNX Runtime cannot use a GPU; empty if it can. Imports it."""
    try:
        import onnxruntime
    except ImportError as error:
        return f"ONNX Runtime cannot be imported ({error})"
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return (
            f"the installed ONNX Runtime {onnxruntime.__version__} was built without CUDA; "
            "pip uninstall onnxruntime, then: pip install 'searchpipe[gpu]'"
        )
    return ""


def plan_missing(plan: str) -> str:
    """Why a TensorRT plan cannot be tried; empty if the file is there."""
    return "" if Path(plan).is_file() else f"there is no plan {plan}"


def faiss_without_gpu() -> str:
    """Why FAISS cannot use a GPU, by what is installed; empty if it may. Imports nothing."""
    for name in _GPU_FAISS:
        try:
            importlib.metadata.version(name)
            return ""
        except importlib.metadata.PackageNotFoundError:
            continue
    return "FAISS for GPUs is not installed; pip uninstall faiss-cpu, then: pip install 'searchpipe[gpu]'"


def load_cuda_libraries() -> None:
    """Load the CUDA libraries that pip installed beside ONNX Runtime, which are on no search path.

    What is missing shows when its provider is started; ONNX Runtime would print it.
    """
    import onnxruntime

    load = getattr(onnxruntime, "preload_dlls", None)
    if load is not None:
        with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
            load()
