"""Key files: what ``searchpipe engine keygen`` writes, PEM files of Ed25519, or bytes for HMAC."""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import hashlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from searchpipe.decodable import decodable
from searchpipe.errors import MissingDependencyError, RegistryError

HMAC: Literal["hmac-sha256"] = "hmac-sha256"
ED25519: Literal["ed25519"] = "ed25519"
# A secret shorter than SHA-256's output is weaker than the signature; in bytes.
_LEAST_SECRET = 32
_ED25519_BYTES = 32
_MOST_FILE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class Key:
    """One key; immutable, any thread may share it.

    ``secret``: of HMAC the shared secret, of Ed25519 the private key (32 bytes), empty for a key
    that only checks. ``public``: of Ed25519, 32 bytes. ``expires``: ISO 8601, empty for no end.
    """

    algorithm: Literal["hmac-sha256", "ed25519"]
    id: str
    secret: bytes
    public: bytes = b""
    expires: str = ""

    def __repr__(self) -> str:
        return f"Key({self.algorithm}, {self.id}, expires={self.expires or 'never'})"


class _KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    algorithm: Literal["hmac-sha256", "ed25519"]
    id: str = ""
    secret: str = ""
    public: str = ""
    expires: str = ""


def load_key(path: Path | str) -> Key:
    """Read a key file: JSON as :func:`write_key` makes it, PEM (Ed25519), or the bytes of an HMAC secret.

    Raises:
        RegistryError: it cannot be read, or holds no key of these kinds.
        MissingDependencyError: Ed25519 without the extra ``signing``.
    """
    file = Path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RegistryError(f"The key file {file} cannot be read: {error.strerror or error}.") from error
    if len(content) > _MOST_FILE_BYTES:
        raise RegistryError(f"The key file {file} has {len(content)} bytes; a key has less than 64 KiB.")
    stripped = content.strip()
    if stripped.startswith(b"{"):
        return _from_json(file, stripped)
    if stripped.startswith(b"-----BEGIN"):
        return _from_pem(file, stripped)
    return _hmac_key(file, stripped)


def make_key(algorithm: Literal["hmac-sha256", "ed25519"], *, key_id: str = "", expires: str = "") -> Key:
    """Make a new random key; ``key_id`` is taken from the key itself if empty.

    Raises:
        RegistryError: ``expires`` is no ISO 8601 moment.
        MissingDependencyError: Ed25519 without the extra ``signing``.
    """
    if expires:
        try:
            dt.datetime.fromisoformat(expires)
        except ValueError:
            raise RegistryError(f"A key cannot expire at {expires!r}: no ISO 8601 moment.") from None
    if algorithm == HMAC:
        secret = secrets.token_bytes(_LEAST_SECRET)
        return Key(HMAC, key_id or _id_of(secret), secret, b"", expires)
    module = _ed25519_module()
    private = module.Ed25519PrivateKey.generate()
    return _ed25519_key(private.private_bytes_raw(), private.public_key().public_bytes_raw(), key_id, expires)


def write_key(key: Key, path: Path) -> Path | None:
    """Write a key file that only its owner can read; of Ed25519 also NAME.pub.json, which only checks.

    Returns:
        The public file, if there is one.

    Raises:
        RegistryError: a file is there already, or cannot be written.
    """
    whole = _KeyFile(key.algorithm, key.id, _text(key.secret), _text(key.public), key.expires)
    _write_new(path, whole, 0o600)
    if key.algorithm == HMAC:
        return None
    public = path.with_name(f"{path.stem}.pub.json")
    _write_new(public, msgspec.structs.replace(whole, secret=""), 0o644)
    return public


def ed25519_private(key: Key) -> Any:
    """The private key as the library takes it.

    Raises:
        RegistryError: the key can only check.
    """
    if not key.secret:
        raise RegistryError(
            f"Key {key.id} is a public key, which only checks signatures.", cure="Sign with the private one."
        )
    return _ed25519_module().Ed25519PrivateKey.from_private_bytes(key.secret)


def ed25519_public(key: Key, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is the key's for ``message``."""
    from cryptography.exceptions import InvalidSignature

    try:
        _ed25519_module().Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _ed25519_module() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise MissingDependencyError(
            f"Ed25519 signatures need the package cryptography ({error}).",
            cure="Install it: pip install 'searchpipe[signing]', or use an HMAC key.",
        ) from error
    return ed25519


def _ed25519_key(secret: bytes, public: bytes, key_id: str, expires: str) -> Key:
    return Key(ED25519, key_id or hashlib.sha256(public).hexdigest()[:16], secret, public, expires)


def _from_json(file: Path, content: bytes) -> Key:
    try:
        found = msgspec.json.decode(content, type=decodable(_KeyFile))
        secret, public = (base64.b64decode(text, validate=True) for text in (found.secret, found.public))
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        # The error names a field and a type, never the secret itself.
        raise RegistryError(f"{file} is not a key file: {error}.") from None
    if found.algorithm == HMAC:
        if len(secret) < _LEAST_SECRET:
            raise RegistryError(
                f"{file}: the secret has {len(secret)} bytes; {_LEAST_SECRET} are the least.",
                cure="Make one with `searchpipe engine keygen`.",
            )
        return Key(HMAC, found.id or _id_of(secret), secret, b"", found.expires)
    if secret:
        if len(secret) != _ED25519_BYTES:
            raise RegistryError(f"{file}: an Ed25519 key has {_ED25519_BYTES} bytes, not {len(secret)}.")
        private = _ed25519_module().Ed25519PrivateKey.from_private_bytes(secret)
        public = private.public_key().public_bytes_raw()
    if len(public) != _ED25519_BYTES:
        raise RegistryError(f"{file}: an Ed25519 key has {_ED25519_BYTES} bytes, not {len(public)}.")
    return _ed25519_key(secret, public, found.id, found.expires)


def _from_pem(file: Path, content: bytes) -> Key:
    module = _ed25519_module()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    try:
        if b"PUBLIC KEY-----" in content:
            public = load_pem_public_key(content)
            if isinstance(public, module.Ed25519PublicKey):
                return _ed25519_key(b"", public.public_bytes_raw(), "", "")
        else:
            private = load_pem_private_key(content, password=None)
            if isinstance(private, module.Ed25519PrivateKey):
                return _ed25519_key(
                    private.private_bytes_raw(), private.public_key().public_bytes_raw(), "", ""
                )
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RegistryError(f"{file} cannot be read as a PEM key: {error}.") from error
    raise RegistryError(f"{file} holds a key that is not Ed25519.", cure="openssl genpkey -algorithm ed25519")


def _hmac_key(file: Path, secret: bytes) -> Key:
    if len(secret) < _LEAST_SECRET:
        raise RegistryError(
            f"{file}: the secret has {len(secret)} bytes; {_LEAST_SECRET} are the least.",
            cure="Make one with `searchpipe engine keygen`.",
        )
    return Key(HMAC, _id_of(secret), secret)


def _id_of(secret: bytes) -> str:
    """A name that does not give the secret away."""
    return hashlib.sha256(b"searchpipe key id\n" + secret).hexdigest()[:16]


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _write_new(path: Path, content: _KeyFile, mode: int) -> None:
    text = json.dumps(msgspec.to_builtins(content), indent=2) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise RegistryError(f"{path} is there already.", cure="A key is never overwritten.") from None
    except OSError as error:
        raise RegistryError(f"{path} cannot be written: {error.strerror or error}.") from error
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
