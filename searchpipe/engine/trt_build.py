"""Building a plan with TensorRT 10.x, 11.x or TensorRT-RTX, by the same code, in a process of its own.

``python -m searchpipe.engine.trt_build JOB`` builds what the JSON file JOB says and prints the
result as JSON: a builder that crashes takes no other precision and no host with it, and its memory
is returned. TensorRT dies without a driver, so the caller probes first; TensorRT-RTX needs none.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal

import msgspec

from searchpipe.decodable import decodable
from searchpipe.engine.plan_profiles import PlanProfile
from searchpipe.errors import EngineError

Runtime = Literal["tensorrt", "tensorrt_rtx"]
BUILDERS: dict[Runtime, tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt_bindings"),
    "tensorrt_rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings"),
}
"""Modules with a Builder; the lean runtime has none."""

TIMEOUT_SECONDS = 3600.0
_ERRORS_KEPT = 4


class PlanJob(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        runtime: which builder.
        model: ONNX file of standard operators; its types are the plan's.
        plan: file to write.
        timing_cache: read if it is there, and written; empty for none. TensorRT-RTX has none.
        profiles: at least one.
        workspace_mib: memory of the builder's choices, in MiB.
        optimization_level: 0 to 5.
    """

    runtime: Runtime
    model: str
    plan: str
    timing_cache: str
    profiles: list[PlanProfile]
    workspace_mib: int
    optimization_level: int


class PlanResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was built, or why not.

    Attributes:
        error: empty for a plan.
        version: of the runtime.
        module: that was imported.
        bytes: of the plan.
        sha256: of the plan.
        seconds: of the build.
        inputs: name -> element type.
        outputs: name -> element type.
        timing_cache_sha256: of the cache after the build; empty for none.
        timing_cache_hit: whether a cache was there before.
        warnings: the last ones of the builder.
    """

    error: str = ""
    version: str = ""
    module: str = ""
    bytes: int = 0
    sha256: str = ""
    seconds: float = 0.0
    inputs: dict[str, str] = {}
    outputs: dict[str, str] = {}
    timing_cache_sha256: str = ""
    timing_cache_hit: bool = False
    warnings: tuple[str, ...] = ()


def run_job(job: PlanJob, scratch: Path, *, timeout: float = TIMEOUT_SECONDS) -> PlanResult:
    """Build in a process of its own; never raises for what the builder does, the result says it.

    Args:
        job: what to build.
        scratch: folder for the job's file.
        timeout: seconds after which the process is stopped.

    Raises:
        OSError: the job's file cannot be written.
    """
    path = scratch / "job.json"
    path.write_bytes(msgspec.json.encode(job))
    paths = [*map(os.path.abspath, sys.path), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "searchpipe.engine.trt_build", str(path)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return PlanResult(error=f"not built within {timeout:.0f} s")
    except OSError as error:
        return PlanResult(error=f"{sys.executable} cannot be run: {error}")
    finally:
        path.unlink(missing_ok=True)
    if done.returncode < 0:
        return PlanResult(error=f"the builder died of signal {-done.returncode}")
    lines = done.stdout.decode("utf-8", "replace").splitlines()
    try:
        return msgspec.json.decode(lines[-1].encode() if lines else b"", type=decodable(PlanResult))
    except msgspec.MsgspecError:
        told = done.stderr.decode("utf-8", "replace").strip().splitlines()
        return PlanResult(
            error=f"the builder ended with {done.returncode}: {told[-1] if told else 'no word'}"
        )


def installed(runtime: Runtime) -> str:
    """The module that can build plans of ``runtime``; empty if none is installed. Imports nothing."""
    from importlib.util import find_spec

    return next((name for name in BUILDERS[runtime] if find_spec(name) is not None), "")


def build(job: PlanJob) -> PlanResult:
    """Build in this process; for one thread.

    Raises:
        EngineError: the model is not for this runtime, or the builder refused it.
        OSError: the plan or the cache cannot be written.
    """
    began = time.monotonic()
    trt, module = _import(job.runtime)
    logger = _logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_strongly_typed(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(Path(job.model).read_bytes()):
        reasons = "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))
        raise EngineError(f"the parser refused the model: {reasons or logger.told()}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job.workspace_mib << 20)
    config.builder_optimization_level = job.optimization_level
    inputs = [network.get_input(place) for place in range(network.num_inputs)]
    for wanted in job.profiles:
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            shapes = [_shape(tuple(tensor.shape), s) for s in (wanted.least, wanted.best, wanted.most)]
            profile.set_shape(tensor.name, *shapes)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"profile {wanted.least} to {wanted.most} is not valid: {logger.told()}")
    cache, hit = _timing_cache(trt, config, job)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(f"the builder made no plan: {logger.told() or 'without a reason'}")
    content = bytes(memoryview(serialized))
    _write(Path(job.plan), content)
    cache_hash = ""
    if cache is not None:
        blob = bytes(memoryview(config.get_timing_cache().serialize()))
        _write(Path(job.timing_cache), blob)
        cache_hash = hashlib.sha256(blob).hexdigest()
    outputs = [network.get_output(place) for place in range(network.num_outputs)]
    return PlanResult(
        version=trt.__version__,
        module=module,
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        seconds=time.monotonic() - began,
        inputs={tensor.name: tensor.dtype.name for tensor in inputs},
        outputs={tensor.name: tensor.dtype.name for tensor in outputs},
        timing_cache_sha256=cache_hash,
        timing_cache_hit=hit,
        warnings=tuple(logger.warnings),
    )


def _import(runtime: Runtime) -> tuple[Any, str]:
    problems = []
    for name in BUILDERS[runtime]:
        try:
            return importlib.import_module(name), name
        except ImportError as error:
            problems.append(f"{name}: {error}")
    raise EngineError(f"{runtime} cannot be imported ({'; '.join(problems)})")


def _logger(trt: Any) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc, unused-ignore]
        """Keeps the last errors and warnings: reasons are given nowhere else."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors = [*self.errors[1 - _ERRORS_KEPT :], msg]
            elif severity == trt.ILogger.WARNING:
                self.warnings = [*self.warnings[1 - _ERRORS_KEPT :], msg]

        def told(self) -> str:
            return "; ".join(self.errors)

    return Logger()


