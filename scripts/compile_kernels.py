#!/usr/bin/env python3
"""Compile the extension's own CUDA kernels to the PTX text that is part of it.

python scripts/compile_kernels.py [--nvrtc PATH/libnvrtc.so]

Writes csrc/runtime/NAME_ptx.h for each csrc/runtime/NAME.cu, with the source's SHA-256 in its first line.
To be run after a change of the source; it needs NVRTC (pip install nvidia-cuda-nvrtc), the extension's build
does not. The driver compiles the text for the GPU that it finds, of compute capability 7.5 or newer.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import importlib.util
import re
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "csrc" / "runtime"
ARCHITECTURE = "compute_75"
# NVRTC writes its own version, which only the newest drivers read; plain code is the same since 6.3.
PTX_VERSION = ".version 7.5"


class KernelError(Exception):
    """NVRTC is missing or refuses the source."""


def find_nvrtc() -> Path:
    """The library of an installed nvidia-cuda-nvrtc. Raises KernelError."""
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob("*/lib/libnvrtc.so.*")):
            return path
    raise KernelError("NVRTC is not installed: pip install nvidia-cuda-nvrtc, or pass --nvrtc")


def compile_to_ptx(nvrtc: ctypes.CDLL, source: str, name: str) -> str:
    """Raises KernelError with the compiler's log."""
    program = ctypes.c_void_p()
    code = nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), name.encode(), 0, None, None)
    if code != 0:
        raise KernelError(f"nvrtcCreateProgram answers {code}")
    options = [f"--gpu-architecture={ARCHITECTURE}".encode()]
    code = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    if code != 0:
        raise KernelError(f"{name}: {_text(nvrtc, program, 'ProgramLog')}")
    ptx = _text(nvrtc, program, "PTX")
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return ptx


def _text(nvrtc: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> str:
    size = ctypes.c_size_t()
    getattr(nvrtc, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    text = ctypes.create_string_buffer(size.value)
    getattr(nvrtc, f"nvrtcGet{what}")(program, text)
    return text.value.decode()


def header(source: Path, ptx: str) -> str:
    """What the extension includes: the text, and the source that it belongs to."""
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    constant = "k" + source.stem.title().replace("_", "") + "Ptx"
    ptx = re.sub(r"^\.version .*$", PTX_VERSION, ptx, count=1, flags=re.MULTILINE)
    lines = [line.rstrip().expandtabs(4) for line in ptx.strip().splitlines()]
    text = "\n".join(line for line in lines if line and not line.startswith("//"))
    return f"""// {source.name}, SHA-256 {digest}
#pragma once

// Compiled by scripts/compile_kernels.py, which is to be run again after a change of the source.

namespace searchpipe::runtime {{

inline constexpr char {constant}[] = R"ptx(
{text}
)ptx";

}}  // namespace searchpipe::runtime
"""


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nvrtc", type=Path, help="the library; else that of the installed package")
    chosen = parser.parse_args(arguments)
    try:
        nvrtc = ctypes.CDLL(str(chosen.nvrtc or find_nvrtc()))
        for source in sorted(FOLDER.glob("*.cu")):
            ptx = compile_to_ptx(nvrtc, source.read_text(encoding="utf-8"), source.name)
            target = source.with_name(f"{source.stem}_ptx.h")
            target.write_text(header(source, ptx), encoding="utf-8")
            print(target)
    except (KernelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
