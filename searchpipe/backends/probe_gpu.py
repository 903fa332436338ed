"""The packages that a pipeline on a GPU is made of: what to run in a child process to find out about each."""

from __future__ import annotations

from dataclasses import replace

from searchpipe.backends.capability import Capability, Runtime
from searchpipe.backends.cuda_driver import CudaFacts

_GET = "pip install 'searchpipe[gpu]' (CUDA 13) or 'searchpipe[gpu-cu12]'"

# Whether the provider's library can be loaded is another question than whether it is listed: a
# missing cuDNN shows only here, by name.
_ONNXRUNTIME = """
import contextlib, ctypes, io, os, sys
import onnxruntime as o
if "CUDAExecutionProvider" not in o.get_available_providers():
    sys.exit(f"ONNX Runtime {o.__version__} was built without CUDA")
if DRIVER:
    with contextlib.redirect_stdout(io.StringIO()):
        getattr(o, "preload_dlls", lambda: None)()
    folder = os.path.join(os.path.dirname(o.__file__), "capi")
    for name in ("shared", "cuda"):
        ctypes.CDLL(os.path.join(folder, f"libonnxruntime_providers_{name}.so"), ctypes.RTLD_GLOBAL)
print(o.__version__)
"""
_FAISS = """
import sys, faiss
if not hasattr(faiss, "StandardGpuResources"):
    sys.exit(f"FAISS {faiss.__version__} was built without GPU support")
if DRIVER and not faiss.get_num_gpus():
    sys.exit(f"FAISS {faiss.__version__} sees no GPU")
print(faiss.__version__, "with" if hasattr(faiss, "GpuIndexCagra") else "without", "CAGRA")
"""
_CUPY = """
import cupy
if DRIVER:
    cupy.cuda.runtime.getDeviceCount()
print(cupy.__version__)
"""
_PREPARE = "import onnx, sympy; print('onnx', onnx.__version__)"
_CUDA_PYTHON = "import cuda.bindings as b; from cuda.bindings import driver; print(b.__version__)"
_NVTX = "import importlib.metadata as m, nvtx; print(m.version('nvtx'))"

_ESSENTIAL = ("onnxruntime cuda", "model preparation")


def gpu_runtimes(cuda: CudaFacts) -> list[Runtime]:
    """What to probe; nothing is asked that needs a driver where there is none."""
    driver = f"DRIVER = {not cuda.reason}\n"
    return [
        Runtime("onnxruntime cuda", ("onnxruntime-gpu",), driver + _ONNXRUNTIME, _GET),
        Runtime("model preparation", ("onnx", "sympy"), _PREPARE, _GET),
        Runtime("faiss gpu", ("faiss-gpu-cuvs",), driver + _FAISS, _GET),
        Runtime("cupy", ("cupy-cuda13x", "cupy-cuda12x"), driver + _CUPY, _GET, exclusive=True),
        Runtime("cuda-python", ("cuda-python",), _CUDA_PYTHON, _GET),
        Runtime("nvtx", ("nvtx",), _NVTX, "pip install nvtx"),
    ]


def needing_driver(found: Capability, cuda: CudaFacts) -> Capability:
    """What was found, as unusable where it could be used but for the driver."""
    if found.status != "ok" or not cuda.reason or found.name in ("model preparation", "nvtx"):
        return found
    return replace(
        found,
        status="unusable",
        detail=f"{found.detail} is installed, but needs a CUDA driver: {cuda.reason}",
        get="see the line cuda",
    )


def pipeline_on_gpu(cuda: CudaFacts, found: list[Capability]) -> Capability:
    """Whether ``gpu.use = "auto"`` would use a GPU, and for what."""
    name = "pipeline on a GPU"
    states = {line.name: line for line in found}
    if cuda.reason:
        return Capability(
            name, "unusable", "runs on the CPU: there is no usable CUDA driver", "see the line cuda"
        )
    lacking = [part for part in _ESSENTIAL if states[part].status != "ok"]
    if lacking:
        return Capability(name, "unusable", f"runs on the CPU for lack of {' and '.join(lacking)}", _GET)
    if states["faiss gpu"].status != "ok":
        return Capability(name, "ok", "encoder and scorer; dense recall stays on the CPU")
    return Capability(name, "ok", "encoder, scorer and dense recall")
