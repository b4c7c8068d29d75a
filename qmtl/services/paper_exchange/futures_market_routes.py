"""Public market data of the futures venue."""

from collections.abc import Callable, Mapping
from typing import Any

from qmtl.core.bar import Bar
from qmtl.core.interval import FUNDING_MS, INTERVAL_MS
from qmtl.core.money import dump_decimal
from qmtl.services.paper_exchange.call import Call, Route, per_symbol
from qmtl.services.paper_exchange.candles import MINUTE_MS
from qmtl.services.paper_exchange.errors import VenueError
from qmtl.services.paper_exchange.listing import dump_symbol
from qmtl.services.paper_exchange.market import Market
from qmtl.services.paper_exchange.market_streams import dump_day

_ASSETS = ("USDT", "BTC", "BNB", "ETH", "USDC")
_DEPTHS = (5, 10, 20, 50, 100, 500, 1_000)


def get_ping(_call: Call) -> dict[str, Any]:
    """GET /fapi/v1/ping."""
    return {}


def get_time(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/time."""
    return {"serverTime": call.exchange.now_ms()}


def get_exchange_info(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/exchangeInfo."""
    exchange = call.exchange
    return {
        "timezone": "UTC",
        "serverTime": exchange.now_ms(),
        "futuresType": "U_MARGINED",
        "rateLimits": exchange.weights.dump_limits(),
        "exchangeFilters": [],
        "assets": [
            {"asset": asset, "marginAvailable": True, "autoAssetExchange": "-10000"} for asset in _ASSETS
        ],
        "symbols": [dump_symbol(m.instrument, m.price_decimals) for m in exchange.markets.values()],
    }


def dump_row(market: Market, bar: Bar, length: int) -> list[Any]:
    """Return one candle as the klines routes list it."""
    value = (bar.open + bar.high + bar.low + bar.close) / 4 * bar.volume
    return [
        bar.open_ms,
        market.price(bar.open),
        market.price(bar.high),
        market.price(bar.low),
        market.price(bar.close),
        market.quantity(bar.volume),
        bar.open_ms + length - 1,
        f"{value:.8f}",
        length // MINUTE_MS * 4,
        market.quantity(bar.volume / 2),
        f"{value / 2:.8f}",
        "0",
    ]


def _bars(call: Call, market: Market) -> tuple[list[Bar], int]:
    interval = call.text("interval")
    length = INTERVAL_MS.get(interval, 0)
    if length < MINUTE_MS:
        raise VenueError(-1120)
    start, end = call.integer("startTime"), call.integer("endTime")
    return market.candles(interval, start, end, call.limit(500, 1_500)), length


def get_klines(call: Call) -> list[list[Any]]:
    """GET /fapi/v1/klines: the forming candle is the last one, as at the venue."""
    market = call.market()
    bars, length = _bars(call, market)
    return [dump_row(market, bar, length) for bar in bars]


def get_continuous_klines(call: Call) -> list[list[Any]]:
    """GET /fapi/v1/continuousKlines (and index price klines): by pair."""
    market = call.exchange.market(call.text("pair"))
    bars, length = _bars(call, market)
    return [dump_row(market, bar, length) for bar in bars]


def get_mark_klines(call: Call) -> list[list[Any]]:
    """GET /fapi/v1/markPriceKlines: the mark is the last price; marks have no volume."""
    market = call.market()
    bars, length = _bars(call, market)
    rows = [dump_row(market, bar, length) for bar in bars]
    for row in rows:
        row[5] = row[7] = row[9] = row[10] = "0"
    return rows


def get_depth(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/depth."""
    market, limit = call.market(), call.integer("limit") or 500
    if limit not in _DEPTHS:
        raise VenueError(-4021, limit=limit)
    # Only so many levels are kept in step by the difference stream.
    bids, asks = market.book(min(limit, 20))
    return {
        "lastUpdateId": market.book_id,
        "E": call.now_ms,
        "T": call.now_ms,
        "bids": bids,
        "asks": asks,
    }


def get_trades(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/trades and historicalTrades."""
    market = call.market()
    found = market.trades(from_id=call.integer("fromId"), limit=call.limit(500, 1_000))
    return [
        {
            "id": trade.trade_id,
            "price": market.price(trade.price),
            "qty": market.quantity(trade.quantity),
            "quoteQty": f"{trade.price * trade.quantity:.2f}",
            "time": trade.ts_ms,
            "isBuyerMaker": trade.is_buyer_maker,
        }
        for trade in found
    ]


def get_agg_trades(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/aggTrades: from an id, by time, or the last ones."""
    market = call.market()
    found = market.trades(
        start_ms=call.integer("startTime"),
        end_ms=call.integer("endTime"),
        from_id=call.integer("fromId"),
        limit=call.limit(500, 1_000),
    )
    return [
        {
            "a": trade.trade_id,
            "p": market.price(trade.price),
            "q": market.quantity(trade.quantity),
            "f": trade.trade_id,
            "l": trade.trade_id,
            "T": trade.ts_ms,
            "m": trade.is_buyer_maker,
        }
        for trade in found
    ]


def _premium(call: Call, market: Market) -> dict[str, Any]:
    price = f"{market.last_price:.8f}"
    funding_ms = call.exchange.next_funding_ms
    return {
        "symbol": market.symbol,
        "markPrice": price,
        "indexPrice": price,
        "estimatedSettlePrice": price,
        "lastFundingRate": f"{market.funding_rate(funding_ms):f}",
        "interestRate": "0.00010000",
        "nextFundingTime": funding_ms,
        "time": call.now_ms,
    }


def get_premium_index(call: Call) -> Any:
    """GET /fapi/v1/premiumIndex, of one symbol or all."""
    return _one_or_all(call, _premium)


def get_funding_rate(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/fundingRate: settled rates by time, oldest first."""
    exchange, limit = call.exchange, call.limit(100, 1_000)
    markets = [call.market()] if call.params.get("symbol") else list(exchange.markets.values())
    start, end = call.integer("startTime"), call.integer("endTime")
    last = min(end if end is not None else call.now_ms, call.now_ms) // FUNDING_MS
    first = -(-start // FUNDING_MS) if start is not None else last - limit + 1
    last = min(last, first + limit - 1)
    return [
        {
            "symbol": market.symbol,
            "fundingRate": f"{market.funding_rate(slot * FUNDING_MS):.8f}",
            "fundingTime": slot * FUNDING_MS,
            "markPrice": f"{market.last_price:.8f}",
        }
        for market in markets
        for slot in range(first, last + 1)
    ]


def get_funding_info(call: Call) -> list[dict[str, Any]]:
    """GET /fapi/v1/fundingInfo."""
    return [
        {
            "symbol": symbol,
            "adjustedFundingRateCap": "0.02000000",
            "adjustedFundingRateFloor": "-0.02000000",
            "fundingIntervalHours": 8,
            "disclaimer": False,
            "updateTime": call.now_ms,
        }
        for symbol in call.exchange.markets
    ]


def _price(call: Call, market: Market) -> dict[str, Any]:
    return {"symbol": market.symbol, "price": market.price(market.last_price), "time": call.now_ms}


def get_ticker_price(call: Call) -> Any:
    """GET /fapi/v1|v2/ticker/price, of one symbol or all."""
    return _one_or_all(call, _price)


def _best(call: Call, market: Market) -> dict[str, Any]:
    bids, asks = market.book(1)
    return {
        "symbol": market.symbol,
        "bidPrice": bids[0][0],
        "bidQty": bids[0][1],
        "askPrice": asks[0][0],
        "askQty": asks[0][1],
        "time": call.now_ms,
        "lastUpdateId": market.book_id,
    }


def get_book_ticker(call: Call) -> Any:
    """GET /fapi/v1/ticker/bookTicker, of one symbol or all."""
    return _one_or_all(call, _best)


def _day(_call: Call, market: Market) -> dict[str, Any]:
    day = dump_day(market)
    return {
        "symbol": market.symbol,
        "priceChange": day["change"],
        "priceChangePercent": day["percent"],
        "weightedAvgPrice": day["average"],
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


def get_day(call: Call) -> Any:
    """GET /fapi/v1/ticker/24hr, of one symbol or all."""
    return _one_or_all(call, _day)


def get_open_interest(call: Call) -> dict[str, Any]:
    """GET /fapi/v1/openInterest: what this exchange's accounts hold."""
    market = call.market()
    held = [account.core.account.net_quantity(market.symbol) for account in call.exchange.accounts.values()]
    return {
        "symbol": market.symbol,
        "openInterest": dump_decimal(
            sum((abs(quantity) for quantity in held), market.instrument.lot_size * 0)
        ),
        "time": call.now_ms,
    }


def _one_or_all(call: Call, dump: Callable[[Call, Market], dict[str, Any]]) -> Any:
    if call.params.get("symbol"):
        return dump(call, call.market())
    return [dump(call, market) for market in call.exchange.markets.values()]


def _kline_weight(params: Mapping[str, str]) -> int:
    raw = params.get("limit", "500")
    limit = int(raw) if raw.isdigit() else 500
    return 1 if limit < 100 else 2 if limit < 500 else 5 if limit <= 1_000 else 10


def _depth_weight(params: Mapping[str, str]) -> int:
    raw = params.get("limit", "500")
    limit = int(raw) if raw.isdigit() else 500
    return 2 if limit <= 50 else 5 if limit <= 100 else 10 if limit <= 500 else 20


def get_empty_dapi(call: Call) -> dict[str, Any]:
    """GET /dapi/v1/exchangeInfo: coin-margined contracts are not traded here."""
    return {
        "timezone": "UTC",
        "serverTime": call.now_ms,
        "rateLimits": [],
        "exchangeFilters": [],
        "symbols": [],
    }


def get_nothing(call: Call) -> list[Any]:
    """Answer a list that is empty here: index compositions and the like."""
    if call.params.get("symbol"):
        call.market()
    return []


ROUTES = (
    Route("GET", "/fapi/v1/ping", get_ping),
    Route("GET", "/fapi/v1/time", get_time),
    Route("GET", "/fapi/v1/exchangeInfo", get_exchange_info),
    Route("GET", "/fapi/v1/klines", get_klines, weight=_kline_weight),
    Route("GET", "/fapi/v1/continuousKlines", get_continuous_klines, weight=_kline_weight),
    Route("GET", "/fapi/v1/indexPriceKlines", get_continuous_klines, weight=_kline_weight),
    Route("GET", "/fapi/v1/markPriceKlines", get_mark_klines, weight=_kline_weight),
    Route("GET", "/fapi/v1/depth", get_depth, weight=_depth_weight),
    Route("GET", "/fapi/v1/trades", get_trades, weight=5),
    Route("GET", "/fapi/v1/historicalTrades", get_trades, weight=20),
    Route("GET", "/fapi/v1/aggTrades", get_agg_trades, weight=20),
    Route("GET", "/fapi/v1/premiumIndex", get_premium_index, weight=per_symbol(1, 10)),
    Route("GET", "/fapi/v1/fundingRate", get_funding_rate),
    Route("GET", "/fapi/v1/fundingInfo", get_funding_info, weight=0),
    Route("GET", "/fapi/v1/ticker/price", get_ticker_price, weight=per_symbol(1, 2)),
    Route("GET", "/fapi/v2/ticker/price", get_ticker_price, weight=per_symbol(1, 2)),
    Route("GET", "/fapi/v1/ticker/bookTicker", get_book_ticker, weight=per_symbol(2, 5)),
    Route("GET", "/fapi/v1/ticker/24hr", get_day, weight=per_symbol(1, 40)),
    Route("GET", "/fapi/v1/openInterest", get_open_interest),
    Route("GET", "/fapi/v1/indexInfo", get_nothing),
    Route("GET", "/dapi/v1/ping", get_ping),
    Route("GET", "/dapi/v1/time", get_time),
    Route("GET", "/dapi/v1/exchangeInfo", get_empty_dapi),
)
