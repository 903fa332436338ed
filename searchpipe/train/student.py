"""Training of a small cross-encoder on a teacher's scores of lists."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from searchpipe.arrays import Float32, Int32
from searchpipe.errors import ConfigError
from searchpipe.train.bert import CrossEncoder
from searchpipe.train.onnx_bert import BertShape
from searchpipe.train.pairs import PairTokens, padded

_WARM_UP = 0.06  # share of the steps
_LAST_RATE = 0.02  # of the peak
_CHECKS = 10  # held-out measurements of a run
_STUCK = 0.9  # held-out loss after the first of them, relative to that before training
_SELF_ATTENTION = 5.0  # logit of the first layer's attention of a token to its like, at the start
_TIMED = 20  # steps whose time decides how many fit


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """One student and how it is trained.

    Attributes:
        layers, width: of the model; heads are 32 wide, the feed-forward is four times the width.
        docs: document tokens read.
        queries: query tokens read while training; longer ones are rare.
        rate: peak learning rate; 0 takes ``1e-3 * (128 / width) ** 1.5``.
        tau: temperature of the listwise softmax, in logits.
        mse: weight of the squared error of the logits.
        seconds: of training; the number of steps follows from the speed measured in the first
            steps and is written into the report. 0 takes ``steps``.
        steps: when ``seconds`` is 0.
        pairs: of one step.
    """

    layers: int = 2
    width: int = 128
    docs: int = 64
    queries: int = 21
    rate: float = 0.0
    tau: float = 2.0
    mse: float = 0.05
    seconds: float = 60.0
    steps: int = 0
    pairs: int = 4096

    @classmethod
    def parse(cls, text: str) -> StudentSpec:
        """From ``LAYERSxWIDTH[,name=value...]``, for example ``2x192,docs=48,seconds=80``.

        Raises:
            ConfigError: not of that form, a name that does not exist, or a value out of range.
        """
        sizes, *rest = text.split(",")
        try:
            layers, width = (int(part) for part in sizes.split("x"))
            named: dict[str, Any] = {}
            for part in rest:
                name, _, value = part.partition("=")
                named[name] = type(getattr(cls(), name))(value)
            spec = cls(layers=layers, width=width, **named)
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{text!r} describes no student: {error}.", cure="Write for example 2x128,docs=64,seconds=60."
            ) from error
        if spec.layers < 1 or spec.width < 32 or spec.width % 32 or spec.docs < 8 or spec.tau <= 0:
            raise ConfigError(
                f"{text!r}: layers >= 1, width a multiple of 32, docs >= 8 and tau > 0 are needed."
            )
        if spec.seconds <= 0 and spec.steps < 1:
            raise ConfigError(f"{text!r} trains for no time; give seconds or steps.")
        return spec

    @property
    def name(self) -> str:
        """Short and unlike that of every other spec in practice."""
        return f"{self.layers}x{self.width}-d{self.docs}-t{self.tau:g}"

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up."""
        return self.rate or 1e-3 * (128 / self.width) ** 1.5

    def shape(self) -> BertShape:
        """Sizes of the model; positions reach 32 query tokens beside the documents'."""
        return BertShape(
            self.layers, self.width, self.width // 32, 4 * self.width, 30522, padded(self.docs + 35)
        )


@dataclass(slots=True)
class Lessons:
    """Lists of candidates with the teacher's logits; held-out lists are the last ones.

    Attributes:
        queries: int32 ``(n,)``, places in ``pairs``.
        lists: int32 ``(n, c)``, places of products in ``pairs``.
        logits: float32 ``(n, c)``, the teacher's.
        held_out: how many of the last lists are not trained on.
        query_lengths: int32 ``(n,)``, tokens.
    """

    pairs: PairTokens
    queries: Int32
    lists: Int32
    logits: Float32
    held_out: int
    query_lengths: Int32


@dataclass(slots=True)
class Trained:
    """A trained student and what the report says about it."""

    model: CrossEncoder
    facts: dict[str, Any] = field(default_factory=dict)


