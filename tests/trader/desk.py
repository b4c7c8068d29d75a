"""A strategy on a real engine, with a venue that answers as the test says."""

from collections.abc import Sequence
from decimal import Decimal
from itertools import count

from qmtl.core.event import (
    AnyEvent,
    BarClosed,
    CancelRejected,
    DecisionMade,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderFilled,
    OrderRejected,
    PriceUpdated,
    SessionSetup,
    SessionStarted,
    Transferred,
)
from qmtl.core.instrument import Instrument
from qmtl.core.order import Order, OrderType, Role
from qmtl.engine.backtest import Backtest
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import Reach
from qmtl.engine.strategy import StrategyPort
from tests.trader.candles import MINUTE_MS

START_MS = 1_750_000_020_000
BTC = Instrument(
    symbol="BTCUSDT",
    base="BTC",
    quote="USDT",
    settle="USDT",
    tick_size=Decimal("0.1"),
    lot_size=Decimal("0.001"),
    min_quantity=Decimal("0.001"),
    max_quantity=Decimal(1000),
    market_max_quantity=Decimal(120),
    min_notional=Decimal(100),
)


class ScriptedVenue:
    """Fills `share` of each order at the last price, at once; MARKET orders always whole."""

    reach: Reach = "memory"

    def __init__(self) -> None:
        self.share = Decimal(1)
        self.rejects: set[Role] = set()
        self.holds_cancels = False
        self.sent: list[Order] = []
        self.cancelled: list[Order] = []
        self.price = Decimal(0)
        self._trades = count(1)

    def on_market(self, event: Event) -> Sequence[AnyEvent]:
        if isinstance(event, BarClosed | PriceUpdated):
            self.price = Decimal(str(event.close))
        return ()

    def submit(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        self.sent.append(order)
        key = order.client_order_id
        if order.intent.role in self.rejects:
            return (OrderRejected(ts_ms, key, "-2022 ReduceOnly Order is rejected."),)
        share = Decimal(1) if order.intent.type is OrderType.MARKET else self.share
        quantity = BTC.floor_quantity(order.intent.quantity * share)
        accepted = OrderAccepted(ts_ms, key, f"v{len(self.sent)}")
        return (accepted, self.fill(order, quantity, ts_ms)) if quantity else (accepted,)

    def fill(self, order: Order, quantity: Decimal, ts_ms: int) -> OrderFilled:
        value, intent = quantity * self.price, order.intent
        return OrderFilled(
            ts_ms,
            order.client_order_id,
            f"t{next(self._trades)}",
            intent.symbol,
            intent.side,
            quantity,
            self.price,
            value * Decimal("0.0004"),
            "USDT",
        )

    def cancel(self, order: Order, ts_ms: int) -> Sequence[AnyEvent]:
        self.cancelled.append(order)
        if self.holds_cancels:
            return ()
        if order.is_done:
            return (CancelRejected(ts_ms, order.client_order_id, "-2011 Unknown order sent."),)
        return (OrderCanceled(ts_ms, order.client_order_id),)


class Desk:
    """Feeds candles and prices; `at` is exchange time in milliseconds, always advancing."""

    def __init__(self, strategy: StrategyPort, *, speed: float = 1.0, start_ms: int = START_MS) -> None:
        self.strategy, self.venue = strategy, ScriptedVenue()
        self.journal = MemoryJournal()
        self.engine = Engine(strategy, self.journal)
        self.driver = Backtest(self.engine, self.venue)
        self.at = start_ms
        setup = SessionSetup(strategy="qmtl.trader.callback:Callback", instruments=(BTC,))
        session = SessionStarted(start_ms, "test", "backtest", setup, speed)
        self.driver.start(session, Transferred(start_ms, "USDT", Decimal(10_000)))

    def bar(self, close: float, *, warmup: bool = False, refilled: bool = False) -> None:
        """Close the candle of the running minute at `close`."""
        open_ms = self.at // MINUTE_MS * MINUTE_MS
        self.at = open_ms + MINUTE_MS
        prices = (close, close, close, close, 1.0)
        self.driver.run([BarClosed(self.at - 1, "BTCUSDT", open_ms, *prices, refilled, warmup)])

    def price(self, price: float, *, after_ms: int = 100) -> None:
        """The forming candle's last price, `after_ms` later."""
        self.at += after_ms
        open_ms = self.at // MINUTE_MS * MINUTE_MS
        self.driver.run([PriceUpdated(self.at, "BTCUSDT", open_ms, price, price, price, price, 1.0)])

    def wave(self, bars: int = 60, middle: float = 60_000.0) -> None:
        """Warm up on a calm wave: neither bands nor volatility stand in the way afterwards."""
        for number in range(bars):
            self.bar(middle + (-30, 30, -10, 10)[number % 4] + number % 3, warmup=True)

    @property
    def sent(self) -> list[Order]:
        return self.venue.sent

    @property
    def held(self) -> Decimal:
        return self.engine.account.net_quantity("BTCUSDT")

    @property
    def decisions(self) -> list[DecisionMade]:
        return [event for event in self.journal.events if isinstance(event, DecisionMade)]
