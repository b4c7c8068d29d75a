"""The trader's warm-up: the last closed candles, from the provider's store and the venue together."""

from typing import TYPE_CHECKING, Any

import structlog

from qmtl.core.bar import Bar
from qmtl.core.instrument import unify_symbol
from qmtl.core.interval import parse_interval
from qmtl.engine.clock import SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.sdk.history import SeriesKey, StoreError
from qmtl.runtime.sdk.ohlcv_nodeid import build
from qmtl.settings import Settings, is_loopback

if TYPE_CHECKING:
    from qmtl.runtime.sdk.history import HistoryStore
    from qmtl.runtime.sdk.seamless_data_provider import SeamlessDataProvider

_log = structlog.get_logger("qmtl.trader")


class StoredWarmup:
    """Brings warm-up candles at the venue of `settings`; what the store lacks is fetched without a key.

    With `is_fresh` the store is one of the venue's own on this machine, emptied first: a paper exchange that
    begins anew has another market. One that merely was restarted is found out by comparing.
    """

    def __init__(
        self, settings: Settings, clock: Clock, *, rng: Random | None = None, is_fresh: bool = False
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._rng: Random = rng or SystemRandom()
        self._is_fresh = is_fresh

    async def bars(self, symbol: str, count: int) -> list[Bar]:
        """Return the last `count` closed candles, oldest first, as far as the venue has them.

        Raises what the provider raises: FetchError, SeamlessError, StoreError.
        """
        from qmtl.runtime.io.binance_history import BinanceFuturesFetcher
        from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig
        from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
        from qmtl.runtime.sdk.fetch_plan import plan_window

        account, timeframe = self._settings.account, self._settings.trader.interval
        unified = unify_symbol(symbol, is_linear=True)
        step = parse_interval(timeframe) // 1000
        key = SeriesKey(build(account.venue, unified, timeframe, escape=True), step)
        fetcher = BinanceFuturesFetcher(
            CcxtBackfillConfig(exchange=account.venue, symbols=[unified]),
            base_url=account.base_url,
            clock=self._clock,
            rng=self._rng,
        )
        provider = EnhancedQuestDBProvider(
            store=await self._find_store(fetcher),
            fetcher=fetcher,
            strategy="auto_backfill",
            clock=self._clock,
            rng=self._rng,
        )
        now_s = self._clock.now_ms() // 1000
        end = plan_window(key, 0, 0, now_s=now_s, stabilization_bars=0).newest_closed
        start = max(0, end - count * step)
        async with provider:
            if is_loopback(account.base_url):
                await _drop_strangers(provider, key, start, end)
            answer = await provider.fetch(start, end, node_id=key.node_id, interval=step)
        _log.info("warm-up", symbol=symbol, bars=len(answer), sources=answer.metadata.sources)
        return [Bar(row[0] * 1000, *row[1:]) for row in answer.frame.iter_rows()]

    async def _find_store(self, fetcher: Any) -> "HistoryStore | None":
        """Return an emptied store of the venue's own where that was asked, None for the configured one."""
        from qmtl.runtime.io.embedded_store import EmbeddedStore
        from qmtl.runtime.io.seamless_provider import find_endpoint, find_place

        endpoint = find_endpoint((fetcher,)) if self._is_fresh else None
        if endpoint is None or endpoint.environment != "test":
            return None
        store = EmbeddedStore(find_place(self._settings.seamless.store_dir, endpoint), clock=self._clock)
        store.environment = endpoint.environment
        await store.clear()
        return store


async def _drop_strangers(provider: "SeamlessDataProvider", key: SeriesKey, start: int, end: int) -> None:
    """Empty the store of a paper exchange whose candles are no longer those that are stored."""
    stored = {row[0]: row for row in (await provider.store.read(key, start, end)).iter_rows()}
    if not stored:
        return
    told = await provider.fetcher.fetch(start, end, node_id=key.node_id, interval=key.interval)
    if all(stored.get(row[0], row) == row for row in told.iter_rows()):
        return
    _log.warning("the paper exchange has another market than the one stored", action="its store is emptied")
    clear = getattr(provider.store, "clear", None)
    if clear is None:
        raise StoreError("the store holds candles of another paper exchange: drop its __test tables")
    await clear()
