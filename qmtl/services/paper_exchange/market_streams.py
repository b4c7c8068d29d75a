"""Payloads of the market streams, shaped as the venue sends them."""

from collections.abc import Callable
from typing import Any

from qmtl.core.bar import Bar
from qmtl.core.interval import INTERVAL_MS
from qmtl.services.paper_exchange.candles import MINUTE_MS
from qmtl.services.paper_exchange.market import Market, Trade, Update

Payload = dict[str, Any]


def dump_kline(market: Market, update: Update, interval: str) -> Payload:
    """Return the candle of `interval` that `update` belongs to, as field `k` shows it."""
    length = INTERVAL_MS[interval]
    if length == MINUTE_MS:
        bar = Bar(update.open_ms, update.open, update.high, update.low, update.close, update.volume)
    else:
        bar = market.current(interval)
    first = bar.open_ms // MINUTE_MS * 4
    last = update.open_ms // MINUTE_MS * 4 + update.ordinal
    value = f"{(bar.open + bar.high + bar.low + bar.close) / 4 * bar.volume:.8f}"
    is_closed = update.is_closed and update.open_ms + MINUTE_MS >= bar.open_ms + length
    return {
        "t": bar.open_ms,
        "T": bar.open_ms + length - 1,
        "s": market.symbol,
        "i": interval,
        "f": first,
        "L": last,
        "o": market.price(bar.open),
        "c": market.price(bar.close),
        "h": market.price(bar.high),
        "l": market.price(bar.low),
        "v": market.quantity(bar.volume),
        "n": last - first + 1,
        "x": is_closed,
        "q": value,
        "V": market.quantity(bar.volume / 2),
        "Q": f"{float(value) / 2:.8f}",
        "B": "0",
    }


def _kline(market: Market, update: Update, name: str) -> Payload | None:
    interval = name.rpartition("_")[2]
    if interval not in INTERVAL_MS or INTERVAL_MS[interval] < MINUTE_MS:
        return None
    return {
        "e": "kline",
        "E": update.ts_ms,
        "s": market.symbol,
        "k": dump_kline(market, update, interval),
    }


def _continuous(market: Market, update: Update, name: str) -> Payload | None:
    interval = name.rpartition("_")[2]
    if interval not in INTERVAL_MS or INTERVAL_MS[interval] < MINUTE_MS:
        return None
    candle = dump_kline(market, update, interval)
    del candle["s"]
    return {
        "e": "continuous_kline",
        "E": update.ts_ms,
        "ps": market.symbol,
        "ct": "PERPETUAL",
        "k": candle,
    }


def _agg_trade(market: Market, update: Update, _name: str) -> Payload | None:
    return None if market.prints else dump_agg_trade(market, market.trade_of(update))


def dump_agg_trade(market: Market, trade: Trade) -> Payload:
    """Return the message of one trade; spot adds a flag."""
    return {
        "e": "aggTrade",
        "E": trade.ts_ms,
        "a": trade.trade_id,
        "s": market.symbol,
        "p": market.price(trade.price),
        "q": market.quantity(trade.quantity),
        "f": trade.trade_id,
        "l": trade.trade_id,
        "T": trade.ts_ms,
        "m": trade.is_buyer_maker,
    }


def _trade(market: Market, update: Update, _name: str) -> Payload:
    trade = market.trade_of(update)
    return {
        "e": "trade",
        "E": update.ts_ms,
        "T": trade.ts_ms,
        "s": market.symbol,
        "t": trade.trade_id,
        "p": market.price(trade.price),
        "q": market.quantity(trade.quantity),
        "X": "MARKET",
        "m": trade.is_buyer_maker,
    }


def _book_ticker(market: Market, update: Update, _name: str) -> Payload:
    bids, asks = market.book(1)
    return {
        "e": "bookTicker",
        "u": market.book_id,
        "s": market.symbol,
        "b": bids[0][0],
        "B": bids[0][1],
        "a": asks[0][0],
        "A": asks[0][1],
        "T": update.ts_ms,
        "E": update.ts_ms,
    }


