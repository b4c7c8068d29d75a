"""Who calls a service, and what they may do (contract, rebalancing §5)."""

from dataclasses import dataclass, field
from typing import Literal, get_args

Role = Literal["viewer", "operator", "live_trader", "service"]
ROLES: tuple[Role, ...] = get_args(Role)
EVERY_WORLD = "*"


class AuthError(Exception):
    """A call is refused; `status` and `code` are what the caller is told, with the message."""

    status = 401
    code = "E_UNAUTHENTICATED"


class InvalidTokenError(AuthError):
    """No token, or one that proves nothing; the message says what is wrong with it and never holds it."""


class PermissionDeniedError(AuthError):
    """A valid token without the role or the world that is needed."""

    status = 403
    code = "E_PERMISSION_DENIED"


class KeysUnavailableError(AuthError):
    """The public keys could never be read, so nobody can be told from anybody else."""

    status = 503
    code = "E_KEYS_UNAVAILABLE"


@dataclass(frozen=True)
class Principal:
    """A caller: subject, roles, and the worlds it may see (`*` is every one)."""

    subject: str
    roles: frozenset[str] = frozenset()
    worlds: frozenset[str] = frozenset()
    expires_s: float | None = None
    token_id: str = field(default="", repr=False)

    def require_role(self, *roles: Role) -> None:
        """Raise PermissionDeniedError unless the caller has one of `roles`."""
        if not self.roles & set(roles):
            raise PermissionDeniedError(f"{self.subject}: needs role {' or '.join(roles)}")

    def require_world(self, world_id: str) -> None:
        """Raise PermissionDeniedError unless the caller may see `world_id`."""
        if EVERY_WORLD not in self.worlds and world_id not in self.worlds:
            raise PermissionDeniedError(f"{self.subject}: may not see world {world_id}")


ANONYMOUS = Principal("anonymous", frozenset(ROLES) - {"live_trader"}, frozenset({EVERY_WORLD}))
"""Whoever calls a development service on loopback that asks for no token."""
