"""The links of an engine chain: what each opens, where each stands, and what a failure means for it."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from searchpipe.breaker import BreakerState, CircuitBreaker
from searchpipe.errors import ConfigError, MissingDependencyError, ModelError
from searchpipe.runtime.forecast import Forecaster

if TYPE_CHECKING:
    from searchpipe import _core

State = Literal["untried", "opening", "serving", "probing", "failed"]

# Errors after which CUDA refuses every call of the process: "this leaves the process in an inconsistent
# state and any further CUDA work will return the same error" (CUDA driver API, CUresult).
_FATAL = re.compile(
    "CUDA_ERROR_(ILLEGAL_ADDRESS|ILLEGAL_INSTRUCTION|MISALIGNED_ADDRESS|INVALID_ADDRESS_SPACE|INVALID_PC|"
    "LAUNCH_FAILED|LAUNCH_TIMEOUT|ASSERT|HARDWARE_STACK_ERROR|ECC_UNCORRECTABLE|NVLINK_UNCORRECTABLE|"
    "CONTEXT_IS_DESTROYED|TENSOR_MEMORY_LEAK|MPS_CLIENT_TERMINATED|CONTAINED)"
    "|cudaError(IllegalAddress|IllegalInstruction|MisalignedAddress|InvalidAddressSpace|InvalidPc|"
    "LaunchFailure|LaunchTimeout|Assert|HardwareStackError|ECCUncorrectable|NvlinkUncorrectable)"
)


@dataclass(frozen=True, slots=True)
class Opened:
    """What a link opens: an executor, and what to call once its scorer was closed.

    Attributes:
        executor: runs the batches.
        close: frees what the link holds.
        description: one line for traces and ``describe``.
        on_gpu: it runs on a GPU, has device memory to offer, and its buckets' costs were measured.
        check: raises if the device does not work any more, whatever the engine does.
    """

    executor: _core.Executor
    close: Callable[[], None]
    description: str = ""
    on_gpu: bool = False
    check: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Link:
    """One engine of a chain: ``open`` makes it ready to serve, or raises; it may be called again later."""

    name: str
    open: Callable[[], Opened]


@dataclass(slots=True)
class LinkState:
    """Where one link stands.

    Attributes:
        name: the link's.
        state: ``probing``: open beside the one that serves, and tried with a request now and then.
        reason: why it failed last.
        description: of what it opened.
        lost: it cannot come back in this process: its CUDA context is dead, or it never fitted here.
        breaker: of the link.
        trips: how often its breaker has opened.
    """

    name: str
    state: State = "untried"
    reason: str = ""
    description: str = ""
    lost: bool = False
    breaker: BreakerState = "closed"
    trips: int = 0


@dataclass(frozen=True, slots=True)
class Live:
    """A link that is open."""

    place: int
    scorer: _core.Scorer
    opened: Opened
    breaker: CircuitBreaker
    forecaster: Forecaster | None = None  # on a GPU
    closed: threading.Event = field(default_factory=threading.Event)

    def close(self, *, drain: bool) -> None:
        """End its requests and free it; on the caller's thread, which waits for batches on the device."""
        self.scorer.close(drain=drain)
        self.opened.close()
        self.closed.set()


def context_is_dead(reason: str, check: Callable[[], None] | None = None) -> bool:
    """Whether a failure ended the process's CUDA context: by its name, or because ``check`` raises."""
    if _FATAL.search(reason):
        return True
    if check is not None:
        try:
            check()
        except Exception:
            return True
    return False


def check_device(device: _core.Device) -> None:
    """Have the device do next to nothing.

    Raises:
        EngineError: it cannot: its context is dead.
    """
    from searchpipe import _core

    _core.Stream(device).synchronize()


def never_opens(error: Exception) -> bool:
    """Whether opening again would fail again: the package, the plan or the settings will be the same."""
    return isinstance(error, ModelError | MissingDependencyError | ConfigError)
