"""What a venue refuses before it looks at the account: steps, sizes and contradictions of one order."""

from decimal import Decimal

from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.order import BrokerageError, OrderIntent, OrderType, PositionSide, TimeInForce
from qmtl.engine.working_order import CONDITIONAL, is_closing_side

# Codes and messages as Binance documents them for USDT-M futures (error codes page).
ACTIVATION_PRICE = "-4135 Invalid activation price."
BALANCE = "-2010 Account has insufficient balance for requested action."
CALLBACK_RATE = "-2007 Invalid callBack rate."
CLOSE_POSITION = "-4136 Target strategy invalid for orderType {type},closePosition true."
DUPLICATE_ID = "-4116 ClientOrderId is duplicated."
FOK_REJECT = "-5021 Due to the order could not be filled immediately, the FOK order has been rejected."
GTX_REJECT = "-5022 Due to the order could not be executed as maker, the Post Only order will be rejected."
IMMEDIATE_TRIGGER = "-2021 Order would immediately trigger."
MARGIN = "-2019 Margin is insufficient."
MAX_NOTIONAL = "-2027 Exceeded the maximum allowable position at current leverage."
MAX_QUANTITY = "-4005 Quantity greater than max quantity."
MIN_NOTIONAL = "-4164 Order's notional must be no smaller than {least} (unless you choose reduce only)."
MIN_QUANTITY = "-4004 Quantity less than min quantity."
NO_PRICE = "-2020 Unable to fill."
POSITION_SIDE = "-4061 Order's position side does not match user's setting."
PRECISION = "-1111 Precision is over the maximum defined for this asset."
PRICE_STEP = "-4014 Price not increased by tick size."
PRICE_ZERO = "-4006 Stop price less than zero."
LIMIT_ZERO = "-4001 Price less than 0."
QUANTITY_STEP = "-4023 Quantity not increased by step size."
QUANTITY_ZERO = "-4003 Quantity less than or equal to zero."
REDUCE_ONLY = "-2022 ReduceOnly Order is rejected."
SYMBOL = "-1121 Invalid symbol."
UNKNOWN_ORDER = "-2011 Unknown order sent."
NEEDS = "-1102 Mandatory parameter '{name}' was not sent, was empty/null, or malformed."

_MARKET = OrderType.MARKET
_NEEDS_LIMIT = frozenset({OrderType.LIMIT, OrderType.STOP, OrderType.TAKE_PROFIT})
_NEEDS_STOP = CONDITIONAL - {OrderType.TRAILING_STOP_MARKET}
_CLOSERS = frozenset({OrderType.STOP_MARKET, OrderType.TAKE_PROFIT_MARKET})
_BOTH = PositionSide.BOTH
_LEAST_RATE, _MOST_RATE = Decimal("0.1"), Decimal(10)


class VenueRefusalError(BrokerageError):
    """The simulated venue refuses a change of settings; `reason` is "CODE text" as Binance words it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def find_refusal(intent: OrderIntent, instrument: Instrument, *, is_hedged: bool) -> str | None:
    """Return why a venue refuses this order whatever the account holds, or None."""
    if (intent.position_side is _BOTH) is is_hedged:
        return POSITION_SIDE
    if intent.close_position:
        if intent.type not in _CLOSERS:
            return CLOSE_POSITION.format(type=intent.type)
    else:
        refusal = _find_quantity_fault(intent, instrument)
        if refusal is not None:
            return refusal
    return None if intent.type is _MARKET else _find_price_fault(intent, instrument)


def find_notional_fault(intent: OrderIntent, instrument: Instrument, price: Decimal) -> str | None:
    """Return the refusal of an opening order whose notional at `price` is below the minimum."""
    if intent.reduce_only or intent.close_position or intent.quantity * price >= instrument.min_notional:
        return None
    if is_closing_side(intent):
        return None
    return MIN_NOTIONAL.format(least=instrument.min_notional)


def _find_quantity_fault(intent: OrderIntent, instrument: Instrument) -> str | None:
    quantity = intent.quantity
    if quantity <= ZERO:
        return QUANTITY_ZERO
    if quantity % instrument.lot_size:
        return _step_fault(quantity, instrument.lot_size, QUANTITY_STEP)
    if quantity < instrument.min_quantity:
        return MIN_QUANTITY
    most = instrument.market_max_quantity if intent.limit_price is None else instrument.max_quantity
    return MAX_QUANTITY if quantity > most else None


def _find_price_fault(intent: OrderIntent, instrument: Instrument) -> str | None:
    kind = intent.type
    tick = instrument.tick_size
    if kind in _NEEDS_LIMIT and intent.limit_price is None:
        return NEEDS.format(name="price")
    if kind in _NEEDS_STOP and intent.stop_price is None:
        return NEEDS.format(name="stopPrice")
    if intent.time_in_force is TimeInForce.GTD and intent.expire_ms is None:
        return NEEDS.format(name="goodTillDate")
    for price, is_zero in (
        (intent.limit_price, LIMIT_ZERO),
        (intent.stop_price, PRICE_ZERO),
        (intent.activation_price, ACTIVATION_PRICE),
    ):
        if price is None:
            continue
        if price <= ZERO:
            return is_zero
        if price % tick:
            return _step_fault(price, tick, PRICE_STEP)
    if kind is OrderType.TRAILING_STOP_MARKET:
        rate = intent.callback_rate
        if rate is None:
            return NEEDS.format(name="callbackRate")
        if not _LEAST_RATE <= rate <= _MOST_RATE:
            return CALLBACK_RATE
    return None


def _step_fault(value: Decimal, step: Decimal, uneven: str) -> str:
    finer = -int(value.normalize().as_tuple().exponent) > -int(step.normalize().as_tuple().exponent)
    return PRECISION if finer else uneven
