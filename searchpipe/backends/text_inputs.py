"""The inputs of BERT-like models, and whether an engine takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchpipe.backends.base import Engine
from searchpipe.errors import ModelError

REQUIRED = ("input_ids", "attention_mask")
OPTIONAL = ("token_type_ids",)
_CURE = "Export the model with these input names, int64 or int32, each [batch, sequence]."


def check_text_inputs(engine: Engine) -> np.dtype[Any]:
    """Return the one integer dtype of the engine's text inputs.

    Raises:
        ModelError: other names, other ranks than 2, or dtypes that are not all int32 or all int64.

    """
    found = ", ".join(f"{key} {dtype}" for key, dtype in engine.inputs.items()) or "none"
    names = set(engine.inputs)
    if not set(REQUIRED) <= names or names - set(REQUIRED) - set(OPTIONAL):
        raise ModelError(
            f"Model {engine.name} has the inputs {found}; expected input_ids, attention_mask and, "
            "optionally, token_type_ids.",
            cure=_CURE,
        )
    for key, rank in engine.input_ranks.items():
        if rank is not None and rank != 2:
            raise ModelError(
                f"Model {engine.name}: input {key} has {rank} dimensions, expected 2.", cure=_CURE
            )
    dtypes = set(engine.inputs.values())
    dtype = dtypes.pop()
    if dtypes or dtype not in (np.dtype(np.int32), np.dtype(np.int64)):
        raise ModelError(
            f"Model {engine.name} has the inputs {found}; expected all int64 or all int32.", cure=_CURE
        )
    return dtype
