"""Everything before the stream opens: account, candles, listenKey, stream names, and the checks.

Published method names are synchronous; each has an `_async` twin. One Prelim belongs to one of the two: the
synchronous calls run the client on a thread of their own.
"""

import asyncio
import threading
from collections.abc import Coroutine
from decimal import Decimal
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from qmtl.core.bar import Bar
from qmtl.core.event import PositionReport
from qmtl.core.instrument import Instrument, parse_symbol
from qmtl.core.interval import parse_interval
from qmtl.core.money import ZERO
from qmtl.core.order import BrokerageError
from qmtl.runtime.io.binance_feed import PRODUCTION_WS_URL
from qmtl.runtime.io.binance_futures import BinanceFuturesClient
from qmtl.trader.collector import load_pandas

if TYPE_CHECKING:
    import pandas as pd

T = TypeVar("T")
Account = tuple[float, float, float, float]

CLOCK_LIMIT_MS = 1_000.0
_STREAMS = {
    "markPrice1s": "{}@markPrice@1s",
    "markPrice3s": "{}@markPrice",
    **{f"kline{interval}": f"{{}}@kline_{interval}" for interval in ("1m", "3m", "5m", "15m", "30m", "1h")},
    "aggTrade": "{}@aggTrade",
}
_USER = "userData"


class SetupRefusedError(ValueError):
    """The account or the settings do not fit each other; starting again changes nothing."""


