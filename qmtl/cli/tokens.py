"""`qmtl keys` and `qmtl token`: who may call our services."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qmtl.cli.invocation import BadInputError, Invocation, who_asks

if TYPE_CHECKING:
    from qmtl.settings import Settings

DEFAULT_ISSUER = "qmtl"
_MAX_TTL_S = 366 * 86_400


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("keys")(keys)
    app.command("token")(token)


def keys(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where the private key goes; must not exist.")],
    jwks: Annotated[
        Path | None,
        typer.Option("--jwks", help="Public key set to make or add to; default FILE.jwks.json."),
    ] = None,
) -> None:
    """Make a key pair that signs tokens, and the set of public keys that services check them with."""
    from qmtl.engine.clock import SystemRandom
    from qmtl.services.auth.keys import make_key, write_key

    invocation: Invocation = ctx.obj
    key = make_key(SystemRandom())
    key_set = jwks or file.with_name(f"{file.name}.jwks.json")
    write_key(key, file, key_set)
    body = {"key": str(file), "jwks": str(key_set), "kid": key.kid}
    invocation.answer(body, f"private key {file} · public keys {key_set} · kid {key.kid}")


def token(
    ctx: typer.Context,
    key: Annotated[Path, typer.Option("--key", help="The private key file of qmtl keys.")],
    audience: Annotated[list[str], typer.Option("--aud", help="The service, such as coordinator.")],
    role: Annotated[
        list[str] | None, typer.Option("--role", help="viewer, operator, live_trader or service.")
    ] = None,
    world: Annotated[list[str] | None, typer.Option("--world", help="A world, or * for every one.")] = None,
    ttl: Annotated[str, typer.Option("--ttl", help="Seconds it is valid.")] = "3600",
    subject: Annotated[str | None, typer.Option("--sub", help="Whose it is; default user@host.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Write it to a file, whole and mode 600, for file:PATH.")
    ] = None,
) -> None:
    """Sign a bearer token; --aud, --role and --world may be repeated."""
    from qmtl.engine.clock import SystemClock, SystemRandom
    from qmtl.services.auth.keys import read_signing_key, write_whole
    from qmtl.services.auth.principal import ROLES
    from qmtl.services.auth.tokens import sign_token

    invocation: Invocation = ctx.obj
    unknown = [name for name in role or [] if name not in ROLES]
    if unknown:
        raise BadInputError(f"--role: unknown {unknown[0]!r}; known: {', '.join(ROLES)}")
    if not (ttl.isascii() and ttl.isdigit() and 0 < int(ttl) <= _MAX_TTL_S):
        raise BadInputError(f"--ttl: found {ttl!r}, expected whole seconds from 1 to {_MAX_TTL_S}")
    clock = SystemClock()
    signing_key = read_signing_key(key)
    text = sign_token(
        signing_key,
        issuer=_issuer(invocation.load().settings, audience),
        audience=audience,
        subject=subject or who_asks(),
        ttl_s=int(ttl),
        clock=clock,
        rng=SystemRandom(),
        roles=list(dict.fromkeys(role or [])),
        worlds="*" if "*" in (world or []) else list(dict.fromkeys(world or [])),
    )
    expires = clock.now_ms() // 1000 + int(ttl)
    if out is None:
        invocation.answer({"token": text, "kid": signing_key.kid, "expires": expires}, text)
        return
    write_whole(out, f"{text}\n".encode(), 0o600)
    invocation.answer({"file": str(out), "kid": signing_key.kid, "expires": expires}, f"token in {out}")


def _issuer(settings: "Settings", audience: list[str]) -> str:
    """Return the issuer that the services of these audiences expect."""
    from qmtl.settings import AuthSection

    expected: dict[str, str] = {}
    for name in type(settings).model_fields:
        auth = getattr(getattr(settings, name), "auth", None)
        if isinstance(auth, AuthSection) and (auth.audience or name) in audience and auth.issuer:
            expected[auth.issuer] = f"{name}.auth.issuer"
    if len(expected) > 1:
        raise BadInputError(f"--aud: {' and '.join(expected.values())} differ; sign a token for each")
    return next(iter(expected), DEFAULT_ISSUER)
