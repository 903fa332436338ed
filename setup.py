"""Builds searchpipe._core, the C++ core, and takes engines/ along; everything else is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.build_py import build_py

ParallelCompile("SEARCHPIPE_BUILD_JOBS", default=0).install()

sources = sorted(
    str(p) for folder in ("core", "cuda", "runtime", "bindings") for p in Path("csrc", folder).glob("*.cc")
)
headers = sorted(str(p) for p in Path("csrc").rglob("*.h"))


class BuildWithEngines(build_py):
    """Copies the recipes and models of engines/ to searchpipe/_engines, where installed code looks for them.

    An editable install reads engines/ itself.
    """

    def run(self):
        super().run()
        if not self.editable_mode:
            for source, target in self._engines().items():
                self.mkpath(str(target.parent))
                self.copy_file(str(source), str(target), preserve_mode=False)

    def get_outputs(self, include_bytecode=True):
        copies = [] if self.editable_mode else [str(target) for target in self._engines().values()]
        return [*super().get_outputs(include_bytecode), *copies]

    def get_source_files(self):
        return [*super().get_source_files(), *map(str, self._engines())]

    def _engines(self):
        folder = Path(self.build_lib, "searchpipe", "_engines")
        return {path: folder / path.name for path in sorted(Path("engines").iterdir()) if path.is_file()}


setup(
    ext_modules=[
        Pybind11Extension(
            "searchpipe._core",
            sources,
            include_dirs=["csrc"],
            depends=headers,
            cxx_std=20,
            # Lines for backtraces; types, which Python's own -g would add, take a fifth of the build.
            extra_compile_args=["-O3", "-g1", "-Wall", "-Wextra", "-fvisibility=hidden"],
        )
    ],
    cmdclass={"build_ext": build_ext, "build_py": BuildWithEngines},
)
