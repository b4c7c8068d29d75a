"""One market as the simulated venue sees it: its price, its liquidity, and the orders that wait on it."""

from decimal import Decimal

from qmtl.core.account import Account
from qmtl.core.instrument import Instrument
from qmtl.core.money import ZERO
from qmtl.core.order import OrderIntent, PositionSide, Side
from qmtl.core.position import Position
from qmtl.engine.margin import EVERYWHERE, NOWHERE, Band
from qmtl.engine.working_order import WorkingOrder

_BUY = Side.BUY
_NEVER_MS = 1 << 62


class MarketBook:
    """Price state and open orders of one symbol.

    `last` is the last trade price; `mark` the published mark price, None until one is published (the
    last price stands in). `available` base units can still trade on the present update, None: any
    quantity. Strictly between `band_low` and `band_high` nothing is liquidated, between `calm_low` and
    `calm_high` no order acts either; both are NOWHERE while unknown.
    """

    __slots__ = (
        "account",
        "available",
        "band_high",
        "band_low",
        "calm_high",
        "calm_low",
        "exact",
        "expiry_ms",
        "instrument",
        "is_band_known",
        "last",
        "mark",
        "orders",
        "positions",
        "symbol",
        "volume",
    )

    def __init__(self, instrument: Instrument, account: Account) -> None:
        self.symbol = instrument.symbol
        self.instrument = instrument
        self.account = account
        self.orders: dict[str, WorkingOrder] = {}
        self.positions: dict[PositionSide, Position] = {}
        self.last: float | None = None
        self.exact: Decimal | None = None
        self.mark: float | None = None
        self.volume = 0.0
        self.available: Decimal | None = None
        self.expiry_ms = _NEVER_MS
        self.band_low, self.band_high = NOWHERE
        self.calm_low, self.calm_high = NOWHERE
        self.is_band_known = False

    def set_price(self, price: float, exact: Decimal | None = None) -> None:
        """Take a trade price; `exact` where its decimal form is known."""
        self.last = price
        self.exact = exact
        if self.mark is None:
            self.account.marks[self.symbol] = price

    def set_band(self, band: Band) -> None:
        """Take the prices between which nothing is liquidated."""
        self.band_low, self.band_high = band
        self.is_band_known = True

    def forget_band(self) -> None:
        """Have the bands computed anew at the next price."""
        self.band_low, self.band_high = NOWHERE
        self.calm_low, self.calm_high = NOWHERE
        self.is_band_known = False

    def set_mark(self, mark: float) -> None:
        """Take a published mark price."""
        if self.mark is None:
            self.forget_band()
        self.mark = mark
        self.account.marks[self.symbol] = mark

    def find_calm(self) -> None:
        """Note between which trade prices nothing happens: the band without the reach of any order."""
        low, high = EVERYWHERE if self.mark is not None else (self.band_low, self.band_high)
        for order in self.orders.values():
            level = order.stop if order.is_waiting else order.limit
            if level is None or order.is_arriving or order.extreme is not None:
                low, high = NOWHERE
                break
            if not order.is_waiting:
                is_above = not order.is_buy
            elif order.watches_mark and self.mark is not None:
                continue
            else:
                is_above = order.triggers_rising
            if is_above:
                high = min(high, level)
            else:
                low = max(low, level)
        self.calm_low, self.calm_high = low, high

    def price(self) -> Decimal:
        """Return the last trade price exactly; there is one whenever an order acts."""
        if self.exact is None:
            self.exact = Decimal(str(self.last))
        return self.exact

    def mark_price(self) -> Decimal | None:
        """Return the mark price, the last price until a mark is published, None before both."""
        if self.mark is not None:
            return Decimal(str(self.mark))
        return None if self.last is None else self.price()

    def rest(self, order: WorkingOrder) -> None:
        """Keep an order."""
        self.calm_low, self.calm_high = NOWHERE
        self.orders[order.client_order_id] = order
        if order.expire_ms is not None and order.expire_ms < self.expiry_ms:
            self.expiry_ms = order.expire_ms

    def drop(self, order: WorkingOrder) -> None:
        """Forget an order."""
        self.calm_low, self.calm_high = NOWHERE
        del self.orders[order.client_order_id]

    def find_due(self, ts_ms: int) -> list[WorkingOrder]:
        """Return the orders whose time is over at `ts_ms`, and note when the next one is due."""
        due = []
        self.expiry_ms = _NEVER_MS
        for order in self.orders.values():
            if order.expire_ms is None:
                continue
            if order.expire_ms <= ts_ms:
                due.append(order)
            elif order.expire_ms < self.expiry_ms:
                self.expiry_ms = order.expire_ms
        return due

    def position(self, side: PositionSide) -> Position:
        """Return the position of one side."""
        held = self.positions.get(side)
        if held is None:
            # Made at the first mention: the conservation check visits every position there is.
            held = self.positions[side] = self.account.position(self.symbol, side)
        return held

    def reducible(self, intent: OrderIntent) -> Decimal:
        """Return how much of its position an order can close, zero when it would open."""
        held = self.position(intent.position_side).quantity
        if not held or (held > 0) is (intent.side is _BUY):
            return ZERO
        return abs(held)

    def find_orphans(self) -> list[WorkingOrder]:
        """Return the reduce-only orders on the book that have nothing left to reduce.

        Waiting conditional orders stay: the venue looks at the position when they trigger.
        """
        return [
            order
            for order in self.orders.values()
            if order.reduces
            and not order.is_waiting
            and not order.is_arriving
            and not self.reducible(order.intent)
        ]


def open_part(held: Decimal, quantity: Decimal, *, is_buy: bool) -> Decimal:
    """Return how much of an order opens rather than closes a position of `held` signed base units."""
    if not held or (held > 0) is is_buy:
        return quantity
    opening = quantity - abs(held)
    return opening if opening > 0 else ZERO
