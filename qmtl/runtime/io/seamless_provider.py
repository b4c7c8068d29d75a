"""The provider as the guide uses it: its store, leases and artifacts from an address or the configuration."""

import atexit
import hashlib
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.artifacts import ArtifactReader, ArtifactRegistrar
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.leases import LeaseStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.availability import BackfillConfig, CacheConfig, DataAvailabilityStrategy
from qmtl.runtime.sdk.backfill import CoordinatorClient
from qmtl.runtime.sdk.conformance import ConformancePipeline
from qmtl.runtime.sdk.history import Endpoint, Environment, HistoryStore
from qmtl.runtime.sdk.lease import Leases
from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider
from qmtl.runtime.sdk.sla import SLAPolicy

_QUESTDB = ("postgresql://", "questdb://")
_EMBEDDED = "embedded:"
_log = structlog.get_logger("qmtl.seamless")


def open_store(
    dsn: str | None = None,
    *,
    table: str | None = None,
    endpoint: Endpoint | None = None,
    clock: Clock | None = None,
) -> HistoryStore:
    """Return the store of an address, by default the configured one; nothing is contacted yet.

    `postgresql://` and `questdb://` are QuestDB, `embedded:PATH` a folder; None is `seamless.questdb_dsn`,
    else the embedded store in `seamless.store_dir`. With a test venue's `endpoint` it is the part of the
    store that is kept apart for it. ValueError for any other address.
    """
    settings = runtime.settings().seamless
    is_test = endpoint is not None and endpoint.environment == "test"
    if dsn is None and settings.questdb_dsn is not None:
        from qmtl.config import reveal

        dsn = reveal(settings.questdb_dsn)
    store: HistoryStore
    if dsn is None:
        store = EmbeddedStore(find_place(settings.store_dir, endpoint), clock=clock)
    elif dsn.startswith(_EMBEDDED) and dsn != _EMBEDDED:
        store = EmbeddedStore(Path(dsn.removeprefix(_EMBEDDED)).expanduser(), clock=clock)
    elif dsn.startswith(_QUESTDB):
        name = f"{table or 'ohlcv'}__test" if is_test else table or "ohlcv"
        store = QuestDBStore(dsn, table=name, clock=clock)
    else:
        scheme = dsn.partition(":")[0]
        raise ValueError(f"store address {scheme}:…: expected postgresql://, questdb:// or embedded:PATH")
    if endpoint is not None:
        store.environment = endpoint.environment
    return store


def find_place(folder: Path, endpoint: Endpoint | None) -> Path:
    """Return the folder for rows of an endpoint: of its own for a test venue, so that nothing mixes."""
    if endpoint is None or endpoint.environment == "production":
        return folder
    return folder / "test" / endpoint.host_port


def find_endpoint(parts: Sequence[Any]) -> Endpoint | None:
    """Return where fetcher and feed get their rows, None for doubles without addresses.

    ValueError when one of them is at the real exchange and the other is not.
    """
    found: dict[Environment, str] = {}
    for part in parts:
        environment: Environment | None = getattr(part, "environment", None)
        if environment is not None:
            found.setdefault(environment, _host_port(getattr(part, "endpoint", None)))
    if len(found) > 1:
        raise ValueError("fetcher and live feed: one is at the exchange itself, the other at a test venue")
    return next((Endpoint(*pair) for pair in found.items()), None)


def _host_port(url: str | None) -> str:
    parts = urlsplit(url or "")
    if parts.hostname is None:
        return "venue"
    host = parts.hostname.replace(":", "-")
    return host if parts.port is None else f"{host}_{parts.port}"


class EnhancedQuestDBProvider(SeamlessDataProvider):
    """A SeamlessDataProvider over QuestDB at `dsn`, or the store `open_store` finds without one.

    `table` defaults to `ohlcv`, for a fetcher of trades to `trades`; it does not apply to embedded stores.
    The coordinator is `seamless.coordinator_url`, else the leases of an embedded store. Artifacts are
    published with `seamless.artifacts_enabled`; `as_of` reads those there are. See SeamlessDataProvider for
    everything else.
    """

    def __init__(
        self,
        dsn: str | None = None,
        *,
        table: str | None = None,
        fetcher: Any = None,
        live_feed: Any = None,
        strategy: DataAvailabilityStrategy | str = DataAvailabilityStrategy.SEAMLESS,
        store: HistoryStore | None = None,
        cache: CacheConfig | None = None,
        sla: SLAPolicy | str | None = None,
        conformance: ConformancePipeline | str | None = None,
        partial_ok: bool | None = None,
        registrar: Any = None,
        stabilization_bars: int | None = None,
        backfill_config: BackfillConfig | None = None,
        coordinator: Leases | None = None,
        default_node_id: str | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        settings = runtime.settings().seamless
        endpoint = find_endpoint((fetcher, live_feed))
        if store is None:
            store = open_store(dsn, table=table or _usual_table(fetcher), endpoint=endpoint, clock=clock)
        elif dsn is not None:
            raise ValueError("dsn and store exclude each other")
        elif endpoint is not None and store.environment is None:
            store.environment = endpoint.environment
        artifacts = find_place(settings.artifact_dir, endpoint)
        if registrar is None and settings.artifacts_enabled:
            registrar = ArtifactRegistrar(artifacts, clock=clock)
        super().__init__(
            store=store,
            fetcher=fetcher,
            live_feed=live_feed,
            strategy=strategy,
            cache=cache,
            sla=sla,
            conformance=conformance,
            partial_ok=partial_ok,
            registrar=registrar,
            reader=ArtifactReader(artifacts) if registrar is None else registrar.reader,
            stabilization_bars=stabilization_bars,
            backfill_config=backfill_config,
            coordinator=coordinator or _find_leases(store, clock, rng),
            default_node_id=default_node_id,
            clock=clock,
            rng=rng,
        )


def _usual_table(fetcher: Any) -> str:
    config = getattr(fetcher, "config", None)
    return "trades" if config is not None and not hasattr(config, "timeframe") else "ohlcv"


def _find_leases(store: HistoryStore, clock: Clock | None, rng: Random | None) -> Leases | None:
    """Return the configured coordinator, else the leases in a store's catalogue or in this process."""
    settings = runtime.settings().seamless
    if settings.coordinator_url is not None:
        secret = settings.coordinator_token
        token = None if secret is None else secret.get_secret_value()
        return CoordinatorClient(settings.coordinator_url, token=token, clock=clock)
    dsn: str | None = getattr(store, "lease_dsn", None)
    if dsn is None and isinstance(store, QuestDBStore):
        # Leases that end with this process still keep its providers from fetching a range twice.
        place = hashlib.sha256(store.place.encode()).hexdigest()[:16]
        dsn = f"sqlite:///{_lease_folder()}/{place}.db"
    return None if dsn is None else LeaseStore(dsn, rng=rng)


@cache
def _lease_folder() -> str:
    """Return a folder of this process's own; whoever asks first is told what it does not do."""
    _log.warning(
        "seamless.coordinator.none",
        action="several processes may fetch a range twice: set seamless.coordinator_url",
    )
    folder = tempfile.mkdtemp(prefix="qmtl-leases-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
