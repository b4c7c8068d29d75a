"""A coordinator over PostgreSQL: what it says while the database is away, what a killed one leaves."""

from pathlib import Path

import httpx

from tests.coordinator_process import CoordinatorProcess
from tests.servers import PostgresServer

BODY = {"key": {"node_id": "ohlcv:binance:BTC/USDT:1m", "interval": 60}, "start": 0, "end": 600}
CLAIM = BODY | {"owner": "w", "lease_ms": 600_000}


def test_leases_outlive_the_coordinator_and_errors_of_the_database(
    postgres_server: PostgresServer, postgres_dsn: str, tmp_path: Path
) -> None:
    coordinator = CoordinatorProcess(tmp_path / "c", postgres_dsn)
    assert coordinator.start() == {"url": coordinator.url, "store": "postgresql", "auth": "jwt"}
    try:
        with httpx.Client(
            base_url=coordinator.url, headers=coordinator.headers("service"), timeout=60
        ) as client:
            assert client.get("/healthz").json()["backend"] == "postgresql"
            [lease] = client.post("/v1/leases/claim", json=CLAIM).json()["leases"]
            coordinator.kill()
            coordinator.start()
            renewal = {"token": lease["token"], "lease_ms": 600_000}
            assert client.post("/v1/leases/renew", json=renewal).status_code == 200
            assert client.post("/v1/leases/claim", json=CLAIM).status_code == 409

            postgres_server.kill()
            health = client.get("/healthz")
            away = {"status": "unavailable", "backend": "postgresql", "time_ms": None}
            assert (health.status_code, health.json()) == (503, away)
            answer = client.post("/v1/leases/renew", json=renewal)
            assert answer.status_code == 503
            assert answer.json()["detail"]["code"] == "E_STORE_UNAVAILABLE"
            assert "seamless_coordinator_up 0.0" in client.get("/metrics").text

            postgres_server.start()
            assert client.get("/healthz").status_code == 200
            assert client.post("/v1/leases/complete", json={"token": lease["token"]}).status_code == 200
    finally:
        postgres_server.start()
        assert coordinator.stop() == 0
