"""The one gate every order passes."""

from decimal import Decimal

import msgspec

from qmtl.core.account import Account
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.money import ZERO, is_on_step
from qmtl.core.order import Order, OrderIntent, OrderType, PositionSide, Role, Side
from qmtl.core.reason import RefusalCode, TradingState

_BUY = Side.BUY
_MARKET = OrderType.MARKET
_BOTH = PositionSide.BOTH
_ACTIVE = TradingState.ACTIVE
_HALTED = TradingState.HALTED
_EMERGENCY = frozenset({Role.PROTECTION, Role.FLATTEN})
_LIMIT_TYPES = frozenset({OrderType.LIMIT, OrderType.STOP, OrderType.TAKE_PROFIT})
_STOP_TYPES = frozenset(
    {OrderType.STOP, OrderType.STOP_MARKET, OrderType.TAKE_PROFIT, OrderType.TAKE_PROFIT_MARKET}
)
_MINUTE_MS = 60_000


class Approved(msgspec.Struct, frozen=True):
    """The order may be sent."""


class Refused(msgspec.Struct, frozen=True):
    """The order may not be sent: a stable code and what was compared."""

    code: RefusalCode
    detail: str


APPROVED = Approved()


class RiskAccount(msgspec.Struct, kw_only=True):
    """What risk looks at: the folded account, the trading state, and the reasons to hold entries back.

    `entry_bans` maps a refusal code (`stale_feed:kline_1m`) to its detail; `blocked` holds symbols with an
    unsettled order; `working` are the orders still open, protection apart; `sent_ms` are exchange times of
    recent openings.
    """

    account: Account
    instruments: dict[str, Instrument] = {}
    state: TradingState = TradingState.ACTIVE
    state_why: str = ""
    entry_bans: dict[str, str] = {}
    blocked: dict[str, str] = {}
    working: dict[str, Order] = {}
    sent_ms: list[int] = []
    now_ms: int = 0
    speed: float = 1.0


def is_reducing(order: OrderIntent, account: Account) -> bool:
    """Tell whether `order` can only make |position| smaller."""
    if order.reduce_only or order.close_position:
        return True
    side = order.position_side
    if side is not _BOTH:
        return (side is PositionSide.LONG) != (order.side is _BUY)
    held = account.positions.get(order.symbol)
    if held is None or not held.quantity:
        return False
    quantity = held.quantity
    return (quantity > 0) != (order.side is _BUY) and order.quantity <= abs(quantity)


def assess(order: OrderIntent, account: RiskAccount, limits: RiskLimits) -> Approved | Refused:
    """Decide whether `order` may be sent; the first broken rule answers.

    HALTED passes only protection and flattening; REDUCING, entry bans and limits hold back what opens.
    Cancels never come here: they always pass.
    """
    instrument = account.instruments.get(order.symbol)
    if instrument is None:
        return Refused(RefusalCode.INVALID_ORDER, f"{order.symbol} is not an instrument of this account")
    emergency = order.role in _EMERGENCY
    if not emergency:
        if account.state is _HALTED:
            return Refused(RefusalCode.HALTED, account.state_why)
        if order.symbol in account.blocked:
            return Refused(RefusalCode.INSTRUMENT_BLOCKED, account.blocked[order.symbol])
    reducing = is_reducing(order, account.account)
    if not reducing:
        if account.state is not _ACTIVE:
            return Refused(RefusalCode.REDUCING, account.state_why)
        for code, detail in account.entry_bans.items():
            return Refused(RefusalCode(code.partition(":")[0]), detail)
    fault = find_fault(order, instrument, reducing=reducing)
    if fault is not None:
        return fault
    if reducing:
        return APPROVED
    return _assess_opening(order, account, limits)


def find_fault(order: OrderIntent, instrument: Instrument, *, reducing: bool) -> Refused | None:
    """Return what is wrong with the order's numbers for its instrument, or None.

    Reducing orders are exempt from the minimum notional, as the venue exempts them.
    """
    quantity = order.quantity
    if not order.close_position:
        if quantity < instrument.min_quantity:
            return Refused(
                RefusalCode.BELOW_MINIMUM, f"quantity {quantity} is below {instrument.min_quantity}"
            )
        if not is_on_step(quantity, instrument.lot_size):
            return _invalid(f"quantity {quantity} is not a multiple of {instrument.lot_size}")
        largest = instrument.market_max_quantity if order.type is _MARKET else instrument.max_quantity
        if quantity > largest:
            return _invalid(f"quantity {quantity} is above {largest}")
    price = order.limit_price
    if order.type in _LIMIT_TYPES and price is None:
        return _invalid(f"{order.type} needs a limit price")
    if order.type in _STOP_TYPES and order.stop_price is None:
        return _invalid(f"{order.type} needs a stop price")
    for value in (price, order.stop_price):
        if value is not None and (value <= ZERO or not is_on_step(value, instrument.tick_size)):
            return _invalid(f"price {value} is not a positive multiple of {instrument.tick_size}")
    if price is not None and not reducing and price * quantity < instrument.min_notional:
        return Refused(
            RefusalCode.BELOW_MINIMUM, f"notional {price * quantity} is below {instrument.min_notional}"
        )
    return None


def _invalid(detail: str) -> Refused:
    return Refused(RefusalCode.INVALID_ORDER, detail)


def _assess_opening(order: OrderIntent, account: RiskAccount, limits: RiskLimits) -> Approved | Refused:
    if limits.max_open_orders is not None and len(account.working) >= limits.max_open_orders:
        return Refused(RefusalCode.MAX_OPEN_ORDERS, f"{len(account.working)} orders are open")
    if limits.orders_per_minute is not None:
        sent, since = account.sent_ms, account.now_ms - int(_MINUTE_MS * account.speed)
        while sent and sent[0] <= since:
            del sent[0]
        if len(sent) >= limits.orders_per_minute:
            return Refused(RefusalCode.ORDERS_PER_MINUTE, f"{len(sent)} orders in the last minute")
    if limits.price_band is None and limits.max_order_notional is None and limits.max_position is None:
        return APPROVED
    return _assess_notional(order, account, limits)


def _assess_notional(order: OrderIntent, account: RiskAccount, limits: RiskLimits) -> Approved | Refused:
    given = order.limit_price or order.stop_price
    last = account.account.marks.get(order.symbol)
    if last is None:
        return Refused(RefusalCode.NO_MARK, f"no price of {order.symbol} is known yet")
    mark = Decimal(str(last))
    if limits.price_band is not None and given is not None and abs(given / mark - 1) > limits.price_band:
        return Refused(
            RefusalCode.PRICE_BAND, f"price {given} is more than {limits.price_band} away from mark {mark}"
        )
    price = given or mark
    notional = order.quantity * price
    if limits.max_order_notional is not None and notional > limits.max_order_notional:
        return Refused(
            RefusalCode.MAX_ORDER_NOTIONAL, f"notional {notional} is above {limits.max_order_notional}"
        )
    if limits.max_position is not None:
        signed = order.quantity if order.side is _BUY else -order.quantity
        after = abs(_exposure(order.symbol, account) + signed) * price
        if after > limits.max_position:
            return Refused(
                RefusalCode.MAX_POSITION, f"position notional {after} would be above {limits.max_position}"
            )
    return APPROVED


def _exposure(symbol: str, account: RiskAccount) -> Decimal:
    """Return the signed position plus what working openings would add."""
    total = account.account.net_quantity(symbol)
    for order in account.working.values():
        intent = order.intent
        if intent.symbol == symbol and not is_reducing(intent, account.account):
            total += order.remaining if intent.side is _BUY else -order.remaining
    return total
