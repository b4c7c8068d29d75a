"""Every row of the coordinator's endpoint table, asked of a real process (contract, seamless §9)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.services.auth.keys import make_key, write_key
from tests.coordinator_process import CoordinatorProcess
from tests.runtime.lease_rig import LeasePlace

NODE = "ohlcv:binance:BTC/USDT:1m"
UNKNOWN = "00" * 16


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CoordinatorProcess]:
    process = CoordinatorProcess(tmp_path_factory.mktemp("coordinator"))
    process.start()
    yield process
    process.stop()


@pytest.fixture
def worker(coordinator: CoordinatorProcess) -> Iterator[httpx.Client]:
    """A client with the role service; every test claims ranges of a series of its own."""
    with httpx.Client(
        base_url=f"{coordinator.url}/v1/leases", headers=coordinator.headers("service"), timeout=30
    ) as client:
        yield client


def claim_body(node_id: str, first: int = 0, end: int = 600, **changed: Any) -> dict[str, Any]:
    body = {"key": {"node_id": node_id, "interval": 60}, "start": first, "end": end}
    return body | {"owner": "w1", "lease_ms": 600_000} | changed


def claim(worker: httpx.Client, node_id: str, start: int = 0, end: int = 600) -> dict[str, Any]:
    [lease] = worker.post("/claim", json=claim_body(node_id, start, end)).json()["leases"]
    assert isinstance(lease, dict)
    return lease


def code_of(answer: httpx.Response) -> str:
    code: str = answer.json()["detail"]["code"]
    return code


def test_claim(worker: httpx.Client) -> None:
    key = {"node_id": f"{NODE}#claim", "interval": 60, "world_id": "w"}
    answer = worker.post("/claim", json=claim_body("", 100, 200, key=key))
    assert answer.status_code == 200
    body = answer.json()
    assert body.keys() == {"leases", "conflicts", "completion_ratio"}
    assert (body["conflicts"], body["completion_ratio"]) == ([], 0.0)
    [lease] = body["leases"]
    assert lease.keys() == {"token", "start", "end", "fence", "lease_until_ms"}
    assert (lease["start"], lease["end"], len(lease["token"])) == (100, 200, 32)

    answer = worker.post("/claim", json=claim_body(f"{NODE}#claim", 0, 300, owner="w2"))
    assert answer.status_code == 200
    body = answer.json()
    assert [(part["start"], part["end"]) for part in body["leases"]] == [(0, 100), (200, 300)]
    until = lease["lease_until_ms"]
    held = {"start": 100, "end": 200, "owner": "w1", "lease_until_ms": until, "completion_ratio": 0.0}
    assert body["conflicts"] == [held]
    assert all(part["fence"] > lease["fence"] for part in body["leases"])

    answer = worker.post("/claim", json=claim_body(f"{NODE}#claim", 120, 180, owner="w3"))
    assert answer.status_code == 409
    assert answer.json().keys() == {"conflicts", "retry_after_ms"}
    assert answer.json()["conflicts"] == [held | {"start": 120, "end": 180}]
    assert 0 < answer.json()["retry_after_ms"] <= 600_000


def test_renew(worker: httpx.Client, coordinator: CoordinatorProcess) -> None:
    node_id = f"{NODE}#renew"
    lease = claim(worker, node_id)
    body = {"token": lease["token"], "lease_ms": 900_000, "completion_ratio": 0.5}
    answer = worker.post("/renew", json=body)
    assert answer.status_code == 200
    assert answer.json().keys() == {"lease_until_ms"}
    assert answer.json()["lease_until_ms"] > lease["lease_until_ms"]
    seen = worker.post("/claim", json=claim_body(node_id, 0, 1200)).json()
    assert seen["completion_ratio"] == pytest.approx(0.25)

    answer = worker.post("/renew", json=body | {"token": UNKNOWN})
    assert (answer.status_code, code_of(answer)) == (404, "E_LEASE_UNKNOWN")
    LeasePlace(coordinator.dsn).pass_time(1_000_000)
    answer = worker.post("/renew", json=body)
    assert (answer.status_code, code_of(answer)) == (409, "E_LEASE_STALE")
    assert "ran out" in answer.json()["detail"]["message"]


def test_complete(worker: httpx.Client, coordinator: CoordinatorProcess) -> None:
    lease = claim(worker, f"{NODE}#complete")
    for _ in range(2):
        assert worker.post("/complete", json={"token": lease["token"]}).status_code == 200
    again = claim(worker, f"{NODE}#complete")
    LeasePlace(coordinator.dsn).pass_time(1_000_000)
    for token in (again["token"], UNKNOWN):
        answer = worker.post("/complete", json={"token": token})
        assert (answer.status_code, code_of(answer)) == (409, "E_LEASE_STALE")


def test_fail(worker: httpx.Client) -> None:
    lease = claim(worker, f"{NODE}#fail")
    body = {"token": lease["token"], "reason": "no route"}
    answer = worker.post("/fail", json=body)
    assert (answer.status_code, answer.json()) == (200, {"freed": True})
    other = claim(worker, f"{NODE}#fail")
    answer = worker.post("/fail", json=body)
    assert (answer.status_code, answer.json()) == (200, {"freed": False})
    assert worker.post("/renew", json={"token": other["token"], "lease_ms": 1000}).status_code == 200
    assert worker.post("/fail", json=body | {"token": UNKNOWN}).status_code == 404


def test_inspect(worker: httpx.Client, coordinator: CoordinatorProcess) -> None:
    node_id = f"{NODE}#inspect"
    done = claim(worker, node_id, 0, 60)
    worker.post("/complete", json={"token": done["token"]})
    held = claim(worker, node_id, 60, 120)
    viewer = coordinator.headers("viewer")
    answer = worker.get("/inspect", params={"node_id": node_id, "interval": 60}, headers=viewer)
    assert answer.status_code == 200
    common = {"node_id": node_id, "interval": 60, "world_id": None, "owner": "w1"}
    [completion] = answer.json()["completions"]
    assert completion.pop("completed_ms") > 0
    assert completion == common | {"start": 0, "end": 60, "fence": done["fence"]}
    assert answer.json()["leases"] == [
        common
        | {"start": 60, "end": 120, "fence": held["fence"], "completion_ratio": 0.0}
        | {"lease_until_ms": held["lease_until_ms"]}
    ]
    assert held["token"] not in answer.text
    assert len(worker.get("/inspect").json()["leases"]) >= 1
    assert worker.get("/inspect", params={"interval": "x"}).status_code == 422


def test_healthz_and_metrics_need_no_token(coordinator: CoordinatorProcess, worker: httpx.Client) -> None:
    health = httpx.get(f"{coordinator.url}/healthz")
    assert health.status_code == 200
    assert health.json().keys() == {"status", "backend", "time_ms"}
    assert (health.json()["status"], health.json()["backend"]) == ("ok", "sqlite")
    node_id = f"{NODE}#metrics"
    lease = claim(worker, node_id)
    worker.post("/renew", json={"token": lease["token"], "lease_ms": 1000, "completion_ratio": 0.25})
    shown = httpx.get(f"{coordinator.url}/metrics")
    assert shown.headers["content-type"].startswith("text/plain; version=0.0.4")
    series = f'{{interval="60",node_id="{node_id}"}}'
    assert f"backfill_jobs_in_progress{series} 1.0" in shown.text
    assert f"backfill_completion_ratio{series} 0.25" in shown.text
    assert "seamless_coordinator_up 1.0" in shown.text
    worker.post("/complete", json={"token": lease["token"]})
    shown = httpx.get(f"{coordinator.url}/metrics")
    assert f"backfill_jobs_in_progress{series} 0.0" in shown.text
    assert f"backfill_completion_ratio{series} 1.0" in shown.text


PATHS = [
    ("POST", "/claim", claim_body(NODE)),
    ("POST", "/renew", {"token": UNKNOWN, "lease_ms": 1000, "completion_ratio": 0.0}),
    ("POST", "/complete", {"token": UNKNOWN}),
    ("POST", "/fail", {"token": UNKNOWN, "reason": ""}),
    ("GET", "/inspect", None),
]


@pytest.mark.parametrize(("method", "path", "body"), PATHS)
def test_25_who_may(coordinator: CoordinatorProcess, method: str, path: str, body: object) -> None:
    """Wrong audience 401, viewer claiming 403; an operator is no service."""

    def ask(headers: dict[str, str]) -> httpx.Response:
        return httpx.request(method, f"{coordinator.url}/v1/leases{path}", json=body, headers=headers)

    for headers in ({}, coordinator.headers("service", audience=["gateway"]), {"Authorization": "Basic x"}):
        answer = ask(headers)
        assert (answer.status_code, code_of(answer)) == (401, "E_UNAUTHENTICATED")
        assert answer.headers["www-authenticate"] == "Bearer"
    for roles in ((), ("viewer",), ("operator", "live_trader")):
        answer = ask(coordinator.headers(*roles))
        if path == "/inspect" and "viewer" in roles:
            assert answer.status_code == 200
        else:
            assert (answer.status_code, code_of(answer)) == (403, "E_PERMISSION_DENIED")
    assert ask(coordinator.headers("service", audience=["x", "coordinator"])).status_code not in {401, 403}


def test_refused_before_anything_is_read(coordinator: CoordinatorProcess) -> None:
    """Without a token nobody learns what a body or a path must look like."""
    for path in ("/v1/leases/claim", "/openapi.json", "/nowhere"):
        assert httpx.post(f"{coordinator.url}{path}", content=b"{").status_code == 401
    assert httpx.get(f"{coordinator.url}/nowhere", headers=coordinator.headers()).status_code == 404


KEY = {"node_id": NODE, "interval": 60}


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("/claim", claim_body(NODE, 60, 60), ["body"]),
        ("/claim", claim_body(NODE, -60, 60), ["body", "start"]),
        ("/claim", claim_body(NODE, 0, 2**60), ["body", "end"]),
        ("/claim", claim_body(NODE, start="0"), ["body", "start"]),
        ("/claim", claim_body(NODE, lease_ms=0), ["body", "lease_ms"]),
        ("/claim", claim_body(NODE, lease_ms=True), ["body", "lease_ms"]),
        ("/claim", claim_body(NODE, owner=""), ["body", "owner"]),
        ("/claim", claim_body(NODE, more=1), ["body", "more"]),
        ("/claim", claim_body(""), ["body", "key", "node_id"]),
        ("/claim", claim_body(NODE, key=KEY | {"interval": 0}), ["body", "key", "interval"]),
        ("/claim", claim_body(NODE, key=KEY | {"world": "w"}), ["body", "key", "world"]),
        ("/renew", {"token": UNKNOWN}, ["body", "lease_ms"]),
        (
            "/renew",
            {"token": UNKNOWN, "lease_ms": 1, "completion_ratio": 1.1},
            ["body", "completion_ratio"],
        ),
        ("/complete", {}, ["body", "token"]),
        ("/fail", {"token": UNKNOWN}, ["body", "reason"]),
    ],
)
def test_bad_bodies(worker: httpx.Client, path: str, body: object, where: list[str]) -> None:
    answer = worker.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == where


def test_nothing_secret_is_logged(worker: httpx.Client, coordinator: CoordinatorProcess) -> None:
    lease = claim(worker, f"{NODE}#secret")
    bearer = coordinator.token("service", audience=["elsewhere"])
    httpx.post(f"{coordinator.url}/v1/leases/claim", headers={"Authorization": f"Bearer {bearer}"})
    worker.post("/renew", json={"token": lease["token"], "lease_ms": -1})
    text = (coordinator.folder / "log.json").read_text("utf-8")
    assert "Application startup complete" in text
    assert lease["token"] not in text
    assert bearer not in text


def test_a_new_key_is_taken_up_and_an_old_one_dropped(
    coordinator: CoordinatorProcess, worker: httpx.Client, tmp_path: Path
) -> None:
    """JWKS rotation: add the new key, sign with it, take the old one away."""
    old = coordinator.jwks.read_bytes()
    new = make_key(SystemRandom())
    assert worker.get("/inspect", headers=coordinator.headers("service", key=new)).status_code == 401
    write_key(new, tmp_path / "new.pem", coordinator.jwks)
    try:
        for key in (coordinator.key, new):
            assert worker.get("/inspect", headers=coordinator.headers("service", key=key)).status_code == 200
        coordinator.jwks.write_text('{"keys": [', "utf-8")
        assert worker.get("/inspect").status_code == 200, "a broken set leaves the one before in force"
        only = tmp_path / "only.json"
        write_key(new, tmp_path / "again.pem", only)
        only.replace(coordinator.jwks)
        assert worker.get("/inspect").status_code == 401
        assert worker.get("/inspect", headers=coordinator.headers("service", key=new)).status_code == 200
    finally:
        coordinator.jwks.write_bytes(old)


def test_expired_tokens(coordinator: CoordinatorProcess, worker: httpx.Client) -> None:
    answer = worker.get("/inspect", headers=coordinator.headers("service", ttl_s=0))
    assert answer.status_code == 401
    assert answer.json()["detail"]["message"] == "token: expired"
    later = SystemClock().now_ms() // 1000 + 600
    assert worker.get("/inspect", headers=coordinator.headers("service", nbf=later)).status_code == 401
