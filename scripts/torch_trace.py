#!/usr/bin/env python3
"""Run a program under PyTorch's profiler and write a Chrome trace of what it did on the GPU.

    python scripts/torch_trace.py OUT.json -m benchmarks.recall_gpu [ARGUMENTS...]
    python scripts/torch_trace.py OUT.json program.py [ARGUMENTS...]

For hosts without Nsight Systems. Kernels and copies of every library in the process are recorded
(CUPTI), those inside of CUDA graphs one by one. The process ends without the exit handlers of C and C++
libraries: cuBLASLt's lets the context go, which CUPTI tells PyTorch's profiler, whose data is gone by then.
"""

from __future__ import annotations

import atexit
import os
import runpy
import sys
from pathlib import Path


def main() -> int:
    """Profile what the command line names."""
    if len(sys.argv) < 3 or (sys.argv[2] == "-m" and len(sys.argv) < 4):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        import torch
        from torch.profiler import ProfilerActivity, profile
    except ImportError as error:
        print(f"PyTorch is needed and cannot be imported: {error}", file=sys.stderr)
        return 2
    out, program = Path(sys.argv[1]), sys.argv[2:]
    sys.path.insert(0, str(Path.cwd()))
    torch.cuda.init()
    atexit.register(lambda: leave(code))  # after all that the program registers
    code: object = 1  # until the program has ended
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        try:
            if program[0] == "-m":
                sys.argv = program[1:]
                runpy.run_module(program[1], run_name="__main__", alter_sys=True)
            else:
                sys.argv = program
                runpy.run_path(program[0], run_name="__main__")
            code = 0
        except SystemExit as end:
            code = end.code
        torch.cuda.synchronize()
    recorded.export_chrome_trace(str(out))
    return 0  # `leave` says how the program ended


def leave(code: object) -> None:
    """End this process with what a program gave to ``sys.exit``, after everything of Python's own."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.exit(main())
