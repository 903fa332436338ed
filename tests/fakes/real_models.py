"""The published models, for tests marked ``shared``."""

from __future__ import annotations

import pytest

from searchpipe.errors import ModelFetchError
from searchpipe.models import LocalModel, resolve


def real_model(name: str) -> LocalModel:
    """Resolve a built-in model into the user's cache, or skip the test saying why it cannot be had."""
    try:
        return resolve(name)
    except ModelFetchError as error:
        pytest.skip(f"model {name} is neither cached nor to be fetched: {error}")
