"""Where a service finds the public keys of whoever signs tokens: a file or a URL, followed as it changes."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from qmtl.config import ConfigError
from qmtl.engine.ports import Clock
from qmtl.services.auth.keys import SigningKey, parse_jwks, read_jwks
from qmtl.services.auth.principal import KeysUnavailableError

_log = structlog.get_logger("qmtl.auth")
_FRESH_MS = 300_000.0
_ASK_AGAIN_MS = 5_000.0
_TIMEOUT_S = 5.0


class KeySource(Protocol):
    """Public keys by their id."""

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """Return the key, None when nobody has one of that id."""


class FixedKeys:
    """The public halves of keys this process holds itself."""

    def __init__(self, *keys: SigningKey) -> None:
        self._keys = {key.kid: key.private.public_key() for key in keys}

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """See KeySource."""
        return self._keys.get(kid)


class JwksFile:
    """A key set in a file, read again when the file changes; a broken new one leaves the old in force.

    ConfigError when it cannot be read at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = _stamp(path)
        self._keys = read_jwks(path)[1]

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """See KeySource."""
        stamp = _stamp(self._path)
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._keys = read_jwks(self._path)[1]
            except ConfigError as error:
                _log.warning("key set not read", reason=str(error), action="the keys before stay in force")
        return self._keys.get(kid)


class JwksUrl:
    """A key set at a URL: fetched when first needed, every five minutes, and for a key nobody knows yet.

    KeysUnavailableError until the first answer; later the keys of the last one stay in force.
    """

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self._keys: Mapping[str, Ed25519PublicKey] | None = None
        self._asked_ms = float("-inf")
        self._asking = asyncio.Lock()

    async def find(self, kid: str) -> Ed25519PublicKey | None:
        """See KeySource."""
        async with self._asking:
            age_ms = self._clock.real_ms() - self._asked_ms
            is_known = self._keys is not None and kid in self._keys
            # Anybody can name a key that nobody knows: the URL is asked no oftener for it.
            if age_ms > (_FRESH_MS if is_known else _ASK_AGAIN_MS):
                self._asked_ms = self._clock.real_ms()
                await self._ask()
        if self._keys is None:
            raise KeysUnavailableError("the public keys are out of reach")
        return self._keys.get(kid)

    async def _ask(self) -> None:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self._url) as answer:
                answer.raise_for_status()
                self._keys = parse_jwks(await answer.read())[1]
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            reason = str(error) or type(error).__name__
            _log.warning("key set not fetched", url=self._url, reason=reason, action="asks again")


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0, 0
    return status.st_mtime_ns, status.st_size, status.st_ino
