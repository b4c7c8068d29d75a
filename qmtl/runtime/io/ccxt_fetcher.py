"""History of any exchange through ccxt: bars and trades, complete or the hole named."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qmtl.engine.clock import SystemClock
from qmtl.engine.ports import Clock, Random
from qmtl.runtime.io.bar_fetcher import BarFetcher
from qmtl.runtime.io.ccxt_session import CcxtSession, NotOffered
from qmtl.runtime.io.fetch_settings import FetchSettings, check_timeframe
from qmtl.runtime.io.trade_fetcher import TradeFetcher


@dataclass(frozen=True, init=False)
class CcxtBackfillConfig(FetchSettings):
    """Which bars to fetch and how.

    `exchange` (or `exchange_id`) is ccxt's id; `symbols` None serves any; `timeframe` None takes the node
    id's. `batch_limit` (or `window_size`) is bars per request; cells before `earliest_ts` are confirmed
    empty without a call; `grid_offset_s` moves the grid of cells. ValueError names the field that is wrong.
    """

    timeframe: str | None
    grid_offset_s: int | None

    def __init__(
        self, *, timeframe: str | None = None, grid_offset_s: int | None = None, **fields: Any
    ) -> None:
        super().__init__(**fields)
        if grid_offset_s is not None and (
            isinstance(grid_offset_s, bool) or not isinstance(grid_offset_s, int)
        ):
            raise ValueError(f"grid_offset_s: expected whole seconds, got {grid_offset_s!r}")
        object.__setattr__(self, "timeframe", check_timeframe(timeframe))
        object.__setattr__(self, "grid_offset_s", grid_offset_s)


@dataclass(frozen=True, init=False)
class CcxtTradesConfig(FetchSettings):
    """Which trades to fetch and how: the fields of CcxtBackfillConfig without timeframe and grid."""


class CcxtBars(CcxtSession):
    """Bars of a ccxt exchange."""

    async def fetch_bars(
        self, symbol: str, timeframe: str, since_ms: int, limit: int
    ) -> Sequence[Sequence[Any]]:
        """See BarSource."""
        if not self.has("fetchOHLCV") or not self.is_able("fetch_ohlcv"):
            raise NotOffered(f"{self.exchange_id} offers no history of bars")
        offered = getattr(self.api, "timeframes", None)
        if isinstance(offered, Mapping) and offered and timeframe not in offered:
            raise NotOffered(f"{self.exchange_id} offers no bars of {timeframe}")
        rows: Sequence[Sequence[Any]] = await self.call("fetch_ohlcv", symbol, timeframe, since_ms, limit)
        return rows


class CcxtOHLCVFetcher(BarFetcher):
    """Fetches closed bars through ccxt; RuntimeError at the first call when ccxt is not installed.

    `exchange` is a ccxt exchange that exists, `exchange_factory` makes one; without either it is made of the
    configuration. See BarFetcher and HistoryFetcher for fetching and closing.
    """

    def __init__(
        self,
        config: CcxtBackfillConfig,
        *,
        exchange: Any = None,
        exchange_factory: Callable[..., Any] | None = None,
        close_after_fetch: bool = True,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        clock = clock or SystemClock()
        source = CcxtBars(
            type(self).__name__,
            config.exchange,
            clock,
            exchange=exchange,
            factory=exchange_factory,
            is_rated=config.rate_limiter.is_rated,
        )
        super().__init__(
            config,
            source,
            timeframe=config.timeframe,
            grid_offset_s=config.grid_offset_s,
            close_after_fetch=close_after_fetch,
            clock=clock,
            rng=rng,
        )
        self.config = config


class CcxtTrades(CcxtSession):
    """Trades of a ccxt exchange; Binance's are aggregate trades."""

    @property
    def page_limit(self) -> int | None:
        """See TradeSource."""
        features = getattr(self.api, "features", None)
        spot = features.get("spot") if isinstance(features, Mapping) else None
        limit = ((spot or {}).get("fetchTrades") or {}).get("limit")
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def is_paged_by_id(self) -> bool:
        """See TradeSource."""
        return self.is_binance

    async def fetch_trades(self, symbol: str, since_ms: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """See TradeSource."""
        self._check()
        rows: Sequence[Mapping[str, Any]] = await self.call("fetch_trades", symbol, since_ms, limit)
        return rows

    async def fetch_trades_from(self, symbol: str, trade_id: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """See TradeSource."""
        rows: Sequence[Mapping[str, Any]] = await self.call(
            "fetch_trades", symbol, None, limit, {"fromId": trade_id}
        )
        return rows

    def _check(self) -> None:
        if not self.has("fetchTrades") or not self.is_able("fetch_trades"):
            raise NotOffered(f"{self.exchange_id} offers no history of trades")


class CcxtTradesFetcher(TradeFetcher):
    """Fetches trades through ccxt; RuntimeError at the first call when ccxt is not installed.

    See CcxtOHLCVFetcher.
    """

    def __init__(
        self,
        config: CcxtTradesConfig,
        *,
        exchange: Any = None,
        exchange_factory: Callable[..., Any] | None = None,
        close_after_fetch: bool = True,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        clock = clock or SystemClock()
        source = CcxtTrades(
            type(self).__name__,
            config.exchange,
            clock,
            exchange=exchange,
            factory=exchange_factory,
            is_rated=config.rate_limiter.is_rated,
        )
        super().__init__(config, source, close_after_fetch=close_after_fetch, clock=clock, rng=rng)
        self.config = config
