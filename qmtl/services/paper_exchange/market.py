"""One market: closed candles, the forming one, and everything the venue derives from them."""

import heapq
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain
from typing import NamedTuple

from qmtl.core.bar import Bar
from qmtl.core.instrument import list_instrument
from qmtl.core.interval import DAY_MS, FUNDING_MS, INTERVAL_MS
from qmtl.engine.candle_path import CandlePath, candle_ticks
from qmtl.services.paper_exchange.candles import MINUTE_MS, load_funding, open_candles
from qmtl.services.paper_exchange.settings import MarketSettings

DIFF_LEVELS = 20
_WEEK_MS = 7 * DAY_MS
_MONDAY_MS = 4 * DAY_MS
"""1970-01-01 was a Thursday; the venue's weeks start on Monday."""


class Update(NamedTuple):
    """One publication of a forming candle.

    `close` is the last price, `share` what traded since the one before, `candle_volume` what the whole
    candle will have traded.
    """

    ts_ms: int
    symbol: str
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    is_closed: bool
    share: float
    candle_volume: float
    ordinal: int


class Trade(NamedTuple):
    """One public trade; four a candle, their ids follow from their time and never change."""

    trade_id: int
    ts_ms: int
    price: float
    quantity: float
    is_buyer_maker: bool


