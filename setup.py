"""Builds searchpipe._core, the C++ core; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ParallelCompile("SEARCHPIPE_BUILD_JOBS", default=0).install()

sources = sorted(
    str(p) for folder in ("core", "cuda", "runtime", "bindings") for p in Path("csrc", folder).glob("*.cc")
)
headers = sorted(str(p) for p in Path("csrc").rglob("*.h"))

setup(
    ext_modules=[
        Pybind11Extension(
            "searchpipe._core",
            sources,
            include_dirs=["csrc"],
            depends=headers,
            cxx_std=20,
            extra_compile_args=["-O3", "-Wall", "-Wextra", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"build_ext": build_ext},
)
