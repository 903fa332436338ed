"""A ranker of the DeepFM family (Guo et al., arXiv:1703.04247), its training on lists, and its ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from searchpipe.arrays import Array, Float32
from searchpipe.stages.ranker_definition import RankerDefinition
from searchpipe.train.ranker_data import RankingList, ndcg


@dataclass(frozen=True, slots=True)
class RankerTraining:
    """How a ranker is trained.

    Attributes:
        width: of an embedding.
        hidden: units of the two layers of the deep part.
        epochs: passes over the lists.
        rate: of AdamW.
        decay: weight decay, of everything but the linear part.
        forget: share of category ids that a training step takes for unknown.
        lists: in one step.
        held: share of the lists that say after each epoch how good the ranker is; the best one is kept, which
            may be the formula that it started from.
        prior: how sharp the formula is that the ranker starts from; see :class:`DeepFM`.
        seed: of everything.
    """

    width: int = 8
    hidden: int = 32
    epochs: int = 12
    rate: float = 1e-3
    decay: float = 0.05
    forget: float = 0.3
    lists: int = 8
    held: float = 0.2
    prior: float = 8.0
    seed: int = 7


class DeepFM(nn.Module):
    """Linear terms, all products of two features (a factorisation machine), and a small network, added up.

    Its linear part starts as the formula of ``[prerank]`` times ``prior`` and everything else adds
    nothing at first, so that training begins at the formula's order and has to improve on it.
    """

    def __init__(
        self, definition: RankerDefinition, training: RankerTraining, formula: Mapping[str, float]
    ) -> None:
        super().__init__()
        rows = [table.rows for table in definition.categories]
        columns, width = len(rows) + len(definition.dense), training.width
        starts = np.concatenate([[0], np.cumsum(rows)[:-1]]).astype(np.int64)
        self.register_buffer("starts", torch.from_numpy(starts))
        self.table = nn.Parameter(torch.randn(sum(rows), width) * 0.01)
        self.bias = nn.Parameter(torch.zeros(sum(rows), 1))
        self.vectors = nn.Parameter(torch.randn(len(definition.dense), width) * 0.01)
        begin = [training.prior * formula.get(name, 0.0) for name in definition.dense]
        self.linear = nn.Parameter(torch.tensor(begin, dtype=torch.float32)[:, None])
        self.first = nn.Linear(columns * width + len(definition.dense), training.hidden)
        self.second = nn.Linear(training.hidden, training.hidden)
        self.last = nn.Linear(training.hidden, 1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, categories: Tensor, dense: Tensor) -> Tensor:
        """Scores ``[n]`` of ``categories`` int64 ``[n, c]`` and ``dense`` float32 ``[n, d]``."""
        ids = categories + self.starts
        crossed = torch.cat([self.table[ids], dense[:, :, None] * self.vectors], dim=1)
        pairs = 0.5 * (crossed.sum(1).square() - crossed.square().sum(1)).sum(1)
        inner = torch.cat([crossed.flatten(1), dense], dim=1)
        deep = self.last(torch.relu(self.second(torch.relu(self.first(inner)))))[:, 0]
        score: Tensor = self.bias[ids].sum((1, 2)) + (dense @ self.linear)[:, 0] + pairs + deep
        return score


def train(
    lists: Sequence[RankingList],
    definition: RankerDefinition,
    training: RankerTraining,
    formula: Mapping[str, float],
) -> tuple[DeepFM, list[dict[str, float]]]:
    """Train on lists by softmax cross-entropy over each list.

    Lists without any worth teach nothing and are left out. The same seed gives the same model on the
    same machine.

    Returns:
        The model as it was after the epoch with the best nDCG@10 on held-out lists, and for each epoch
        (the first: before training) its training ``loss`` and that ``ndcg``.
    """
    torch.manual_seed(training.seed)
    rng = np.random.default_rng(training.seed)
    model = DeepFM(definition, training, formula)
    linear = [model.linear]
    others = [p for p in model.parameters() if p is not model.linear]
    optimiser = torch.optim.AdamW(
        [{"params": others, "weight_decay": training.decay}, {"params": linear, "weight_decay": 0.0}],
        lr=training.rate,
    )
    useful = [made for made in lists if made.worth.any()]
    shuffled = rng.permutation(len(useful))
    held = [useful[place] for place in shuffled[: int(training.held * len(useful))]]
    useful = [useful[place] for place in shuffled[len(held) :]]
    history = [{"loss": 0.0, "ndcg": _quality(model, held)}]
    best = copy.deepcopy(model.state_dict())
    for _ in range(training.epochs):
        total = 0.0
        order = rng.permutation(len(useful))
        for begin in range(0, len(order), training.lists):
            step = [useful[place] for place in order[begin : begin + training.lists]]
            loss = torch.stack([_loss(model, made, training.forget, rng) for made in step]).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(step)
        quality = _quality(model, held)
        if not held or quality > max(epoch["ndcg"] for epoch in history):
            best = copy.deepcopy(model.state_dict())
        history.append({"loss": total / max(1, len(useful)), "ndcg": quality})
    model.load_state_dict(best)
    return model.eval(), history


def _quality(model: DeepFM, lists: Sequence[RankingList]) -> float:
    """Mean nDCG@10 over lists, each against the best order of its own candidates; 0 without any."""
    found = [
        ndcg(np.argsort(-scores_of(model, made), kind="stable"), made.worth, np.sort(made.worth)[::-1])
        for made in lists
    ]
    return float(np.mean(found)) if found else 0.0


def _loss(model: DeepFM, made: RankingList, forget: float, rng: np.random.Generator) -> Tensor:
    kept = rng.random(made.categories.shape) >= forget
    scores = model(torch.from_numpy(made.categories * kept), torch.from_numpy(made.dense))
    worth = torch.from_numpy(made.worth)
    return -made.weight * (worth / worth.sum() * torch.log_softmax(scores, 0)).sum()


def scores_of(model: DeepFM, made: RankingList) -> Float32:
    """Scores float32 ``[n]`` of a list."""
    with torch.inference_mode():
        found: Float32 = model(torch.from_numpy(made.categories), torch.from_numpy(made.dense)).numpy()
    return found


def save_onnx(model: DeepFM, path: Path, facts: Mapping[str, str]) -> None:
    """Write the model as ONNX: inputs ``categories`` and ``dense``, output ``scores``; atomically."""
    import os

    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights: dict[str, Array] = {
        name: np.ascontiguousarray(value.detach().numpy()) for name, value in model.state_dict().items()
    }
    weights |= {
        f"{n}.weight": np.ascontiguousarray(weights[f"{n}.weight"].T) for n in ("first", "second", "last")
    }
    weights |= {
        "axis_last": np.array([2], np.int64),
        "axis_1": np.array([1], np.int64),
        "axes_1_2": np.array([1, 2], np.int64),
        "flat": np.array([0, -1], np.int64),
        "half": np.array(0.5, np.float32),
    }

    def node(kind: str, inputs: Sequence[str], output: str, **attributes: Any) -> Any:
        return helper.make_node(kind, list(inputs), [output], name=output, **attributes)

    nodes = [
        node("Add", ("categories", "starts"), "ids"),
        node("Gather", ("table", "ids"), "embedded"),
        node("Gather", ("bias", "ids"), "biases"),
        node("Unsqueeze", ("dense", "axis_last"), "column"),
        node("Mul", ("column", "vectors"), "scaled"),
        node("Concat", ("embedded", "scaled"), "crossed", axis=1),
        node("ReduceSum", ("crossed", "axis_1"), "sum", keepdims=0),
        node("Mul", ("sum", "sum"), "sum_squared"),
        node("Mul", ("crossed", "crossed"), "squared"),
        node("ReduceSum", ("squared", "axis_1"), "squared_sum", keepdims=0),
        node("Sub", ("sum_squared", "squared_sum"), "twice"),
        node("ReduceSum", ("twice", "axis_1"), "twice_pairs", keepdims=0),
        node("Mul", ("twice_pairs", "half"), "pairs"),
        node("Reshape", ("crossed", "flat"), "flattened"),
        node("Concat", ("flattened", "dense"), "inner", axis=1),
        node("MatMul", ("inner", "first.weight"), "first_product"),
        node("Add", ("first_product", "first.bias"), "first_sum"),
        node("Relu", ("first_sum",), "first_out"),
        node("MatMul", ("first_out", "second.weight"), "second_product"),
        node("Add", ("second_product", "second.bias"), "second_sum"),
        node("Relu", ("second_sum",), "second_out"),
        node("MatMul", ("second_out", "last.weight"), "last_product"),
        node("Add", ("last_product", "last.bias"), "last_sum"),
        node("Squeeze", ("last_sum", "axis_1"), "deep"),
        node("ReduceSum", ("biases", "axes_1_2"), "bias_sum", keepdims=0),
        node("MatMul", ("dense", "linear"), "linear_column"),
        node("Squeeze", ("linear_column", "axis_1"), "linear_sum"),
        node("Add", ("bias_sum", "linear_sum"), "first_order"),
        node("Add", ("first_order", "pairs"), "wide"),
        node("Add", ("wide", "deep"), "scores"),
    ]
    columns = (len(weights["starts"]), len(weights["vectors"]))
    graph = helper.make_graph(
        nodes,
        "feature-ranker",
        [
            helper.make_tensor_value_info("categories", TensorProto.INT64, ["rows", columns[0]]),
            helper.make_tensor_value_info("dense", TensorProto.FLOAT, ["rows", columns[1]]),
        ],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["rows"])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="searchpipe")
    made.ir_version = 9
    helper.set_model_props(made, dict(facts))
    onnx.checker.check_model(made)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with temporary.open("wb") as file:
        file.write(made.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
