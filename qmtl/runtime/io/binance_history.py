"""Bars of Binance USDT-M without ccxt: the same paging, limits and errors, over our own REST client."""

import re
from collections.abc import Sequence
from typing import Any

import aiohttp

from qmtl.engine.clock import SystemClock, SystemRandom
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.bar_fetcher import BarFetcher
from qmtl.runtime.io.binance_futures import PRODUCTION_URL
from qmtl.runtime.io.binance_payloads import PayloadError, parse_klines, parse_time
from qmtl.runtime.io.binance_rest import BinanceError, BinanceRest, classify_binance
from qmtl.runtime.io.ccxt_fetcher import CcxtBackfillConfig
from qmtl.runtime.io.ccxt_session import NotOffered
from qmtl.runtime.io.history_rows import RowError
from qmtl.runtime.io.request_lane import Fault
from qmtl.runtime.sdk import runtime
from qmtl.runtime.sdk.brokerage.result import VenueUnavailable
from qmtl.runtime.sdk.brokerage.send_policy import Outcome
from qmtl.runtime.sdk.history import Environment, FatalFetchError, RateLimitedError, RetryableFetchError

EXCHANGE = "binanceusdm"
_OWN_HOST = re.compile(r"fapi\d*\.binance\.com")
_LINEAR = re.compile(r"([^/:]+)/([^/:]+):\2(-\d+)?")
_INTERVAL_MS = 150.0
"""1,000 bars cost 5 of the 2,400 a minute allows: this leaves a sixth of it to others."""
_BANNED, _TOO_MANY = 418, 429
_KLINE_WEIGHTS = ((100, 1), (500, 2), (1_001, 5))
_TOP_WEIGHT = 10


class BinanceBars:
    """The klines route as a BarSource."""

    def __init__(self, rest: BinanceRest) -> None:
        self._rest = rest

    @property
    def endpoint(self) -> str | None:
        """See HistorySource."""
        return None if self.environment == "production" else str(self._rest.base_url)

    @property
    def environment(self) -> Environment:
        """See HistorySource."""
        return "production" if _OWN_HOST.fullmatch(self._rest.base_url.host or "") else "test"

    @property
    def rate_limit_ms(self) -> float | None:
        """See HistorySource."""
        return _INTERVAL_MS

    async def open(self) -> None:
        """See HistorySource."""
        # How often a request is sent is decided in one place; aiohttp would send each lost one twice.
        self._rest.session._retry_connection = False  # noqa: SLF001

    async def close(self) -> None:
        """See HistorySource."""
        await self._rest.aclose()

    async def fetch_time_ms(self) -> int | None:
        """See HistorySource."""
        try:
            return parse_time(await self._rest.call("GET", "/fapi/v1/time", security="none"))
        except self.errors:
            return None

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ms: int, limit: int
    ) -> Sequence[Sequence[Any]]:
        """See BarSource."""
        params = {
            "symbol": venue_symbol(symbol),
            "interval": timeframe,
            "startTime": str(since_ms),
            "limit": str(limit),
        }
        weight = next((cost for below, cost in _KLINE_WEIGHTS if limit < below), _TOP_WEIGHT)
        body = await self._rest.call("GET", "/fapi/v1/klines", params, security="none", weight=weight)
        try:
            rows = parse_klines(body)
        except PayloadError as error:
            raise RowError(str(error)) from error
        return [(bar.open_ms, bar.open, bar.high, bar.low, bar.close, bar.volume) for bar, _ in rows]

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """See FaultJudge."""
        return BinanceError, NotOffered, VenueUnavailable, PayloadError, aiohttp.ClientError, OSError

    def judge(self, error: Exception) -> Fault:
        """See FaultJudge."""
        reason = f"{type(error).__name__}: {error}"[:300]
        if isinstance(error, BinanceError) and error.http_status in {_BANNED, _TOO_MANY}:
            return Fault(RateLimitedError, reason, error.retry_after_s, error.http_status == _BANNED)
        is_final = isinstance(error, NotOffered | PayloadError) or (
            isinstance(error, BinanceError) and classify_binance(error).outcome is Outcome.FINAL
        )
        return Fault(FatalFetchError if is_final else RetryableFetchError, reason)


class BinanceFuturesFetcher(BarFetcher):
    """Fetches closed bars of USDT-M contracts; needs no key and no extra.

    `base_url` None is the account's; `config` fields are those of CcxtBackfillConfig. See BarFetcher and
    HistoryFetcher for fetching and closing.
    """

    def __init__(
        self,
        config: CcxtBackfillConfig | None = None,
        *,
        base_url: str | None = None,
        close_after_fetch: bool = True,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        config = config or CcxtBackfillConfig(exchange=EXCHANGE)
        if config.exchange != EXCHANGE:
            raise ValueError(f"exchange: expected {EXCHANGE}, got {config.exchange}")
        clock, rng = clock or SystemClock(), rng or SystemRandom()
        url = base_url or runtime.settings().account.base_url or PRODUCTION_URL
        super().__init__(
            config,
            BinanceBars(BinanceRest("", "", url, clock=clock, random=rng)),
            timeframe=config.timeframe,
            grid_offset_s=config.grid_offset_s,
            close_after_fetch=close_after_fetch,
            clock=clock,
            rng=rng,
        )
        self.config = config


def venue_symbol(symbol: str) -> str:
    """Return `BTCUSDT` for `BTC/USDT:USDT`, `BTCUSDT_261225` for `BTC/USDT:USDT-261225`."""
    linear = _LINEAR.fullmatch(symbol)
    if linear is None:
        raise NotOffered(f"{EXCHANGE} has no market {symbol}; its contracts are named like BTC/USDT:USDT")
    return linear[1] + linear[2] + (linear[3] or "").replace("-", "_")
