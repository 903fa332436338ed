r"""Distil a tiny cross-encoder from a large one, on queries made from the catalog itself.

    python -m searchpipe.train.distill --products FILE --queries FILE --teacher DIR --out DIR \
        [--rankings FILE --labels FILE] [--student 2x128 --student 2x192,seconds=80 ...]

Labels and the rankings' queries are used for the evaluation alone; nothing is trained on them.
Runs from a checkout: needs torch, safetensors, tokenizers, onnx, numpy and msgspec.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchpipe.arrays import Float32, Int32
from searchpipe.errors import CatalogError, MissingDependencyError, ModelError
from searchpipe.files import write_json
from searchpipe.models.tokenizer import TextTokenizer
from searchpipe.train.onnx_bert import write_onnx
from searchpipe.train.rankings import Ranking, read_rankings
from searchpipe.train.texts import read_lines, read_products, tokenize

if TYPE_CHECKING:
    import torch

    from searchpipe.train.bert import CrossEncoder
    from searchpipe.train.student import Lessons, Trained

_QUERY_TOKENS = 32
_BESIDES = 6.0  # seconds a student needs beside its training
_CHECKED = 64  # pairs compared between torch and ONNX Runtime


@dataclass(slots=True)
class _Log:
    """Prints a line with the time since the start, and keeps it."""

    begin: float
    path: Path

    def __call__(self, line: str) -> None:
        text = f"[{time.perf_counter() - self.begin:6.1f} s] {line}"
        print(text, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(text + "\n")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    args = _parser().parse_args(argv)
    try:
        import torch
    except ImportError as error:
        raise MissingDependencyError(
            "Training needs torch.", cure="Install it: pip install 'searchpipe[train]'."
        ) from error
    args.out.mkdir(parents=True, exist_ok=True)
    say = _Log(time.perf_counter(), args.out / "log.txt")
    device = torch.device(args.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)  # it compiles a plan for every new shape
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or "cpu"
    say(f"torch {torch.__version__} on {where}, seed {args.seed}")
    report: dict[str, Any] = {
        "arguments": {name: _plain(value) for name, value in vars(args).items()},
        "torch": torch.__version__,
        "device": where,
        "students": {},
    }
    work = _Work(args, device, say)
    if args.rankings is not None:
        report["queries"] = len(work.rankings)
        report["teacher"] = work.judge_teacher()
    lessons, report["lessons"] = work.lessons()
    for place, spec in enumerate(work.specs):
        left = args.total_seconds - (time.perf_counter() - say.begin) - _BESIDES * len(work.specs[place:])
        wanted = sum(other.seconds for other in work.specs[place:])
        if spec.seconds > 0 and wanted > left:
            spec = replace(spec, seconds=max(1.0, spec.seconds * left / wanted))
            say(f"{spec.name}: cut to {spec.seconds:.0f} s by the total time limit")
        trained = _train(spec, work, lessons)
        report["students"][spec.name] = trained.facts
        write_json(args.out / "report.json", report)
    work.write_scores(args.out / "scores.npz")
    say(f"done: {args.out / 'report.json'}")


def _train(spec: Any, work: _Work, lessons: Lessons) -> Trained:
    from searchpipe.train import student

    trained = student.train(spec, work.teacher, lessons, seed=work.args.seed, say=work.say)
    path = work.args.out / f"{spec.name}.onnx"
    weights = {name: value.numpy() for name, value in work.weights(trained.model).items()}
    made = "python -m searchpipe.train.distill"
    write_onnx(weights, trained.model.shape, path, facts={"made_by": made, "seed": str(work.args.seed)})
    trained.facts["bytes"] = path.stat().st_size
    trained.facts["onnx_difference"] = work.compare(path, trained.model, spec.docs)
    if work.args.folders:
        from searchpipe.train.bert import save_folder

        save_folder(trained.model, work.args.out / spec.name)
    if work.rankings:
        trained.facts["esci"] = work.judge(spec.name, trained.model, spec.docs)
    return trained


class _Work:
    """What all steps share. One thread."""

    def __init__(self, args: argparse.Namespace, device: torch.device, say: _Log) -> None:
        from searchpipe.train import bert
        from searchpipe.train.pairs import PairTokens
        from searchpipe.train.student import StudentSpec

        self.args, self.device, self.say = args, device, say
        self.weights = bert.weights_of
        self.specs = [StudentSpec.parse(text) for text in args.student or ("2x128",)]
        names = [spec.name for spec in self.specs]
        if len(set(names)) < len(names):
            raise ModelError(f"Students need names of their own; got {', '.join(names)}.")
        self._onnx_scores: dict[str, Any] = {}
        import torch

        self.dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.products, texts = read_products(args.products, args.template)
        places = {product.id: place for place, product in enumerate(self.products)}
        self.rankings: list[Ranking] = read_rankings(args.rankings) if args.rankings else []
        tokenizer = TextTokenizer(args.teacher / "tokenizer.json", max_tokens=args.teacher_docs)
        short = TextTokenizer(args.teacher / "tokenizer.json", max_tokens=_QUERY_TOKENS)
        rows = read_lines(args.queries)[: args.made or None]
        made, self.sources = [str(row["text"]) for row in rows], [places[row["source"]] for row in rows]
        self.made = made
        asked = made + [ranking.text for ranking in self.rankings]
        self.queries, docs = tokenize(short, asked), tokenize(tokenizer, texts)
        self.docs = docs
        self.tokenizer = tokenizer
        self.pairs = PairTokens(tokenizer, self.queries, docs, device)
        self.teacher = bert.load_folder(args.teacher).to(device)
        self.asked = np.arange(len(made), len(asked), dtype=np.int32)
        depth = args.depth
        self.lists: list[Int32] = [
            np.array([places[product] for product in ranking.products[:depth]], np.int32)
            for ranking in self.rankings
        ]
        self.judged = _judged(self.rankings, args.labels) if self.rankings else []
        say(f"{len(self.products)} products, {len(made)} made queries, for example: {' | '.join(made[:12])}")

    def lessons(self) -> tuple[Lessons, dict[str, Any]]:
        """Draw candidates and let the teacher score them."""
        from searchpipe.train.pools import CandidatePool
        from searchpipe.train.student import Lessons
        from searchpipe.train.teacher import score_lists
        from searchpipe.train.texts import Tokens

        args, count = self.args, len(self.made)
        pool = CandidatePool(self.products, self.docs, self.device, args.seed)
        made = Tokens(self.queries.ids[:count], self.queries.lengths[:count])
        lists = pool.draw(made, self.sources, args.candidates)
        del pool
        self.say(f"drew {lists.size:,} pairs")
        places = np.arange(count, dtype=np.int32)
        begin = time.perf_counter()
        logits = score_lists(
            self.teacher,
            self.pairs,
            places,
            lists,
            dtype=self.dtype,
            max_doc=args.teacher_docs,
            seconds=args.teacher_seconds,
            say=self.say,
        )
        seconds = time.perf_counter() - begin
        whole = np.isfinite(logits).all(axis=1)
        lists, logits, places = lists[whole], logits[whole], places[whole]
        if len(lists) < 32:
            raise ModelError(
                f"The teacher scored {len(lists)} lists in {seconds:.0f} s.", cure="Give it more time."
            )
        small = np.uint16 if len(self.products) < 2**16 else np.uint32
        np.savez_compressed(
            args.out / "lessons.npz",
            queries=places,
            lists=lists.astype(small),
            logits=logits.astype(np.float16),
        )
        facts = {
            "lists": len(lists),
            "candidates": args.candidates,
            "teacher_seconds": round(seconds, 1),
            "teacher_pairs_per_second": round(logits.size / seconds),
            "logit_quantiles": np.quantile(logits, (0.01, 0.25, 0.5, 0.75, 0.99)).round(2).tolist(),
            "source_first": float((logits.argmax(axis=1) == 0).mean()),
            "examples": self.made[:60],
        }
        self.say(f"lessons: {json.dumps({k: v for k, v in facts.items() if k != 'examples'})}")
        held_out = min(max(16, len(lists) // 50), 2048)
        return Lessons(self.pairs, places, lists, logits, held_out, self.queries.lengths[places]), facts

    def judge_teacher(self) -> dict[str, Any]:
        """What the teacher is worth with no time limit, by how much of a document it reads."""
        limits = sorted(
            {min(limit, self.args.teacher_docs) for limit in (48, 64, 96, self.args.teacher_docs)}
        )
        return {str(limit): self.judge(f"teacher-d{limit}", self.teacher, limit) for limit in limits}

    def judge(self, name: str, model: CrossEncoder, docs: int) -> dict[str, Any]:
        """Blended into the preranked order, by cross-validation, at several depths."""
        from searchpipe.train.crossval import cross_validated, difference
        from searchpipe.train.teacher import score_lists

        logits: list[Float32] = []
        for place, own in zip(self.asked, self.lists, strict=True):
            logits.append(
                score_lists(
                    model, self.pairs, np.array([place], np.int32), own[None], dtype=self.dtype, max_doc=docs
                )[0]
            )
        self._onnx_scores[name] = logits
        seed = self.args.seed
        base = [query.ndcg(np.arange(len(query.gains))) for query in self.judged]
        fused = [
            query.ndcg(np.argsort(-ranking.fused, kind="stable"))
            for query, ranking in zip(self.judged, self.rankings, strict=True)
        ]
        found: dict[str, Any] = {"fused": float(np.mean(fused)), "preranked": float(np.mean(base))}
        for depth in sorted({min(depth, self.args.depth) for depth in (16, 32, 64, 100)}):
            at = cross_validated(self.judged, logits, depth, seed=seed)
            at["against_preranked"] = difference(at["ndcg"], base, seed=seed)
            found[str(depth)] = at
            self.say(
                f"{name} top {depth}: nDCG@10 cross-validated {at['mean']:.4f} (preranked "
                f"{np.mean(base):.4f}, fused {np.mean(fused):.4f}), alone {at['alone']:.4f}, "
                f"best blend {at['all']}"
            )
        if not name.startswith("teacher"):
            theirs = self._onnx_scores[f"teacher-d{self.args.teacher_docs}"]
            found["agreement_with_teacher"] = _agreement(logits, theirs)
            self.say(
                f"{name}: agrees with the teacher on {found['agreement_with_teacher']:.4f} of clear pairs"
            )
        return found

    def compare(self, path: Path, model: CrossEncoder, docs: int) -> float | None:
        """Largest difference of logits between torch and the ONNX file; None without ONNX Runtime."""
        try:
            import onnxruntime
        except ImportError:
            return None
        import torch

        rng = np.random.default_rng(self.args.seed)
        query = torch.from_numpy(rng.integers(len(self.queries), size=_CHECKED)).to(self.device)
        doc = torch.from_numpy(rng.integers(len(self.products), size=_CHECKED)).to(self.device)
        width = int(self.pairs.lengths(query, doc, _QUERY_TOKENS, docs).max())
        inputs = self.pairs.inputs(query, doc, _QUERY_TOKENS, docs, width)
        with torch.inference_mode():
            expected = model(*inputs, torch.float32).cpu().numpy()
        names = ("input_ids", "token_type_ids", "attention_mask")
        feeds = {n: x.cpu().numpy().astype(np.int64) for n, x in zip(names, inputs, strict=True)}
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        gap = float(np.abs(session.run(None, feeds)[0][:, 0] - expected).max())
        self.say(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB, largest difference to torch {gap:.4f}")
        return gap

    def write_scores(self, path: Path) -> None:
        """All logits of the evaluation, so that other blends can be tried without the models."""
        columns: dict[str, Any] = {
            name: np.stack(
                [np.pad(row, (0, self.args.depth - len(row)), constant_values=np.nan) for row in rows]
            )
            for name, rows in self._onnx_scores.items()
        }
        if columns:
            np.savez_compressed(path, **columns)


def _judged(rankings: Sequence[Ranking], labels: Path) -> list[Any]:
    from searchpipe.train.crossval import grades_of, judged_query

    if labels is None:
        raise CatalogError("Rankings can only be judged with labels.", cure="Give --labels as well.")
    grades = grades_of(labels)
    return [judged_query(ranking.products, grades.get(ranking.query_id, {})) for ranking in rankings]


def _agreement(ours: Sequence[Float32], theirs: Sequence[Float32], least: float = 0.5) -> float:
    """Mean over queries of the share of pairs in the teacher's order, of those it clearly tells apart."""
    shares = []
    for own, given in zip(ours, theirs, strict=True):
        clear = given[:, None] - given[None, :] > least
        if clear.any():
            shares.append(float((own[:, None] - own[None, :] > 0)[clear].mean()))
    return float(np.mean(shares))


