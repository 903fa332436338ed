"""Which runtimes this machine can use, and why not the others.

Every native package is imported in a process of its own with a time limit: a
wheel built for another CPU or a missing driver may end a process by a signal
(TensorRT does so without a driver), and must not end this one.
"""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import msgspec

from searchpipe.backends.capability import Capability, Runtime, Status
from searchpipe.backends.cuda_driver import CudaDevice, CudaFacts
from searchpipe.backends.probe_gpu import gpu_runtimes, needing_driver, pipeline_on_gpu
from searchpipe.decodable import decodable

# An import takes a second on a slow disk; a hanging one must not hang the probe. In seconds.
_TIMEOUT = 60.0

RUNTIMES: tuple[Runtime, ...] = (
    Runtime(
        "core extension", (), "import searchpipe._core as c; print('loaded')",
        "pip install searchpipe, or build it: python setup.py build_ext --inplace", required=True,
    ),
    Runtime(
        "onnxruntime", ("onnxruntime", "onnxruntime-gpu"),
        "import onnxruntime as o; print(o.__version__, 'with', ', '.join(o.get_available_providers()))",
        "pip install 'searchpipe[cpu]'", required=True, exclusive=True,
    ),
    Runtime(
        "faiss", ("faiss-cpu", "faiss-gpu-cuvs", "faiss-gpu", "faiss-gpu-cu12"),
        "import faiss; print(faiss.__version__, "
        "'with GPU support' if hasattr(faiss, 'StandardGpuResources') else 'for CPU')",
        "pip install 'searchpipe[cpu]'", required=True, exclusive=True,
    ),
    Runtime(
        "tokenizers", ("tokenizers",), "import tokenizers; print(tokenizers.__version__)",
        "pip install tokenizers", required=True,
    ),
    Runtime(
        "stemmer", ("PyStemmer",), "import Stemmer; print(len(Stemmer.algorithms()), 'languages')",
        "pip install PyStemmer", required=True,
    ),
    Runtime(
        "parquet and csv", ("pyarrow",), "import pyarrow; print(pyarrow.__version__)",
        "pip install pyarrow", required=True,
    ),
    Runtime(
        "chinese", ("rjieba",), "import rjieba; rjieba.cut('手机'); print('segmentation')",
        "pip install 'searchpipe[cjk]'",
    ),
    Runtime(
        "japanese", ("sudachipy", "sudachidict-core"),
        "import sudachidict_core, sudachipy; sudachipy.Dictionary().create(); print('segmentation')",
        "pip install 'searchpipe[cjk]'",
    ),
    Runtime(
        "evaluate", ("ir-measures", "scipy"),
        "import ir_measures, scipy.stats; print('ir-measures and scipy', scipy.__version__)",
        "pip install 'searchpipe[evaluate]'",
    ),
    Runtime(
        "hugging face hub", ("huggingface-hub",),
        "import huggingface_hub as h; print(h.__version__)",
        "pip install 'searchpipe[hf]'",
    ),
)  # fmt: skip

# Name, modules (the second imports where only the runtime's own packages are installed) and how
# to get it. Importing is safe; making a Runtime without a driver is not, and nothing here does.
TENSORRT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "tensorrt",
        ("tensorrt", "tensorrt_bindings"),
        "pip install tensorrt-cu13 (its libraries come from NVIDIA's own package index)",
    ),
    (
        "tensorrt-lean",
        ("tensorrt_lean", "tensorrt_lean_bindings"),
        "pip install tensorrt-lean-cu13-libs tensorrt-lean-cu13-bindings",
    ),
    (
        "tensorrt-rtx",
        ("tensorrt_rtx", "tensorrt_rtx_bindings"),
        "pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings",
    ),
)


