"""The series a command line means, where its rows come from and where they are kept."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qmtl.cli.invocation import BadInputError, refusing

if TYPE_CHECKING:
    from qmtl.runtime.sdk.history import Endpoint, SeriesKey
    from qmtl.settings import Settings

TRADES = "trades"
_TRADE_CELL_S = 3_600
_NATIVE = "binanceusdm"
_LINEAR = frozenset({_NATIVE})
"""Venues where every contract is settled in its quote currency."""


@dataclass(frozen=True)
class NamedSeries:
    """One series as people and stores name it."""

    exchange: str
    symbol: str
    timeframe: str
    key: "SeriesKey"

    def __str__(self) -> str:
        """As it is echoed: `binanceusdm BTC/USDT:USDT 1m`."""
        return f"{self.exchange} {self.symbol} {self.timeframe}"

    def as_json(self) -> dict[str, object]:
        """The same for machines."""
        return {
            "exchange": self.exchange,
            "symbol": self.symbol,
            "timeframe": self.timeframe,
            "node_id": self.key.node_id,
            "interval": self.key.interval,
        }


def name_series(symbol: str, timeframe: str, exchange: str) -> NamedSeries:
    """Return the series of a symbol in any spelling; BadInputError names what is wrong."""
    from qmtl.core.instrument import unify_symbol
    from qmtl.runtime.sdk.history import SeriesKey
    from qmtl.runtime.sdk.ohlcv_nodeid import TIMEFRAME_SECONDS, build, build_trades

    with refusing(ValueError):
        unified = unify_symbol(symbol, is_linear=exchange in _LINEAR)
        if timeframe == TRADES:
            key = SeriesKey(build_trades(exchange, unified, escape=True), _TRADE_CELL_S)
        elif timeframe not in TIMEFRAME_SECONDS:
            known = ", ".join(TIMEFRAME_SECONDS)
            raise BadInputError(f"timeframe {timeframe!r} is not known; known: {known} and {TRADES}")
        else:
            key = SeriesKey(build(exchange, unified, timeframe, escape=True), TIMEFRAME_SECONDS[timeframe])
    return NamedSeries(exchange, unified, timeframe, key)


def of_key(key: "SeriesKey") -> NamedSeries:
    """Return a stored series as people name it."""
    named = key.named
    return NamedSeries(named.exchange, named.symbol, named.timeframe or TRADES, key)


def make_fetcher(exchange: str, kind: str, *, is_used: bool = True) -> Any:
    """Return what brings bars (`ohlcv`) or `trades` of an exchange; nobody is contacted.

    BadInputError without the extra it needs, unless it is not to be used.
    """
    from qmtl.runtime.io import ccxt_fetcher
    from qmtl.runtime.io.ccxt_session import require_ccxt
    from qmtl.runtime.sdk.brokerage.ccxt_sandbox import load_ccxt

    if exchange == _NATIVE and kind != TRADES:
        from qmtl.runtime.io.binance_history import BinanceFuturesFetcher

        return BinanceFuturesFetcher()
    with refusing(ValueError, RuntimeError):
        if is_used:
            require_ccxt("CcxtTradesFetcher" if kind == TRADES else "CcxtOHLCVFetcher")
            if exchange not in getattr(load_ccxt(), "exchanges", (exchange,)):
                raise BadInputError(f"--exchange: {exchange!r} is not one ccxt knows")
        if kind == TRADES:
            return ccxt_fetcher.CcxtTradesFetcher(ccxt_fetcher.CcxtTradesConfig(exchange=exchange))
        return ccxt_fetcher.CcxtOHLCVFetcher(ccxt_fetcher.CcxtBackfillConfig(exchange=exchange))


def find_home(exchange: str, kind: str = "ohlcv") -> "Endpoint | None":
    """Return whose rows of an exchange the configuration means: its own, or those of a test venue."""
    from qmtl.runtime.io.seamless_provider import find_endpoint

    return find_endpoint((make_fetcher(exchange, kind, is_used=False),))


def default_exchange(settings: "Settings", given: str | None) -> str:
    """Return the exchange of --exchange, else the account's venue."""
    return given if given is not None else settings.account.venue
