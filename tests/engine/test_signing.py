"""Keys and signatures: both algorithms, tampering, expiry, and what is asked for."""

from __future__ import annotations

import datetime as dt
import json
import stat
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchpipe.engine.signing import KEY_VARIABLE, Signature, Trust, canonical, check, moment, sign
from searchpipe.engine.signing_keys import ED25519, HMAC, Key, load_key, make_key, write_key
from searchpipe.errors import MissingDependencyError, RegistryError

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
LATER = NOW + dt.timedelta(days=40)
CONTENT = {"name": "tiny", "share": 0.25, "files": {"a": 1}, "text": "Größe"}
ALGORITHMS = (HMAC, ED25519)


@pytest.fixture(params=ALGORITHMS)
def key(request: pytest.FixtureRequest) -> Key:
    return make_key(request.param)


def test_a_signature_holds_for_its_content_alone(key: Key) -> None:
    signature = sign(CONTENT, key, now=NOW)
    check(CONTENT, signature, key, now=LATER)
    check(dict(reversed(CONTENT.items())), signature, key, now=LATER)  # the order of keys is no content
    for changed in ({**CONTENT, "share": 0.26}, {**CONTENT, "more": 1}, {}):
        with pytest.raises(RegistryError, match="not of this manifest"):
            check(changed, signature, key, now=NOW)


@pytest.mark.parametrize(
    ("field", "value"),
    [("signed", "2020-01-01T00:00:00Z"), ("expires", ""), ("value", "AAAA"), ("value", "not base64!")],
)
def test_a_signature_s_header_is_signed_too(key: Key, field: str, value: str) -> None:
    dated = Key(key.algorithm, key.id, key.secret, key.public, moment(LATER))
    signature = sign(CONTENT, dated, now=NOW)
    fields = {name: getattr(signature, name) for name in Signature.__struct_fields__}
    with pytest.raises(RegistryError, match="not of this manifest"):
        check(CONTENT, Signature(**{**fields, field: value}), key, now=NOW)


def test_another_key_is_refused(key: Key) -> None:
    signature = sign(CONTENT, key, now=NOW)
    with pytest.raises(RegistryError, match=f"was signed by {key.id}"):
        check(CONTENT, signature, make_key(key.algorithm), now=NOW)
    # The same name does not make it the same key.
    with pytest.raises(RegistryError, match="not of this manifest"):
        check(CONTENT, signature, make_key(key.algorithm, key_id=key.id), now=NOW)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_expired_key_neither_signs_nor_checks(algorithm: str) -> None:
    end = NOW + dt.timedelta(days=30)
    key = make_key(HMAC if algorithm == HMAC else ED25519, expires=moment(end))
    signature = sign(CONTENT, key, now=NOW)
    check(CONTENT, signature, key, now=end - dt.timedelta(seconds=1))
    with pytest.raises(RegistryError, match="expired at 2026-07-01T00:00:00Z"):
        check(CONTENT, signature, key, now=end)
    with pytest.raises(RegistryError, match="expired"):
        sign(CONTENT, key, now=LATER)
    # A key file without the end does not lengthen the life of what was signed with one.
    endless = Key(key.algorithm, key.id, key.secret, key.public)
    with pytest.raises(RegistryError, match="expired"):
        check(CONTENT, signature, endless, now=LATER)


def test_keys_are_written_and_read(tmp_path: Path, key: Key) -> None:
    path = tmp_path / "keys" / "key.json"
    public = write_key(key, path)
    assert load_key(path) == key
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(RegistryError, match="there already"):
        write_key(key, path)
    signature = sign(CONTENT, key, now=NOW)
    if key.algorithm == HMAC:
        assert public is None
        return
    assert public is not None
    checker = load_key(public)
    assert not checker.secret
    check(CONTENT, signature, checker, now=NOW)
    with pytest.raises(RegistryError, match="public key, which only checks"):
        sign(CONTENT, checker, now=NOW)


def test_a_key_s_secret_is_not_shown(key: Key) -> None:
    assert key.id in repr(key)
    assert repr(key.secret) not in repr(key)


