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
_LARGEST_PRICE = Decimal(10) ** 15
"""Beyond this a quotient by the tick leaves the decimal context."""


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


def passes_halt(order: OrderIntent) -> bool:
    """Tell whether `order` is protection or flattening, which alone may be sent while HALTED."""
    return order.role in _EMERGENCY


def is_strictly_reducing(order: OrderIntent) -> bool:
    """Tell whether the venue itself keeps `order` from opening, whatever is held when it fills."""
    if order.reduce_only or order.close_position:
        return True
    side = order.position_side
    return side is not _BOTH and (side is PositionSide.LONG) != (order.side is _BUY)


def is_reducing(order: OrderIntent, account: Account) -> bool:
    """Tell whether `order` can only make |position| smaller."""
    if order.reduce_only or order.close_position:
        return True
    if order.position_side is not _BOTH:
        return is_strictly_reducing(order)
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
    if order.role not in _EMERGENCY:
        if account.state is _HALTED:
            return Refused(RefusalCode.HALTED, account.state_why)
        if order.symbol in account.blocked:
            return Refused(RefusalCode.INSTRUMENT_BLOCKED, account.blocked[order.symbol])
    reducing = is_reducing(order, account.account)
    if reducing and account.working:
        reducing = _leaves_no_flip(order, account)
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
    if not quantity.is_finite():
        return _invalid(f"quantity {quantity} is not finite")
    if not order.close_position:
        if quantity < instrument.min_quantity:
            return Refused(
                RefusalCode.BELOW_MINIMUM, f"quantity {quantity} is below {instrument.min_quantity}"
            )
        largest = instrument.market_max_quantity if order.type is _MARKET else instrument.max_quantity
        if quantity > largest:
            return _invalid(f"quantity {quantity} is above {largest}")
        if not is_on_step(quantity, instrument.lot_size):
            return _invalid(f"quantity {quantity} is not a multiple of {instrument.lot_size}")
    if order.type is _MARKET and order.limit_price is None and order.stop_price is None:
        return None
    return _find_price_fault(order, instrument, reducing=reducing)


def _find_price_fault(order: OrderIntent, instrument: Instrument, *, reducing: bool) -> Refused | None:
    price, quantity = order.limit_price, order.quantity
    for value, needing, name in ((price, _LIMIT_TYPES, "limit"), (order.stop_price, _STOP_TYPES, "stop")):
        if value is None and order.type in needing:
            return _invalid(f"{order.type} needs a {name} price")
        if value is not None and not _is_price(value, instrument.tick_size):
            return _invalid(f"price {value} is not a positive multiple of {instrument.tick_size}")
    if price is not None and not reducing and price * quantity < instrument.min_notional:
        return Refused(
            RefusalCode.BELOW_MINIMUM, f"notional {price * quantity} is below {instrument.min_notional}"
        )
    return None


def _is_price(value: Decimal, tick: Decimal) -> bool:
    return value.is_finite() and ZERO < value < _LARGEST_PRICE and is_on_step(value, tick)


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
    # Without a mark the order's own price stands in for it.
    mark = given if last is None else Decimal(str(last))
    if mark is None:
        return Refused(RefusalCode.NO_MARK, f"no price of {order.symbol} is known yet")
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
        after = _exposure(order, account) * price
        if after > limits.max_position:
            return Refused(
                RefusalCode.MAX_POSITION, f"position notional {after} would be above {limits.max_position}"
            )
    return APPROVED


def _exposure(order: OrderIntent, account: RiskAccount) -> Decimal:
    """Return |position| if `order` and every working opening of its side fill, and none of the other side.

    Orders of the other side may never fill, so they make no room.
    """
    symbol, side, position_side = order.symbol, order.side, order.position_side
    key = symbol if position_side is _BOTH else f"{symbol}:{position_side}"
    held = account.account.positions.get(key)
    total = ZERO if held is None else held.quantity
    pending = order.quantity
    for other in account.working.values():
        intent = other.intent
        if (
            intent.symbol == symbol
            and intent.side is side
            and intent.position_side is position_side
            and not is_strictly_reducing(intent)
        ):
            pending += other.remaining
    return abs(total + pending if side is _BUY else total - pending)


def _leaves_no_flip(order: OrderIntent, account: RiskAccount) -> bool:
    """Tell whether `order` still only reduces once the working orders of its side have filled.

    Two plain SELLs against one long would each reduce, and together open a short.
    """
    if is_strictly_reducing(order):
        return True
    pending = order.quantity
    fills_now = order.type is _MARKET
    for other in account.working.values():
        intent = other.intent
        if intent.symbol != order.symbol or intent.side is not order.side:
            continue
        # What rests reduce-only can fill before a resting order, hardly before one that fills at once.
        if not (fills_now and is_strictly_reducing(intent)):
            pending += other.remaining
    return pending <= abs(account.account.net_quantity(order.symbol))