def _depth(market: Market, update: Update, name: str) -> Payload:
    """Partial depth repeats the book; a difference takes away what is no longer in it first."""
    channel = name.partition("@")[2].partition("@")[0]
    digits = channel.removeprefix("depth")
    bids, asks = market.book(int(digits) if digits.isdigit() else 20)
    if not digits:
        bids = _difference(market.previous_book[0], bids)
        asks = _difference(market.previous_book[1], asks)
    return {
        "e": "depthUpdate",
        "E": update.ts_ms,
        "T": update.ts_ms,
        "s": market.symbol,
        "U": market.book_id,
        "u": market.book_id,
        "pu": market.book_id - 1,
        "b": bids,
        "a": asks,
    }


def _difference(before: list[list[str]], now: list[list[str]]) -> list[list[str]]:
    present = {price for price, _ in now}
    return [[price, "0"] for price, _ in before if price not in present] + now


def dump_mark(market: Market, ts_ms: int, rate: str, next_funding_ms: int) -> Payload:
    """Return markPriceUpdate; the mark is the last price."""
    price = f"{market.last_price:.8f}"
    return {
        "e": "markPriceUpdate",
        "E": ts_ms,
        "s": market.symbol,
        "p": price,
        "ap": price,
        "P": price,
        "i": price,
        "r": rate,
        "T": next_funding_ms,
    }


def dump_day(market: Market) -> dict[str, Any]:
    """Return the figures of the last 24 hours both REST and streams print."""
    bars = market.day()
    first, last = bars[0], bars[-1]
    volume = sum(bar.volume for bar in bars)
    value = sum((bar.open + bar.high + bar.low + bar.close) / 4 * bar.volume for bar in bars)
    change = last.close - first.open
    return {
        "open": market.price(first.open),
        "high": market.price(max(bar.high for bar in bars)),
        "low": market.price(min(bar.low for bar in bars)),
        "close": market.price(last.close),
        "volume": market.quantity(volume),
        "value": f"{value:.8f}",
        "change": market.price(change),
        "percent": f"{change / first.open * 100:.3f}",
        "average": market.price(value / volume if volume else last.close),
        "quantity": market.quantity(last.volume / 4),
        "open_ms": first.open_ms,
        "close_ms": last.open_ms + MINUTE_MS - 1,
        "first_id": first.open_ms // MINUTE_MS * 4,
        "last_id": last.open_ms // MINUTE_MS * 4 + 3,
        "count": len(bars) * 4,
    }


def _ticker(market: Market, update: Update, _name: str) -> Payload:
    day = dump_day(market)
    return {
        "e": "24hrTicker",
        "E": update.ts_ms,
        "s": market.symbol,
        "p": day["change"],
        "P": day["percent"],
        "w": day["average"],
        "c": day["close"],
        "Q": day["quantity"],
        "o": day["open"],
        "h": day["high"],
        "l": day["low"],
        "v": day["volume"],
        "q": day["value"],
        "O": day["open_ms"],
        "C": day["close_ms"],
        "F": day["first_id"],
        "L": day["last_id"],
        "n": day["count"],
    }


def _mini_ticker(market: Market, update: Update, _name: str) -> Payload:
    day = dump_day(market)
    return {
        "e": "24hrMiniTicker",
        "E": update.ts_ms,
        "s": market.symbol,
        "c": day["close"],
        "o": day["open"],
        "h": day["high"],
        "l": day["low"],
        "v": day["volume"],
        "q": day["value"],
    }


CHANNELS: dict[str, Callable[[Market, Update, str], Payload | None]] = {
    "kline": _kline,
    "continuousKline": _continuous,
    "aggTrade": _agg_trade,
    "trade": _trade,
    "bookTicker": _book_ticker,
    "depth": _depth,
    "ticker": _ticker,
    "miniTicker": _mini_ticker,
}
"""How each channel prints a publication; markPrice follows its own timer."""

ALL_MARKET: dict[str, str] = {
    "!ticker@arr": "ticker",
    "!miniTicker@arr": "miniTicker",
    "!bookTicker": "bookTicker",
}


def channel_of(name: str) -> str:
    """Return the channel of a stream name: `btcusdt@depth20@100ms` -> `depth`."""
    channel = name.partition("@")[2].partition("@")[0].partition("_")[0]
    return channel.rstrip("0123456789")