def test_pem_files_of_other_tools(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric import ed25519, x25519

    private = ed25519.Ed25519PrivateKey.generate()
    secret, public = tmp_path / "key.pem", tmp_path / "key.pub"
    plain = forms.NoEncryption()
    secret.write_bytes(private.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, plain))
    public.write_bytes(
        private.public_key().public_bytes(forms.Encoding.PEM, forms.PublicFormat.SubjectPublicKeyInfo)
    )
    check(CONTENT, sign(CONTENT, load_key(secret), now=NOW), load_key(public), now=NOW)
    other = x25519.X25519PrivateKey.generate()
    secret.write_bytes(other.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, plain))
    with pytest.raises(RegistryError, match="not Ed25519"):
        load_key(secret)
    secret.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    with pytest.raises(RegistryError, match="PEM"):
        load_key(secret)


def test_a_file_of_bytes_is_an_hmac_secret(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"0123456789abcdef0123456789abcdef\n")
    key = load_key(path)
    assert key.algorithm == HMAC
    assert len(key.id) == 16
    assert key == load_key(str(path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"short", "5 bytes; 32 are the least"),
        (b"x" * 70_000, "less than 64 KiB"),
        (b'{"algorithm": "rsa"}', "not a key file"),
        (b'{"algorithm": "hmac-sha256", "secret": "!"}', "not a key file"),
        (b'{"algorithm": "hmac-sha256", "secret": "AAAA"}', "32 are the least"),
        (b'{"algorithm": "ed25519", "secret": "AAAA"}', "32 bytes, not 3"),
        (b'{"algorithm": "ed25519", "public": "AAAA"}', "32 bytes, not 3"),
        (b"{", "not a key file"),
    ],
)
def test_what_is_no_key(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(RegistryError, match=message):
        load_key(path)
    with pytest.raises(RegistryError, match="cannot be read"):
        load_key(tmp_path / "nowhere")


def test_an_odd_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match="no ISO 8601"):
        make_key(HMAC, expires="tomorrow")
    path = tmp_path / "key.json"
    write_key(make_key(HMAC), path)
    path.write_text(json.dumps({**json.loads(path.read_text()), "expires": "soon"}))
    with pytest.raises(RegistryError, match="no ISO 8601"):
        sign(CONTENT, load_key(path), now=NOW)


def test_ed25519_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.asymmetric", None)
    with pytest.raises(MissingDependencyError, match=r"searchpipe\[signing\]"):
        make_key(ED25519)
    make_key(HMAC)


def test_what_is_asked_for(tmp_path: Path, key: Key, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = sign(CONTENT, key, now=NOW)
    assert Trust.choose().check(CONTENT, None, now=NOW) == "unsigned"
    assert "not checked" in Trust.choose().check(CONTENT, signature, now=NOW)
    assert Trust.choose([key]).check(CONTENT, signature, now=NOW).startswith(f"signed by {key.id}")
    with pytest.raises(RegistryError, match="not signed"):
        Trust.choose([key]).check(CONTENT, None, now=NOW)
    with pytest.raises(RegistryError, match="keys given: none"):
        Trust.choose(ci=True).check(CONTENT, signature, now=NOW)
    monkeypatch.setenv("CI", "true")
    with pytest.raises(RegistryError, match="not signed"):
        Trust.choose().check(CONTENT, None, now=NOW)
    monkeypatch.setenv("CI", "false")
    assert not Trust.choose().required
    write_key(key, tmp_path / "key.json")
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "key.json"))
    assert Trust.choose() == Trust((key,), required=True)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text().filter(lambda t: t.isprintable()), json_values, max_size=4))
def test_canonical_bytes_survive_json(content: dict[str, object]) -> None:
    """What is signed and what is read back from the manifest's file give the same bytes."""
    try:
        once = canonical(content)
    except (ValueError, UnicodeEncodeError):
        return  # infinity and lone surrogates have no JSON
    assert canonical(json.loads(once)) == once