def train(
    spec: StudentSpec, teacher: CrossEncoder, lessons: Lessons, *, seed: int, say: Callable[[str], None]
) -> Trained:
    """Train one student; the state with the best held-out loss is kept.

    A run whose loss does not fall at first is begun again, once, at half the learning rate.
    """
    rate = spec.peak_rate
    for attempt in range(2):
        run = _Run(spec, teacher, lessons, seed + attempt, rate, say)
        if run.train(may_give_up=attempt == 0):
            break
        rate /= 2
        say(f"{spec.name}: does not learn; begun again at the rate {rate:.1e}")
    return Trained(run.model, run.facts)


class _Run:
    def __init__(
        self,
        spec: StudentSpec,
        teacher: CrossEncoder,
        lessons: Lessons,
        seed: int,
        rate: float,
        say: Callable[[str], None],
    ) -> None:
        self._spec, self._lessons, self._rate, self._say = spec, lessons, rate, say
        self._device = next(teacher.parameters()).device
        self._dtype = torch.bfloat16 if self._device.type == "cuda" else torch.float32
        torch.manual_seed(seed)
        self.model = CrossEncoder(spec.shape()).to(self._device)
        known = np.nanmean(lessons.logits, dtype=np.float64)
        start_from(self.model, teacher, float(known))
        self._rng = np.random.default_rng(seed)
        fused = self._device.type == "cuda"
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
        self._optimizer = torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-6, fused=fused)
        self._lists = torch.from_numpy(lessons.lists.astype(np.int64)).to(self._device)
        self._queries = torch.from_numpy(lessons.queries.astype(np.int64)).to(self._device)
        self._logits = torch.from_numpy(lessons.logits).to(self._device)
        self.facts = {"spec": asdict(spec), "rate": rate, "seed": seed}

    def train(self, *, may_give_up: bool) -> bool:
        spec, say = self._spec, self._say
        first = self.held_out()
        say(f"{spec.name}: before training: {_line(first)}")
        steps, begin = spec.steps or 10**9, time.perf_counter()
        best, best_state, history = first["loss"], self._state(), [{"step": 0, **first}]
        check = max(1, steps // _CHECKS)
        done, sum_loss = 0, torch.zeros((), device=self._device)
        for rows, width in self._batches():
            for group in self._optimizer.param_groups:
                group["lr"] = self._rate * _schedule(done, steps)
            sum_loss += self._step(rows, width)
            done += 1
            if spec.seconds > 0 and done == 2 * _TIMED:
                steps = self._steps_that_fit(begin, done)
                check = max(1, steps // _CHECKS)
                say(f"{spec.name}: {steps} steps of {spec.pairs} pairs fit into {spec.seconds:g} s")
            if done == _TIMED:
                self._wait()
                begin = time.perf_counter()
            if done % check and done < steps:
                continue
            found = self.held_out()
            history.append({"step": done, "train_loss": float(sum_loss) / check, **found})
            sum_loss.zero_()
            say(f"{spec.name}: step {done}/{steps}: {_line(found)}")
            if may_give_up and done == check and found["loss"] > _STUCK * first["loss"] and done < steps:
                return False
            if found["loss"] < best:
                best, best_state = found["loss"], self._state()
            if done >= steps:
                break
        self.model.load_state_dict(best_state)
        self.model.eval()
        self.facts.update(
            steps=done,
            pairs=done * spec.pairs,
            seconds=round(time.perf_counter() - begin, 1),
            history=history,
        )
        return True

    def _steps_that_fit(self, begin: float, done: int) -> int:
        self._wait()
        each = (time.perf_counter() - begin) / (done - _TIMED)
        # Held-out measurements cost about a twentieth.
        return max(done + 1, int(0.95 * self._spec.seconds / each))

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def _batches(self) -> Iterator[tuple[Tensor, int]]:
        """Places of lists and the width of the rows, for ever; lists of like length share a batch."""
        lessons, spec = self._lessons, self._spec
        count = len(lessons.lists) - lessons.held_out
        size = min(count, max(1, spec.pairs // lessons.lists.shape[1]))
        lengths = np.minimum(lessons.query_lengths, spec.queries)
        while True:
            order = self._rng.permutation(count)
            batches = []
            for start in range(0, count, 64 * size):
                part = order[start : start + 64 * size]
                part = part[np.argsort(lengths[part], kind="stable")]
                batches += [part[at : at + size] for at in range(0, len(part) - size + 1, size)]
            for place in self._rng.permutation(len(batches)):
                rows = batches[place]
                width = padded(int(lengths[rows].max()) + spec.docs + 3)
                yield torch.from_numpy(rows).to(self._device), width

    def _scores(self, rows: Tensor, width: int) -> Tensor:
        docs = self._lists[rows]
        query = self._queries[rows].repeat_interleave(docs.shape[1])
        spec = self._spec
        inputs = self._lessons.pairs.inputs(query, docs.reshape(-1), spec.queries, spec.docs, width)
        logits: Tensor = self.model(*inputs, self._dtype)
        return logits.view(docs.shape)

    def _step(self, rows: Tensor, width: int) -> Tensor:
        self.model.train()
        loss = list_loss(self._scores(rows, width), self._logits[rows], self._spec.tau, self._spec.mse)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self._optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def held_out(self) -> dict[str, float]:
        """Loss, and how often two candidates are in the teacher's order, over held-out lists."""
        self.model.eval()
        count, spec = len(self._lists), self._spec
        places = torch.arange(count - self._lessons.held_out, count, device=self._device)
        size = max(1, 2 * spec.pairs // self._lists.shape[1])
        width = padded(spec.queries + spec.docs + 3)
        scores = torch.cat([self._scores(part, width) for part in places.split(size)])
        given = self._logits[places]
        return {
            "loss": float(list_loss(scores, given, spec.tau, spec.mse)),
            "agreement": agreement(scores, given),
            "error": float((scores - given).abs().mean()),
        }


def start_from(student: CrossEncoder, teacher: CrossEncoder, mean_logit: float) -> None:
    """Give the student the teacher's embedding tables, cut to its width by PCA of the words' vectors.

    The first layer's keys start equal to its queries, so that a token looks at its like from
    the first step on: small models find matching words late, or never, if they start at random.
    """
    theirs, ours = teacher.bert["embeddings"], student.bert["embeddings"]
    words = theirs["word_embeddings"].weight.detach().double().cpu()
    middle = words.mean(0)
    _, axes = torch.linalg.eigh((words - middle).T @ (words - middle))
    basis = axes.flip(1)[:, : student.shape.hidden_size]
    with torch.no_grad():
        for name in ("word_embeddings", "position_embeddings", "token_type_embeddings"):
            table = theirs[name].weight.detach().double().cpu()
            shift = middle if name == "word_embeddings" else 0.0
            rows = ((table - shift) @ basis)[: ours[name].weight.shape[0]]
            ours[name].weight.copy_(rows.float())
        part = student.bert["encoder"]["layer"][0].attention["self"]
        deviation = math.sqrt(
            _SELF_ATTENTION / (math.sqrt(student.shape.head_size) * student.shape.hidden_size)
        )
        torch.nn.init.normal_(part["query"].weight, std=deviation)
        part["key"].weight.copy_(part["query"].weight)
        student.classifier.bias.fill_(mean_logit)


def list_loss(scores: Tensor, given: Tensor, tau: float, mse: float) -> Tensor:
    """``tau ** 2 * KL(softmax(given / tau) || softmax(scores / tau)) + mse * squared error``, means."""
    target = F.log_softmax(given / tau, dim=1)
    divergence = F.kl_div(F.log_softmax(scores / tau, dim=1), target, log_target=True, reduction="batchmean")
    return tau * tau * divergence + mse * F.mse_loss(scores, given)


def agreement(scores: Tensor, given: Tensor, least: float = 0.5) -> float:
    """Share of pairs in the given order, of those whose given scores differ by ``least`` or more."""
    ours = scores[:, :, None] - scores[:, None, :]
    theirs = given[:, :, None] - given[:, None, :]
    clear = theirs > least
    return float((ours[clear] > 0).float().mean()) if bool(clear.any()) else math.nan


def _schedule(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine down to :data:`_LAST_RATE`; 1 is the peak."""
    if steps >= 10**9:  # the number of steps is not known yet
        return (step + 1) / (20.0 * _TIMED)
    warm = max(1, int(_WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    along = (step - warm) / max(1, steps - warm)
    return _LAST_RATE + (1 - _LAST_RATE) * 0.5 * (1 + math.cos(math.pi * min(1.0, along)))


def _line(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in found.items())
