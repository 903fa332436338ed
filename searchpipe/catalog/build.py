"""Builds a snapshot from catalog files and publishes it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

import searchpipe
from searchpipe.catalog.chunks import ProductStream
from searchpipe.catalog.layout import SnapshotFolder
from searchpipe.catalog.manifest import (
    SCHEMA,
    Counts,
    LexicalInfo,
    Manifest,
    ModelInfo,
    describe_files,
    read_manifest,
    write_manifest,
)
from searchpipe.catalog.models import BuildModels
from searchpipe.catalog.progress import BuildProgress, Phase, Progress
from searchpipe.catalog.rejects import RejectLog
from searchpipe.catalog.reuse import KnownVectors
from searchpipe.catalog.settings import IndexSettings
from searchpipe.catalog.vectors_writer import Encoder
from searchpipe.catalog.writers import SnapshotWriters, Tokenizer
from searchpipe.errors import CatalogError, SearchpipeError, SnapshotError
from searchpipe.models.settings import ModelsSettings


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build did.

    Attributes:
        path: the published build.
        name: its unique name, the snapshot's ``version``.
        rows: rows read.
        documents: products in the snapshot.
        rejected: bad rows; ``rejects`` is the file that lists them, ``reasons`` counts them.
        reused: vectors taken from the previous build.
        mistyped: column -> values of another type, which count as missing.
        bytes: size of the snapshot.
        seconds: time the build took.

    """

    path: Path
    name: str
    rows: int
    documents: int
    rejected: int
    rejects: Path
    reasons: dict[str, int]
    reused: int
    mistyped: dict[str, int]
    bytes: int
    seconds: float


def build_snapshot(
    source: Path | str | Sequence[Path | str],
    out: Path | str,
    settings: IndexSettings | None = None,
    *,
    models: ModelsSettings | None = None,
    progress: Progress | None = None,
    encoder: Encoder | None = None,
    tokenizer: Tokenizer | None = None,
    parallel: bool = False,
) -> BuildReport:
    """Index catalog files into a new snapshot in the folder ``out``, and publish it there.

    Whatever happens before the last step, the snapshot published before stays
    as it is. Memory is bounded by three chunks, the ids, ``lexical_memory_mb`` and, from
    ``flat_below`` products on, the vector index. May run in any thread.

    Args:
        source: one file or several, in any mix of formats.
        out: the folder; made if it does not exist.
        settings: None for the defaults.
        models: which encoder and cross-encoder; None for the defaults.
        progress: called after every chunk, in this thread.
        encoder: instead of the one that ``models`` names.
        tokenizer: instead of the tokenizer of the cross-encoder that ``models`` names.
        parallel: tokenize on all cores, with a library's thread pool: for a process that does not fork
            afterwards, such as the command line's.

    Raises:
        CatalogError: unreadable files, too many bad rows, or a folder that cannot be written.
        CatalogBusyError: another process builds into ``out``.
        ModelFetchError, ModelError, MissingDependencyError: see :func:`searchpipe.models.resolve`.

    """
    settings = settings or IndexSettings()
    sources = [Path(source)] if isinstance(source, Path | str) else [Path(path) for path in source]
    if not sources:
        raise CatalogError("There is no file to index.")
    folder = SnapshotFolder(Path(out))
    try:
        with folder.lock():
            name, unfinished = folder.begin()
            try:
                with ExitStack() as owner:
                    opened = BuildModels.open(
                        models or ModelsSettings(),
                        encoder,
                        tokenizer,
                        max_pair_tokens=settings.max_pair_tokens,
                        parallel=parallel,
                    )
                    report = _Build(
                        sources, folder, name, unfinished, settings, opened, progress, owner
                    ).run()
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            folder.prune(settings.keep_builds)
            return report
    except SearchpipeError:
        raise  # some of them are OSError too
    except OSError as error:
        raise CatalogError(
            f"The snapshot in {folder.path} cannot be written: {error}.",
            cure="Check that the disk has room and the folder is writable; what was published is unchanged.",
        ) from error


class _Build:
    def __init__(
        self,
        sources: list[Path],
        folder: SnapshotFolder,
        name: str,
        unfinished: Path,
        settings: IndexSettings,
        models: BuildModels,
        progress: Progress | None,
        owner: ExitStack,
    ) -> None:
        self._sources = sources
        self._folder = folder
        self._name = name
        self._unfinished = unfinished
        self._settings = settings
        self._models = models
        self._progress = progress
        self._owner = owner
        self._started = time.monotonic()
        self._previous = folder.current() or ""
        self._rejects = RejectLog(folder.rejects, owner, max_share=settings.max_reject_share)
        self._stream = ProductStream(sources, settings, self._rejects)

    def run(self) -> BuildReport:
        files = self._unfinished / "snapshot"
        files.mkdir()
        writers = SnapshotWriters(
            files,
            self._settings,
            self._models.encoder,
            self._models.tokenizer,
            prefix=self._models.document_prefix,
            known=self._known_vectors(),
            owner=self._owner,
        )
        # Told of last, so ended first: an interrupt then waits for one run of the encoder, not for a chunk.
        self._owner.callback(self._models.close)
        for chunk in self._stream:
            writers.append(chunk)
            self._tell("read", writers)
        writers.wait()
        self._tell("index", writers)
        self._rejects.close()
        dense, columns = writers.close()
        self._tell("publish", writers)
        manifest = Manifest(
            schema=SCHEMA,
            name=self._name,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            searchpipe=searchpipe.__version__,
            previous=self._previous,
            sources=[str(path) for path in self._sources],
            counts=Counts(
                rows=self._stream.rows,
                documents=writers.documents,
                rejected=self._rejects.count,
                tokens=writers.tokens,
            ),
            analyzer=writers.analyzer.spec,
            lexical=LexicalInfo(
                fields=self._settings.lexical_fields, max_query_terms=self._settings.max_query_terms
            ),
            dense=dense,
            encoder=self._models.encoder_info,
            tokenizer=self._models.tokenizer_info,
            columns=columns,
            settings=msgspec.to_builtins(self._settings),
            files=describe_files(files),
        )
        write_manifest(files, manifest)
        path = self._folder.publish(self._name, files)
        self._tell("done", writers)
        return BuildReport(
            path=path,
            name=self._name,
            rows=self._stream.rows,
            documents=writers.documents,
            rejected=self._rejects.count,
            rejects=self._folder.rejects,
            reasons=dict(self._rejects.reasons),
            reused=writers.reused,
            mistyped=writers.mistyped,
            bytes=sum(info.bytes for info in manifest.files.values()),
            seconds=time.monotonic() - self._started,
        )

    def _known_vectors(self) -> KnownVectors | None:
        """Return the published build's vectors, if the same model made them."""
        encoder: ModelInfo = self._models.encoder_info
        if not self._previous or not encoder.sha256:
            return None
        folder = self._folder.builds / self._previous
        try:
            manifest = read_manifest(folder)
            if manifest.encoder.sha256 != encoder.sha256 or manifest.dense.dim != self._models.encoder.dim:
                return None
            return KnownVectors(folder / "dense", manifest.counts.documents, manifest.dense.dim)
        except (SnapshotError, OSError, ValueError):
            return None  # nothing to gain from a damaged build

    def _tell(self, phase: Phase, writers: Any) -> None:
        if self._progress is not None:
            self._progress(
                BuildProgress(
                    phase,
                    self._stream.rows,
                    self._rejects.count,
                    writers.reused,
                    self._stream.bytes_read,
                    self._stream.bytes_total,
                )
            )