def _strongly_typed(trt: Any) -> int:
    """The flag of 10.x and of TensorRT-RTX; 11 knows nothing else and may come without it."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _shape(declared: tuple[int, ...], wanted: tuple[int, int]) -> tuple[int, ...]:
    """Rows, then tokens, where an axis varies; what is fixed stays."""
    return tuple(size if size >= 0 else wanted[min(axis, 1)] for axis, size in enumerate(declared))


def _timing_cache(trt: Any, config: Any, job: PlanJob) -> tuple[Any, bool]:
    # Deprecated and without effect in TensorRT-RTX, which tunes on the user's GPU.
    if job.runtime == "tensorrt_rtx" or not job.timing_cache:
        return None, False
    path = Path(job.timing_cache)
    before = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(before)
    if hasattr(trt.BuilderFlag, "EDITABLE_TIMING_CACHE"):
        config.set_flag(trt.BuilderFlag.EDITABLE_TIMING_CACHE)
    if not config.set_timing_cache(cache, False):
        raise EngineError(f"the timing cache {path} is of another GPU or version")
    return cache, bool(before)


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main(path: str) -> None:
    """Build the job in ``path`` and print the result."""
    # Its standard output is the answer; what bindings deprecate is for us to read in the logs.
    warnings.simplefilter("ignore")
    try:
        result = build(msgspec.json.decode(Path(path).read_bytes(), type=decodable(PlanJob)))
    except Exception as error:  # bindings raise TypeError, RuntimeError, pybind's own
        result = PlanResult(error=" ".join(str(error).split())[:1000] or type(error).__name__)
    sys.stdout.write("\n" + msgspec.json.encode(result).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
