"""A small WordPiece tokenizer.json with the fixed padding and truncation that published files carry."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
WORDS = ("red", "blue", "green", "shoe", "##s", "hat", "cotton", "for", "men", "women", "size", "large")


def save_tokenizer(path: Path, *, words: tuple[str, ...] = WORDS, special: tuple[str, ...] = SPECIAL) -> Path:
    """Ids: the special tokens first, in their order, then the words."""
    vocabulary = {token: number for number, token in enumerate((*special, *words))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.enable_padding(length=32, pad_id=0, pad_token=special[0])
    tokenizer.enable_truncation(max_length=4)
    tokenizer.save(str(path))
    return path
