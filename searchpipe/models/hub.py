"""Files of the Hugging Face hub, through its own client."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from searchpipe.errors import MissingDependencyError, ModelFetchError
from searchpipe.models.cache import FetchProgress
from searchpipe.models.sources import HubSource


def fetch_hub_files(
    source: HubSource, paths: Sequence[str], staging: Path, *, progress: FetchProgress
) -> dict[str, Path]:
    """Download ``paths`` of one repository and revision into ``staging`` (path -> staged file).

    The client's own settings hold: token, endpoint, proxies, offline mode.

    Raises:
        MissingDependencyError: the extra ``hf`` is not installed.
        ModelFetchError: no network, no such repository, revision or file, or no access.

    """
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as error:
        raise MissingDependencyError(
            f"Model source {source} needs the package huggingface-hub.",
            cure="Install it: pip install 'searchpipe[hf]'.",
        ) from error
    result = {}
    for path in paths:
        progress(f"downloading {source.origin}/{path}", 0, None)
        try:
            file = hf_hub_download(
                repo_id=source.repository, filename=path, revision=source.revision, local_dir=str(staging)
            )
        except OSError as error:
            if error.errno is not None and not hasattr(error, "response"):
                raise  # the disk's own error: the cache knows what to say
            raise _failed(source, path, error) from error
        except Exception as error:  # the client's errors have no common base across its versions
            raise _failed(source, path, error) from error
        result[path] = Path(file)
    return result


def _failed(source: HubSource, path: str, error: Exception) -> ModelFetchError:
    reason = " ".join(str(error).split())[:400]
    return ModelFetchError(
        f"{source.origin}/{path} could not be fetched: {type(error).__name__}: {reason}",
        cure="Check the network, the revision and the path, and log in if the repository is private; or copy "
        "the file here and use a file: source.",
    )
