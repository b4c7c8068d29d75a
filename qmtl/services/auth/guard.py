"""The door of every service: who comes in, what they are told when they may not."""

import ipaddress
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from qmtl.config import ConfigError
from qmtl.engine.ports import Clock
from qmtl.services.auth.key_source import JwksFile, JwksUrl
from qmtl.services.auth.principal import (
    ANONYMOUS,
    AuthError,
    InvalidTokenError,
    PermissionDeniedError,
    Principal,
    Role,
)
from qmtl.services.auth.tokens import TokenVerifier
from qmtl.settings import AuthSection


class Guard:
    """Tells the caller of a request; without a verifier everybody on loopback is ANONYMOUS."""

    def __init__(self, verifier: TokenVerifier | None) -> None:
        self._verifier = verifier

    @property
    def mode(self) -> str:
        """`jwt` or `none`."""
        return "none" if self._verifier is None else "jwt"

    async def authenticate(self, scheme_and_token: str | None, peer: str | None) -> Principal:
        """Return who calls, by the Authorization header and the peer's address; AuthError when nobody may."""
        if self._verifier is None:
            if not is_loopback_host(peer or ""):
                raise InvalidTokenError("without tokens this service answers to its own machine only")
            return ANONYMOUS
        scheme, _, token = (scheme_and_token or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise InvalidTokenError("expected Authorization: Bearer TOKEN")
        return await self._verifier.verify(token.strip())


def make_guard(auth: AuthSection, *, name: str, profile: str, host: str, clock: Clock) -> Guard:
    """Return the guard of the service `name` that listens on `host`.

    ConfigError when it would let in anybody: mode none in the prod profile or off loopback; and when jwt has
    no key set.
    """
    mode = auth.mode or ("jwt" if profile == "prod" else "none")
    if mode == "none":
        if profile == "prod":
            raise ConfigError(f"{name}.auth.mode: none is refused in the prod profile; set jwt")
        if not is_loopback_host(host):
            raise ConfigError(f"{name}.auth.mode: none is refused on {host}; set jwt or bind 127.0.0.1")
        return Guard(None)
    if auth.jwks is None:
        raise ConfigError(f"{name}.auth.jwks: not set; make a key set with qmtl keys FILE")
    is_url = auth.jwks.startswith(("http://", "https://"))
    keys = JwksUrl(auth.jwks, clock) if is_url else JwksFile(Path(auth.jwks).expanduser())
    return Guard(TokenVerifier(keys, audience=auth.audience or name, issuer=auth.issuer, clock=clock))


def is_loopback_host(host: str) -> bool:
    """Tell whether a host or address is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class BearerMiddleware:
    """Authenticates every HTTP request before anything reads its body, except on `open_paths`."""

    def __init__(self, app: ASGIApp, guard: Guard, open_paths: Collection[str]) -> None:
        self._app = app
        self._guard = guard
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with `state.principal` set, or answer it."""
        if scope["type"] == "http" and scope["path"] not in self._open_paths:
            request = Request(scope)
            peer = request.client.host if request.client else None
            try:
                principal = await self._guard.authenticate(request.headers.get("authorization"), peer)
            except AuthError as error:
                await refuse(request, error)(scope, receive, send)
                return
            scope.setdefault("state", {})["principal"] = principal
        await self._app(scope, receive, send)


def refuse(_request: Request, error: Exception) -> JSONResponse:
    """Answer an AuthError; also an exception handler of FastAPI."""
    status = getattr(error, "status", 500)
    detail: dict[str, Any] = {
        "code": getattr(error, "code", "E_INTERNAL"),
        "message": str(error),
        "context": {},
    }
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"detail": detail}, status_code=status, headers=headers)


def require_role(*roles: Role) -> Callable[[Request], Principal]:
    """Return a dependency that gives the caller, or PermissionDeniedError when it has none of `roles`."""

    def check(request: Request) -> Principal:
        principal: Any = getattr(request.state, "principal", None)
        if not isinstance(principal, Principal):
            raise PermissionDeniedError("this path is open to nobody")
        principal.require_role(*roles)
        return principal

    return check
