"""Binance USDT-M market streams as events and typed messages.

Source: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams.
Prices and quantities come as text and become float.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from qmtl.core.event import BarClosed, Event, MarkPriceUpdated, PriceUpdated
from qmtl.runtime.io.binance_account_messages import Body, Refusal

Level = tuple[float, float]
"""Price and quantity of one side of the book."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One print, single or aggregated: quote price, base quantity; `is_buyer_maker` means a seller took."""

    ts_ms: int
    symbol: str
    trade_id: int
    price: float
    quantity: float
    is_buyer_maker: bool
    is_aggregated: bool = False


class BookTicker(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask."""

    ts_ms: int
    symbol: str
    update_id: int
    bid: float
    bid_quantity: float
    ask: float
    ask_quantity: float


class DepthUpdate(msgspec.Struct, frozen=True):
    """A change of the book; the chain holds while `previous_id` is the `final_id` of the update before."""

    ts_ms: int
    symbol: str
    first_id: int
    final_id: int
    previous_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class DepthSnapshot(msgspec.Struct, frozen=True):
    """The book at one moment, as REST answers it."""

    ts_ms: int
    final_id: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]


class Liquidation(msgspec.Struct, frozen=True, gc=False):
    """Somebody was liquidated; the venue shows at most one a second and symbol."""

    ts_ms: int
    symbol: str
    side: str
    quantity: float
    price: float


class DayTicker(msgspec.Struct, frozen=True, gc=False):
    """The last 24 hours of a symbol."""

    ts_ms: int
    symbol: str
    open: float
    high: float
    low: float
    close: float
    volume: float


MarketMessage = Event | Refusal | Trade | BookTicker | DepthUpdate | DepthSnapshot | Liquidation | DayTicker
MarketMessages = tuple[MarketMessage, ...]


# Fields stand in the venue's order: decoding is fastest when the next key is the expected one.
_CANDLE = {"open_ms": "t", "symbol": "s", "open": "o", "close": "c", "high": "h", "low": "l", "volume": "v"}


class _Candle(msgspec.Struct, gc=False, rename={**_CANDLE, "is_closed": "x"}):
    open_ms: int
    symbol: str
    open: float
    close: float
    high: float
    low: float
    volume: float
    is_closed: bool


class Kline(msgspec.Struct, gc=False, rename={"ts_ms": "E", "candle": "k"}):
    """A kline frame as it is sent; the mapper unpacks it in place, this is the busiest stream."""

    ts_ms: int
    candle: _Candle


class WrappedKline(msgspec.Struct, gc=False):
    """The same in the envelope of a combined stream."""

    data: Kline


class _PairCandle(msgspec.Struct, gc=False, rename={**_CANDLE, "is_closed": "x"}):
    open_ms: int
    open: float
    close: float
    high: float
    low: float
    volume: float
    is_closed: bool


class _ContinuousKline(
    msgspec.Struct, gc=False, rename={"ts_ms": "E", "pair": "ps", "contract": "ct", "candle": "k"}
):
    ts_ms: int
    pair: str
    contract: str
    candle: _PairCandle


class _Mark(
    msgspec.Struct,
    gc=False,
    rename={"ts_ms": "E", "symbol": "s", "mark": "p", "rate": "r", "next_ms": "T"},
):
    ts_ms: int
    symbol: str
    mark: float
    rate: str = ""
    next_ms: int = 0


class _AggTrade(
    msgspec.Struct,
    gc=False,
    rename={"ts_ms": "E", "id": "a", "symbol": "s", "price": "p", "size": "q", "maker": "m"},
):
    ts_ms: int
    id: int
    symbol: str
    price: float
    size: float
    maker: bool


class _Trade(
    msgspec.Struct,
    gc=False,
    rename={"ts_ms": "E", "id": "t", "symbol": "s", "price": "p", "size": "q", "maker": "m"},
):
    ts_ms: int
    symbol: str
    id: int
    price: float
    size: float
    maker: bool


class _Book(
    msgspec.Struct,
    gc=False,
    rename={"id": "u", "symbol": "s", "bid": "b", "bid_size": "B", "ask": "a", "ask_size": "A", "ts_ms": "E"},
):
    id: int
    symbol: str
    bid: float
    bid_size: float
    ask: float
    ask_size: float
    ts_ms: int = 0


class _Depth(
    msgspec.Struct,
    gc=False,
    rename={
        "ts_ms": "E",
        "symbol": "s",
        "first": "U",
        "final": "u",
        "previous": "pu",
        "bids": "b",
        "asks": "a",
    },
):
    ts_ms: int
    symbol: str
    first: int
    final: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    previous: int = 0


class _Snapshot(msgspec.Struct, gc=False, rename={"final": "lastUpdateId", "ts_ms": "E"}):
    final: int
    bids: tuple[Level, ...]
    asks: tuple[Level, ...]
    ts_ms: int = 0


class _Forced(
    msgspec.Struct, gc=False, rename={"symbol": "s", "side": "S", "size": "q", "price": "p", "average": "ap"}
):
    symbol: str
    side: str
    size: float
    price: float
    average: float = 0.0


class _ForceOrder(msgspec.Struct, gc=False, rename={"ts_ms": "E", "order": "o"}):
    ts_ms: int
    order: _Forced


class _Ticker(
    msgspec.Struct,
    gc=False,
    rename={"ts_ms": "E", "symbol": "s", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"},
):
    ts_ms: int
    symbol: str
    close: float
    open: float
    high: float
    low: float
    volume: float


def _decoder(kind: type) -> Callable[[Body], Any]:
    return msgspec.json.Decoder(kind, strict=False).decode


_decode_continuous, _decode_snapshot = _decoder(_ContinuousKline), _decoder(_Snapshot)
_decode_mark, _decode_agg_trade, _decode_trade = _decoder(_Mark), _decoder(_AggTrade), _decoder(_Trade)
_decode_book, _decode_depth = _decoder(_Book), _decoder(_Depth)
_decode_force_order, _decode_ticker = _decoder(_ForceOrder), _decoder(_Ticker)
decode_kline: Callable[[Body], Kline] = _decoder(Kline)
decode_wrapped_kline: Callable[[Body], WrappedKline] = _decoder(WrappedKline)


def _parse_mark(body: Body) -> MarketMessages:
    m: _Mark = _decode_mark(body)
    # Delivery contracts have no funding and say "".
    return (MarkPriceUpdated(m.ts_ms, m.symbol, m.mark, float(m.rate or 0), m.next_ms),)


def _parse_agg_trade(body: Body) -> MarketMessages:
    m: _AggTrade = _decode_agg_trade(body)
    return (Trade(m.ts_ms, m.symbol, m.id, m.price, m.size, m.maker, True),)


def _parse_trade(body: Body) -> MarketMessages:
    m: _Trade = _decode_trade(body)
    return (Trade(m.ts_ms, m.symbol, m.id, m.price, m.size, m.maker),)


def _parse_book(body: Body) -> MarketMessages:
    m: _Book = _decode_book(body)
    return (BookTicker(m.ts_ms, m.symbol, m.id, m.bid, m.bid_size, m.ask, m.ask_size),)


def _parse_depth(body: Body) -> MarketMessages:
    m: _Depth = _decode_depth(body)
    return (DepthUpdate(m.ts_ms, m.symbol, m.first, m.final, m.previous, m.bids, m.asks),)


def _parse_force_order(body: Body) -> MarketMessages:
    m: _ForceOrder = _decode_force_order(body)
    o = m.order
    return (Liquidation(m.ts_ms, o.symbol, o.side, o.size, o.average or o.price),)


def _parse_ticker(body: Body) -> MarketMessages:
    m: _Ticker = _decode_ticker(body)
    return (DayTicker(m.ts_ms, m.symbol, m.open, m.high, m.low, m.close, m.volume),)


def _parse_continuous(body: Body) -> MarketMessages:
    m: _ContinuousKline = _decode_continuous(body)
    if m.contract != "PERPETUAL":
        return (Refusal(f"continuous_kline {m.contract}", "the engine trades perpetual contracts"),)
    c = m.candle
    kind = BarClosed if c.is_closed else PriceUpdated
    return (kind(m.ts_ms, m.pair, c.open_ms, c.open, c.high, c.low, c.close, c.volume),)


def parse_depth_snapshot(body: Body) -> MarketMessages:
    """Return a REST book answer; it names no symbol."""
    m: _Snapshot = _decode_snapshot(body)
    return (DepthSnapshot(m.ts_ms, m.final, m.bids, m.asks),)


MARKET_PARSERS: dict[bytes, Callable[[Body], MarketMessages]] = {
    b"continuous_kline": _parse_continuous,
    b"markPriceUpdate": _parse_mark,
    b"aggTrade": _parse_agg_trade,
    b"trade": _parse_trade,
    b"bookTicker": _parse_book,
    b"depthUpdate": _parse_depth,
    b"forceOrder": _parse_force_order,
    b"24hrTicker": _parse_ticker,
}
