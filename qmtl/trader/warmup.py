"""The trader's warm-up: the last closed candles, from the provider's store and the venue together."""

from typing import TYPE_CHECKING, Any

import structlog
from yarl import URL

from qmtl.core.bar import Bar
from qmtl.core.instrument import unify_symbol
from qmtl.core.interval import parse_interval
from qmtl.engine.clock import SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.binance_futures import PRODUCTION_URL, BinanceFuturesClient
from qmtl.runtime.io.binance_rest import BinanceError
from qmtl.runtime.sdk.history import (
    FatalFetchError,
    RateLimitedError,
    RetryableFetchError,
    SeriesKey,
    StoreError,
)
from qmtl.runtime.sdk.ohlcv_nodeid import build
from qmtl.settings import Settings, is_loopback

if TYPE_CHECKING:
    from qmtl.core.ranges import Range
    from qmtl.runtime.io.bar_fetcher import BarFetcher
    from qmtl.runtime.io.request_lane import Fault
    from qmtl.runtime.sdk.history import HistoryStore

_log = structlog.get_logger("qmtl.trader")
_BANNED, _TOO_MANY = 418, 429


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
        from qmtl.runtime.io.seamless_provider import EnhancedQuestDBProvider
        from qmtl.runtime.sdk.fetch_plan import plan_window

        account, timeframe = self._settings.account, self._settings.trader.interval
        unified = unify_symbol(symbol, is_linear=True)
        step = parse_interval(timeframe) // 1000
        key = SeriesKey(build(account.venue, unified, timeframe, escape=True), step)
        now_s = self._clock.now_ms() // 1000
        end = plan_window(key, 0, 0, now_s=now_s, stabilization_bars=0).newest_closed
        client = BinanceFuturesClient(base_url=account.base_url, clock=self._clock, random=self._rng)
        fetcher = make_fetcher(client, account.venue, unified, self._clock, self._rng)
        store = await self._find_store(fetcher)
        provider = EnhancedQuestDBProvider(
            store=store, fetcher=fetcher, strategy="auto_backfill", clock=self._clock, rng=self._rng
        )
        start = max(0, end - count * step)
        try:
            async with provider:
                if is_loopback(account.base_url):
                    await self._drop_strangers(client, provider.store, key, symbol, (start, end))
                answer = await provider.fetch(start, end, node_id=key.node_id, interval=step)
        finally:
            await fetcher.aclose()
        _log.info("warm-up", symbol=symbol, bars=len(answer), sources=answer.metadata.sources)
        return [Bar(row[0] * 1000, *row[1:]) for row in answer.frame.iter_rows()]

    async def _find_store(self, fetcher: "BarFetcher") -> "HistoryStore | None":
        """Return an emptied store of the venue's own where that was asked, None for the configured one."""
        from qmtl.runtime.io.embedded_store import EmbeddedStore
        from qmtl.runtime.io.seamless_provider import find_endpoint, find_place

        if not self._is_fresh:
            return None
        endpoint = find_endpoint((fetcher,))
        store = EmbeddedStore(find_place(self._settings.seamless.store_dir, endpoint), clock=self._clock)
        store.environment = None if endpoint is None else endpoint.environment
        if endpoint is not None and endpoint.environment == "test":
            await _empty(store)
        return store

    async def _drop_strangers(
        self,
        client: BinanceFuturesClient,
        store: Any,
        key: "SeriesKey",
        symbol: str,
        span: "Range",
    ) -> None:
        """Empty the store of a paper exchange whose candles are no longer those that are stored."""
        stored = {row[0]: row[1:] for row in (await store.read(key, *span)).iter_rows()}
        if not stored:
            return
        timeframe = self._settings.trader.interval
        for bar in await client.klines(symbol, timeframe, span[0] * 1000, span[1] * 1000):
            found = stored.get(bar.open_ms // 1000)
            if found is not None and found != (bar.open, bar.high, bar.low, bar.close, bar.volume):
                _log.warning(
                    "the paper exchange has another market than the one stored", action="its store is emptied"
                )
                await _empty(store)
                return


async def _empty(store: Any) -> None:
    clear = getattr(store, "clear", None)
    if clear is None:
        raise StoreError("the store holds candles of another paper exchange: drop its __test tables")
    await clear()


class ClientBars:
    """Candles of a Binance client as a fetcher's source; the client keeps the venue's weights itself."""

    rate_limit_ms: float | None = None
    errors: tuple[type[Exception], ...] = (BinanceError, OSError)

    def __init__(self, client: BinanceFuturesClient) -> None:
        self._client = client

    @property
    def endpoint(self) -> str | None:
        """The base address."""
        return str(self._client.base_url).rstrip("/")

    @property
    def environment(self) -> str:
        """`production` at the venue's own host, else `test`."""
        return "production" if self._client.base_url.host == URL(PRODUCTION_URL).host else "test"

    def judge(self, error: Exception) -> "Fault":
        """See FaultJudge."""
        from qmtl.runtime.io.request_lane import Fault

        if not isinstance(error, BinanceError):
            return Fault(RetryableFetchError, str(error) or type(error).__name__)
        if error.http_status in {_BANNED, _TOO_MANY}:
            return Fault(RateLimitedError, str(error), error.retry_after_s, error.http_status == _BANNED)
        return Fault(FatalFetchError if error.http_status < 500 else RetryableFetchError, str(error))

    async def open(self) -> None:
        """See HistorySource."""

    async def close(self) -> None:
        """See HistorySource."""
        await self._client.aclose()

    async def fetch_time_ms(self) -> int | None:
        """See HistorySource; Binance's candles say themselves which is closed."""
        return None

    async def fetch_bars(self, symbol: str, timeframe: str, since_ms: int, limit: int) -> list[list[float]]:
        """See BarSource."""
        name = symbol.split(":", maxsplit=1)[0].replace("/", "")
        bars = await self._client.klines(name, timeframe, since_ms, None, limit)
        return [[bar.open_ms, bar.open, bar.high, bar.low, bar.close, bar.volume] for bar in bars]


def make_fetcher(
    client: BinanceFuturesClient, venue: str, unified: str, clock: Clock, rng: Random
) -> "BarFetcher":
    """Return a fetcher of one symbol's candles over `client`, which resends and waits by itself."""
    from qmtl.runtime.io.bar_fetcher import BarFetcher
    from qmtl.runtime.io.fetch_settings import FetchSettings

    settings = FetchSettings(exchange=venue, symbols=[unified], max_retries=0)
    source: Any = ClientBars(client)
    return BarFetcher(settings, source, timeframe=None, grid_offset_s=None, clock=clock, rng=rng)
