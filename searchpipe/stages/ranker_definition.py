"""What a learned ranker reads: its features in their order, kept beside the model and checked before use."""

from __future__ import annotations

from pathlib import Path

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import ModelError
from searchpipe.files import write_json

FEATURES_VERSION = 1
"""Raise it when a feature changes its meaning: models trained on the old one are refused then."""

CATEGORIES = ("brand", "category", "top_category", "query_class", "device", "user")
"""Categorical features, each hashed to a row of its own table; row 0 is for what is not known.

* ``brand``, ``category`` (the most specific), ``top_category``: of the product.
* ``query_class``: the category that most of the first 10 fused candidates share.
* ``device``, ``user``: of the query's context.
"""

DENSE = (
    "fused",
    "lexical",
    "dense",
    "fused_rank",
    "popularity",
    "rating",
    "title_overlap",
    "text_overlap",
    "price_place",
    "has_price",
    "category_share",
    "recent_category",
    "recent_brand",
    "query_words",
)
"""Dense features, each in 0..1.

* the first six: see :class:`searchpipe.stages.features.Features`.
* ``title_overlap``, ``text_overlap``: share of the query's tokens among the product's first 24 and 96.
* ``price_place``: share of the query's priced candidates that are cheaper; 0.5 without a price.
* ``has_price``: 1 with a price.
* ``category_share``: share of the first 20 fused candidates in the product's category.
* ``recent_category``, ``recent_brand``: 1 where the context's is the product's.
* ``query_words``: words of the query out of 10.
"""


class CategoryTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A categorical feature and the rows of its embedding table, the unknown one included."""

    name: str
    rows: int


class RankerDefinition(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Inputs of a ranker's model, in their order; ``NAME.json`` beside ``NAME.onnx``.

    Attributes:
        features_version: :data:`FEATURES_VERSION` of the code that it was trained with.
        categories: columns of the input ``categories``, int64 ``[n, c]``.
        dense: columns of the input ``dense``, float32 ``[n, d]``.
        model_sha256: of the model that was trained on them, in hexadecimal.
    """

    features_version: int
    model_sha256: str
    categories: tuple[CategoryTable, ...]
    dense: tuple[str, ...]

    def check(self, where: str) -> None:
        """Refuse what this version of searchpipe does not compute.

        Raises:
            ModelError: other features, or another version of them.
        """
        if self.features_version != FEATURES_VERSION:
            raise ModelError(
                f"{where}: the ranker was trained on version {self.features_version} of the features; "
                f"this searchpipe computes version {FEATURES_VERSION}.",
                cure="Train it again: python -m searchpipe.train.ranker.",
            )
        for kind, names, known in (
            ("categories", [table.name for table in self.categories], CATEGORIES),
            ("dense", list(self.dense), DENSE),
        ):
            unknown = [name for name in names if name not in known]
            if unknown or len(set(names)) < len(names) or not names:
                raise ModelError(
                    f"{where}: {kind} are {names}; each of {', '.join(known)} can be there once.",
                    cure="Train the ranker again: python -m searchpipe.train.ranker.",
                )
        small = [table for table in self.categories if table.rows < 2]
        if small:
            raise ModelError(f"{where}: {small[0].name} has {small[0].rows} rows; at least 2 are needed.")

    def check_model(self, sha256: str, where: str) -> None:
        """Refuse a model that the definition was not written for.

        Raises:
            ModelError: another hash.
        """
        if sha256 != self.model_sha256:
            raise ModelError(
                f"{where} belongs to the model {self.model_sha256[:12]}, not to {sha256[:12]}.",
                cure="Keep the .onnx file with the .json file that was written beside it.",
            )

    def save(self, model: Path) -> None:
        """Write it beside ``model``."""
        write_json(model.with_suffix(".json"), msgspec.to_builtins(self))


def load_definition(path: Path) -> RankerDefinition:
    """Read and check a definition.

    Raises:
        ModelError: it is missing or malformed, or was made for other features.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=decodable(RankerDefinition))
    except OSError as error:
        raise ModelError(
            f"{path}, the definition of the ranker's features, cannot be read: {error.strerror or error}.",
            cure="It is written beside the model when that is trained; keep both together.",
        ) from error
    except msgspec.DecodeError as error:
        raise ModelError(f"{path} is not a ranker's definition: {error}.") from error
    found.check(str(path))
    return found
