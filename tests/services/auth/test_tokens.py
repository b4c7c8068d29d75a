"""Only a token that a known key signed, for us, still valid, says who calls (contract, rebalancing §5)."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from fastapi import Depends, FastAPI
from hypothesis import given
from hypothesis import strategies as st

from qmtl.config import ConfigError
from qmtl.engine.clock import SeededRandom, VirtualClock
from qmtl.services.auth.guard import BearerMiddleware, Guard, make_guard, refuse, require_role
from qmtl.services.auth.key_source import FixedKeys, JwksFile
from qmtl.services.auth.keys import make_key, parse_jwks, read_jwks, read_signing_key, write_key
from qmtl.services.auth.principal import (
    ANONYMOUS,
    AuthError,
    InvalidTokenError,
    PermissionDeniedError,
    Principal,
)
from qmtl.services.auth.tokens import TokenVerifier, sign_token
from qmtl.settings import AuthSection

NOW_S = 1_800_000_000
KEY = make_key(SeededRandom(1))
OTHER = make_key(SeededRandom(2))
CLAIMS: dict[str, Any] = {
    "iss": "desk",
    "aud": "coordinator",
    "sub": "worker",
    "jti": "1",
    "iat": NOW_S,
    "exp": NOW_S + 60,
    "roles": ["service"],
    "worlds": ["w1"],
}


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock(NOW_S * 1000)


@pytest.fixture
def verifier(clock: VirtualClock) -> TokenVerifier:
    return TokenVerifier(FixedKeys(KEY), audience="coordinator", issuer="desk", clock=clock)


def sign(claims: dict[str, Any], **header: Any) -> str:
    return jwt.encode(claims, KEY.private, algorithm="EdDSA", headers={"kid": KEY.kid, **header})


async def test_a_signed_token_names_its_caller(verifier: TokenVerifier, clock: VirtualClock) -> None:
    token = sign_token(
        KEY,
        issuer="desk",
        audience=["gateway", "coordinator"],
        subject="worker",
        ttl_s=60,
        clock=clock,
        rng=SeededRandom(3),
        roles=["service", "viewer"],
        worlds="*",
    )
    principal = await verifier.verify(token)
    assert principal.subject == "worker"
    assert principal.roles == {"service", "viewer"}
    assert principal.expires_s == NOW_S + 60
    assert len(principal.token_id) == 32
    assert principal.token_id not in repr(principal)
    principal.require_world("any")
    await clock.advance(59)
    await verifier.verify(token)
    await clock.advance(1)
    with pytest.raises(InvalidTokenError, match="expired"):
        await verifier.verify(token)


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in CLAIMS.items() if key != name}


@pytest.mark.parametrize("name", ["exp", "iat", "iss", "jti", "sub", "aud"])
async def test_39_every_required_claim_is_required(verifier: TokenVerifier, name: str) -> None:
    await verifier.verify(sign(CLAIMS))
    with pytest.raises(InvalidTokenError, match=f"lacks {name}"):
        await verifier.verify(sign(without(name)))


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"aud": "gateway"}, "another audience"),
        ({"aud": ["gateway", "dashboard"]}, "another audience"),
        ({"iss": "elsewhere"}, "another issuer"),
        ({"exp": NOW_S}, "expired"),
        ({"exp": True}, "exp is not a time"),
        ({"exp": "soon"}, "exp is not a time"),
        ({"iat": NOW_S + 120}, "not valid yet"),
        ({"nbf": NOW_S + 120}, "not valid yet"),
        ({"roles": "service"}, "roles is not a list"),
        ({"roles": [1]}, "roles is not a list"),
        ({"worlds": {"w": 1}}, "worlds is not a list"),
        ({"sub": 7}, "malformed"),
    ],
)
async def test_wrong_claims(verifier: TokenVerifier, changed: dict[str, Any], what: str) -> None:
    token = sign(CLAIMS | changed)
    with pytest.raises(InvalidTokenError, match=what) as refusal:
        await verifier.verify(token)
    assert token not in str(refusal.value)
    assert "elsewhere" not in str(refusal.value)


def public_pem() -> bytes:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return KEY.private.public_key().public_bytes(serialization.Encoding.PEM, form)


def forged() -> dict[str, str]:
    """Tokens that say what a valid one says and prove nothing."""
    none = jwt.encode(CLAIMS, "", algorithm="none", headers={"kid": KEY.kid})
    header = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": KEY.kid}).encode()).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(CLAIMS).encode()).rstrip(b"=")
    mac = hmac.new(public_pem(), header + b"." + body, hashlib.sha256).digest()
    hs256 = b".".join([header, body, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()
    good = sign(CLAIMS)
    return {
        "none": none,
        "HS256 with the public key": hs256,
        "another key under our id": jwt.encode(
            CLAIMS, OTHER.private, algorithm="EdDSA", headers={"kid": KEY.kid}
        ),
        "an unknown key": jwt.encode(CLAIMS, OTHER.private, algorithm="EdDSA", headers={"kid": OTHER.kid}),
        "no key id": jwt.encode(CLAIMS, KEY.private, algorithm="EdDSA"),
        "other claims under its signature": ".".join(
            [good.split(".")[0], sign(CLAIMS | {"sub": "root"}).split(".")[1], good.split(".")[2]]
        ),
        "empty": "",
        "words": "not a token",
        "long": "x" * 10_000,
    }


@pytest.mark.parametrize("name", sorted(forged()))
async def test_39_forged_tokens(verifier: TokenVerifier, name: str) -> None:
    with pytest.raises(InvalidTokenError):
        await verifier.verify(forged()[name])


@given(st.text(max_size=200))
def test_no_text_breaks_the_verifier(text: str) -> None:
    verifier = TokenVerifier(
        FixedKeys(KEY), audience="coordinator", issuer=None, clock=VirtualClock(NOW_S * 1000)
    )
    with pytest.raises(InvalidTokenError):
        asyncio.run(verifier.verify(text))


def test_roles_and_worlds() -> None:
    principal = Principal("p", frozenset({"viewer"}), frozenset({"w1"}))
    principal.require_role("service", "viewer")
    principal.require_world("w1")
    with pytest.raises(PermissionDeniedError, match="needs role operator or live_trader"):
        principal.require_role("operator", "live_trader")
    with pytest.raises(PermissionDeniedError, match="may not see world w2"):
        principal.require_world("w2")
    assert "live_trader" not in ANONYMOUS.roles


def test_39_a_key_set_is_public(tmp_path: Path) -> None:
    write_key(KEY, tmp_path / "key.pem", tmp_path / "keys.json")
    assert (tmp_path / "key.pem").stat().st_mode & 0o777 == 0o600
    [jwk], known = read_jwks(tmp_path / "keys.json")
    assert jwk.keys() == {"kty", "crv", "x", "kid", "alg", "use"}
    assert list(known) == [KEY.kid] == [read_signing_key(tmp_path / "key.pem").kid]
    with pytest.raises(ValueError, match="holds a private key"):
        parse_jwks(json.dumps({"keys": [jwk | {"d": "x"}]}).encode())
    write_key(OTHER, tmp_path / "next.pem", tmp_path / "keys.json")
    assert list(read_jwks(tmp_path / "keys.json")[1]) == [KEY.kid, OTHER.kid]
    assert repr(KEY.private) not in repr(KEY)


@pytest.mark.parametrize("content", ["", "[]", '{"keys": 1}', '{"keys": [{}, 1]}', '{"keys": [{"kty": "OKP"'])
def test_what_is_no_key_set_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"keys\.json: expected a JSON web key set"):
        read_jwks(path)


def test_signing_keys_that_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key.pem"
    with pytest.raises(ConfigError, match=r"key\.pem: cannot read"):
        read_signing_key(path)
    write_key(KEY, path, tmp_path / "keys.json")
    with pytest.raises(ConfigError, match="never overwritten"):
        write_key(OTHER, path, tmp_path / "keys.json")
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="others may read"):
        read_signing_key(path)
    path.chmod(0o600)
    path.write_bytes(public_pem())
    with pytest.raises(ConfigError, match="expected an unencrypted PEM private key"):
        read_signing_key(path)


Make = Callable[..., Guard]


@pytest.fixture
def make(clock: VirtualClock) -> Make:
    def make(auth: AuthSection, profile: str = "dev", host: str = "127.0.0.1") -> Guard:
        return make_guard(auth, name="coordinator", profile=profile, host=host, clock=clock)

    return make


async def test_none_is_for_development_on_loopback(make: Make) -> None:
    guard = make(AuthSection())
    assert guard.mode == "none"
    assert await guard.authenticate(None, "127.0.0.1") == ANONYMOUS
    assert await guard.authenticate(None, "::1") == ANONYMOUS
    for peer in ("10.0.0.1", None):
        with pytest.raises(InvalidTokenError, match="own machine"):
            await guard.authenticate(None, peer)
    with pytest.raises(ConfigError, match="none is refused in the prod profile"):
        make(AuthSection(mode="none"), profile="prod")
    with pytest.raises(ConfigError, match=r"none is refused on 0\.0\.0\.0"):
        make(AuthSection(), host="0.0.0.0")


async def test_prod_takes_tokens_unless_told_otherwise(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"coordinator\.auth\.jwks: not set"):
        make(AuthSection(), profile="prod")
    with pytest.raises(ConfigError, match="cannot read this key set"):
        make(AuthSection(jwks=str(tmp_path / "none.json")), profile="prod")
    write_key(KEY, tmp_path / "key.pem", tmp_path / "keys.json")
    guard = make(AuthSection(jwks=str(tmp_path / "keys.json")), profile="prod", host="0.0.0.0")
    assert guard.mode == "jwt"
    assert (await guard.authenticate(f"bearer {sign(CLAIMS)}", None)).subject == "worker"
    for header in (None, "", "Bearer", "Bearer ", "Basic abc", sign(CLAIMS)):
        with pytest.raises(InvalidTokenError):
            await guard.authenticate(header, "127.0.0.1")


async def test_a_key_file_that_goes_leaves_its_keys_in_force(tmp_path: Path) -> None:
    write_key(KEY, tmp_path / "key.pem", tmp_path / "keys.json")
    keys = JwksFile(tmp_path / "keys.json")
    (tmp_path / "keys.json").unlink()
    assert await keys.find(KEY.kid) is not None
    assert await keys.find("") is None
    write_key(OTHER, tmp_path / "other.pem", tmp_path / "keys.json")
    assert await keys.find(OTHER.kid) is not None
    assert await keys.find(KEY.kid) is None


async def test_a_route_without_the_middleware_is_open_to_nobody() -> None:
    app = FastAPI()
    app.add_exception_handler(AuthError, refuse)

    @app.get("/", dependencies=[Depends(require_role("viewer"))])
    def read() -> str:
        return "seen"

    async def ask(peer: str) -> httpx.Response:
        transport = httpx.ASGITransport(app, client=(peer, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return await client.get("/")

    assert (await ask("127.0.0.1")).status_code == 403
    app.middleware_stack = None
    app.add_middleware(BearerMiddleware, guard=Guard(None), open_paths=())
    assert (await ask("127.0.0.1")).json() == "seen"
    assert (await ask("192.0.2.1")).status_code == 401
