"""Why a closed bar ended as it did: one reason per bar, and the codes of refusals."""

from enum import StrEnum


class Reason(StrEnum):
    """What the strategy did at a closed bar, or why it did nothing; the first that applies counts."""

    ENTERED = "entered"
    EXITED = "exited"
    REFUSED = "refused"
    HOLDING = "holding"
    NOT_TRADING = "not_trading"
    REFILLED = "refilled"
    WARMING_UP = "warming_up"
    NO_SIGNAL = "no_signal"


class RefusalCode(StrEnum):
    """Which gate refused an intent."""

    HALTED = "halted"
    REDUCING = "reducing"
    STALE_FEED = "stale_feed"
    CLOCK_OFFSET = "clock_offset"
    NOT_RECONCILED = "not_reconciled"
    INSTRUMENT_BLOCKED = "instrument_blocked"
    NO_MARK = "no_mark"
    PRICE_BAND = "price_band"
    MAX_ORDER_NOTIONAL = "max_order_notional"
    MAX_POSITION = "max_position"
    MAX_OPEN_ORDERS = "max_open_orders"
    ORDERS_PER_MINUTE = "orders_per_minute"
    MAX_DAILY_LOSS = "max_daily_loss"
    MAX_DRAWDOWN = "max_drawdown"
    BELOW_MINIMUM = "below_minimum"
    INVALID_ORDER = "invalid_order"
    NOTHING_TO_REDUCE = "nothing_to_reduce"


class TradingState(StrEnum):
    """What the account may do: everything, only reduce, or only cancel and protect."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"
