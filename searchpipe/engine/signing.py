"""Signatures of checked-in engines: HMAC-SHA256 with a shared secret, or Ed25519.

What is signed are the bytes of the manifest as canonical JSON (sorted keys, no spaces, UTF-8)
together with the signature's own header, so that neither algorithm nor date can be exchanged.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import hmac
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from searchpipe.engine.signing_keys import HMAC, Key, ed25519_private, ed25519_public, load_key
from searchpipe.errors import RegistryError

Algorithm = Literal["hmac-sha256", "ed25519"]
_DOMAIN = b"searchpipe engine manifest, format 1\n"
_TRUE = ("1", "true", "yes", "on")

KEY_VARIABLE = "SEARCHPIPE_ENGINE_KEY"
"""Environment variable: key file that signs and checks engines."""


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a manifest; ``expires`` is empty for a key without an end, ``value`` is base64."""

    algorithm: Algorithm
    key_id: str
    signed: str
    expires: str
    value: str


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return the one byte string that stands for ``content``: JSON, sorted keys, no spaces, UTF-8."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def sign(content: Mapping[str, Any], key: Key, *, now: dt.datetime) -> Signature:
    """Sign ``content`` (a manifest without its signature).

    Raises:
        RegistryError: the key has expired, or can only check signatures.
        MissingDependencyError: Ed25519 without the extra ``signing``.
    """
    _refuse_expired(key.id, key.expires, now)
    header = Signature(key.algorithm, key.id, moment(now), key.expires, "")
    message = _message(content, header)
    if key.algorithm == HMAC:
        value = hmac.digest(key.secret, message, hashlib.sha256)
    else:
        value = ed25519_private(key).sign(message)
    return msgspec.structs.replace(header, value=base64.b64encode(value).decode())


def check(content: Mapping[str, Any], signature: Signature, key: Key, *, now: dt.datetime) -> None:
    """Check a signature made by :func:`sign`.

    Raises:
        RegistryError: another key's, expired (the key or the signature), or not of this content.
        MissingDependencyError: Ed25519 without the extra ``signing``.
    """
    if signature.key_id != key.id or signature.algorithm != key.algorithm:
        raise RegistryError(
            f"The engine was signed by {signature.key_id} ({signature.algorithm}), and the key given is "
            f"{key.id} ({key.algorithm}).",
            cure="Give the key that signed it.",
        )
    # The key's end in the file counts, and so does the end that it had when it signed.
    _refuse_expired(key.id, key.expires, now)
    _refuse_expired(key.id, signature.expires, now)
    message = _message(content, msgspec.structs.replace(signature, value=""))
    try:
        value = base64.b64decode(signature.value, validate=True)
    except (binascii.Error, ValueError):
        value = b""
    if key.algorithm == HMAC:
        good = hmac.compare_digest(hmac.digest(key.secret, message, hashlib.sha256), value)
    else:
        good = ed25519_public(key, message, value)
    if not good:
        raise RegistryError(
            f"The signature by {key.id} is not of this manifest: the manifest or the signature was changed.",
            cure="Do not use this engine; build it again.",
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """Which signatures are asked for; immutable, any thread may share it.

    Attributes:
        keys: that check signatures.
        required: whether an engine without a good signature is refused.
    """

    keys: tuple[Key, ...] = ()
    required: bool = False

    @classmethod
    def choose(cls, keys: Iterable[Key] = (), *, ci: bool = False) -> Trust:
        """Ask for signatures where a key is given, by argument or by SEARCHPIPE_ENGINE_KEY, and in CI.

        Raises:
            RegistryError: the key file of the environment cannot be used.
        """
        given = tuple(keys) or tuple(k for k in (environment_key(),) if k is not None)
        return cls(given, required=bool(given) or ci or in_ci())

    def check(self, content: Mapping[str, Any], signature: Signature | None, *, now: dt.datetime) -> str:
        """Check a manifest's signature as far as it is asked for; return what was found, in words.

        Raises:
            RegistryError: unsigned, unknown key, expired or wrong, where a signature is required.
        """
        if signature is None:
            if self.required:
                raise RegistryError(
                    "The engine is not signed, and signed ones are required here.",
                    cure="Build it with --key FILE.",
                )
            return "unsigned"
        known = [key for key in self.keys if key.id == signature.key_id]
        if not known:
            if self.required:
                told = ", ".join(key.id for key in self.keys) or "none"
                raise RegistryError(
                    f"The engine was signed by {signature.key_id}; keys given: {told}.",
                    cure=f"Give its key with --key FILE or {KEY_VARIABLE}.",
                )
            return f"signed by {signature.key_id}, not checked: its key was not given"
        check(content, signature, known[0], now=now)
        return f"signed by {signature.key_id} ({signature.algorithm})"


def in_ci() -> bool:
    """Whether this is a CI job (environment variable CI), where only signed engines count."""
    return os.environ.get("CI", "").strip().lower() in _TRUE


def environment_key() -> Key | None:
    """Return the key of SEARCHPIPE_ENGINE_KEY; None if it is not set. RegistryError for a bad file."""
    path = os.environ.get(KEY_VARIABLE, "")
    return load_key(path) if path else None


def moment(when: dt.datetime) -> str:
    """A moment as text: ISO 8601, UTC, seconds."""
    return when.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def utc_now() -> dt.datetime:
    """The present moment, in UTC."""
    return dt.datetime.now(dt.UTC)


def _message(content: Mapping[str, Any], header: Signature) -> bytes:
    return _DOMAIN + canonical({"header": msgspec.to_builtins(header), "manifest": content})


def _refuse_expired(key_id: str, expires: str, now: dt.datetime) -> None:
    if not expires:
        return
    try:
        end = dt.datetime.fromisoformat(expires)
    except ValueError:
        raise RegistryError(f"Key {key_id}: its end {expires!r} is no ISO 8601 moment.") from None
    if end.tzinfo is None:
        end = end.replace(tzinfo=dt.UTC)
    if now >= end:
        raise RegistryError(
            f"The signature key {key_id} expired at {moment(end)}; it is {moment(now)}.",
            cure="Make a new one with `searchpipe engine keygen`, and build the engine again.",
        )
