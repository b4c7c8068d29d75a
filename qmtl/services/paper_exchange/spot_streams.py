"""Payloads of the spot market streams, where they differ from those of the futures venue."""

from collections.abc import Callable

from qmtl.services.paper_exchange import market_streams
from qmtl.services.paper_exchange.market import Market, Update
from qmtl.services.paper_exchange.market_streams import channel_of
from qmtl.services.paper_exchange.spot_orders import Message

_FIXED_LEVELS = frozenset({"5", "10", "20"})


def _trade(market: Market, update: Update, _name: str) -> Message:
    trade = market.trade_of(update)
    return {
        "e": "trade",
        "E": update.ts_ms,
        "s": market.symbol,
        "t": trade.trade_id,
        "p": f"{trade.price:.8f}",
        "q": f"{trade.quantity:.8f}",
        "T": trade.ts_ms,
        "m": trade.is_buyer_maker,
        "M": True,
    }


def _agg_trade(market: Market, update: Update, name: str) -> Message | None:
    body = market_streams.CHANNELS["aggTrade"](market, update, name)
    return body if body is None else body | {"M": True}


def _book_ticker(market: Market, _update: Update, _name: str) -> Message:
    bids, asks = market.book(1)
    return {
        "u": market.book_id,
        "s": market.symbol,
        "b": bids[0][0],
        "B": bids[0][1],
        "a": asks[0][0],
        "A": asks[0][1],
    }


def _depth(market: Market, update: Update, name: str) -> Message:
    levels = name.partition("@")[2].partition("@")[0].removeprefix("depth")
    if levels in _FIXED_LEVELS:
        bids, asks = market.book(int(levels))
        return {"lastUpdateId": market.book_id, "bids": bids, "asks": asks}
    body = dict(market_streams.CHANNELS["depth"](market, update, name) or {})
    for futures_only in ("T", "pu"):
        body.pop(futures_only, None)
    return body


_CHANNELS: dict[str, Callable[[Market, Update, str], Message | None]] = {
    **{name: market_streams.CHANNELS[name] for name in ("kline", "ticker", "miniTicker")},
    "trade": _trade,
    "aggTrade": _agg_trade,
    "bookTicker": _book_ticker,
    "depth": _depth,
}


def dump_stream(market: Market, update: Update, name: str) -> Message | None:
    """Return what stream `name` sends for `update`, None when there is no such stream."""
    dump = _CHANNELS.get(channel_of(name))
    return None if dump is None else dump(market, update, name)
