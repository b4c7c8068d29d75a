"""Parameters of an order request become an intent; what is malformed is refused here.

Steps, sizes and margins are the matching core's to judge.
"""

import re
from collections.abc import Mapping
from decimal import Decimal

from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, OrderType, PositionSide, Side, TimeInForce, WorkingType
from qmtl.services.paper_exchange.call import Call
from qmtl.services.paper_exchange.errors import VenueError, missing
from qmtl.services.paper_exchange.listing import PERCENT_BAND
from qmtl.services.paper_exchange.market import Market

_CLIENT_ID = re.compile(r"^[.A-Z:/a-z0-9_-]{1,36}$")
_PLAIN = frozenset({OrderType.LIMIT, OrderType.MARKET})
_CLOSE_TYPES = frozenset({OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET})
_TYPES = OrderType.__members__
_SIDES = Side.__members__
_FORCES = TimeInForce.__members__
_POSITION_SIDES = PositionSide.__members__
_WORKING = WorkingType.__members__


def parse_order(call: Call) -> tuple[OrderIntent, str | None]:
    """Return the intent and client id of POST /order; VenueError names what is wrong.

    Conditional types belong to the Algo service since 2025-12-09: -4120.
    """
    kind = _parse_type(call)
    if kind not in _PLAIN:
        raise VenueError(-4120)
    intent = _parse_intent(call, kind, stop=None, activation=None)
    if intent.limit_price is not None:
        check_band(intent.side, intent.limit_price, call.market())
    return intent, parse_client_id(call.params, "newClientOrderId")


def check_band(side: Side, price: Decimal, market: Market) -> None:
    """Raise VenueError -4016 or -4024 when a limit is too far on the aggressive side of the mark."""
    mark = Decimal(str(market.last_price))
    if side is Side.BUY and price > mark * (1 + PERCENT_BAND):
        raise VenueError(-4016, limit=market.instrument.floor_price(mark * (1 + PERCENT_BAND)))
    if side is Side.SELL and price < mark * (1 - PERCENT_BAND):
        raise VenueError(-4024, limit=market.instrument.ceil_price(mark * (1 - PERCENT_BAND)))


def parse_algo(call: Call) -> tuple[OrderIntent, str | None]:
    """Return the intent and client id of POST /algoOrder; VenueError names what is wrong."""
    if call.text("algoType") != "CONDITIONAL":
        raise VenueError(-1130, name="algoType")
    kind = _parse_type(call)
    if kind in _PLAIN:
        raise VenueError(-1116)
    activation = call.decimal("activatePrice")
    if activation is None:
        activation = call.decimal("activationPrice")
    intent = _parse_intent(call, kind, stop=call.decimal("triggerPrice"), activation=activation)
    return intent, parse_client_id(call.params, "clientAlgoId")


def parse_client_id(params: Mapping[str, str], name: str) -> str | None:
    """Return a client id, None when absent; VenueError -4015 when it is not 1 to 36 legal characters."""
    value = params.get(name)
    if not value:
        return None
    if not _CLIENT_ID.match(value):
        raise VenueError(-4015)
    return value


def _parse_type(call: Call) -> OrderType:
    raw = call.text("type")
    if raw not in _TYPES:
        raise VenueError(-1116)
    return _TYPES[raw]


def _parse_intent(
    call: Call, kind: OrderType, *, stop: Decimal | None, activation: Decimal | None
) -> OrderIntent:
    params = call.params
    market = call.market()
    side = call.text("side")
    if side not in _SIDES:
        raise VenueError(-1117)
    closes = call.flag("closePosition")
    quantity = call.decimal("quantity")
    if closes:
        if quantity:
            raise VenueError(-4137)
        if kind not in _CLOSE_TYPES:
            raise VenueError(-1106, name="closePosition")
        quantity = ZERO
    elif quantity is None:
        raise missing("quantity")
    price = call.decimal("price")
    if kind in {OrderType.MARKET, OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET}:
        if price:
            raise VenueError(-1106, name="price")
        price = None
    force = _parse_force(call, kind)
    expire_ms = call.integer("goodTillDate") or None
    if force is TimeInForce.GTD:
        if expire_ms is None:
            raise missing("goodTillDate")
        # The venue keeps whole seconds.
        expire_ms -= expire_ms % 1_000
    position_side = params.get("positionSide") or "BOTH"
    if position_side not in _POSITION_SIDES:
        raise missing("positionSide")
    working = params.get("workingType") or "CONTRACT_PRICE"
    if working not in _WORKING:
        raise missing("workingType")
    reduces = call.flag("reduceOnly")
    if reduces and position_side != "BOTH":
        raise VenueError(-1106, name="reduceonly")
    return OrderIntent(
        symbol=market.symbol,
        side=_SIDES[side],
        quantity=quantity,
        type=kind,
        limit_price=price,
        stop_price=stop,
        time_in_force=force,
        expire_ms=expire_ms if force is TimeInForce.GTD else None,
        reduce_only=reduces,
        close_position=closes,
        position_side=_POSITION_SIDES[position_side],
        working_type=_WORKING[working],
        callback_rate=call.decimal("callbackRate"),
        activation_price=activation,
    )


def _parse_force(call: Call, kind: OrderType) -> TimeInForce | None:
    raw = call.params.get("timeInForce")
    if not raw:
        if kind is OrderType.LIMIT:
            raise missing("timeInForce")
        return TimeInForce.GTC if kind in {OrderType.STOP, OrderType.TAKE_PROFIT} else None
    if raw == "GTE_GTC":
        raw = "GTC"
    if raw not in _FORCES:
        raise VenueError(-1115)
    if kind is OrderType.MARKET:
        raise VenueError(-1106, name="timeInForce")
    return _FORCES[raw]
