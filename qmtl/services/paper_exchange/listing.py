"""The contracts a paper exchange lists, and how exchangeInfo describes them.

Steps and limits of BTCUSDT and ETHUSDT are those the venue published; other symbols take their steps
from the decimals of their candles.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from qmtl.core.instrument import Instrument, split_symbol
from qmtl.core.money import dump_decimal
from qmtl.engine.margin import LeverageBracket

ORDER_TYPES = [
    "LIMIT",
    "MARKET",
    "STOP",
    "STOP_MARKET",
    "TAKE_PROFIT",
    "TAKE_PROFIT_MARKET",
    "TRAILING_STOP_MARKET",
]
MAX_OPEN_ORDERS = 200
MAX_ALGO_ORDERS = 200
PERCENT_BAND = Decimal("0.05")
"""PERCENT_PRICE: how far beyond the mark, on the aggressive side, a limit may stand."""

_KNOWN: dict[str, tuple[str, str, str, str, str]] = {
    # tick, lot, max quantity, max quantity of a market order, minimum notional
    "BTCUSDT": ("0.10", "0.001", "1000", "120", "100"),
    "ETHUSDT": ("0.01", "0.001", "10000", "2000", "20"),
}


def list_instrument(
    symbol: str, price_decimals: int, volume_decimals: int, *, min_notional: Decimal | None = None
) -> Instrument:
    """Return the contract of `symbol`; steps of an unknown one are 1 in its last decimals."""
    base, quote = split_symbol(symbol)
    default = (_step(price_decimals), _step(volume_decimals), "1000000", "100000", "5")
    tick, lot, most, market_most, notional = _KNOWN.get(symbol, default)
    return Instrument(
        symbol=symbol,
        base=base,
        quote=quote,
        settle=quote,
        tick_size=Decimal(tick),
        lot_size=Decimal(lot),
        min_quantity=Decimal(lot),
        max_quantity=Decimal(most),
        market_max_quantity=Decimal(market_most),
        min_notional=Decimal(notional) if min_notional is None else min_notional,
    )


def _step(decimals: int) -> str:
    return dump_decimal(Decimal(1).scaleb(-decimals))


def dump_symbol(instrument: Instrument, price_decimals: int) -> dict[str, Any]:
    """Return the contract as exchangeInfo lists it."""
    lots = -int(instrument.lot_size.as_tuple().exponent)
    return {
        "symbol": instrument.symbol,
        "pair": instrument.symbol,
        "contractType": "PERPETUAL",
        "deliveryDate": 4_133_404_800_000,
        "onboardDate": 1_569_398_400_000,
        "status": "TRADING",
        "maintMarginPercent": "2.5000",
        "requiredMarginPercent": "5.0000",
        "baseAsset": instrument.base,
        "quoteAsset": instrument.quote,
        "marginAsset": instrument.settle,
        "pricePrecision": price_decimals,
        "quantityPrecision": lots,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "underlyingType": "COIN",
        "underlyingSubType": ["PoW"],
        "settlePlan": 0,
        "triggerProtect": "0.0500",
        "liquidationFee": "0.012500",
        "marketTakeBound": "0.05",
        "maxMoveOrderLimit": 10_000,
        "filters": _dump_filters(instrument),
        "orderTypes": ORDER_TYPES,
        "timeInForce": ["GTC", "IOC", "FOK", "GTX", "GTD"],
        "permissionSets": ["GRID", "COPY"],
    }


def _dump_filters(instrument: Instrument) -> list[dict[str, Any]]:
    lot, least = str(instrument.lot_size), str(instrument.min_quantity)
    tick = str(instrument.tick_size)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "4529764", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": least, "maxQty": str(instrument.max_quantity), "stepSize": lot},
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": least,
            "maxQty": str(instrument.market_max_quantity),
            "stepSize": lot,
        },
        {"filterType": "MAX_NUM_ORDERS", "limit": MAX_OPEN_ORDERS},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "limit": MAX_ALGO_ORDERS},
        {"filterType": "MIN_NOTIONAL", "notional": str(instrument.min_notional)},
        {
            "filterType": "PERCENT_PRICE",
            "multiplierUp": "1.0500",
            "multiplierDown": "0.9500",
            "multiplierDecimal": "4",
        },
        {"filterType": "POSITION_RISK_CONTROL", "positionControlSide": "NONE"},
    ]


def dump_brackets(symbol: str, brackets: Sequence[LeverageBracket]) -> dict[str, Any]:
    """Return the leverage brackets of `symbol`."""
    rows = []
    floor = 0
    for number, bracket in enumerate(brackets, 1):
        rows.append(
            {
                "bracket": number,
                "initialLeverage": bracket.max_leverage,
                "notionalCap": int(bracket.cap),
                "notionalFloor": floor,
                "maintMarginRatio": float(bracket.rate),
                "cum": int(bracket.deduction),
            }
        )
        floor = int(bracket.cap)
    return {"symbol": symbol, "brackets": rows}
