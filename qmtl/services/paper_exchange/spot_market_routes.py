"""The public REST routes of the spot venue: clock, candles, trades, book, tickers."""

from typing import Any

from qmtl.core.interval import INTERVAL_MS
from qmtl.services.paper_exchange.call import Call, Route
from qmtl.services.paper_exchange.candles import MINUTE_MS
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.market import Market, Trade
from qmtl.services.paper_exchange.market_streams import dump_day
from qmtl.services.paper_exchange.spot_orders import Message

_AVERAGE_MINUTES = 5


def get_ping(_call: Call) -> Message:
    """GET /api/v3/ping."""
    return {}


def get_time(call: Call) -> Message:
    """GET /api/v3/time."""
    return {"serverTime": call.exchange.now_ms()}


def get_klines(call: Call) -> list[list[Any]]:
    """GET /api/v3/klines."""
    market, interval = call.market(), call.text("interval")
    length = INTERVAL_MS.get(interval, 0)
    if length < MINUTE_MS:
        raise VenueError(-1120)
    start, end = call.integer("startTime"), call.integer("endTime")
    rows = []
    for bar in market.candles(interval, start, end, call.limit(500, 1_000)):
        value = (bar.open + bar.high + bar.low + bar.close) / 4 * bar.volume
        prices = [f"{price:.8f}" for price in (bar.open, bar.high, bar.low, bar.close)]
        rows.append(
            [
                bar.open_ms,
                *prices,
                f"{bar.volume:.8f}",
                bar.open_ms + length - 1,
                f"{value:.8f}",
                4 * length // MINUTE_MS,
                f"{bar.volume / 2:.8f}",
                f"{value / 2:.8f}",
                "0",
            ]
        )
    return rows


def get_depth(call: Call) -> Message:
    """GET /api/v3/depth."""
    market = call.market()
    bids, asks = market.book(min(call.limit(100, 5_000), 100))
    return {"lastUpdateId": market.book_id, "bids": bids, "asks": asks}


def get_trades(call: Call) -> list[Message]:
    """GET /api/v3/trades and historicalTrades."""
    market, limit = call.market(), call.limit(500, 1_000)
    return [
        {
            "id": trade.trade_id,
            "price": f"{trade.price:.8f}",
            "qty": f"{trade.quantity:.8f}",
            "quoteQty": f"{trade.price * trade.quantity:.8f}",
            "time": trade.ts_ms,
            "isBuyerMaker": trade.is_buyer_maker,
            "isBestMatch": True,
        }
        for trade in market.trades(from_id=call.integer("fromId"), limit=limit)
    ]


def get_agg_trades(call: Call) -> list[Message]:
    """GET /api/v3/aggTrades."""
    market, limit = call.market(), call.limit(500, 1_000)
    found = market.trades(
        start_ms=call.integer("startTime"),
        end_ms=call.integer("endTime"),
        from_id=call.integer("fromId"),
        limit=limit,
    )
    return [_dump_agg_trade(trade) for trade in found]


def get_average(call: Call) -> Message:
    """GET /api/v3/avgPrice: volume-weighted over five minutes."""
    bars = call.market().day()[-_AVERAGE_MINUTES:]
    volume = sum(bar.volume for bar in bars)
    value = sum((bar.open + bar.high + bar.low + bar.close) / 4 * bar.volume for bar in bars)
    price = value / volume if volume else bars[-1].close
    return {
        "mins": _AVERAGE_MINUTES,
        "price": f"{price:.8f}",
        "closeTime": bars[-1].open_ms + MINUTE_MS - 1,
    }


def _each(call: Call, dump: Any) -> Any:
    """Answer for parameter symbol with one row, for symbols or neither with a list."""
    if call.params.get("symbol"):
        return dump(call.market())
    wanted = call.params.get("symbols")
    return [dump(m) for m in call.exchange.markets.values() if wanted is None or f'"{m.symbol}"' in wanted]


def get_day_ticker(call: Call) -> Any:
    """GET /api/v3/ticker/24hr."""
    return _each(call, _dump_day_ticker)


def get_price_ticker(call: Call) -> Any:
    """GET /api/v3/ticker/price."""
    return _each(call, lambda m: {"symbol": m.symbol, "price": f"{m.last_price:.8f}"})


def get_book_ticker(call: Call) -> Any:
    """GET /api/v3/ticker/bookTicker."""
    return _each(call, _dump_book_ticker)


def _dump_agg_trade(trade: Trade) -> Message:
    return {
        "a": trade.trade_id,
        "p": f"{trade.price:.8f}",
        "q": f"{trade.quantity:.8f}",
        "f": trade.trade_id,
        "l": trade.trade_id,
        "T": trade.ts_ms,
        "m": trade.is_buyer_maker,
        "M": True,
    }


def _dump_book_ticker(market: Market) -> Message:
    bids, asks = market.book(1)
    return {
        "symbol": market.symbol,
        "bidPrice": bids[0][0],
        "bidQty": bids[0][1],
        "askPrice": asks[0][0],
        "askQty": asks[0][1],
    }


def _dump_day_ticker(market: Market) -> Message:
    day, book = dump_day(market), _dump_book_ticker(market)
    return book | {
        "priceChange": day["change"],
        "priceChangePercent": day["percent"],
        "weightedAvgPrice": day["average"],
        "prevClosePrice": day["open"],
        "lastPrice": day["close"],
        "lastQty": day["quantity"],
        "openPrice": day["open"],
        "highPrice": day["high"],
        "lowPrice": day["low"],
        "volume": day["volume"],
        "quoteVolume": day["value"],
        "openTime": day["open_ms"],
        "closeTime": day["close_ms"],
        "firstId": day["first_id"],
        "lastId": day["last_id"],
        "count": day["count"],
    }


def get_status(_call: Call) -> Message:
    """GET /sapi/v1/system/status."""
    return {"status": 0, "msg": "normal"}


ROUTES = (
    Route("GET", "/api/v3/ping", get_ping, is_spot=True),
    Route("GET", "/api/v3/time", get_time, is_spot=True),
    Route("GET", "/sapi/v1/system/status", get_status, is_spot=True),
    Route("GET", "/api/v3/klines", get_klines, weight=2, is_spot=True),
    Route("GET", "/api/v3/uiKlines", get_klines, weight=2, is_spot=True),
    Route("GET", "/api/v3/depth", get_depth, weight=5, is_spot=True),
    Route("GET", "/api/v3/trades", get_trades, weight=25, is_spot=True),
    Route("GET", "/api/v3/historicalTrades", get_trades, weight=25, is_spot=True),
    Route("GET", "/api/v3/aggTrades", get_agg_trades, weight=4, is_spot=True),
    Route("GET", "/api/v3/avgPrice", get_average, weight=2, is_spot=True),
    Route("GET", "/api/v3/ticker/24hr", get_day_ticker, weight=2, is_spot=True),
    Route("GET", "/api/v3/ticker/price", get_price_ticker, weight=2, is_spot=True),
    Route("GET", "/api/v3/ticker/bookTicker", get_book_ticker, weight=2, is_spot=True),
)