class Market:
    """The public side of one contract."""

    def __init__(self, settings: MarketSettings, path: CandlePath, now_ms: int) -> None:
        """Load candles around `now_ms`; BarError when a file is faulty."""
        series = open_candles(settings, now_ms)
        self.symbol = settings.symbol
        self.instrument = list_instrument(
            settings.symbol, series.price_decimals, series.volume_decimals, min_notional=settings.min_notional
        )
        tick_decimals = -int(self.instrument.tick_size.as_tuple().exponent)
        self.price_decimals = max(series.price_decimals, tick_decimals)
        self.volume_decimals = max(series.volume_decimals, -int(self.instrument.lot_size.as_tuple().exponent))
        self.is_synthetic = series.is_synthetic
        self.bars: list[Bar] = series.history
        self.prints: list[Trade] = []
        """Trades given one by one, ascending by time and id; with any, the market has no others."""
        self.forming: Update | None = None
        self._formed: list[Update] = []
        self.book_id = 1
        self.previous_book: tuple[list[list[str]], list[list[str]]] = ([], [])
        self._opening = next(series.future, None) if not series.history else None
        self._future = chain([self._opening] if self._opening else [], series.future)
        self._path = path
        self._shift_ms = series.shift_ms
        self._rates = load_funding(settings.funding)

    # --- time ---------------------------------------------------------------------------------

    def updates(self, after_ms: int) -> Iterator[Update]:
        """Yield every publication later than `after_ms`, in order, as long as candles last.

        Those of the current candle that are already past are applied at once: they are history.
        """
        for bar in self._future:
            for update in updates_of(self.symbol, bar, self._path):
                if update.ts_ms <= after_ms:
                    self.apply(update)
                else:
                    yield update

    def apply(self, update: Update) -> None:
        """Make `update` the present."""
        self.previous_book = self.book(DIFF_LEVELS)
        self.book_id += 1
        if update.is_closed:
            self.bars.append(
                Bar(update.open_ms, update.open, update.high, update.low, update.close, update.volume)
            )
            self.forming = None
            self._formed = []
        else:
            self.forming = update
            self._formed.append(update)

    @property
    def last_price(self) -> float:
        """The last trade price; the first candle's open before any trade."""
        if self.forming is not None:
            return self.forming.close
        if self.bars:
            return self.bars[-1].close
        return self._opening.open if self._opening is not None else 0.0

    @property
    def candle_volume(self) -> float:
        """Base units the present candle trades in all; the last one's between candles."""
        if self.forming is not None:
            return self.forming.candle_volume
        if self.bars:
            return self.bars[-1].volume
        return self._opening.volume if self._opening is not None else 0.0

    def funding_rate(self, time_ms: int) -> Decimal:
        """Return the rate settled at the start of the 8h slot `time_ms` lies in; 0 where none is recorded."""
        return Decimal(str(self._rates.get((time_ms - self._shift_ms) // FUNDING_MS, 0.0)))

    # --- candles ------------------------------------------------------------------------------

    def candles(self, interval: str, start_ms: int | None, end_ms: int | None, limit: int) -> list[Bar]:
        """Return candles of `interval` by open time in [start_ms, end_ms], the forming one included.

        With a start the first `limit`, else the last.
        """
        length = INTERVAL_MS[interval]
        end = end_ms if end_ms is not None else 1 << 62
        if length == MINUTE_MS:
            return self._minutes(start_ms, end, limit)
        if start_ms is None:
            newest = min(end, self._newest_ms())
            start = _open_of(newest, length) - (limit - 1) * length
        else:
            start = _ceil_open(start_ms, length)
        stop = min(start + limit * length, end + length)
        grouped = _aggregate(self._minutes(start, stop - 1, 1 << 30), length)
        found = [bar for bar in grouped if start <= bar.open_ms <= end]
        return found[:limit] if start_ms is not None else found[-limit:]

    def _minutes(self, start_ms: int | None, end_ms: int, limit: int) -> list[Bar]:
        stop = bisect_left(self.bars, end_ms + 1, key=lambda bar: bar.open_ms)
        start = 0 if start_ms is None else bisect_left(self.bars, start_ms, key=lambda bar: bar.open_ms)
        forming = self._forming_bar()
        if forming is not None and (forming.open_ms > end_ms or forming.open_ms < (start_ms or 0)):
            forming = None
        if start_ms is None:
            room = limit - (forming is not None)
            found = self.bars[max(start, stop - room) : stop]
        else:
            found = self.bars[start : min(stop, start + limit)]
        if forming is not None and len(found) < limit:
            found.append(forming)
        return found

    def _forming_bar(self) -> Bar | None:
        u = self.forming
        return None if u is None else Bar(u.open_ms, u.open, u.high, u.low, u.close, u.volume)

    def _newest_ms(self) -> int:
        if self.forming is not None:
            return self.forming.open_ms
        return self.bars[-1].open_ms if self.bars else 0

    def current(self, interval: str) -> Bar:
        """Return the candle of `interval` that the newest minute belongs to."""
        return self.candles(interval, None, None, 1)[0]

    def day(self) -> list[Bar]:
        """Return the minutes of the last 24 hours; before the first trade, one that stands still."""
        found = self._minutes(self._newest_ms() - DAY_MS + MINUTE_MS, 1 << 62, DAY_MS // MINUTE_MS)
        price = self.last_price
        return found or [Bar(0, price, price, price, price, 0.0)]

    # --- trades and book ----------------------------------------------------------------------

    def trades(
        self,
        *,
        start_ms: int | None = None,
        end_ms: int | None = None,
        from_id: int | None = None,
        limit: int = 500,
    ) -> list[Trade]:
        """Return public trades oldest first: from an id, in a time range, or the last `limit`."""
        if self.prints:
            return self._printed(start_ms, end_ms, from_id, limit)
        if from_id is not None:
            start_ms = from_id // 4 * MINUTE_MS
        first = (start_ms // MINUTE_MS * MINUTE_MS) if start_ms is not None else None
        minutes = -(-limit // 4) + 1
        end = end_ms if end_ms is not None else 1 << 62
        found = [trade for bar in self._minutes(first, end, minutes) for trade in self._trades_of(bar)]
        found = [
            trade
            for trade in found
            if (start_ms is None or from_id is not None or trade.ts_ms >= start_ms)
            and (from_id is None or trade.trade_id >= from_id)
            and trade.ts_ms <= end
        ]
        return found[:limit] if start_ms is not None else found[-limit:]

    def _printed(
        self, start_ms: int | None, end_ms: int | None, from_id: int | None, limit: int
    ) -> list[Trade]:
        prints = self.prints
        stop = len(prints) if end_ms is None else bisect_left(prints, end_ms + 1, key=lambda t: t.ts_ms)
        if from_id is not None:
            start = bisect_left(prints, from_id, key=lambda trade: trade.trade_id)
        elif start_ms is not None:
            start = bisect_left(prints, start_ms, key=lambda trade: trade.ts_ms)
        else:
            start = max(0, stop - limit)
        return prints[start : min(stop, start + limit)]

    def _trades_of(self, bar: Bar) -> list[Trade]:
        if self._formed and self._formed[0].open_ms == bar.open_ms:
            return [self.trade_of(update) for update in self._formed]
        return [self.trade_of(update) for update in updates_of(self.symbol, bar, self._path)]

    def trade_of(self, update: Update) -> Trade:
        """Return the trade an update stands for."""
        return Trade(
            update.open_ms // MINUTE_MS * 4 + update.ordinal,
            update.ts_ms,
            update.close,
            update.share,
            update.close < update.open,
        )

    def book(self, levels: int) -> tuple[list[list[str]], list[list[str]]]:
        """Return (bids, asks), best first, one tick apart around the last price."""
        tick = float(self.instrument.tick_size)
        quantity = self.quantity(max(self.candle_volume / 40, float(self.instrument.lot_size)))
        last = self.last_price
        bids = [[self.price(last - tick * k), quantity] for k in range(1, levels + 1) if last > tick * k]
        asks = [[self.price(last + tick * k), quantity] for k in range(1, levels + 1)]
        return bids, asks

    # --- printing -----------------------------------------------------------------------------

    def price(self, value: float) -> str:
        """Print a price with the contract's decimals."""
        return f"{value:.{self.price_decimals}f}"

    def quantity(self, value: float) -> str:
        """Print a quantity with the contract's decimals."""
        return f"{value:.{self.volume_decimals}f}"


def updates_of(symbol: str, bar: Bar, path: CandlePath) -> Iterator[Update]:
    """Yield the publications of one candle along `path`."""
    before = 0.0
    for ordinal, tick in enumerate(candle_ticks(bar, path)):
        yield Update(
            bar.open_ms + tick.offset_ms,
            symbol,
            bar.open_ms,
            bar.open,
            tick.high,
            tick.low,
            tick.price,
            tick.volume,
            tick.is_closed,
            tick.volume - before,
            bar.volume,
            ordinal,
        )
        before = tick.volume


def merge_updates(markets: Iterable[Market], after_ms: int) -> Iterator[Update]:
    """Yield the publications of several markets in the order of their time."""
    return heapq.merge(*(market.updates(after_ms) for market in markets), key=lambda update: update.ts_ms)


def _open_of(time_ms: int, length: int) -> int:
    if length == _WEEK_MS:
        return (time_ms - _MONDAY_MS) // length * length + _MONDAY_MS
    return time_ms // length * length


def _ceil_open(time_ms: int, length: int) -> int:
    opened = _open_of(time_ms, length)
    return opened if opened == time_ms else opened + length


def _aggregate(minutes: list[Bar], length: int) -> list[Bar]:
    groups: dict[int, list[Bar]] = {}
    for bar in minutes:
        groups.setdefault(_open_of(bar.open_ms, length), []).append(bar)
    return [
        Bar(
            opened,
            group[0].open,
            max(bar.high for bar in group),
            min(bar.low for bar in group),
            group[-1].close,
            round(sum(bar.volume for bar in group), 8),
        )
        for opened, group in groups.items()
    ]
