"""Orders: their vocabulary, their record, and the table of their allowed transitions."""

from decimal import Decimal
from enum import StrEnum

import msgspec

from qmtl.core.money import ZERO


class BrokerageError(Exception):
    """Anything that goes wrong between a strategy and its broker."""


class OrderValidationError(BrokerageError, ValueError):
    """The order itself is wrong; nothing was sent."""


class DomainViolation(BrokerageError):  # noqa: N818 - a published name
    """This run's domain may not reach that venue; nothing was sent."""


class Word(StrEnum):
    """A closed set of words that hash as the text they are: the enum's own hash is five times slower."""

    __hash__ = str.__hash__


class Side(Word):
    """Direction of an order."""

    BUY = "BUY"
    SELL = "SELL"


class PositionSide(Word):
    """Which position an order belongs to: BOTH in one-way mode, LONG or SHORT in hedge mode."""

    BOTH = "BOTH"
    LONG = "LONG"
    SHORT = "SHORT"


class OrderType(Word):
    """Order types, spelled as Binance USDT-M spells them."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    STOP = "STOP"
    STOP_MARKET = "STOP_MARKET"
    TAKE_PROFIT = "TAKE_PROFIT"
    TAKE_PROFIT_MARKET = "TAKE_PROFIT_MARKET"
    TRAILING_STOP_MARKET = "TRAILING_STOP_MARKET"


class TimeInForce(Word):
    """How long an order works."""

    GTC = "GTC"
    IOC = "IOC"
    FOK = "FOK"
    GTX = "GTX"
    DAY = "DAY"
    GTD = "GTD"


class WorkingType(Word):
    """Which price triggers a conditional order."""

    CONTRACT_PRICE = "CONTRACT_PRICE"
    MARK_PRICE = "MARK_PRICE"


class Role(Word):
    """What an order is for; risk, protection and explanations read it."""

    ENTRY = "entry"
    EXIT = "exit"
    STOP = "stop"
    TARGET = "target"
    PROTECTION = "protection"
    FLATTEN = "flatten"


class OrderStatus(Word):
    """Where an order stands."""

    INITIALIZED = "initialized"
    SUBMITTED = "submitted"
    ACCEPTED = "accepted"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    UNKNOWN = "unknown"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"


DONE = frozenset({OrderStatus.FILLED, OrderStatus.CANCELED, OrderStatus.EXPIRED, OrderStatus.REJECTED})
UNSETTLED = frozenset({OrderStatus.SUBMITTED, OrderStatus.UNKNOWN})
"""Sent or about to be sent, and the venue has not yet said what became of it."""

_LIVE = frozenset(
    {
        OrderStatus.ACCEPTED,
        OrderStatus.PARTIALLY_FILLED,
        OrderStatus.PENDING_CANCEL,
        OrderStatus.FILLED,
        OrderStatus.CANCELED,
        OrderStatus.EXPIRED,
    }
)

TRANSITIONS: dict[OrderStatus, frozenset[OrderStatus]] = {
    OrderStatus.INITIALIZED: frozenset({OrderStatus.SUBMITTED, OrderStatus.REJECTED}),
    OrderStatus.SUBMITTED: _LIVE | {OrderStatus.REJECTED, OrderStatus.UNKNOWN},
    OrderStatus.UNKNOWN: _LIVE | {OrderStatus.REJECTED},
    # An exchange may still reject after acceptance (a trigger that cannot be placed).
    OrderStatus.ACCEPTED: (_LIVE - {OrderStatus.ACCEPTED}) | {OrderStatus.REJECTED},
    OrderStatus.PARTIALLY_FILLED: _LIVE - {OrderStatus.ACCEPTED},
    # A refused cancel puts the order back to work.
    OrderStatus.PENDING_CANCEL: _LIVE - {OrderStatus.PENDING_CANCEL},
    OrderStatus.FILLED: frozenset(),
    # A fill that was on its way when the order ended is kept: it can complete the order.
    OrderStatus.CANCELED: frozenset({OrderStatus.FILLED}),
    OrderStatus.EXPIRED: frozenset({OrderStatus.FILLED}),
    OrderStatus.REJECTED: frozenset(),
}
"""Allowed next states of each state; everything else is an error event, never an overwrite."""


class OrderIntent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a strategy wants done, before it has an id.

    `quantity` is positive base units; `expire_ms` goes with GTD; `callback_rate` (percent) and
    `activation_price` with trailing stops; `bar_ms` is the bar that caused it; `why` is shown to people.
    """

    symbol: str
    side: Side
    quantity: Decimal
    type: OrderType = OrderType.MARKET
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    time_in_force: TimeInForce | None = None
    expire_ms: int | None = None
    reduce_only: bool = False
    close_position: bool = False
    position_side: PositionSide = PositionSide.BOTH
    working_type: WorkingType = WorkingType.CONTRACT_PRICE
    callback_rate: Decimal | None = None
    activation_price: Decimal | None = None
    role: Role = Role.ENTRY
    bar_ms: int = 0
    why: str = ""


class Order(msgspec.Struct, kw_only=True, gc=False):
    """One intent on its way: its id, its state and what was filled."""

    client_order_id: str
    intent: OrderIntent
    ordinal: int
    created_ms: int
    updated_ms: int
    status: OrderStatus = OrderStatus.INITIALIZED
    venue_order_id: str = ""
    filled: Decimal = ZERO
    filled_value: Decimal = ZERO
    fee: Decimal = ZERO
    reason: str = ""
    trade_ids: list[str] = []

    @property
    def is_done(self) -> bool:
        """Tell whether the order has ended."""
        return self.status in DONE

    @property
    def remaining(self) -> Decimal:
        """Base units still to fill."""
        return self.intent.quantity - self.filled

    @property
    def average_price(self) -> Decimal | None:
        """Mean fill price, None before the first fill."""
        return self.filled_value / self.filled if self.filled else None


_WORDS: dict[OrderStatus, tuple[str, ...]] = {
    OrderStatus.ACCEPTED: ("new", "open", "accepted", "acknowledged", "pending", "working", "live"),
    OrderStatus.PENDING_CANCEL: ("pending_cancel", "canceling"),
    OrderStatus.PARTIALLY_FILLED: ("partially_filled", "partial"),
    OrderStatus.FILLED: ("filled", "completed", "complete", "done", "closed", "executed"),
    OrderStatus.CANCELED: ("canceled", "cancelled"),
    OrderStatus.REJECTED: ("rejected", "denied"),
    OrderStatus.EXPIRED: ("expired", "expired_in_match"),
}
STATUS_WORDS: dict[str, OrderStatus] = {word: status for status, words in _WORDS.items() for word in words}


def parse_status(word: str, *, filled: Decimal | None = None, quantity: Decimal | None = None) -> OrderStatus:
    """Return the state a broker's word means; `filled` and `quantity` correct words that overstate.

    An accepted word with some fill is PARTIALLY_FILLED; a filled word with less than the whole is
    CANCELED, its fills kept. An unknown word is UNKNOWN.
    """
    folded = word.strip().casefold().replace("-", "_").replace(" ", "_")
    status = STATUS_WORDS.get(folded, OrderStatus.UNKNOWN)
    if filled is not None and quantity is not None and ZERO < filled < quantity:
        if status is OrderStatus.ACCEPTED:
            return OrderStatus.PARTIALLY_FILLED
        if status is OrderStatus.FILLED:
            return OrderStatus.CANCELED
    return status