def _plain(value: Any) -> Any:
    """Paths by their last part: a report must not name the machine's folders."""
    if isinstance(value, Path):
        return value.name
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m searchpipe.train.distill", description=__doc__)
    add = parser.add_argument
    add("--products", type=Path, nargs="+", required=True, help="JSON Lines of products")
    add("--teacher", type=Path, required=True, help="Hugging Face folder with tokenizer.json")
    add("--out", type=Path, required=True)
    add("--rankings", type=Path, help="of searchpipe.train.rankings: evaluates on them")
    add("--labels", type=Path, help="query, product and grade, separated by tabs")
    add("--student", action="append", metavar="SPEC", help="LAYERSxWIDTH[,docs=,seconds=,rate=,tau=,...]")
    add("--template", default="{title} {brand} {text}", help="of the text read, as index.pair_text")
    add("--queries", type=Path, required=True, help="of searchpipe.train.queries")
    add("--made", type=int, default=0, help="use only so many of them (0: all)")
    add("--candidates", type=int, default=32, help="of each (default: %(default)s)")
    add("--teacher-docs", type=int, default=128, help="document tokens the teacher reads")
    add("--teacher-seconds", type=float, default=130.0, help="time limit of its scoring")
    add("--total-seconds", type=float, default=float("inf"), help="students are cut to end by then")
    add("--depth", type=int, default=100, help="candidates of a query that are judged")
    add("--folders", action="store_true", help="also write each student as a Hugging Face folder")
    add("--device", help="torch device (default: the GPU if there is one)")
    add("--seed", type=int, default=7)
    return parser


if __name__ == "__main__":
    main()