class ClockOffsetError(BrokerageError):
    """Our clock is too far from the venue's to trade; it may be right again later."""


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks found: offset is ours minus theirs; None where it was not asked."""

    instrument: Instrument
    clock_offset_ms: float
    is_hedge: bool | None = None
    leverage: int | None = None
    can_withdraw: bool | None = None
    can_trade: bool | None = None


class Prelim:
    """Asks the venue what a trader must know before it starts; changes at most leverage and margin mode.

    `client` is a BinanceFuturesClient; market data needs no key.
    """

    def __init__(
        self, client: BinanceFuturesClient, symbol: str = "BTCUSDT", *, ws_url: str = PRODUCTION_WS_URL
    ) -> None:
        self.client = client
        self.symbol = parse_symbol(symbol)
        self.listenKey: str | None = None
        self._ws_url = ws_url.rstrip("/")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    # --- account and candles -------------------------------------------------------------------------

    async def getInfo_account_async(self) -> Account:
        """See getInfo_account."""
        account = await self.client.account()
        held = [row for row in await self.client.positions() if row.symbol == self.symbol]
        amount = sum((row.quantity for row in held), ZERO)
        entry = held[0].entry_price if len(held) == 1 else _mean_entry(held, amount)
        sums = (account.totalWalletBalance, account.availableBalance, amount, entry)
        return (float(sums[0]), float(sums[1]), float(sums[2]), float(sums[3]))

    def getInfo_account(self) -> Account:
        """Return (walletBalance, availableBalance, positionAmt, entryPrice) of the symbol; 0 when flat."""
        return self._wait(self.getInfo_account_async())

    async def load_bars(
        self, interval: str, limit: int = 500, startTime: int | None = None, endTime: int | None = None
    ) -> list[Bar]:
        """Return closed candles as Bars; see getData_OHLCV."""
        end_ms = None if endTime is None else endTime + 1
        return await self.client.klines(self.symbol, interval, startTime, end_ms, limit)

    async def getData_OHLCV_async(
        self, interval: str, limit: int = 500, startTime: int | None = None, endTime: int | None = None
    ) -> "pd.DataFrame":
        """See getData_OHLCV."""
        frames = load_pandas()
        step_ms = parse_interval(interval)
        bars = await self.load_bars(interval, limit, startTime, endTime)
        frame: pd.DataFrame = frames.DataFrame(
            {
                "startTime": [bar.open_ms for bar in bars],
                "closeTime": [bar.open_ms + step_ms - 1 for bar in bars],
                "open": [bar.open for bar in bars],
                "high": [bar.high for bar in bars],
                "low": [bar.low for bar in bars],
                "close": [bar.close for bar in bars],
                "volume": [bar.volume for bar in bars],
                "interval": interval,
                "stream": f"kline{interval}",
                "eventType": "kline",
            }
        )
        return frame

    def getData_OHLCV(
        self, interval: str, limit: int = 500, startTime: int | None = None, endTime: int | None = None
    ) -> "pd.DataFrame":
        """Return at most `limit` closed candles, oldest first, one row each: the last ones without startTime.

        Times are UTC milliseconds, both ends inclusive by opening time; more than 1,500 rows come in pages.
        """
        return self._wait(self.getData_OHLCV_async(interval, limit, startTime, endTime))

    # --- user stream ---------------------------------------------------------------------------------

    async def new_listenKey_async(self) -> str:
        """See new_listenKey."""
        self.listenKey = await self.client.new_listen_key()
        return self.listenKey

    def new_listenKey(self) -> str:
        """Open the user stream and return its key, which ends after an hour unless renewed."""
        return self._wait(self.new_listenKey_async())

    async def renew_listenKey_async(self) -> None:
        """See renew_listenKey."""
        await self.client.renew_listen_key()

    def renew_listenKey(self) -> None:
        """Prolong the user stream by an hour; BinanceError -1125 when its key is gone."""
        self._wait(self.renew_listenKey_async())

    async def close_listenKey_async(self) -> None:
        """See close_listenKey."""
        await self.client.close_listen_key()
        self.listenKey = None

    def close_listenKey(self) -> None:
        """End the user stream."""
        self._wait(self.close_listenKey_async())

    async def getInfo_streams_async(self, symbol: str, *keys: str) -> dict[str, str]:
        """See getInfo_streams."""
        known = [*_STREAMS, _USER]
        for key in keys:
            if key not in known:
                raise ValueError(f"stream key {key!r} is not known; allowed: {', '.join(known)}")
        lower = parse_symbol(symbol).lower()
        streams = {}
        for key in keys:
            if key != _USER:
                streams[key] = _STREAMS[key].format(lower)
            else:
                streams[key] = self.listenKey or await self.new_listenKey_async()
        return streams

    def getInfo_streams(self, symbol: str, *keys: str) -> dict[str, str]:
        """Return {key: stream name}; `userData` opens a user stream when none is open.

        ValueError lists the allowed keys when one is not known.
        """
        return self._wait(self.getInfo_streams_async(symbol, *keys))

    def getInfo_streamURL(self, *streams: str) -> str:
        """Return the address of one combined socket for `streams`.

        The venue serves market and user streams apart; a mix of both gets the root, which only venues that
        serve both together answer.
        """
        private = [stream for stream in streams if "@" not in stream]
        room = "" if 0 < len(private) < len(streams) else "/private" if private else "/market"
        return f"{self._ws_url}{room}/stream?streams={'/'.join(streams)}"

    async def getInfo_trade_async(
        self, symbol: str, *keys: str
    ) -> tuple[float, float, float, float, dict[str, str]]:
        """See getInfo_trade."""
        account = await self.getInfo_account_async()
        return (*account, await self.getInfo_streams_async(symbol, *keys))

    def getInfo_trade(self, symbol: str, *keys: str) -> tuple[float, float, float, float, dict[str, str]]:
        """Return what getInfo_account returns, and what getInfo_streams returns as fifth."""
        return self._wait(self.getInfo_trade_async(symbol, *keys))

    # --- checks --------------------------------------------------------------------------------------

    async def check_market_async(self, limit_ms: float = CLOCK_LIMIT_MS) -> Checked:
        """Compare clocks and look the symbol up; needs no key.

        Raises ClockOffsetError beyond `limit_ms`, SetupRefusedError when the symbol is not listed.
        """
        offset_ms = (await self.client.sync_clock()).offset_ms
        if abs(offset_ms) > limit_ms:
            raise ClockOffsetError(
                f"our clock is {offset_ms / 1000:+.1f} s off the venue's; more than {limit_ms / 1000:g} s"
                " cannot trade: set the clock (NTP) and start again"
            )
        instruments = (await self.client.exchange_info()).instruments
        if self.symbol not in instruments:
            raise SetupRefusedError(f"symbol {self.symbol} is not listed at {self.client.base_url.host}")
        return Checked(instrument=instruments[self.symbol], clock_offset_ms=offset_ms)

    async def check_account_async(
        self,
        checked: Checked,
        *,
        leverage: int = 1,
        margin_mode: str = "isolated",
        is_hedge: bool = False,
        refuses_withdrawal: bool = True,
    ) -> Checked:
        """Check key and position mode, and set leverage and margin mode where nothing is open.

        Raises SetupRefusedError naming what does not fit.
        """
        rights = await self.client.restrictions()
        if not rights.enableFutures:
            raise SetupRefusedError("the API key may not trade futures: allow it at the venue")
        if refuses_withdrawal and rights.enableWithdrawals:
            raise SetupRefusedError("the API key may withdraw: make one without that right")
        has_hedge = await self.client.is_hedge_mode()
        if has_hedge != is_hedge:
            names = {True: "hedge", False: "one_way"}
            raise SetupRefusedError(
                f"account.position_mode: the venue has {names[has_hedge]}, the settings {names[is_hedge]}"
            )
        is_open = any(row.symbol == self.symbol for row in await self.client.positions())
        if not is_open and not await self.client.open_orders(self.symbol):
            await self.client.set_margin_mode(self.symbol, margin_mode)
            leverage = await self.client.set_leverage(self.symbol, leverage)
        return msgspec.structs.replace(
            checked,
            is_hedge=has_hedge,
            leverage=leverage,
            can_withdraw=rights.enableWithdrawals,
            can_trade=rights.enableFutures,
        )

    def check(self) -> Checked:
        """Run the checks of the market, then of the account; cancels nothing."""

        async def both() -> Checked:
            return await self.check_account_async(await self.check_market_async())

        return self._wait(both())

    # --- the thread of the synchronous calls ---------------------------------------------------------

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="prelim", daemon=True)
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def close(self) -> None:
        """Close the client and end the thread of the synchronous calls, if there is one."""
        if self._loop is not None and self._thread is not None:
            self._wait(self.client.aclose())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._loop = self._thread = None


def _mean_entry(held: list[PositionReport], amount: Decimal) -> Decimal:
    if not amount:
        return ZERO
    return sum((row.quantity * row.entry_price for row in held), ZERO) / amount
