"""One engine on a bench: an instrument, a scripted strategy, a session, and events without ceremony."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from qmtl.core import event as ev
from qmtl.core.command import CancelOrder, Command, RequestReconcile, SubmitOrder
from qmtl.core.instrument import Instrument
from qmtl.core.limits import RiskLimits
from qmtl.core.order import Order, OrderIntent, OrderStatus, OrderType, Role, Side
from qmtl.core.reason import TradingState
from qmtl.engine.engine import Engine
from qmtl.engine.memory_journal import MemoryJournal
from qmtl.engine.ports import EventJournal
from qmtl.engine.strategy import Context, SilentStrategy

MINUTE = 60_000
D = Decimal


def instrument(symbol: str = "BTCUSDT", **changes: Decimal) -> Instrument:
    numbers = {
        "tick_size": D("0.1"),
        "lot_size": D("0.001"),
        "min_quantity": D("0.001"),
        "max_quantity": D(1000),
        "market_max_quantity": D(120),
        "min_notional": D(5),
        **changes,
    }
    return Instrument(symbol, symbol[:-4], "USDT", "USDT", **numbers)


class Scripted(SilentStrategy):
    """Does at each bar, fill, order or timer what the test put there; remembers what it was told."""

    name = "scripted"

    def __init__(self) -> None:
        self.at_bar: Callable[..., object] | None = None
        self.at_price: Callable[..., object] | None = None
        self.warm = True
        self.told: list[str] = []
        self.fills: list[Decimal] = []

    @property
    def is_warm(self) -> bool:
        return self.warm

    def on_bar(self, ctx: Context, bar: ev.BarClosed) -> None:
        if self.at_bar is not None:
            self.at_bar(ctx, bar)

    def on_price(self, ctx: Context, update: ev.PriceUpdated) -> None:
        if self.at_price is not None:
            self.at_price(ctx, update)

    def on_fill(self, ctx: Context, fill: ev.OrderFilled, order: Order) -> None:
        self.fills.append(fill.quantity)

    def on_order(self, ctx: Context, order: Order) -> None:
        self.told.append(order.status)

    def on_timer(self, ctx: Context) -> None:
        self.told.append("timer")

    def dump_state(self) -> Any:
        return {"fills": [str(quantity) for quantity in self.fills]}

    def load_state(self, state: Any) -> None:
        self.fills = [Decimal(text) for text in state["fills"]]


class Rig:
    """An engine with a session begun, and the commands and records of each step."""

    def __init__(
        self,
        *,
        limits: RiskLimits | None = None,
        stop: str | None = None,
        reconcile: bool = False,
        speed: float = 1.0,
        wallet: str | None = "10000",
        journal: EventJournal | None = None,
        domain: str = "live",
        instruments: tuple[Instrument, ...] | None = None,
        mark: float | None = 60_000.0,
    ) -> None:
        self.strategy = Scripted()
        self.memory = MemoryJournal()
        self.engine = Engine(self.strategy, journal or self.memory)
        self.now = 1_000_000 * MINUTE
        self.speed = speed
        self.trades = 0
        self.commands: list[Command] = []
        self.setup = ev.SessionSetup(
            strategy="scripted",
            instruments=(instrument(),) if instruments is None else instruments,
            limits=limits or RiskLimits(),
            catastrophe_stop=None if stop is None else D(stop),
            needs_reconcile=reconcile,
        )
        self.give(ev.SessionStarted(self.now, "epoch", domain, self.setup, speed))
        if wallet is not None:
            self.give(ev.Transferred(self.now, "USDT", D(wallet)))
        if mark is not None:
            self.mark(mark)
        self.commands.clear()

    # --- events ------------------------------------------------------------------------------------

    def give(self, event: ev.AnyEvent) -> list[Command]:
        commands = list(self.engine.process(event))
        self.commands += commands
        return commands

    def wait(self, real_s: float) -> list[Command]:
        """Let real time pass and fire the timer once."""
        self.now += round(real_s * 1000 * self.speed)
        return self.give(ev.TimerFired(self.now))

    def mark(self, price: float, symbol: str = "BTCUSDT") -> list[Command]:
        return self.give(ev.MarkPriceUpdated(self.now, symbol, price))

    def accept(self, order: Order) -> list[Command]:
        return self.give(ev.OrderAccepted(self.now, order.client_order_id, "v1"))

    def fill(self, order: Order, quantity: str | None = None, price: str = "60000", **kw: Any) -> list[Any]:
        self.trades += 1
        trade = kw.get("trade", f"t{self.trades}")
        amount = order.remaining if quantity is None else D(quantity)
        fee, asset = D(kw.get("fee", "0")), kw.get("asset", "USDT")
        intent = order.intent
        return self.give(
            ev.OrderFilled(
                self.now,
                order.client_order_id,
                trade,
                intent.symbol,
                intent.side,
                amount,
                D(price),
                fee,
                asset,
                position_side=intent.position_side,
            )
        )

    def bar(self, **flags: bool) -> ev.DecisionMade:
        """Close the next minute; return its one reason."""
        self.now = (self.now // MINUTE + 1) * MINUTE
        before = len(self.memory.events)
        open_ms = self.now - MINUTE
        self.give(ev.BarClosed(self.now - 1, "BTCUSDT", open_ms, 6e4, 6e4, 6e4, 6e4, 1.0, **flags))
        decisions = [e for e in self.memory.events[before:] if isinstance(e, ev.DecisionMade)]
        assert len(decisions) == 1
        return decisions[0]

    # --- orders ------------------------------------------------------------------------------------

    def submit(self, side: Side = Side.BUY, quantity: str = "1", **changes: Any) -> Order:
        order = self.try_submit(side, quantity, **changes)
        assert order is not None, self.records(ev.IntentRefused)[-1]
        return order

    def try_submit(self, side: Side = Side.BUY, quantity: str = "1", **changes: Any) -> Order | None:
        order = self.engine.context.submit(intent(side, quantity, **changes))
        self._collect()
        return order

    def cancel(self, order: Order) -> None:
        self.engine.context.cancel(order)
        self._collect()

    def _collect(self) -> None:
        """Take what a strategy's call would have handed to the end of its event."""
        self.commands += self.engine._commands
        self.engine._commands = []

    def hold(self, quantity: str = "1", price: str = "60000") -> None:
        """Open a long (or, negative, a short) by a filled order."""
        amount = D(quantity)
        order = self.submit(Side.BUY if amount > 0 else Side.SELL, str(abs(amount)))
        self.accept(order)
        self.fill(order, price=price)

    # --- what came of it ---------------------------------------------------------------------------

    def trading(self) -> TradingState:
        return self.engine.risk.state

    @property
    def held(self) -> Decimal:
        return self.engine.account.net_quantity("BTCUSDT")

    @property
    def stops(self) -> list[Order]:
        return list(self.engine.state.protections.values())

    def records(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.memory.events if isinstance(event, kind)]

    def errors(self) -> list[str]:
        return [event.code for event in self.records(ev.ErrorRecorded)]

    def sent(self, role: Role | None = None) -> list[Order]:
        orders = [command.order for command in self.commands if isinstance(command, SubmitOrder)]
        return [order for order in orders if role is None or order.intent.role is role]

    def cancels(self) -> list[Order]:
        return [command.order for command in self.commands if isinstance(command, CancelOrder)]

    def asked_reconcile(self) -> bool:
        return any(isinstance(command, RequestReconcile) for command in self.commands)


def status(order: Order) -> OrderStatus:
    """Where an order stands now; a call, because a type checker believes that attributes stay."""
    return order.status


def intent(side: Side = Side.BUY, quantity: str = "1", **changes: Any) -> OrderIntent:
    price = changes.pop("limit", None)
    if price is not None:
        changes["limit_price"] = D(price)
        changes.setdefault("type", OrderType.LIMIT)
    changes.setdefault("symbol", "BTCUSDT")
    return OrderIntent(side=side, quantity=D(quantity), **changes)
