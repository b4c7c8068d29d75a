"""The coordinator: a LeaseStore over HTTP, for workers on many machines (contract, seamless §9)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse

from qmtl import __version__, config
from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock
from qmtl.metrics import SeamlessMetrics
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.sdk.history import SeriesKey, StaleLeaseError, StoreError, UnknownLeaseError
from qmtl.runtime.sdk.lease import Inspection
from qmtl.services.auth.guard import BearerMiddleware, make_guard, refuse, require_role
from qmtl.services.auth.principal import AuthError
from qmtl.services.coordinator.schemas import ClaimBody, CompleteBody, FailBody, RenewBody
from qmtl.settings import Settings

OPEN_PATHS = ("/healthz", "/metrics")
"""Paths that need no token."""

_WORKER = [Depends(require_role("service"))]
_READER = [Depends(require_role("service", "viewer"))]


def create_app(
    settings: Settings | None = None, *, leases: LeaseStore | None = None, clock: Clock | None = None
) -> FastAPI:
    """Return the application; `settings` None are those of `qmtl.config.load()`.

    `leases` given belong to the caller, others are closed with the application. Raises ConfigError when
    `coordinator.auth` would let in anybody or lacks its key set, ValueError for another kind of store.
    """
    settings = settings or config.load()
    section = settings.coordinator
    store = leases or LeaseStore(config.reveal(section.store))
    guard = make_guard(
        section.auth,
        name="coordinator",
        profile=settings.profile,
        host=section.bind.host,
        clock=clock or SystemClock(),
    )

    @asynccontextmanager
    async def life(_app: FastAPI) -> AsyncIterator[None]:
        yield
        if leases is None:
            await store.aclose()

    app = FastAPI(title="qmtl coordinator", version=__version__, docs_url=None, redoc_url=None, lifespan=life)
    app.state.auth_mode = guard.mode
    app.add_middleware(BearerMiddleware, guard=guard, open_paths=OPEN_PATHS)
    app.add_exception_handler(AuthError, refuse)
    for kind, status, code in (
        (UnknownLeaseError, 404, "E_LEASE_UNKNOWN"),
        (StaleLeaseError, 409, "E_LEASE_STALE"),
        (StoreError, 503, "E_STORE_UNAVAILABLE"),
    ):
        app.add_exception_handler(kind, _answering(status, code))
    _add_lease_routes(app, store)
    _add_open_routes(app, store, SeamlessMetrics(settings.seamless.metrics_max_series))
    return app


def _answering(status: int, code: str) -> Any:
    def answer(_request: Request, error: Exception) -> JSONResponse:
        detail: dict[str, Any] = {"code": code, "message": str(error), "context": {}}
        return JSONResponse({"detail": detail}, status_code=status)

    return answer


def _add_lease_routes(app: FastAPI, store: LeaseStore) -> None:
    @app.post("/v1/leases/claim", dependencies=_WORKER)
    async def claim(body: ClaimBody) -> Response:
        """Lease every free part of a range; 409 when there is none."""
        key = SeriesKey(body.key.node_id, body.key.interval)
        claim = await store.claim(
            key, body.start, body.end, body.owner, body.lease_ms, world_id=body.key.world_id
        )
        if not claim.leases:
            return _json({"conflicts": claim.conflicts, "retry_after_ms": claim.retry_after_ms}, 409)
        return _json(
            {
                "leases": claim.leases,
                "conflicts": claim.conflicts,
                "completion_ratio": claim.completion_ratio,
            }
        )

    @app.post("/v1/leases/renew", dependencies=_WORKER)
    async def renew(body: RenewBody) -> Response:
        """Hold a lease for longer; 404 when there is none, 409 when it ran out."""
        until = await store.renew(body.token, body.lease_ms, body.completion_ratio)
        return _json({"lease_until_ms": until})

    @app.post("/v1/leases/complete", dependencies=_WORKER)
    async def complete(body: CompleteBody) -> Response:
        """End a lease, its work done; 409 when it is no longer the caller's."""
        try:
            await store.complete(body.token)
        except UnknownLeaseError as error:
            raise StaleLeaseError(str(error)) from None
        return _json({"completed": True})

    @app.post("/v1/leases/fail", dependencies=_WORKER)
    async def fail(body: FailBody) -> Response:
        """Give a lease up; its range is free at once."""
        return _json({"freed": await store.fail(body.token, body.reason)})

    @app.get("/v1/leases/inspect", dependencies=_READER)
    async def inspect(node_id: str | None = None, interval: int | None = None) -> Response:
        """Show live leases, without their tokens, and recent completions."""
        return _json(await store.inspect(node_id, interval))


def _add_open_routes(app: FastAPI, store: LeaseStore, metrics: SeamlessMetrics) -> None:
    @app.get("/healthz")
    async def healthz() -> Response:
        """Tell whether the lease database answers."""
        try:
            time_ms = await store.now_ms()
        except StoreError:
            return _json({"status": "unavailable", "backend": store.backend, "time_ms": None}, 503)
        return _json({"status": "ok", "backend": store.backend, "time_ms": time_ms})

    @app.get("/metrics")
    async def show_metrics() -> Response:
        """Show leases as the metrics of the backfills that hold them."""
        try:
            _measure(metrics, await store.inspect())
            metrics.coordinator_up.set(1)
        except StoreError:
            metrics.coordinator_up.set(0)
        return Response(metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _measure(metrics: SeamlessMetrics, seen: Inspection) -> None:
    """Set jobs and completion by series: a job that ended is shown with none running, and complete."""
    jobs: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for lease in seen.leases:
        labels = metrics.series(lease.node_id, lease.interval)
        jobs.setdefault(labels, []).append((lease.end - lease.start, lease.completion_ratio))
    metrics.backfill_jobs.clear()
    for labels, held in jobs.items():
        cells = sum(size for size, _ in held)
        metrics.backfill_jobs.labels(*labels).set(len(held))
        metrics.backfill_completion.labels(*labels).set(sum(size * ratio for size, ratio in held) / cells)
    for done in seen.completions:
        labels = metrics.series(done.node_id, done.interval)
        if labels not in jobs:
            metrics.backfill_jobs.labels(*labels).set(0)
            metrics.backfill_completion.labels(*labels).set(1)


def _json(body: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(body), status_code=status, media_type="application/json")
