"""An order as the simulated venue holds it, and when its price makes it act."""

from decimal import Decimal

from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, OrderType, PositionSide, Side, WorkingType

_BUY = Side.BUY
_BOTH, _SHORT = PositionSide.BOTH, PositionSide.SHORT
_TRAILING = OrderType.TRAILING_STOP_MARKET
_FALLING_BUYS = frozenset({OrderType.TAKE_PROFIT, OrderType.TAKE_PROFIT_MARKET})
CONDITIONAL = frozenset(
    {
        OrderType.STOP,
        OrderType.STOP_MARKET,
        OrderType.TAKE_PROFIT,
        OrderType.TAKE_PROFIT_MARKET,
        OrderType.TRAILING_STOP_MARKET,
    }
)
_PERCENT = Decimal(100)


def is_closing_side(intent: OrderIntent) -> bool:
    """Tell whether the order can only close in hedge mode: a sale of LONG, a purchase of SHORT."""
    side = intent.position_side
    return side is not _BOTH and (intent.side is _BUY) is (side is _SHORT)


class WorkingOrder:
    """One open order: its intent, what was filled, and its trigger state.

    `quantity` is what it works (closePosition: what is open, once triggered). `stop_price` moves for
    trailing stops and is None until they are active. `reserved_price` values its order margin.
    `is_arriving` orders meet the market at its next price. `reduces` orders only ever close.
    """

    __slots__ = (
        "client_order_id",
        "created_ms",
        "expire_ms",
        "extreme",
        "filled",
        "filled_value",
        "intent",
        "is_arriving",
        "is_buy",
        "is_conditional",
        "is_triggered",
        "limit",
        "limit_price",
        "quantity",
        "reduces",
        "reserved_price",
        "stop",
        "stop_price",
        "updated_ms",
        "venue_order_id",
    )

    def __init__(
        self,
        client_order_id: str,
        venue_order_id: str,
        intent: OrderIntent,
        ts_ms: int,
        filled: Decimal = ZERO,
    ) -> None:
        self.client_order_id = client_order_id
        self.venue_order_id = venue_order_id
        self.intent = intent
        self.created_ms = ts_ms
        self.updated_ms = ts_ms
        self.is_buy = intent.side is _BUY
        self.quantity = intent.quantity
        self.filled = filled
        self.filled_value = ZERO
        self.reduces = intent.reduce_only or intent.close_position or is_closing_side(intent)
        self.is_arriving = False
        self.is_conditional = intent.type in CONDITIONAL
        self.is_triggered = False
        self.limit_price = intent.limit_price
        self.limit = float(intent.limit_price) if intent.limit_price is not None else None
        self.stop_price = intent.stop_price
        self.stop = float(intent.stop_price) if intent.stop_price is not None else None
        self.extreme: float | None = None
        self.expire_ms: int | None = None
        self.reserved_price = ZERO

    @property
    def remaining(self) -> Decimal:
        """Base units still to fill."""
        return self.quantity - self.filled

    @property
    def is_waiting(self) -> bool:
        """Tell whether it still waits for its trigger."""
        return self.is_conditional and not self.is_triggered

    @property
    def watches_mark(self) -> bool:
        """Tell whether the mark price triggers it."""
        return self.intent.working_type is WorkingType.MARK_PRICE

    @property
    def triggers_rising(self) -> bool:
        """Tell whether its trigger lies above the price when it is placed."""
        return self.is_buy is not (self.intent.type in _FALLING_BUYS)

    def is_hit(self, price: float) -> bool:
        """Tell whether `price` triggers it."""
        stop = self.stop
        if stop is None:
            return False
        return price >= stop if self.triggers_rising else price <= stop

    def trail(self, price: float) -> None:
        """Follow `price` with a trailing stop: activate it, then keep its distance from the best price.

        A buy is activated at or below its activation price and stands above the lowest price since; a
        sale mirrors it. Without activation price it is active from its first price.
        """
        intent = self.intent
        if intent.type is not _TRAILING or self.is_triggered:
            return
        best = self.extreme
        if best is None:
            start = intent.activation_price
            if start is not None and (price > float(start) if self.is_buy else price < float(start)):
                return
        elif price >= best if self.is_buy else price <= best:
            return
        self.extreme = price
        rate = (intent.callback_rate or ZERO) / _PERCENT
        exact = Decimal(str(price))
        self.stop_price = exact * (1 + rate) if self.is_buy else exact * (1 - rate)
        self.stop = float(self.stop_price)
