"""A BERT cross-encoder in plain torch: the teacher is read into it, the student is trained in it.

Parameters have Hugging Face's names, so ``model.safetensors`` and ``config.json`` of a
``BertForSequenceClassification`` with one label are read and written without translation.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the name everybody uses

from searchpipe.errors import ModelError
from searchpipe.train.onnx_bert import BertShape


class CrossEncoder(nn.Module):
    """Token ids of pairs to one logit a pair.

    Parameters stay float32; activations have the dtype given to :meth:`forward`. The last
    layer computes queries and feed-forward for the first token alone, as nothing else is read.
    One thread at a time while training.
    """

    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.hidden_size
        self.bert = nn.ModuleDict(
            {
                "embeddings": nn.ModuleDict(
                    {
                        "word_embeddings": nn.Embedding(shape.vocab_size, width),
                        "position_embeddings": nn.Embedding(shape.max_position_embeddings, width),
                        "token_type_embeddings": nn.Embedding(2, width),
                        "LayerNorm": nn.LayerNorm(width, shape.layer_norm_eps),
                    }
                ),
                "encoder": nn.ModuleDict(
                    {"layer": nn.ModuleList(_Layer(shape) for _ in range(shape.num_hidden_layers))}
                ),
                "pooler": nn.ModuleDict({"dense": nn.Linear(width, width)}),
            }
        )
        self.classifier = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 if width > 256 else 0.05)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, types: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Logits.

        Args:
            ids: int64 ``(n, t)``, t at most ``max_position_embeddings``.
            types: int64 ``(n, t)``, 0 for the query's side and 1 for the document's.
            mask: bool ``(n, t)``, False for padding.
            dtype: of the activations.

        Returns:
            float32 ``(n,)``.
        """
        tables = self.bert["embeddings"]
        hidden = tables["word_embeddings"](ids) + tables["token_type_embeddings"](types)
        hidden = hidden + tables["position_embeddings"].weight[: ids.shape[1]]
        hidden = _norm(tables["LayerNorm"], hidden.to(dtype))
        seen = mask[:, None, None, :]
        layers = self.bert["encoder"]["layer"]
        for place, layer in enumerate(layers):
            hidden = layer(hidden, seen, first_only=place == len(layers) - 1)
        pooled = torch.tanh(_linear(self.bert["pooler"]["dense"], hidden[:, 0]))
        logits: Tensor = self.classifier(pooled.float())
        return logits[:, 0]


class _Layer(nn.Module):
    def __init__(self, shape: BertShape) -> None:
        super().__init__()
        self.shape = shape
        width = shape.hidden_size
        self.attention = nn.ModuleDict(
            {
                "self": nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value")}),
                "output": nn.ModuleDict(
                    {"dense": nn.Linear(width, width), "LayerNorm": nn.LayerNorm(width, shape.layer_norm_eps)}
                ),
            }
        )
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, shape.intermediate_size)})
        self.output = nn.ModuleDict(
            {
                "dense": nn.Linear(shape.intermediate_size, width),
                "LayerNorm": nn.LayerNorm(width, shape.layer_norm_eps),
            }
        )

    def forward(self, hidden: Tensor, seen: Tensor, *, first_only: bool) -> Tensor:
        asking = hidden[:, :1] if first_only else hidden
        part, out = self.attention["self"], self.attention["output"]
        query, key, value = (
            self._by_head(_linear(part[name], source))
            for name, source in (("query", asking), ("key", hidden), ("value", hidden))
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        mixed = mixed.transpose(1, 2).reshape(asking.shape)
        attended = _norm(out["LayerNorm"], _linear(out["dense"], mixed) + asking)
        inner = F.gelu(_linear(self.intermediate["dense"], attended))
        return _norm(self.output["LayerNorm"], _linear(self.output["dense"], inner) + attended)

    def _by_head(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], self.shape.num_attention_heads, self.shape.head_size).transpose(1, 2)


def _linear(module: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, module.weight.to(x.dtype), module.bias.to(x.dtype))


def _norm(module: nn.Module, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], module.weight.to(x.dtype), module.bias.to(x.dtype), module.eps)


def load_folder(folder: Path) -> CrossEncoder:
    """Read a Hugging Face folder (``config.json`` and ``model.safetensors``).

    Raises:
        ModelError: no such files, or not a BERT cross-encoder with one label.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        state = load_file(str(folder / "model.safetensors"))
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"{folder} is no folder of a model: {error}",
            cure="Give one with config.json and model.safetensors.",
        ) from error
    try:
        shape = BertShape(**{name: config[name] for name in BertShape.__dataclass_fields__ if name in config})
        model = CrossEncoder(shape)
        model.load_state_dict({k: v.float() for k, v in state.items() if "position_ids" not in k})
    except (KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{folder} is not a BERT cross-encoder: {' '.join(str(error).split())[:300]}",
            cure="Use a BertForSequenceClassification with one label.",
        ) from error
    return model.eval()


def save_folder(model: CrossEncoder, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` as Hugging Face's transformers read them."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "num_labels": 1,
        "hidden_act": "gelu",
        "type_vocab_size": 2,
        **asdict(model.shape),
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = {name: value.detach().float().cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, str(folder / "model.safetensors"), metadata={"format": "pt"})


def weights_of(model: CrossEncoder) -> dict[str, Tensor]:
    """The parameters as float32 on the CPU, by name."""
    return {name: value.detach().float().cpu() for name, value in model.state_dict().items()}
