"""Bearer tokens: JSON web tokens signed with EdDSA, and nothing else (contract, rebalancing §5)."""

from collections.abc import Sequence
from typing import Any

import jwt

from qmtl.engine.ports import Clock, Random
from qmtl.services.auth.key_source import KeySource
from qmtl.services.auth.keys import SigningKey
from qmtl.services.auth.principal import InvalidTokenError, Principal

_REQUIRED = ["exp", "iat", "iss", "jti", "sub", "aud"]
_AHEAD_S = 60
"""So far may the clock of whoever signed be ahead of ours."""
_MAX_LENGTH = 8_192


def sign_token(
    key: SigningKey,
    *,
    issuer: str,
    audience: Sequence[str],
    subject: str,
    ttl_s: int,
    clock: Clock,
    rng: Random,
    **claims: Any,
) -> str:
    """Return a token valid from now for `ttl_s` seconds; `claims` are added, such as roles and worlds."""
    now = clock.now_ms() // 1000
    body = {
        "iss": issuer,
        "aud": audience[0] if len(audience) == 1 else list(audience),
        "sub": subject,
        "jti": rng.randbytes(16).hex(),
        "iat": now,
        "exp": now + ttl_s,
        **claims,
    }
    return jwt.encode(body, key.private, algorithm="EdDSA", headers={"kid": key.kid})


class TokenVerifier:
    """Tells who a token is of: signed by a key of `keys`, for `audience`, and by `issuer` when one is set."""

    def __init__(self, keys: KeySource, *, audience: str, issuer: str | None, clock: Clock) -> None:
        self._keys = keys
        self._audience = audience
        self._issuer = issuer
        self._clock = clock

    async def verify(self, token: str) -> Principal:
        """Return whose token it is; InvalidTokenError saying what is wrong with it, never the token."""
        claims = await self.read(token)
        roles, worlds = claims.get("roles", []), claims.get("worlds", [])
        worlds = [worlds] if isinstance(worlds, str) else worlds
        for name, value in (("roles", roles), ("worlds", worlds)):
            if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                raise InvalidTokenError(f"token: {name} is not a list of names")
        return Principal(claims["sub"], frozenset(roles), frozenset(worlds), claims["exp"], claims["jti"])

    async def read(self, token: str) -> dict[str, Any]:
        """Return the claims of a valid token; InvalidTokenError as `verify`."""
        if len(token) > _MAX_LENGTH:
            raise InvalidTokenError("token: too long")
        try:
            header = jwt.get_unverified_header(token)
            if header.get("alg") != "EdDSA":
                raise InvalidTokenError("token: only EdDSA signatures are accepted")
            key = await self._keys.find(str(header.get("kid", "")))
            if key is None:
                raise InvalidTokenError("token: signed with an unknown key")
            claims = jwt.decode(
                token,
                key,
                algorithms=["EdDSA"],
                audience=self._audience,
                issuer=self._issuer,
                # Times are compared below, with the clock of this service.
                options={"require": _REQUIRED, "verify_exp": False, "verify_iat": False, "verify_nbf": False},
            )
        except jwt.InvalidTokenError as error:
            raise InvalidTokenError(f"token: {_explain(error)}") from None
        self._check_times(claims)
        return claims

    def _check_times(self, claims: dict[str, Any]) -> None:
        now = self._clock.now_ms() / 1000
        for name in ("exp", "iat", "nbf"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise InvalidTokenError(f"token: {name} is not a time")
        if claims["exp"] <= now:
            raise InvalidTokenError("token: expired")
        if max(claims["iat"], claims.get("nbf", 0)) > now + _AHEAD_S:
            raise InvalidTokenError("token: not valid yet")


def _explain(error: jwt.InvalidTokenError) -> str:
    """Return the reason in words of our own where the library's would repeat what the token says."""
    if isinstance(error, jwt.MissingRequiredClaimError):
        return f"lacks {error.claim}"
    names: dict[type[Exception], str] = {
        jwt.InvalidAudienceError: "for another audience",
        jwt.InvalidIssuerError: "by another issuer",
        jwt.InvalidSignatureError: "the signature does not match",
    }
    return next((text for kind, text in names.items() if isinstance(error, kind)), "malformed")
