"""A learned ranker for the prerank stage: an ONNX model over hashed categories and dense features."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchpipe.arrays import Float32
from searchpipe.errors import ModelError
from searchpipe.models.cache import sha256_of
from searchpipe.stages.base import Work
from searchpipe.stages.ranker_definition import load_definition
from searchpipe.stages.ranker_inputs import RankerInputs

if TYPE_CHECKING:
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine
    from searchpipe.catalog.snapshot import Snapshot

INPUTS = ("categories", "dense")


class LearnedRanker:
    """Scores candidates by a model, for :class:`searchpipe.stages.prerank.Prerank`. Any thread may call it.

    Args:
        inputs: computes the model's inputs.
        engine: runs it: ``categories`` int64 ``[n, c]``, ``dense`` float32 ``[n, d]`` -> float32 ``[n]``.
        name: of the model, for :meth:`describe`.

    Raises:
        ModelError: the model takes other inputs, or does not run on what the definition says.
    """

    def __init__(self, inputs: RankerInputs, engine: OnnxCpuEngine, name: str) -> None:
        from searchpipe.stages.ranker_inputs import empty_feeds

        self._inputs = inputs
        self._engine = engine
        self._name = name
        if set(engine.inputs) != set(INPUTS):
            raise ModelError(
                f"The ranker {name} takes {', '.join(engine.inputs)}; it must take {' and '.join(INPUTS)}.",
                cure="Train it with python -m searchpipe.train.ranker.",
            )
        try:
            found = engine.run(empty_feeds(inputs.definition, range(3)))
        except Exception as error:
            raise ModelError(
                f"The ranker {name} does not take the columns of its definition: {error}",
                cure="Keep the .onnx file with the .json file that was written beside it.",
            ) from error
        if found.reshape(-1).shape != (3,):
            raise ModelError(f"The ranker {name} gave {found.shape} for 3 candidates, not one score each.")

    def score(self, work: Work) -> Float32:
        """Run the model over all candidates of ``work``."""
        return self._engine.run(self._inputs.feeds(work)).reshape(-1)

    def describe(self) -> str:
        """One line."""
        definition = self._inputs.definition
        categories, dense = len(definition.categories), len(definition.dense)
        return f"{self._name}, {categories} categories and {dense} dense features"


def open_learned(snapshot: Snapshot, model: str) -> LearnedRanker:
    """Open the ranker that ``[prerank] model`` names: a path to an ONNX file, or ``engine:NAME``.

    Raises:
        ModelError: the file or its definition is missing or wrong, or the engine is no ranker.
        RegistryError: there is no such engine, or none that fits this machine.
        MissingDependencyError: ONNX Runtime is not installed.
    """
    from searchpipe.backends.onnx_cpu import OnnxCpuEngine

    path, definition, name, sha256 = _files(model)
    loaded = load_definition(definition)
    loaded.check_model(sha256, str(definition))
    # One thread: the model is small, and other queries want the cores.
    engine = OnnxCpuEngine(path, threads=1, name=name)
    return LearnedRanker(RankerInputs(snapshot.columns, snapshot.tokens, loaded), engine, name)


def _files(model: str) -> tuple[Path, Path, str, str]:
    """Model, definition, name, and the hash of what was trained."""
    from searchpipe.models.sources import parse_engine

    source = parse_engine(model)
    if source is None:
        path = Path(model).expanduser()
        try:
            return path, path.with_suffix(".json"), path.stem, sha256_of(path)
        except OSError as error:
            raise ModelError(
                f"The ranker {path} cannot be read: {error.strerror or error}.",
                cure='Correct prerank.model, or set it to "formula".',
            ) from error
    from searchpipe.engine.machine import this_machine
    from searchpipe.engine.pick import pick
    from searchpipe.engine.registry import Registry

    choice = pick(Registry(), source.name, this_machine(), source.version)
    if choice.manifest.task != "ranker" or choice.model is None:
        raise ModelError(
            f"Engine {source.name} is a {choice.manifest.task}, not a feature ranker that runs here.",
            cure='Name a ranker, or set prerank.model = "formula".',
        )
    return choice.model, _definition_of(choice), choice.label, choice.manifest.model.sha256


def _definition_of(choice: Any) -> Path:
    beside: list[str] = [facts.path for facts in choice.manifest.files.values()]
    found = [path for path in beside if path.endswith(".json") and not path.endswith(".plan.json")]
    if len(found) != 1:
        raise ModelError(
            f"Engine {choice.manifest.name} has {len(found)} definitions of its features, not one.",
            cure="Build it again from a ranker with its .json beside it.",
        )
    return Path(choice.folder / found[0])
