"""Text to token ids, by Hugging Face tokenizers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from searchpipe import _core
from searchpipe.arrays import Int32
from searchpipe.errors import ConfigError, MissingDependencyError, ModelError
from searchpipe.models.plain_words import PlainWords

# Characters read per token wanted. Text has 4 to 5 characters a token, and WordPiece
# turns a word of more than 100 characters into one unknown token, so 32 loses nothing
# of real text, while a pasted megabyte costs what a few kilobytes cost.
_CHARS_PER_TOKEN = 32
_MIN_CHARS = 2048

_SPECIAL_NAMES = {
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
}


class TextTokenizer:
    """A ``tokenizer.json`` without the padding and truncation that are fixed in it.

    ``max_tokens`` is the largest number of ids returned for one text, without special
    tokens. All methods may be called from any thread at the same time. Texts are
    tokenized one by one unless ``parallel`` is asked for: the library's own thread
    pool must not be alive when the host process forks.

    Raises:
        ModelError: the file is missing or is not a tokenizer, or it has no CLS, SEP, PAD or
            UNK token under one of the usual names.

    """

    def __init__(self, path: Path | str, *, max_tokens: int, parallel: bool = False) -> None:
        if max_tokens < 1:
            raise ConfigError(f"max_tokens is {max_tokens}; use at least 1.")
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise MissingDependencyError(
                "Tokenizing text needs the package tokenizers.", cure="Install it: pip install tokenizers."
            ) from error
        self.path = Path(path)
        self.max_tokens = max_tokens
        self._parallel = parallel
        if not self.path.is_file():
            raise ModelError(f"There is no tokenizer file {self.path}.", cure="Name a tokenizer.json file.")
        try:
            self._tokenizer = Tokenizer.from_file(str(self.path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(
                f"{self.path} is not a tokenizer file: {error}.", cure="Use the tokenizer.json of the model."
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._max_chars = max(_MIN_CHARS, max_tokens * _CHARS_PER_TOKEN)
        self.vocab_size: int = self._tokenizer.get_vocab_size(with_added_tokens=True)
        self.cls_id = self._special("cls")
        self.sep_id = self._special("sep")
        self.pad_id = self._special("pad")
        self.unk_id = self._special("unk")
        self._plain = PlainWords.of(self._tokenizer)

    def ids(self, text: str) -> Int32:
        """Ids of one text, without special tokens: int32 [n], n <= ``max_tokens``; empty for blank text.

        Lone surrogates count as U+FFFD. Of a longer text only the first 32 characters per
        token wanted (at least 2048) are read.
        """
        if self._plain is not None and len(text) <= self._max_chars:
            ids = self._plain.ids(text)
            if ids is not None:
                return _core.token_ids(ids, self.max_tokens)
        encoding = self._tokenizer.encode(self._prepared(text), add_special_tokens=False)
        return np.asarray(encoding.ids[: self.max_tokens], dtype=np.int32)

    def ids_many(self, texts: Sequence[str], *, parallel: bool | None = None) -> list[Int32]:
        """Ids of each text, as :meth:`ids`.

        ``parallel`` uses all cores through the library's thread pool: for a process of
        its own, such as indexing, that does not fork afterwards. None for what was chosen at
        construction.
        """
        if not (self._parallel if parallel is None else parallel):
            return [self.ids(text) for text in texts]
        prepared = [self._prepared(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(prepared, add_special_tokens=False)
        return [np.asarray(encoding.ids[: self.max_tokens], dtype=np.int32) for encoding in encodings]

    def agrees_with(self, other: TextTokenizer) -> bool:
        """Whether both give every text the same ids, as far as their lengths allow."""
        return self._essence() == other._essence()

    def _essence(self) -> dict[str, Any]:
        """What decides the ids: all but padding, truncation and what is added around a text."""
        whole = json.loads(self._tokenizer.to_str())
        return {part: whole.get(part) for part in ("added_tokens", "normalizer", "pre_tokenizer", "model")}

    def _prepared(self, text: str) -> str:
        if len(text) > self._max_chars:
            text = text.lstrip()[: self._max_chars]
        if text.isascii():
            return text
        try:
            text.encode()
        except UnicodeEncodeError:
            # UTF-16 joins surrogate pairs that a careless decoder left apart; lone ones become U+FFFD.
            return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return text

    def _special(self, role: str) -> int:
        for name in _SPECIAL_NAMES[role]:
            found = self._tokenizer.token_to_id(name)
            if found is not None:
                return int(found)
        raise ModelError(
            f"{self.path} has no {role.upper()} token ({' or '.join(_SPECIAL_NAMES[role])}).",
            cure="searchpipe runs BERT-like models; use the tokenizer.json of one.",
        )
