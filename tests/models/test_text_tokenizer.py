from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from searchpipe.errors import ConfigError, ModelError
from searchpipe.models.tokenizer import TextTokenizer
from tests.fakes.tiny_tokenizer import SPECIAL, WORDS, save_tokenizer

IDS = {token: number for number, token in enumerate((*SPECIAL, *WORDS))}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tokenizer(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> TextTokenizer:
    return TextTokenizer(path, max_tokens=6)


def named(*tokens: str) -> list[int]:
    return [IDS[token] for token in tokens]


def test_ids_without_special_tokens_padding_or_the_file_s_truncation(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.ids("Red SHOES for men, size")
    assert ids.dtype == np.int32
    assert ids.tolist() == named("red", "shoe", "##s", "for", "men", "[UNK]")  # cut at 6, the file says 4
    assert tokenizer.ids("red").tolist() == named("red")  # the file pads to 32


def test_special_ids_are_found_by_name(tokenizer: TextTokenizer) -> None:
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id) == (0, 1, 2, 3)
    assert tokenizer.vocab_size == len(IDS)


@pytest.mark.parametrize("text", ["", "   \n\t", "\0", "\0\0 \x01\x02"])
def test_nothing_to_read_gives_an_empty_array(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.ids(text)
    assert ids.shape == (0,)
    assert ids.dtype == np.int32


def test_control_characters_and_nul_do_not_hide_words(tokenizer: TextTokenizer) -> None:
    assert tokenizer.ids("red\0 \x07shoe").tolist() == named("red", "shoe")


def test_lone_surrogates_are_replaced(tokenizer: TextTokenizer) -> None:
    assert tokenizer.ids("red \ud800 shoe").tolist() == named("red", "shoe")  # U+FFFD is cleaned away
    assert tokenizer.ids("\udfff").size == 0
    # A pair left apart by a careless decoder is one emoji: unknown here, but a token.
    assert tokenizer.ids("red \ud83d\ude00").tolist() == named("red", "[UNK]")


def test_emoji_and_mixed_scripts_are_unknown_tokens(tokenizer: TextTokenizer) -> None:
    assert set(tokenizer.ids("👟👟 обувь 鞋 حذاء").tolist()) == {tokenizer.unk_id}


def test_a_megabyte_is_cut_before_it_is_read(tokenizer: TextTokenizer) -> None:
    assert tokenizer.ids("red shoe " * 120_000).tolist() == named("red", "shoe") * 3
    assert tokenizer.ids("x" * 1_000_000).tolist() == [tokenizer.unk_id]
    assert tokenizer.ids(" " * 1_000_000 + "red hat").tolist() == named("red", "hat")
    assert tokenizer.ids("\ud800" * 1_000_000).size == 0


@pytest.mark.parametrize("parallel", [False, True])
def test_many_texts_equal_one_by_one(tokenizer: TextTokenizer, parallel: bool) -> None:
    texts = ["red shoes", "", "hat \ud800", "blue cotton hat for women size large", "zzz"]
    many = tokenizer.ids_many(texts, parallel=parallel)
    assert [ids.tolist() for ids in many] == [tokenizer.ids(text).tolist() for text in texts]
    assert all(ids.dtype == np.int32 for ids in many)
    assert tokenizer.ids_many([], parallel=parallel) == []


def test_threads_get_the_same_answers(tokenizer: TextTokenizer) -> None:
    texts = [f"{word} shoes for {other}" for word in WORDS for other in WORDS]
    expected = [tokenizer.ids(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(4):
            assert [ids.tolist() for ids in pool.map(tokenizer.ids, texts)] == expected


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads through Linux's /proc")
@pytest.mark.parametrize("parallel", [False, True])
def test_no_threads_and_no_settings_are_left_in_the_host(path: Path, parallel: bool) -> None:
    code = (
        "import os, sys; from searchpipe.models.tokenizer import TextTokenizer\n"
        "t = TextTokenizer(sys.argv[1], max_tokens=8)\n"
        "before, threads = dict(os.environ), len(os.listdir('/proc/self/task'))\n"
        f"t.ids_many(['red shoes'] * 64, parallel={parallel})\n"
        "assert dict(os.environ) == before\n"
        "print(len(os.listdir('/proc/self/task')) - threads)\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    # Threads of the library's pool are what a later fork would lose; only ``parallel`` starts them.
    assert (int(done.stdout) > 0) == parallel


@pytest.mark.parametrize("missing", ["[PAD]", "[CLS]", "[SEP]"])
def test_missing_special_token_is_named(tmp_path: Path, missing: str) -> None:
    special = tuple(token for token in SPECIAL if token != missing)
    path = save_tokenizer(tmp_path / "t.json", special=special)
    with pytest.raises(ModelError, match=rf"no {missing[1:-1]} token"):
        TextTokenizer(path, max_tokens=6)


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no tokenizer file"):
        TextTokenizer(tmp_path / "none.json", max_tokens=6)
    with pytest.raises(ModelError, match="no tokenizer file"):
        TextTokenizer(tmp_path, max_tokens=6)
    for content in (b"", b"{}", b"\x00\xff", b'{"model": 1}'):
        (tmp_path / "t.json").write_bytes(content)
        with pytest.raises(ModelError, match="is not a tokenizer file"):
            TextTokenizer(tmp_path / "t.json", max_tokens=6)


def test_token_limit_must_be_positive(path: Path) -> None:
    with pytest.raises(ConfigError, match="max_tokens is 0"):
        TextTokenizer(path, max_tokens=0)
