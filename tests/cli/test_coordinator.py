"""`qmtl coordinator`, `qmtl keys` and `qmtl token` as people use them."""

import json
import socket
from pathlib import Path

import httpx
import jwt
import pytest
import yaml

from qmtl.cli import app
from qmtl.services.auth.keys import read_jwks
from tests.cli.command import qmtl, start


def test_serves_until_it_is_stopped(home: Path) -> None:
    process = start("coordinator", "--port", "0", home=home)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("coordinator http://127.0.0.1:")
        assert line.endswith(" · leases in sqlite · auth none\n")
        url = line.split()[1]
        assert httpx.get(f"{url}/healthz").json()["status"] == "ok"
        body = {"key": {"node_id": "relay", "interval": 1}, "start": 0, "end": 1}
        answer = httpx.post(f"{url}/v1/leases/claim", json=body | {"owner": "w", "lease_ms": 1000})
        assert answer.status_code == 200
    finally:
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert (home / "coordinator.db").exists()


def test_keys_and_tokens_open_a_coordinator(home: Path) -> None:
    """The road of the guide: keys, a token in a file, a coordinator that checks it."""
    made = qmtl("keys", "desk.pem", "--json", home=home)
    assert made.returncode == 0
    said = json.loads(made.stdout)
    assert said.keys() == {"key", "jwks", "kid"}
    assert said["kid"] in read_jwks(home / said["jwks"])[1]
    auth = {"mode": "jwt", "issuer": "desk-1", "jwks": said["jwks"]}
    config = {"coordinator": {"bind": {"port": 0}, "auth": auth}}
    (home / "qmtl.yml").write_text(yaml.safe_dump(config), "utf-8")

    signing = ("token", "--aud", "coordinator", "--role", "service", "--key", "desk.pem")
    signed = qmtl(*signing, "--ttl", "600", "--world", "w", "--out", "token", home=home)
    assert (signed.returncode, signed.stdout) == (0, "token in token\n")
    assert (home / "token").stat().st_mode & 0o777 == 0o600
    token = (home / "token").read_text().strip()
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["iss"], claims["aud"], claims["roles"]) == ("desk-1", "coordinator", ["service"])
    assert claims["worlds"] == ["w"]
    assert claims["exp"] - claims["iat"] == 600
    printed = qmtl(*signing, "--aud", "gateway", "--world", "*", home=home)
    more = jwt.decode(printed.stdout.strip(), options={"verify_signature": False})
    assert (more["aud"], more["worlds"]) == (["coordinator", "gateway"], "*")
    assert more["jti"] != claims["jti"]

    process = start("coordinator", "--json", home=home)
    try:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        assert told["auth"] == "jwt"
        inspect = f"{told['url']}/v1/leases/inspect"
        assert httpx.get(inspect).status_code == 401
        assert httpx.get(inspect, headers={"Authorization": f"Bearer {token}"}).status_code == 200
    finally:
        process.terminate()
        process.communicate(timeout=60)


def test_keys_are_added_to_a_set(home: Path) -> None:
    for name in ("old.pem", "new.pem"):
        assert qmtl("keys", name, "--jwks", "public.json", home=home).returncode == 0
    assert len(read_jwks(home / "public.json")[1]) == 2
    again = qmtl("keys", "old.pem", home=home)
    assert again.returncode == 2
    assert again.stderr == "error: old.pem: exists; a key is never overwritten\n"
    assert not (home / "old.pem.jwks.json").exists()


def test_a_taken_port_is_named_with_a_free_one(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert app.run(["coordinator", "--port", str(port)]) == 2
    assert f"error: port {port} is taken on 127.0.0.1; try --port " in capsys.readouterr().err
    assert not (home / "coordinator.db").exists()


CANARY = "canary-5e1f"
TOKEN = ("token", "--key", "key.pem")


@pytest.mark.parametrize(
    ("arguments", "config", "code", "what"),
    [
        (("coordinator",), "coordinator: {bnd: {port: 1}}", 2, "coordinator.bnd: unknown key; did you mean"),
        (("coordinator",), "coordinator: {auth: {jwsk: x}}", 2, "did you mean coordinator.auth.jwks?"),
        (("coordinator", "--port", "x"), "", 2, "--port: found 'x', expected a whole number"),
        (("coordinator", "--for", "-1"), "", 2, "--for: found '-1'"),
        (
            ("coordinator", "--store", f"mysql://u:{CANARY}@h/d"),
            "",
            2,
            "expected sqlite:///PATH or postgresql://…, found mysql://",
        ),
        (
            ("coordinator", "--port", "0", "--store", f"postgresql://u:{CANARY}@127.0.0.1:9/d"),
            "",
            1,
            "PostgreSQL of the leases: ",
        ),
        (("coordinator", "--port", "0", "--store", "sqlite:///"), "", 2, "expected sqlite:///PATH"),
        (("coordinator", "--port", "0"), "profile: prod", 2, "coordinator.auth.jwks: not set"),
        (("coordinator", "--host", "0.0.0.0"), "", 2, "none is refused on 0.0.0.0"),
        (
            ("coordinator", "--port", "0", "--host", "203.0.113.1"),
            "coordinator: {auth: {mode: jwt}}",
            2,
            "jwks",
        ),
        ((*TOKEN, "--aud", "coordinator"), "", 2, "key.pem: cannot read this signing key"),
        ((*TOKEN, "--aud", "c", "--role", "servce"), "", 2, "--role: unknown 'servce'; known: viewer,"),
        ((*TOKEN, "--aud", "c", "--ttl", "1h"), "", 2, "--ttl: found '1h', expected whole seconds"),
        ((*TOKEN, "--aud", "c", "--ttl", "0"), "", 2, "--ttl: found '0'"),
        (TOKEN, "", 2, "--aud"),
        (("keys",), "", 2, "Missing argument 'file'"),
        (("keys", "nowhere/key.pem"), "", 2, "nowhere/key.pem: cannot write: No such file"),
    ],
)
def test_bad_input_is_one_line(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    config: str,
    code: int,
    what: str,
) -> None:
    monkeypatch.chdir(home)
    (home / "qmtl.yml").write_text(config, "utf-8")
    assert app.run(list(arguments)) == code
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert what in said.err
    assert CANARY not in said.err
    assert [path.name for path in home.iterdir()] == ["qmtl.yml"]


def test_the_store_is_shown_without_its_password(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(home)
    assert app.run(["config", "show", "coordinator.store"]) == 0
    assert capsys.readouterr().out == "coordinator.store  sqlite:///./coordinator.db\n"
    monkeypatch.setenv("QMTL_COORDINATOR__STORE", f"postgresql://u:{CANARY}@h/d")
    assert app.run(["config", "show", "coordinator"]) == 0
    assert CANARY not in capsys.readouterr().out
