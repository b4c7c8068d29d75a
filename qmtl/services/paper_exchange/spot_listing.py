"""The pairs the spot venue lists, and how exchangeInfo describes them."""

from decimal import Decimal
from typing import Any

from qmtl.core.instrument import Instrument
from qmtl.services.paper_exchange.spot_orders import ORDER_TYPES, text

_STEPS: dict[str, tuple[str, str]] = {"BTCUSDT": ("0.01", "0.00001"), "ETHUSDT": ("0.01", "0.0001")}
_MIN_NOTIONAL = Decimal(5)


def list_spot(contract: Instrument) -> Instrument:
    """Return the spot pair of the same name; an unknown one has the contract's steps."""
    tick, lot = _STEPS.get(contract.symbol, (str(contract.tick_size), str(contract.lot_size)))
    return Instrument(
        symbol=contract.symbol,
        base=contract.base,
        quote=contract.quote,
        settle="",
        tick_size=Decimal(tick),
        lot_size=Decimal(lot),
        min_quantity=Decimal(lot),
        max_quantity=Decimal(9000),
        market_max_quantity=Decimal(9000),
        min_notional=_MIN_NOTIONAL,
    )


def dump_pair(pair: Instrument) -> dict[str, Any]:
    """Return a pair as /api/v3/exchangeInfo lists it."""
    return {
        "symbol": pair.symbol,
        "status": "TRADING",
        "baseAsset": pair.base,
        "baseAssetPrecision": 8,
        "quoteAsset": pair.quote,
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": ORDER_TYPES,
        "icebergAllowed": False,
        "ocoAllowed": False,
        "otoAllowed": False,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": False,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(pair),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "EXPIRE_MAKER",
        "allowedSelfTradePreventionModes": ["EXPIRE_TAKER", "EXPIRE_MAKER", "EXPIRE_BOTH", "NONE"],
    }


def _filters(pair: Instrument) -> list[dict[str, Any]]:
    tick, lot = text(pair.tick_size), text(pair.lot_size)
    most = text(pair.max_quantity)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": tick, "maxPrice": "1000000.00000000", "tickSize": tick},
        {"filterType": "LOT_SIZE", "minQty": text(pair.min_quantity), "maxQty": most, "stepSize": lot},
        {"filterType": "MARKET_LOT_SIZE", "minQty": text(None), "maxQty": most, "stepSize": text(None)},
        {
            "filterType": "NOTIONAL",
            "minNotional": text(pair.min_notional),
            "applyMinToMarket": True,
            "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
        {"filterType": "MAX_NUM_ALGO_ORDERS", "maxNumAlgoOrders": 5},
    ]
