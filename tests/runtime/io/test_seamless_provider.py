"""The guide's provider over real parts: ccxt, the paper exchange, the embedded store, artifacts."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from qmtl.runtime.io import CcxtBackfillConfig, CcxtOHLCVFetcher
from qmtl.runtime.io.artifacts import ArtifactRegistrar
from qmtl.runtime.io.embedded_store import EmbeddedStore
from qmtl.runtime.io.questdb import QuestDBStore
from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider, _lease_folder, open_store
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.history import (
    ArtifactCorruptError,
    ArtifactNotFoundError,
    BackfillError,
    Endpoint,
    QuestDBConnectionError,
    StoreEnvironmentError,
)
from qmtl.runtime.sdk.seamless_data_provider import CacheConfig
from qmtl.services.paper_exchange.faults import FaultKind
from tests.runtime.io.history_rig import NODE, T0, bar, configure, history
from tests.servers import QuestDBServer

__all__ = ["configure", "history"]
LATER_S = T0 + 90 * 86_400
DAY = (T0, T0 + 86_400)
SERIES: dict[str, Any] = {"node_id": NODE, "interval": 60}
History = Callable[..., Any]


def guide_fetcher(**fields: Any) -> CcxtOHLCVFetcher:
    given = {"exchange": "binance", "symbols": ["BTC/USDT"], "timeframe": "1m", "batch_limit": 500}
    return CcxtOHLCVFetcher(CcxtBackfillConfig(**{**given, **fields}))


async def test_2_without_a_dsn_it_is_the_embedded_store(history: History, home: Path) -> None:
    """Acceptance 2, and 1 but for QuestDB: 1440 rows in three requests, then none."""
    place = await history(range(-10, 1500), LATER_S)
    async with EnhancedQuestDBProvider(fetcher=guide_fetcher()) as provider:
        first = await provider.fetch(*DAY, **SERIES)
    told = first.metadata
    assert (told.rows, first["ts"][0], first["ts"][-1]) == (1440, 1_706_745_600, 1_706_831_940)
    assert (told.conformance_flags, told.missing, told.downgraded) == ({}, [], False)
    assert first.row(7) == (T0 + 420, *bar(7))
    assert place.klines.seen == 3
    store = home / ".qmtl_seamless_store" / "test" / place.url.removeprefix("http://").replace(":", "_")
    assert store.is_dir()
    async with EnhancedQuestDBProvider(fetcher=guide_fetcher()) as provider:
        again = await provider.fetch(*DAY, **SERIES)
        assert await provider.coverage(**SERIES) == [DAY]
    assert again.frame.equals(first.frame)
    assert again.metadata.dataset_fingerprint == told.dataset_fingerprint
    assert again.metadata.sources == {"storage": 1440}
    assert place.klines.seen == 3


async def test_a_hole_of_the_exchange_is_kept_as_such(history: History) -> None:
    place = await history([*range(400), *range(700, 1500)], LATER_S)
    for _ in range(2):
        async with EnhancedQuestDBProvider(fetcher=guide_fetcher()) as provider:
            told = (await provider.fetch(*DAY, **SERIES)).metadata
        assert told.confirmed_empty == [(T0 + 24_000, T0 + 42_000)]
        assert (told.rows, told.coverage_ratio, told.missing) == (1140, 1.0, [])
        assert told.conformance_flags == {"gap": 300}
    assert place.klines.seen == 3


async def test_rows_of_a_test_venue_do_not_meet_the_exchanges(history: History, home: Path) -> None:
    await history(range(100), LATER_S)
    place = f"embedded:{home / 'mine'}"
    async with EnhancedQuestDBProvider(place, fetcher=guide_fetcher()) as provider:
        await provider.fetch(T0, T0 + 600, **SERIES)
    real = open_store(place, endpoint=Endpoint("production", "binance"))
    with pytest.raises(StoreEnvironmentError, match="holds test data"):
        await real.mark_empty(provider._binding.resolve(NODE, 60), [DAY], permanent=True)
    await real.aclose()
    feed = SimpleNamespace(environment="production", endpoint=None)
    with pytest.raises(ValueError, match="the other at a test venue"):
        EnhancedQuestDBProvider(place, fetcher=guide_fetcher(), live_feed=feed)


def test_stores_by_address(
    home: Path, configure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(store: Any) -> Path:
        assert isinstance(store, EmbeddedStore)
        return store.path

    assert place(open_store()) == home / ".qmtl_seamless_store"
    assert place(open_store("embedded:~/here")) == home / "here"
    test = Endpoint("test", "127.0.0.1_8610")
    assert place(open_store(endpoint=test)) == home / ".qmtl_seamless_store" / "test" / "127.0.0.1_8610"
    assert open_store(endpoint=test).environment == "test"
    for wrong in ("mysql://me:secret@host/db", "embedded:", "nothing"):
        with pytest.raises(ValueError, match="expected postgresql://, questdb:// or embedded:PATH") as caught:
            open_store(wrong)
        assert "secret" not in str(caught.value)
    monkeypatch.setenv("QMTL_SEAMLESS__STORE_DIR", str(home / "configured"))
    runtime.reload()
    assert place(open_store()) == home / "configured"
    (home / "dsn").write_text("postgresql://me:secret@127.0.0.1:8801/q\n", "utf-8")
    monkeypatch.setenv("QMTL_SEAMLESS__QUESTDB_DSN", f"file:{home}/dsn")
    runtime.reload()
    for endpoint, table in ((None, "ohlcv"), (test, "ohlcv__test")):
        store = open_store(endpoint=endpoint)
        assert isinstance(store, QuestDBStore)
        assert (store._address.port, store.table) == (8801, table)


def test_a_provider_has_one_store(home: Path) -> None:
    with pytest.raises(ValueError, match="dsn and store exclude each other"):
        EnhancedQuestDBProvider("embedded:a", store=open_store("embedded:b"))


async def test_faults_of_the_exchange_end_in_a_backfill_error(history: History) -> None:
    place = await history(range(1500), LATER_S)
    place.fault(FaultKind.STATUS, status=500)
    async with EnhancedQuestDBProvider(fetcher=guide_fetcher(max_retries=1, retry_backoff_s=0.0)) as provider:
        with pytest.raises(BackfillError, match="backfill failed"):
            await provider.fetch(*DAY, **SERIES)
        assert place.klines.seen == 2, "only the fetcher resends"
        assert await provider.coverage(**SERIES) == []


async def test_34_as_of_reads_the_artifact_and_nothing_else(history: History, home: Path) -> None:
    """Acceptance 34."""
    place = await history(range(1500), LATER_S)
    registrar = ArtifactRegistrar(home / "artifacts")
    provider = EnhancedQuestDBProvider(fetcher=guide_fetcher(), registrar=registrar)
    first = await provider.fetch(*DAY, **SERIES)
    as_of = first.metadata.as_of
    assert as_of is not None
    assert first.metadata.manifest_uri is not None
    # The store is mutated, and then gone; the exchange is not asked either.
    await provider.store.write(
        provider._binding.resolve(NODE, 60), first.frame.with_columns(close=first["close"] + 1), covered=[DAY]
    )
    shutil.rmtree(home / ".qmtl_seamless_store")
    seen = place.klines.seen
    for domain, world in ((None, None), ("backtest", "w"), ("live", "w")):
        answer = await provider.fetch(*DAY, **SERIES, as_of=as_of, execution_domain=domain, world_id=world)
        told = answer.metadata
        assert answer.frame.equals(first.frame)
        assert told.dataset_fingerprint == first.metadata.dataset_fingerprint
        assert (told.reproducible, told.requested_as_of, told.hold) == (True, as_of, False)
        assert told.sources == {"artifact": 1440}
        assert told.missing == []
    assert not (home / ".qmtl_seamless_store").exists()
    assert place.klines.seen == seen
    part = await provider.fetch(T0 + 600, T0 + 1200, **SERIES, as_of=as_of + 5)
    assert part["ts"].to_list() == list(range(T0 + 600, T0 + 1200, 60))
    with pytest.raises(ArtifactNotFoundError, match=f"no artifact as of {as_of - 1}"):
        await provider.fetch(*DAY, **SERIES, as_of=as_of - 1)
    told = (
        await provider.fetch(*DAY, **SERIES, as_of=as_of + 1, execution_domain="live", world_id="w")
    ).metadata
    assert not told.hold
    back = await provider.fetch(*DAY, **SERIES, as_of=as_of, execution_domain="live", world_id="w")
    assert (back.metadata.hold, back.metadata.downgrade_reason) == (True, "as_of_regression")
    (data,) = (home / "artifacts").rglob("data.parquet")
    data.write_bytes(data.read_bytes()[:-1] + b"?")
    with pytest.raises(ArtifactCorruptError):
        await provider.fetch(*DAY, **SERIES, as_of=as_of)
    await provider.aclose()


async def test_artifacts_by_configuration(
    history: History, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = await history(range(1500), LATER_S)
    monkeypatch.setenv("QMTL_SEAMLESS__ARTIFACTS_ENABLED", "true")
    runtime.reload()
    async with EnhancedQuestDBProvider(fetcher=guide_fetcher(), cache=CacheConfig(enable=False)) as provider:
        first = (await provider.fetch(*DAY, **SERIES)).metadata
        second = (await provider.fetch(*DAY, **SERIES)).metadata
    assert first.as_of == second.as_of, "the same rows are one publication"
    folder = home / ".qmtl_seamless_artifacts" / "test" / place.url.removeprefix("http://").replace(":", "_")
    assert len(list(folder.rglob("data.parquet"))) == 1
    monkeypatch.setenv("QMTL_SEAMLESS__ARTIFACTS_ENABLED", "false")
    runtime.reload()
    async with EnhancedQuestDBProvider(fetcher=guide_fetcher()) as provider:
        answer = await provider.fetch(*DAY, **SERIES, as_of=first.as_of)
        assert answer.metadata.dataset_fingerprint == first.dataset_fingerprint
        assert (await provider.fetch(*DAY, **SERIES)).metadata.manifest_uri is None


async def test_providers_of_one_process_share_questdbs_ranges(
    history: History, questdb_server: QuestDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Acceptance 23 without a coordinator: process-only, and told once."""
    place = await history(range(1_000), LATER_S)
    monkeypatch.setenv("QMTL_SEAMLESS__QUESTDB_HTTP", questdb_server.http)
    runtime.reload()
    _lease_folder.cache_clear()
    with capture_logs() as logs:
        providers = [
            EnhancedQuestDBProvider(
                questdb_server.dsn, table=f"p{questdb_server.port}", fetcher=guide_fetcher()
            )
            for _ in range(3)
        ]
        answers = await asyncio.gather(*(one.fetch(T0, T0 + 30_000, **SERIES) for one in providers))
    assert [len(answer) for answer in answers] == [500] * 3
    assert place.klines.seen == 1
    assert [one["event"] for one in logs].count("seamless.coordinator.none") == 1
    for one in providers:
        await one.aclose()


async def test_41_questdb_down_is_said_with_its_address(
    configure: Callable[..., None], free_port: int
) -> None:
    """Acceptance 41: the FAQ's text, and nothing falls back."""
    async with EnhancedQuestDBProvider(
        f"postgresql://127.0.0.1:{free_port}/qmtl", fetcher=guide_fetcher()
    ) as provider:
        with pytest.raises(QuestDBConnectionError) as caught:
            await provider.fetch(*DAY, **SERIES)
    text = str(caught.value)
    assert text.startswith(f"cannot reach QuestDB at 127.0.0.1:{free_port}: ")
    assert text.endswith("; check the DSN and that the server is running")
    assert not runtime.settings().seamless.store_dir.exists()
