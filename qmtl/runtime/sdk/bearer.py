"""Bearer tokens: fixed, from a file, or asked for."""

import base64
import binascii
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from qmtl.core.order import BrokerageError

FILE_PREFIX = "file:"
Token = str | Callable[[], str | Awaitable[str]]
"""Text, `file:PATH`, or a function (plain or async) that returns the text."""


class TokenUnavailable(BrokerageError, ConnectionError):  # noqa: N818 - says what happened, as its siblings do
    """A token's file or function gave none; the message never holds the token."""


class BearerToken:
    """Where a bearer token comes from; a file or a function is asked again at every `read`.

    Takes text, `file:PATH`, a function (plain or async) that returns text, or None for no token at all.
    Raises TypeError for anything else.
    """

    def __init__(self, token: Token | None) -> None:
        if not (token is None or isinstance(token, str) or callable(token)):
            raise TypeError(f"token: expected text or a function, got {type(token).__name__}")
        self._token = token
        self.is_renewable = callable(token) or (isinstance(token, str) and token.startswith(FILE_PREFIX))

    def __bool__(self) -> bool:
        return self._token is not None

    async def read(self) -> str | None:
        """Return the token as it is now, None without one; TokenUnavailable when it cannot be had."""
        token = self._token
        if token is None:
            return None
        if isinstance(token, str):
            text = _read_file(token) if self.is_renewable else token
        else:
            text = await _ask(token)
        text = text.strip()
        if not text or not text.isascii() or not text.isprintable():
            raise TokenUnavailable("token: expected one line of printable ASCII")
        return text

    async def headers(self) -> dict[str, str]:
        """Return the Authorization header as it is now, none without a token."""
        text = await self.read()
        return {} if text is None else {"Authorization": f"Bearer {text}"}


def parse_expiry_s(token: str) -> float | None:
    """Return the `exp` of a JSON web token in seconds since 1970, None when it tells none.

    The signature is the server's business; source: RFC 7519 §4.1.4.
    """
    body = token.split(".")[1] if token.count(".") == 2 else ""
    try:
        claims: Any = msgspec.json.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    except (binascii.Error, ValueError):
        return None
    expiry = claims.get("exp") if isinstance(claims, dict) else None
    return float(expiry) if isinstance(expiry, int | float) and not isinstance(expiry, bool) else None


def _read_file(token: str) -> str:
    from pydantic import SecretStr

    from qmtl.config import ConfigError, reveal

    try:
        return reveal(SecretStr(token))
    except ConfigError as error:
        raise TokenUnavailable(f"token: {error}") from None


async def _ask(token: Callable[[], str | Awaitable[str]]) -> str:
    try:
        answer = token()
        text = await answer if inspect.isawaitable(answer) else answer
    except Exception as error:
        raise TokenUnavailable(f"token: the function raised {type(error).__name__}") from error
    if not isinstance(text, str):
        raise TokenUnavailable(f"token: the function returned {type(text).__name__}, expected text")
    return text
