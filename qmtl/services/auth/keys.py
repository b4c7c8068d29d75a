"""Ed25519 keys: private ones in PEM files, public ones in JSON web key sets (RFC 7517, 8037)."""

import base64
import binascii
import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from qmtl.config import ConfigError
from qmtl.engine.ports import Random

_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw
Jwk = dict[str, str]


@dataclass(frozen=True)
class SigningKey:
    """A private key and the id its public half goes by: the RFC 7638 thumbprint."""

    private: Ed25519PrivateKey = field(repr=False)

    @property
    def jwk(self) -> Jwk:
        """The public half as a JSON web key."""
        x = _encode(self.private.public_key().public_bytes(*_RAW))
        named = {"crv": "Ed25519", "kty": "OKP", "x": x}
        kid = _encode(hashlib.sha256(msgspec.json.encode(named, order="sorted")).digest())
        return {**named, "kid": kid, "alg": "EdDSA", "use": "sig"}

    @property
    def kid(self) -> str:
        """The id of the key."""
        return self.jwk["kid"]

    def dump_pem(self) -> bytes:
        """Return the private key as unencrypted PKCS 8."""
        return self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )


def make_key(rng: Random) -> SigningKey:
    """Return a new key."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)))


def read_signing_key(path: Path) -> SigningKey:
    """Return the key of a PEM file; ConfigError naming the file when it is none or others may read it."""
    try:
        mode = path.stat().st_mode
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this signing key: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(f"{path}: others may read this signing key; chmod 600 it")
    try:
        private = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: expected an unencrypted PEM private key") from None
    if not isinstance(private, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an Ed25519 key")
    return SigningKey(private)


def write_key(key: SigningKey, path: Path, jwks_path: Path) -> None:
    """Write a new private key file (mode 600), and add the public half to the set at `jwks_path`.

    An existing set keeps its keys: so a key is rotated. ConfigError when `path` exists or the set is none.
    """
    jwks = read_jwks(jwks_path)[0] if jwks_path.exists() else []
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise ConfigError(f"{path}: exists; a key is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot write: {error.strerror}") from None
    with os.fdopen(descriptor, "wb") as file:
        file.write(key.dump_pem())
    write_whole(jwks_path, msgspec.json.format(msgspec.json.encode({"keys": [*jwks, key.jwk]})) + b"\n")


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Replace a file whole, so that nobody ever reads half of it; ConfigError when that cannot be."""
    whole = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            whole.unlink()
        descriptor = os.open(whole, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        whole.replace(path)
    except OSError as error:
        raise ConfigError(f"{path}: cannot write: {error.strerror}") from None


def read_jwks(path: Path) -> tuple[list[Jwk], Mapping[str, Ed25519PublicKey]]:
    """Return the keys of a file as they stand there, and by id; ConfigError naming the file."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read this key set: {error.strerror}") from None
    try:
        return parse_jwks(content)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def parse_jwks(content: bytes) -> tuple[list[Jwk], Mapping[str, Ed25519PublicKey]]:
    """Return the keys of a set, and the Ed25519 ones by id; ValueError if it is none, or holds a secret."""
    try:
        body: Any = msgspec.json.decode(content)
        keys = body["keys"]
        found = {}
        for key in keys:
            if "d" in key or "k" in key:
                raise ValueError("holds a private key; a key set is public")
            if key.get("kty") == "OKP" and key.get("crv") == "Ed25519":
                found[str(key["kid"])] = Ed25519PublicKey.from_public_bytes(_decode(key["x"]))
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError, binascii.Error):
        raise ValueError('expected a JSON web key set: {"keys": [{"kty": "OKP", "kid": …}]}') from None
    return keys, found


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
