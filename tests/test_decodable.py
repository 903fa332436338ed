"""Structs are decoded to from several threads at once, the first time too."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# In a process of its own: types are learnt once.
_SCRIPT = """
import threading
from searchpipe.config import load_config

ready, done = threading.Barrier(4), []

def load():
    ready.wait()
    done.append(load_config({"budget": {"default_ms": 20}}).budget.default_ms)

threads = [threading.Thread(target=load) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(done)
"""


@pytest.mark.parametrize("attempt", range(4))
def test_threads_load_a_configuration_at_once(attempt: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", _SCRIPT], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, ""), attempt
    assert ended.stdout.strip() == "[20.0, 20.0, 20.0, 20.0]"


def decoded_types(tree: ast.AST) -> list[ast.expr]:
    """What calls of msgspec in a module decode to."""
    found: list[ast.expr] = []
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        module, _, name = ast.unparse(call.func).rpartition(".")
        if module not in ("msgspec", "msgspec.json", "msgspec.msgpack"):
            continue
        given = {word.arg: word.value for word in call.keywords}
        if name in ("decode", "convert", "Decoder"):
            place = 0 if name == "Decoder" else 1
            kind = given.get("type", call.args[place] if len(call.args) > place else None)
            found += [kind] if kind is not None else []
    return found


def test_every_struct_is_learnt_before_it_is_decoded_to() -> None:
    seen = 0
    for path in (ROOT / "searchpipe").rglob("*.py"):
        if path.name == "decodable.py":
            continue
        for kind in decoded_types(ast.parse(path.read_text("utf-8"))):
            text = ast.unparse(kind)
            assert text.startswith(("decodable(", "dict[", "list[")), f"{path}: {text}"
            seen += text.startswith("decodable(")
    assert seen > 10
