"""How exchangeInfo describes the contracts a paper exchange lists."""

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from qmtl.core.instrument import Instrument
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