def run_isolated(arguments: Sequence[str]) -> tuple[bool, str]:
    """Run this interpreter with ``arguments``; return success and its last line of output or the reason."""
    # The child sees the packages that this process sees, and nothing of its current folder (-P).
    paths = [*map(os.path.abspath, sys.path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer within {_TIMEOUT:.0f} s"
    except OSError as error:
        return False, f"cannot run {sys.executable}: {error}"
    if done.returncode < 0:
        return False, f"the process died of {_signal_name(-done.returncode)}"
    text = (done.stdout if done.returncode == 0 else done.stderr).decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return done.returncode == 0, lines[-1] if lines else f"exit code {done.returncode}"


def probe_cuda() -> CudaFacts:
    """Facts of the CUDA driver, from a process of its own."""
    ok, text = run_isolated(["-m", "searchpipe.backends.cuda_driver"])
    if ok:
        try:
            return msgspec.json.decode(text.encode(), type=decodable(CudaFacts))
        except msgspec.DecodeError:
            text = f"unreadable answer {text[:80]!r}"
    return CudaFacts(driver="", devices=[], reason=text)


def probe_runtimes() -> list[Capability]:
    """Probe every runtime; takes a few seconds. The order is that of the report."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        cuda_future = pool.submit(probe_cuda)
        found = list(pool.map(_probe, RUNTIMES))
        cuda = cuda_future.result()
        found.append(_cuda_capability(cuda))
        gpu = list(pool.map(lambda runtime: needing_driver(_probe(runtime), cuda), gpu_runtimes(cuda)))
        found += [*gpu, pipeline_on_gpu(cuda, gpu)]
        found.extend(pool.map(lambda flavour: _probe_tensorrt(flavour, cuda), TENSORRT))
    return found


def _probe(runtime: Runtime) -> Capability:
    installed = [name for name in runtime.distributions if _version(name)]
    if runtime.exclusive and len(installed) > 1:
        return Capability(
            runtime.name,
            "unusable",
            f"{' and '.join(installed)} are both installed and overwrite each other",
            f"pip uninstall -y {' '.join(installed)}, then install one of them",
            runtime.required,
        )
    ok, text = run_isolated(["-c", runtime.code])
    if ok:
        return Capability(runtime.name, "ok", text, required=runtime.required)
    if _is_missing(text):
        return Capability(runtime.name, "missing", _not_installed(text), runtime.get, runtime.required)
    return Capability(runtime.name, "unusable", text, runtime.get, runtime.required)


def _cuda_capability(cuda: CudaFacts) -> Capability:
    if cuda.reason:
        status: Status = "unusable" if cuda.driver else "missing"
        return Capability(
            "cuda", status, cuda.reason, "install NVIDIA's driver, and give a container access to the GPU"
        )
    devices = ", ".join(map(_device_line, cuda.devices))
    return Capability("cuda", "ok", f"driver for CUDA {cuda.driver}: {devices}")


def _device_line(device: CudaDevice) -> str:
    total = f"{device.memory / 2**30:.0f} GiB"
    memory = total if device.free is None else f"{device.free / 2**30:.1f} of {total} free"
    return f"{device.name} (compute {device.compute_capability}, {memory})"


def _probe_tensorrt(flavour: tuple[str, tuple[str, ...], str], cuda: CudaFacts) -> Capability:
    name, modules, get = flavour
    reasons = []
    for module in modules:
        ok, text = run_isolated(["-c", f"import {module} as t; print(t.__version__)"])
        if ok and cuda.reason:
            detail = f"{text} is installed, but needs a CUDA driver: {cuda.reason}"
            return Capability(name, "unusable", detail, "see the line cuda")
        if ok:
            return Capability(name, "ok", text)
        reasons.append(text)
    # What is half installed says more than the name that is not there at all.
    broken = [text for text in reasons if not _is_missing(text)]
    if broken:
        return Capability(name, "unusable", broken[0], get)
    return Capability(name, "missing", _not_installed(reasons[0]), get)


def _is_missing(text: str) -> bool:
    return "No module named" in text


def _not_installed(text: str) -> str:
    return f"not installed ({text.removeprefix('ModuleNotFoundError: ')})"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
